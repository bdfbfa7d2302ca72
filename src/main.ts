import { mount } from 'svelte';
import App from './App.svelte';
import { startClient, startWeights } from './client.ts';
import { keepPage } from './offline.ts';
import './style.css';

const target = document.getElementById('app');
if (!target) throw new Error('index.html has no element #app.');

mount(App, { target, props: { startWeights, startClient, page: new URL(document.baseURI) } });
keepPage();

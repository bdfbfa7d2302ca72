import { mount } from 'svelte';
import App from './App.svelte';
import { startClient } from './client.ts';
import './style.css';

const target = document.getElementById('app');
if (!target) throw new Error('index.html has no element #app.');

mount(App, { target, props: { startClient, page: new URL(document.baseURI) } });

import { mount } from 'svelte';
import App from './App.svelte';
import { startJointClient, startWeights, type Weights } from './client.ts';
import { keepPage } from './offline.ts';
import './style.css';
import { tabs } from './tabs/tabs.svelte.ts';

const target = document.getElementById('app');
if (!target) throw new Error('index.html has no element #app.');

const startClient = (weights: Weights) =>
  startJointClient(weights, {
    choice: () => tabs.choice,
    onPlace: (place) => (tabs.place = place),
  });

mount(App, { target, props: { startWeights, startClient, page: new URL(document.baseURI) } });
performance.mark('page');
keepPage();

/** The page beside another tab that has the engine, which here is a client in the same page: with real locks and ports. */
import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { page, userEvent } from 'vitest/browser';
import App from '../../../src/App.svelte';
import { startJointClient, type Client, type Weights } from '../../../src/client.ts';
import '../../../src/style.css';
import { tabs } from '../../../src/tabs/tabs.svelte.ts';
import { startFakeClient, startFakeWeights } from '../fakeClient.ts';

const model = 'https://host/models/palimpsest-150m/';
const closed = new Error('closed');

let app: ReturnType<typeof mount>;
let other: { client: Client; weights: Weights };

/** Another tab, which has the engine with `model`. */
async function openOther(model: string): Promise<void> {
  const weights = startFakeWeights();
  const joining = { choice: () => 'share' as const, onPlace: () => {} };
  other = { client: startJointClient(weights, joining, startFakeClient), weights };
  await other.client.load(model, () => {});
}

function openPage(): void {
  const target = document.createElement('div');
  document.body.append(target);
  const joining = {
    choice: () => tabs.choice,
    onPlace: (place: typeof tabs.place) => (tabs.place = place),
  };
  const startClient = (weights: Weights) => startJointClient(weights, joining, startFakeClient);
  app = mount(App, {
    target,
    props: { startWeights: startFakeWeights, startClient, page: new URL('https://host/') },
  });
  flushSync();
}

function closeOther(): void {
  other.client.destroy(closed);
  other.weights.destroy(closed);
}

beforeEach(async () => {
  localStorage.clear();
  tabs.choice = 'share';
  await page.viewport(1280, 800);
});
afterEach(async () => {
  await unmount(app);
  closeOther();
  document.body.replaceChildren();
});

const log = page.getByRole('log');
const button = (name: string | RegExp) => page.getByRole('button', { name });
async function say(text: string) {
  await page.getByRole('textbox', { name: 'Message' }).fill(text);
  await userEvent.keyboard('{Enter}');
  await expect.element(log).toHaveTextContent(`You said: ${text}`);
}

test('uses that engine and says so, and goes on with one of its own when that tab is closed', async () => {
  await openOther(model);
  openPage();
  await say('hello');
  const sentence = page.getByText(
    /^Another tab of this site has the engine\. It answers here, too/,
  );
  await expect.element(sentence).toBeVisible();
  expect(tabs.place).toEqual({ kind: 'guest' });
  closeOther();
  await expect.poll(() => tabs.place).toEqual({ kind: 'serving', guests: 0 });
  await say('and again');
  expect(sentence.elements()).toHaveLength(0);
  await expect.element(log).toHaveTextContent('You said: hello');
});

test('can have one of its own besides', async () => {
  await openOther(model);
  openPage();
  await say('hello');
  await button('Load one here besides').click();
  await expect.element(page.getByText(/engine of its own/)).toBeVisible();
  await say('mine');
  await button('Share one among tabs').click();
  await expect.element(page.getByText(/It answers here, too/)).toBeVisible();
});

test('that has another model is not used: one waits for it, or loads besides', async () => {
  await openOther('https://host/models/other/');
  openPage();
  await button(/^Load the model/).click();
  await expect.element(page.getByRole('alert')).toHaveTextContent(/with Fake 150M.*another model/);
  await button('Wait for that tab').click();
  await expect.element(page.getByText(/waits until that tab is closed/)).toBeVisible();
  closeOther();
  await say('at last');
  expect(tabs.place).toEqual({ kind: 'serving', guests: 0 });
});

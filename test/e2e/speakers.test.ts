/**
 * Who answers besides the engine on the GPU: llama.cpp on the processor, in a browser without WebGPU and chosen by hand, and
 * an endpoint.
 */
import { readFileSync } from 'node:fs';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { openEndpoint, type EndpointServer } from '../endpoint.ts';
import { fixture } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import { faultsOf, openBrowser, openBrowserWithoutGpu } from './browser.ts';
import { longestAnswer } from './settings.ts';
import { modelFiles, openSite, type Site } from './site.ts';
import { tinyChat } from './tinyChat.ts';

const tiny = fixture('tiny-f32.gguf');
const key = 'sk-secret-123';

let browser: Browser;
let site: Site;
let endpoint: EndpointServer;
let context: BrowserContext;
let page: Page;
let faults: string[];

beforeAll(async () => {
  site = await openSite({
    files: {
      ...modelFiles('/models/tiny/', tiny, readFileSync(tiny)),
      ...modelFiles('/models/chat/', 'chat.gguf', tinyChat()),
    },
  });
  endpoint = await openEndpoint('vllm', key);
  browser = await openBrowserWithoutGpu();
});
afterEach(() => context.close());
afterAll(async () => {
  await browser?.close();
  await site?.close();
  await endpoint?.close();
});

async function visit(path: string, by: Browser = browser): Promise<void> {
  site.requested.length = 0;
  context = await by.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(site.origin + path);
}

const message = () => page.getByRole('textbox', { name: 'Message' });
const button = (name: string) => page.getByRole('button', { name, exact: true });
const finished = () => button('Send').waitFor();
const log = () => page.getByRole('log');

async function send(text: string): Promise<void> {
  await message().fill(text);
  await button('Send').click();
}

test('without WebGPU llama.cpp answers from the stored weights, as float64 does, and the page says so', async () => {
  const prompt = 'On a page';
  const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
  const model = openModel(tiny);
  const ids = tokenizer.encode(prompt, { special: true });
  const exact = tokenizer.decode(greedy(model, forward(model, ids, emptyState(model)), 24));

  await visit('/?model=models/tiny/');
  await page.getByText(/No WebGPU here: llama\.cpp answers instead/).waitFor();
  await page.getByText(/Nobody chose the processor/).waitFor({ state: 'attached' });
  expect(site.requested.filter((path) => /\.(gguf|wasm)$/.test(path))).toEqual([]);

  await longestAnswer(page, 24);
  await send(prompt);
  await page
    .getByText(/on the processor · 24 tokens/)
    .first()
    .waitFor();
  expect(await log().textContent()).toBe(exact);
  // The last chunk has arrived too: the prompt's tokens are known.
  await page.getByText(`${ids.length + 24} of 8,192`).waitFor();
  await page.getByText(/one knows what it writes/).waitFor({ state: 'attached' });

  // Once each: the weights through the store, llama.cpp's code from this site, and nothing from elsewhere.
  const asked = (ending: RegExp) => site.requested.filter((path) => ending.test(path));
  const ranges = asked(/\.gguf$/).length;
  expect(ranges).toBeGreaterThan(0);
  expect(asked(/\.wasm$/)).toHaveLength(1);

  await longestAnswer(page, 2000);
  await send(prompt);
  await page.waitForFunction(
    (least) => (document.querySelector('[role=log]')?.textContent ?? '').length > least,
    8,
  );
  await button('Stop').click();
  await finished();
  await page.getByText('stopped').first().waitFor();
  expect(asked(/\.gguf$/)).toHaveLength(ranges);
  expect(faults).toEqual([]);
});

test('the processor is chosen by hand, and then the GPU: the same question has the same answer, fetched once', async () => {
  const withGpu = await openBrowser();
  try {
    await visit('/?model=models/chat/', withGpu);
    const who = (name: RegExp) => page.getByRole('radio', { name });
    await who(/llama\.cpp, on the processor/).check();
    await page.getByText('llama.cpp answers, on the processor.', { exact: true }).waitFor();
    expect(await page.getByText(/Nobody chose the processor/).count()).toBe(0);
    expect(site.requested.filter((path) => /\.(gguf|wasm)$/.test(path))).toEqual([]);
    await button('Ink').click();
    await longestAnswer(page, 16);
    await send('On a page');
    const answer = page.getByRole('article', { name: 'The model' }).locator('.markdown');
    const onProcessor = page.getByText(/^on the processor · 16 tokens/);
    await onProcessor.waitFor();
    const first = await answer.textContent();
    expect(first!.length).toBeGreaterThan(8);
    // Where it computes is said where a GPU's name would be.
    await page.getByText(/^this computer’s processor, one thread, llama\.cpp/).waitFor();

    const asked = () => site.requested.filter((path) => path.endsWith('.gguf')).length;
    const fetched = asked();
    await who(/This page, on the GPU/).check();
    await page.getByText(/^The model is stored here\. It is loaded when/).waitFor();
    await button('Again').click();
    await page.getByText(/^16 tokens ·/).waitFor();
    expect(await answer.textContent()).toBe(first);
    await page.getByRole('group', { name: 'answer 2 of 2' }).waitFor();
    expect(await onProcessor.count()).toBe(0);
    expect(asked()).toBe(fetched);
    expect(faults).toEqual([]);
  } finally {
    await withGpu.close();
  }
});

test('an endpoint answers; its key stays; what goes wrong is said', async () => {
  await visit('/');
  await page.getByRole('radio', { name: /An endpoint/ }).check();
  const address = page.getByRole('textbox', { name: 'Address', exact: true });
  await address.fill(endpoint.origin.replace('http://', ''));
  await page.getByRole('textbox', { name: /^Key/ }).fill('sk-wrong');
  await button('Connect').click();
  await page.getByText(/does not accept the key/).waitFor();
  await page.getByRole('textbox', { name: /^Key/ }).fill(key);
  await button('Connect').click();
  await page.getByText(/Served by vLLM, with 1,048,576 tokens/).waitFor();
  await page.getByText(/Nothing leaves this tab/).waitFor();
  await button('Have it answer').click();
  await page.getByText(/What you write goes there/).waitFor();
  await page.getByText(`What you write goes to ${endpoint.origin}/v1, as you chose`).waitFor();
  expect(await page.getByText(/Nothing leaves this tab/).count()).toBe(0);

  endpoint.next = { tokens: ['No', ', 123', ' = 3', ' × 41', '.'] };
  await send('Is 123 a prime?');
  await finished();
  expect(await log().textContent()).toContain('No, 123 = 3 × 41.');
  await button('Probabilities').click();
  await page.getByRole('button', { name: '.', exact: true }).hover();
  await page.getByText('29 %').waitFor();

  endpoint.next = { error: { status: 429, body: {}, headers: { 'Retry-After': '17' } } };
  await send('And 127?');
  await page.getByText(/Try again in 17 s/).waitFor();
  const stored = await page.evaluate(() => JSON.stringify({ ...localStorage }));
  expect(stored + page.url()).not.toContain(key);

  endpoint.open = false;
  await button('Connect').click();
  await page.getByText(/does not let this page \(http:\/\/127\.0\.0\.1:\d+\) read/).waitFor();
  endpoint.open = true;
  expect(faults.filter((fault) => !/401|429|CORS|ERR_FAILED|400/.test(fault))).toEqual([]);
  expect(site.requested.filter((path) => /\.(gguf|wasm)$/.test(path))).toEqual([]);
});

/** The built page when its GPU process is killed under it, when it is reloaded, and when it is frozen in the background. */
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { fixture } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { longestAnswer } from './settings.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const tiny = fixture('tiny-f32.gguf');
const prompt = 'On a page';

let exact: string;
let browser: Browser;
let site: Site;
let context: BrowserContext;
let page: Page;
let faults: string[];

beforeAll(async () => {
  const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
  const model = openModel(tiny);
  const ids = tokenizer.encode(prompt, { special: true });
  exact = tokenizer.decode(greedy(model, forward(model, ids, emptyState(model)), 160));
  site = await openSite({ files: modelFiles('/models/tiny/', tiny) });
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});
beforeEach(async () => {
  context = await browser.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(`${site.origin}/?model=models/tiny/`);
});
afterEach(() => context.close());

const message = () => page.getByRole('textbox', { name: 'Message' });
const button = (name: string) => page.getByRole('button', { name, exact: true });
const log = () => page.getByRole('log');

/** Until so much is written. */
async function written(length: number): Promise<void> {
  const long = (wanted: number) =>
    (document.querySelector('[role=log]')?.textContent ?? '').length >= wanted;
  await page.waitForFunction(long, length);
}

/** Until the page's account with this text in it is stored with a state. */
async function stored(text: string): Promise<void> {
  const isStored = async (wanted: string) => {
    const open = indexedDB.open('palimpsest-conversation');
    const database = await new Promise<IDBDatabase>((resolve, reject) => {
      open.onsuccess = () => resolve(open.result);
      open.onerror = () => reject(open.error!);
    });
    const get = database.transaction('weights').objectStore('weights').get(['conversation']);
    const record = await new Promise<{ account: string; state: unknown } | undefined>((resolve) => {
      get.onsuccess = () => resolve(get.result);
    });
    database.close();
    return Boolean(record?.account.includes(JSON.stringify(wanted).slice(1, -1)) && record.state);
  };
  await expect.poll(() => page.evaluate(isStored, text)).toBe(true);
}

const finished = () => button('Send').waitFor();

async function killGpu(): Promise<void> {
  const session = await browser.newBrowserCDPSession();
  await session.send('Browser.crashGpuProcess');
  await session.detach();
}

test('a reload brings back what was said with its memory, and the prompt is not read again', async () => {
  await longestAnswer(page, 40);
  await message().fill(prompt);
  await button('Send').click();
  await finished();
  const first = (await log().textContent())!;
  expect(exact.startsWith(first)).toBe(true);
  await stored(first);
  await page.reload();
  const sheet = () => message().inputValue();
  await expect.poll(sheet).toBe(prompt + first);
  await longestAnswer(page, 24);
  await button('Send').click();
  await finished();
  const second = (await log().textContent())!;
  expect(second.length).toBeGreaterThan(20);
  expect(exact.startsWith(first + second)).toBe(true);
  expect(faults).toEqual([]);
});

// Last: a browser whose GPU process died often gives no adapter any more.
test('an answer goes on through the loss of the GPU process, frozen for a while; too many losses end it in words', async () => {
  await longestAnswer(page, 80);
  await message().fill(prompt);
  await button('Send').click();
  await page.getByText(/has no chat template/).waitFor({ state: 'attached' });
  await written(30);
  await killGpu();
  await page.getByText('The GPU went away. The model is put back').waitFor();
  const devtools = await context.newCDPSession(page);
  await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await devtools.send('Page.setWebLifecycleState', { state: 'active' });
  await finished();
  const text = (await log().textContent())!;
  expect(text.length).toBeGreaterThan(60);
  expect(exact.startsWith(text)).toBe(true);
  await page.getByText('80 tokens', { exact: false }).first().waitFor();

  // Chromium may refuse a page whose GPU process dies again and again any adapter, before we give up.
  await killGpu();
  await page.getByText('The GPU went away. The model is put back').waitFor();
  await killGpu();
  const alert = page.getByRole('alert');
  await alert.waitFor();
  expect(await alert.getByRole('heading').textContent()).toBe('The GPU went away');
  expect(await alert.textContent()).toMatch(/3 times within a minute|the browser gives no other/);
  expect(await log().textContent()).toBe(text);
});

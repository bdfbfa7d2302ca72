/** A link from one visitor to another: it asks first, then the other sees the same tokens, or is told that they differ. */
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { fixture } from '../reference/golden.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { modelFiles, openSite, type Site } from './site.ts';

let browser: Browser;
let site: Site;
let context: BrowserContext;
let page: Page;
let faults: string[];

beforeAll(async () => {
  site = await openSite({ files: modelFiles('/models/tiny/', fixture('tiny-f32.gguf')) });
  browser = await openBrowser();
});
afterEach(() => context.close());
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

async function visit(hash: string): Promise<void> {
  site.requested.length = 0;
  context = await browser.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(`${site.origin}/${hash}`);
}

const button = (name: string | RegExp) =>
  page.getByRole('button', { name, exact: typeof name === 'string' });
const written = () => page.getByRole('log').first().textContent();

test('is offered, replayed, checked, copied, and the copy replays', async () => {
  const asked = { model: 'models/tiny/', text: 'On a page', temperature: '0.8', seed: '7' };
  const hash = `#${new URLSearchParams({ ...asked, maxTokens: '16', layer: '0', view: 'gates' })}`;
  await visit(hash);
  await page.getByText(/^This link asks a model/).waitFor();
  await page.waitForTimeout(300);
  expect(site.requested.filter((path) => path.includes('tiny'))).toEqual([]);
  expect(new URL(page.url()).hash).toBe(hash);

  await button(/^Replay/).click();
  await page.getByText('The link says nothing of the answer').waitFor();
  const first = await written();
  expect(first!.length).toBeGreaterThan(8);
  await page.getByRole('heading', { name: /^Forgetting/ }).waitFor();
  await expect.poll(() => new URL(page.url()).hash).toMatch(/layer=0&.*view=gates/);

  // Without leave to the clipboard, the link is in the address.
  await page.evaluate(() => {
    navigator.clipboard.writeText = () => Promise.reject(new Error('not here'));
  });
  await button('Copy a link that replays this').click();
  await page.getByText('The link is in the address bar.').waitFor();
  const copied = new URL(page.url()).hash;
  expect(new URLSearchParams(copied.slice(1)).get('tokens')).toMatch(/^[0-9a-f]{8}$/);
  expect(faults).toEqual([]);

  // Another visitor, another day.
  await context.close();
  await visit(copied);
  await button(/^Replay/).click();
  await page.getByText('These are the tokens that the sender saw').waitFor();
  expect(await written()).toBe(first);

  // The visitor's own settings are theirs again at the next visit.
  const kept = await page.evaluate(() => localStorage.getItem('palimpsest.sampling'));
  expect(JSON.parse(kept ?? '{}')).not.toHaveProperty('seed', 7);

  // A link that says it saw other tokens is told to be wrong.
  const doubted = copied.replace(/tokens=\w{8}/, 'tokens=00000000');
  await page.evaluate((hash) => (location.hash = hash), doubted);
  await button(/^Replay/).click();
  await page.getByText('These are not all the sender’s tokens').waitFor();
  expect(faults).toEqual([]);
});

test('is not followed when the visitor says no', async () => {
  await visit('#prompt=Who%20are%20you%3F');
  await page.getByText('This link asks a model: “Who are you?”.').waitFor();
  await button('No').click();
  await page.getByText(/^This link asks/).waitFor({ state: 'detached' });
  await page.waitForTimeout(200);
  expect(site.requested.filter((path) => path.endsWith('.gguf'))).toEqual([]);
});

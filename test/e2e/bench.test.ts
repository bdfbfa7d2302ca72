/** How fast this machine is, measured in the built page with the tiny model; the conversation goes on as if nothing had been. */
import { readFileSync } from 'node:fs';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import type { BenchResult } from '../../workers/protocol.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { fixture } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { longestAnswer } from './settings.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const tiny = fixture('tiny-f32.gguf');
let browser: Browser;
let site: Site;
beforeAll(async () => {
  site = await openSite({ files: modelFiles('/models/tiny/', tiny) });
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

test('an address opens it; it measures, can be stopped, and leaves the text to be gone on with', async () => {
  const context = await browser.newContext({ acceptDownloads: true });
  const page = await context.newPage();
  const faults = faultsOf(page);
  const button = (name: string) => page.getByRole('button', { name, exact: true });
  await page.goto(`${site.origin}/?bench&model=models/tiny/`);
  const dialog = page.getByRole('dialog', { name: 'How fast is this machine?' });
  await dialog.getByRole('button', { name: /^Load the model/ }).click();
  await button('Measure').waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  await page.waitForURL((address) => !address.searchParams.has('bench'));

  const prompt = 'On a page';
  await longestAnswer(page, 8);
  await page.getByRole('textbox', { name: 'Message' }).fill(prompt);
  /** What is written next, after `before`. */
  const write = async (before: string) => {
    await button('Send').click();
    const more = (told: string) => {
      const text = document.querySelector('[role=log]')?.textContent ?? '';
      return text !== '' && text !== told;
    };
    await page.waitForFunction(more, before);
    await button('Send').waitFor();
    return (await page.getByRole('log').textContent())!;
  };
  const first = await write('');

  await button('How fast is it?').click();
  expect(new URL(page.url()).search).toBe('?model=models/tiny/&bench');
  await dialog.getByText('Your conversation is set aside').waitFor();
  await button('Measure').click();
  await dialog.getByText(/Measuring decoding after 32 tokens/).waitFor();
  await button('Stop').click();
  await dialog.getByText('Stopped: not everything was measured.').waitFor();
  await dialog.getByRole('rowheader', { name: 'Reading memory' }).waitFor();
  const downloading = page.waitForEvent('download');
  await button('Download').click();
  const path = await (await downloading).path();
  const result = JSON.parse(readFileSync(path, 'utf8')) as BenchResult & { browser: string };
  expect(result).toMatchObject({ stopped: true, watched: null, device: { software: true } });
  expect(result.stream!.median).toBeGreaterThan(0);
  expect(result.browser).toMatch(/Chrome/);
  await dialog.getByRole('button', { name: 'Close' }).click();

  const second = await write(first);
  const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
  const model = openModel(tiny);
  const ids = tokenizer.encode(prompt, { special: true });
  const exact = tokenizer.decode(greedy(model, forward(model, ids, emptyState(model)), 16));
  expect(first + second).toBe(exact);
  expect(faults).toEqual([]);
  await context.close();
});

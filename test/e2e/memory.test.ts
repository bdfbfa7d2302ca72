/**
 * The memory on the built page as it is shipped: the first visit with its recording, with and without WebGPU; and the tiny
 * golden model scrubbed, forked, disturbed, compared, and taken along as files.
 */
import { readFileSync } from 'node:fs';
import axe from 'axe-core';
import type { Browser, BrowserContext, Download, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { readRecording } from '../../src/replay.ts';
import { fixture } from '../reference/golden.ts';
import { faultsOf, openBrowser, openBrowserWithoutGpu } from './browser.ts';
import { longestAnswer } from './settings.ts';
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

/** A page as a newcomer opens it. With `still` the recording stands at its end and does not play. */
async function visit(path: string, { by = browser, still = true, dark = false } = {}) {
  site.requested.length = 0;
  context = await by.newContext({
    reducedMotion: still ? 'reduce' : 'no-preference',
    colorScheme: dark ? 'dark' : 'light',
    viewport: { width: 1280, height: 900 },
  });
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(site.origin + path);
}

const button = (name: string | RegExp) => page.getByRole('button', { name, exact: true });
const time = () => page.getByRole('slider', { name: 'Time, in tokens' });
const now = async () => Number(await time().getAttribute('aria-valuenow'));
const card = (name: string) => page.getByRole('button', { name: new RegExp(`^${name}`) });
const log = () => page.getByRole('log');
const finished = () => button('Send').waitFor();
const image = (name: RegExp) => page.getByRole('img', { name });

/** What a click hands over as a file. */
async function saved(click: () => Promise<void>): Promise<{ name: string; bytes: Buffer }> {
  const [download] = await Promise.all([page.waitForEvent('download'), click()]);
  return { name: download.suggestedFilename(), bytes: await bytesOf(download) };
}

async function bytesOf(download: Download): Promise<Buffer> {
  return readFileSync(await download.path());
}

/** A recording opened from a file, as a person picks it. */
async function openFile(text: string): Promise<void> {
  const [chooser] = await Promise.all([
    page.waitForEvent('filechooser'),
    button('Open a recording…').click(),
  ]);
  const buffer = Buffer.from(text);
  await chooser.setFiles({ name: 'recording.json', mimeType: 'application/json', buffer });
}

/** Different colours in a canvas: 1 where nothing is drawn. */
async function coloursOf(name: RegExp): Promise<number> {
  await image(name).first().scrollIntoViewIfNeeded();
  const count = () =>
    image(name)
      .first()
      .evaluate((canvas: HTMLCanvasElement) => {
        const { width, height } = canvas;
        if (width * height === 0) return 0;
        const { data } = canvas.getContext('2d')!.getImageData(0, 0, width, height);
        return new Set(new Uint32Array(data.buffer)).size;
      });
  await expect.poll(count, { message: String(name) }).toBeGreaterThan(2);
  return count();
}

const title = 'The model has a memory of fixed size. This is it forgetting.';

describe('a first visit', () => {
  test('the recording plays by itself, is told, paused, scrubbed and gone through by keyboard', async () => {
    await visit('/', { still: false });
    await page.getByRole('heading', { name: title }).waitFor();
    await page.getByText('of a recording').waitFor();
    await expect.poll(now).toBeGreaterThan(20);
    // Both the playback and a download can be paused; their buttons have different names.
    await button('Pause the playback').click();
    expect(await button('Pause').count()).toBe(0);
    const at = await now();
    const figure = page.locator('dt', { hasText: /^context$/ }).locator('xpath=../dd');
    expect(await figure.textContent()).toBe(`${at + 1} of 8,192`);

    await time().focus();
    await page.keyboard.press('End');
    await expect.poll(now).toBe(91);
    await page.getByText(/It says 1180, the newer code/).waitFor();
    await page.keyboard.press('ArrowLeft');
    await expect.poll(now).toBe(90);
    await page.keyboard.press('Home');
    await expect.poll(now).toBe(0);
    await page.locator('[data-token="57"]').click();
    await expect.poll(now).toBe(57);
    // The old code has less ink than the new one, which is written over it.
    const inkOf = (tokens: number[]) =>
      page.evaluate(
        (positions) =>
          positions.reduce((sum, position) => {
            const token = document.querySelector<HTMLElement>(`[data-token="${position}"]`)!;
            return sum + Number(token.style.getPropertyValue('--fresh'));
          }, 0),
        tokens,
      );
    await expect
      .poll(async () => (await inkOf([53, 54, 55, 56])) - (await inkOf([21, 22, 23, 24])))
      .toBeGreaterThan(0.5);
    await page.getByText(/falls to 15 %; 1180 stands at 23 %/).waitFor();
    expect(page.url()).toContain('token=57');
    // With the recording playing nothing of the model is fetched.
    expect(site.requested.filter((path) => path.endsWith('.gguf'))).toEqual([]);
    expect(faults).toEqual([]);
  });

  test.each([false, true])(
    'axe finds nothing serious with all views open, dark: %s',
    async (dark) => {
      await visit('/', { dark });
      for (const name of [
        'Reach',
        'Memory',
        'Forgetting',
        'Experts',
        'Next word',
        'Change',
        'Bytes',
      ])
        await card(name).last().click();
      await coloursOf(/^The memory of head 5/);
      await page.evaluate(axe.source);
      const serious = await page.evaluate(async () => {
        const { violations } = await (window as unknown as { axe: typeof axe }).axe.run(document);
        return violations
          .filter(({ impact }) => impact === 'serious' || impact === 'critical')
          .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
      });
      expect(serious).toEqual([]);
      expect(faults).toEqual([]);
    },
  );

  test('without WebGPU the recording is there all the same: views, pictures, files, and back', async () => {
    const without = await openBrowserWithoutGpu();
    try {
      await visit('/', { by: without });
      const adapter = await page.evaluate(async () => {
        return 'gpu' in navigator && (await navigator.gpu.requestAdapter()) !== null;
      });
      expect(adapter).toBe(false);
      await page.getByRole('heading', { name: title }).waitFor();
      for (const name of ['Reach', 'Memory', 'Forgetting', 'Bytes'])
        await card(name).last().click();
      for (const view of [/^Write strength/, /^Weight with which/, /^The memory of head 5/]) {
        expect(await coloursOf(view)).toBeGreaterThan(2);
      }

      const picture = page.getByRole('group', { name: 'Save palimpsest' });
      const svg = await saved(() => picture.getByRole('button', { name: 'SVG' }).click());
      expect(svg.name).toBe('palimpsest.svg');
      const words = svg.bytes.toString().replaceAll(/<[^>]*>|\n/g, '');
      expect(words).toContain("Mira's code is 7421. Tom's code is 3308.");
      const png = await saved(() => picture.getByRole('button', { name: 'PNG' }).click());
      expect(png.bytes.subarray(1, 4).toString()).toBe('PNG');
      expect(png.bytes.length).toBeGreaterThan(20_000);

      const kept = await saved(() => button('Save this recording').click());
      const recording = readRecording(kept.bytes.toString());
      expect(recording.records).toHaveLength(92);
      await openFile(kept.bytes.toString().replace(title, 'Opened from a file'));
      await page.getByRole('heading', { name: 'Opened from a file' }).waitFor();
      expect(await coloursOf(/^The memory of head 5/)).toBeGreaterThan(2);
      await button('Play the first-visit recording').click();
      await page.getByRole('heading', { name: title }).waitFor();
      await openFile('{"format":"palimpsest-recording"');
      await page
        .getByRole('alert')
        .getByText(/cannot be read: it is not JSON/)
        .waitFor();
      await page.getByRole('heading', { name: title }).waitFor();
      expect(faults).toEqual([]);
    } finally {
      await without.close();
    }
  });
});

test('the tiny model: scrubbed, another token taken, disturbed, compared, and recorded to a file', async () => {
  await visit('/?model=models/tiny/');
  await longestAnswer(page, 6);
  await page.getByRole('textbox', { name: 'Message' }).fill('On a page');
  await button('Send').click();
  await page.getByText(/has no chat template/).waitFor({ state: 'attached' });
  await finished();
  const untouched = (await log().textContent())!;
  expect(untouched.length).toBeGreaterThan(6);

  // Back to a token, and on from there with another one: the prompt and what came before stay.
  const last = Number(await time().getAttribute('aria-valuemax'));
  await time().focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  await expect.poll(now).toBe(last - 2);
  await card('Next word').press('Enter'); // by keys: what is told above moves the cards from under a mouse
  const other = page.getByRole('button', { name: /^Go on with/ }).nth(1);
  await other.click();
  await finished();
  const taken = (await log().textContent())!;
  expect(taken).not.toBe(untouched);
  expect(taken.slice(0, 3)).toBe(untouched.slice(0, 3));
  await page.getByRole('group', { name: 'continuation 2 of 2' }).waitFor();

  // The memory emptied before the answer: another branch, shown beside the one it came from.
  await card('Change the memory').press('Enter');
  await page.keyboard.press('Escape');
  await time().focus();
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowRight');
  await page.getByRole('combobox', { name: /^From token 1/ }).selectOption('deaf');
  await button('Add').click();
  await button('Write the answer again so').click();
  await finished();
  await page.getByRole('region', { name: 'Branch 2' }).getByText('nothing written').waitFor();
  await page.getByRole('region', { name: 'Branch 1' }).getByText('untouched').waitFor();
  await page.getByText(/They part at token|They say the same/).waitFor();
  expect(await coloursOf(/^Difference of the memories/)).toBeGreaterThan(2);
  const apart = page.getByRole('group', { name: 'Save branches-2-1', exact: true });
  const norms = await saved(() => apart.getByRole('button', { name: 'JSON' }).click());
  const { columns, rows } = JSON.parse(norms.bytes.toString()) as {
    columns: string[];
    rows: number[][];
  };
  expect(columns).toEqual(['layer', 'head', 'norm']);
  expect(rows).toHaveLength(6);
  expect(rows.every(([, , norm]) => norm! > 0)).toBe(true);
  const writes = page.getByRole('group', { name: /^Save writes-layer/ });
  const csv = await saved(() => writes.getByRole('button', { name: 'CSV' }).click());
  expect(csv.bytes.toString().split('\r\n')[0]).toBe(
    'token,text,head,write strength,written,known',
  );

  // Back on the first branch its text stands again.
  await button('branch 0').click();
  await expect.poll(() => log().textContent()).toBe(untouched);

  const file = await saved(() => button('Save this text as a recording').click());
  const recording = readRecording(file.bytes.toString());
  expect(recording.turns.map(({ content }) => content)).toEqual(['On a page', untouched]);
  expect(recording.records.length).toBe(last + 1);
  await openFile(file.bytes.toString());
  await page.getByRole('heading', { name: 'On a page' }).waitFor();
  await page.getByText(/computed by WebGPU on/).waitFor();
  await expect.poll(now).toBe(last);
  await button('Back to your own text').first().click();
  await expect.poll(() => log().textContent()).toBe(untouched);
  expect(faults).toEqual([]);
});

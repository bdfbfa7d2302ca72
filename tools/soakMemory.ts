/**
 * What looking at the memory costs the page:
 *
 *   node tools/run.mjs soakMemory [--model palimpsest-150m | FILE.gguf] [--tokens 2000] [--answer 200]
 *
 * The built page in a browser. First the model writes `answer` tokens with the default panel open, and Chromium's trace
 * tells: tasks of the main thread of 50 ms and more, and what became of each frame. Then a text of `tokens` tokens is recorded with all views open:
 * bytes of the page and its workers, ArrayBuffers included, after a collection (the debugger's Runtime.getHeapUsage), and
 * of what the recording holds on the GPU, as the page shows it. Ends with a failure above 300 MB. Times are of this machine and its
 * adapter; on a software adapter the page shares its cores with the GPU's work.
 */
import { parseArgs } from 'node:util';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { openBrowser } from '../test/e2e/browser.ts';
import { setup } from '../test/e2e/build.ts';
import { modelFiles, openSite } from '../test/e2e/site.ts';
import {
  modelConfig,
  recurrentBytes,
  withoutOutputCopy,
  type LayerConfig,
  type ModelConfig,
} from '../workers/config.ts';
import { openGguf } from '../workers/gguf.ts';
import { heapsOf, heldBytes } from './heaps.ts';
import { modelSources } from './nodeEngine.ts';
import { traced } from './trace.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'test/fixtures/tiny-f32.gguf' },
    tokens: { type: 'string', default: '2000' },
    answer: { type: 'string', default: '200' },
  },
});
const most = 300e6;
/** As the page asks for it (src/memory.svelte.ts). */
const budgetBytes = 175e6;
const ownFile = options.model.endsWith('.gguf');
const address = `/?model=models/${ownFile ? 'asked' : options.model}/`;
/** What has a long answer: a bare text goes on by itself, and the embedded model finds no end of this. */
const farFrom = ownFile ? '' : 'Write a poem about the rain.';
const waitMs = 1_800_000;

setup();
const site = await openSite({
  files: ownFile ? modelFiles('/models/asked/', options.model) : {},
});
const browser = await openBrowser();
try {
  await measureTasks(browser);
  await measureBytes(browser);
} finally {
  await browser.close();
  await site.close();
}

async function measureTasks(by: Browser): Promise<void> {
  const context = await by.newContext({ reducedMotion: 'reduce' });
  const page = await visit(context, address);
  await longestAnswer(page, 1);
  await send(page, 'On a page');
  await longestAnswer(page, Number(options.answer));
  // A frame is asked for at every beat, so that each one that fails to come is seen.
  await page.evaluate(() => {
    const next = () => requestAnimationFrame(next);
    next();
  });
  const { seconds, tasks, frames, apartMs } = await traced(by, page, () => send(page, farFrom));
  const written = Number(await slider(page).getAttribute('aria-valuemax')) + 1;
  const longest = tasks[0]!;
  const long = tasks.filter(({ ms }) => ms >= 50);
  const workMs = tasks.reduce((sum, task) => sum + task.workMs, 0);
  const at = (share: number) => (apartMs[Math.floor(share * (apartMs.length - 1))] ?? 0).toFixed(1);
  console.log(
    `${options.answer} tokens (${written} in all) with the default panel open, ${seconds.toFixed(1)} s of Chromium's trace\n` +
      `  main thread: ${tasks.length} tasks, ${(workMs / 10 / seconds).toFixed(0)} % of a core; ${long.length} of 50 ms and more; ` +
      `the longest ${longest.ms.toFixed(1)} ms, of it ${longest.workMs.toFixed(1)} ms of work\n` +
      `  frames: ${[...frames].map(([state, count]) => `${count} ${state.toLowerCase().replaceAll('_', ' ')}`).join(', ')}; ` +
      `drawn ${at(0.5)} ms apart in the median, ${at(0.95)} ms at the 95th percentile`,
  );
  if (long.length > 0 || written < Number(options.answer)) process.exitCode = 1;
  await context.close();
}

async function measureBytes(by: Browser): Promise<void> {
  const context = await by.newContext({ reducedMotion: 'reduce' });
  const page = await visit(context, address);
  await longestAnswer(page, 4);
  await send(page, 'Mira');
  const before = await bytesOf(page);
  const facts = (count: number) =>
    Array.from({ length: count }, (_, i) => `Code ${i} is now ${(7919 * i) % 10_000}.`).join(' ');
  const perFact = (await lengthAfter(page, facts(20))) / 20;
  await send(page, facts(Math.ceil((1.1 * Number(options.tokens)) / perFact)));
  const tokens = Number(await slider(page).getAttribute('aria-valuemax')) + 1;

  for (const name of ['Reach', 'Memory', 'Forgetting', 'Experts', 'Next word', 'Bytes']) {
    await page
      .getByRole('button', { name: new RegExp(`^${name}`) })
      .last()
      .click();
  }
  // Looked at in several places and layers, as a person would.
  for (const share of [0.2, 0.6, 0.95]) {
    await slider(page).focus();
    const { x, y, width } = (await slider(page).boundingBox())!;
    await page.mouse.click(x + share * width, y + 10);
    await settled(page);
  }
  await page.getByRole('combobox', { name: /^head/ }).selectOption('1');
  await settled(page);

  const after = await bytesOf(page);
  const recorded = await page
    .locator('dt', { hasText: 'What is recorded' })
    .locator('xpath=../dd')
    .textContent();
  const recordedBytes = megabytes(recorded ?? '');
  const held = after.total;
  console.log(
    `${tokens} tokens recorded, all views open: page and workers ${mb(held)} (${mb(before.total)} before), of which ` +
      `${after.parts}; on the GPU the recording holds ${recorded}`,
  );
  if (ownFile) await tellEmbedded(tokens, held);
  const all = held + recordedBytes;
  console.log(`Together ${mb(all)}; allowed are ${mb(most)}`);
  if (!(all < most) || tokens < Number(options.tokens)) process.exitCode = 1;
  await context.close();
}

/**
 * The same for the embedded model, computed: what the page held here, and the numbers by which its records and gates are
 * longer; on the GPU the whole budget, which is more than snapshots every 64 tokens and one layer's history come to.
 */
async function tellEmbedded(tokens: number, held: number): Promise<void> {
  const read = async (model: string) =>
    modelConfig(await withoutOutputCopy(await openGguf(modelSources(model))));
  const [asked, embedded] = [await read(options.model), await read('palimpsest-150m')];
  const layersOf = ({ layers }: ModelConfig, wanted: (layer: LayerConfig) => boolean) =>
    layers.filter(wanted).length;
  const tokenBytes = (config: ModelConfig) => {
    const { heads, kda, moe } = config;
    const records = layersOf(config, ({ kind }) => kind === 'kda') * heads * 5;
    const choices = layersOf(config, ({ ffn }) => ffn === 'moe') * moe.expertsUsed * 2;
    // Gates as answered, sorted for the map, and their colours.
    return 4 * (records + choices + 3 * heads * kda.keys);
  };
  const more = tokens * (tokenBytes(embedded) - tokenBytes(asked));
  const { heads: H, kda } = embedded;
  const history = tokens * 4 * H * (3 * kda.keys + 2 * kda.values + 1);
  const snapshots = Math.floor(tokens / 64) * recurrentBytes(embedded);
  const all = held + more + budgetBytes;
  console.log(
    `With the shapes of palimpsest-150m: page and workers ${mb(held + more)}; a layer's history ${mb(history)}, snapshots ` +
      `${mb(snapshots)}, both within ${mb(budgetBytes)}: at most ${mb(all)} together`,
  );
  if (!(all < most)) process.exitCode = 1;
}

async function visit(context: BrowserContext, path: string): Promise<Page> {
  const page = await context.newPage();
  page.on('pageerror', (error) => {
    console.error(String(error));
    process.exitCode = 1;
  });
  page.setDefaultTimeout(waitMs);
  await page.goto(site.origin + path);
  return page;
}

function slider(page: Page) {
  return page.getByRole('slider', { name: 'Time, in tokens' });
}

async function longestAnswer(page: Page, tokens: number): Promise<void> {
  const field = page.getByRole('spinbutton', { name: 'Longest answer' });
  if (!(await field.isVisible())) await page.getByText('Settings', { exact: true }).click();
  await field.fill(String(tokens));
  await field.press('Tab');
}

/** Send a text, or go on where one stands, and wait until all of it is recorded. */
async function send(page: Page, text: string): Promise<void> {
  const box = page.getByRole('textbox', { name: 'Message' });
  if (text !== '') await box.fill(text);
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.getByRole('button', { name: 'Stop', exact: true }).waitFor();
  await page.getByRole('button', { name: 'Stop', exact: true }).waitFor({ state: 'detached' });
  await settled(page);
}

/** How many tokens `text` adds. */
async function lengthAfter(page: Page, text: string): Promise<number> {
  const length = async () => Number(await slider(page).getAttribute('aria-valuemax'));
  const before = await length();
  await send(page, text);
  return Math.max(1, (await length()) - before);
}

/** Until nothing on the page has changed for a while: what was asked is answered. */
async function settled(page: Page): Promise<void> {
  await page.evaluate(
    () =>
      new Promise<void>((still) => {
        let timer = setTimeout(still, 1500);
        const changes = new MutationObserver(() => {
          clearTimeout(timer);
          timer = setTimeout(() => {
            changes.disconnect();
            still();
          }, 1500);
        });
        changes.observe(document.body, { subtree: true, childList: true, attributes: true });
      }),
  );
}

/** Bytes in use by the page and each of its workers: heaps after a collection, and what lies outside of them. */
async function bytesOf(page: Page): Promise<{ total: number; parts: string }> {
  const heaps = await heapsOf(page);
  return {
    total: heaps.reduce((sum, { usage }) => sum + heldBytes(usage), 0),
    parts: heaps
      .map(
        ({ name, usage }) =>
          `${name} ${mb(heldBytes(usage))} (${mb(usage.backingStorageSize)} outside its heap)`,
      )
      .join(', '),
  };
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Bytes of "12.3 MB of at most 200 MB". */
function megabytes(text: string): number {
  const [, number, unit] = /^([\d.]+) (kB|MB|GB)/.exec(text) ?? [];
  return Number(number) * { kB: 1e3, MB: 1e6, GB: 1e9 }[unit ?? 'MB']!;
}

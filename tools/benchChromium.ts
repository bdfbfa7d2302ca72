/**
 * `npm run bench:chromium`: the built page in a real Chromium, with the embedded model stored in its profile:
 *
 *   --page FOLDER (dist)   --model NAME (palimpsest-150m)   --runs N (5)   --adapter TEXT   --json FILE   --cold
 *
 * Cold start: from the page's opening to the first token of an answer, with nothing but the stored weights to begin with;
 * each run in a browser of its own, on a copy of a profile that has never seen a conversation; below it the medians of its
 * steps, which overlap. Then, without --cold, the page's own bench, workers/bench.ts in its engine worker. Fails on an adapter that does not say TEXT, and without TEXT on one that computes
 * on the processor, unless PALIMPSEST_ADAPTER=swiftshader allows that.
 *
 *   PALIMPSEST_CHROMIUM=/path/to/chrome   PALIMPSEST_CHROMIUM_FLAGS="--more --flags"
 */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import { type Files, openSite } from '../test/e2e/site.ts';
import type { createEngine } from '../src/api.ts';
import { spreadOf } from '../workers/bench.ts';
import type { BenchResult, DeviceReport, Spread } from '../workers/protocol.ts';
import { chromiumLaunch } from './chromium.ts';
import { lineOf, medianSteps, noteAsking, type Step, stepsOf } from './coldSteps.ts';

/** What this writes. */
export interface ChromiumFigures {
  adapter: DeviceReport;
  coldStartSec: Spread;
  /** Where that goes: medians over the runs. */
  coldStartSteps: Step[];
  /** What the page's own bench says, and the browser of itself; null with --cold. */
  bench: (BenchResult & { browser: string }) | null;
}

const { values: arg } = parseArgs({
  options: {
    page: { type: 'string', default: 'dist' },
    model: { type: 'string', default: 'palimpsest-150m' },
    runs: { type: 'string', default: '5' },
    adapter: { type: 'string', default: '' },
    json: { type: 'string' },
    cold: { type: 'boolean', default: false },
  },
});
const built = resolve(arg.page);
if (!existsSync(join(built, 'index.html'))) {
  throw new Error(
    `${built} has no page: build it first (npm run build), or name its folder by --page.`,
  );
}

const files: Files = {};
const folder = resolve('public/models', arg.model);
for (const file of readdirSync(folder)) {
  files[`/models/${arg.model}/${file}`] = readFileSync(join(folder, file));
}
const site = await openSite({ built, files });
const address = `${site.origin}/?model=models/${arg.model}/`;
const profiles = mkdtempSync(join(tmpdir(), 'palimpsest-'));
let opened = 0;
try {
  const profile = join(profiles, 'stored');
  const adapter = await inBrowser(profile, store);
  console.log(`adapter                            ${adapter.name}; ${adapter.features.join(', ')}`);
  const starts: { ms: number; steps: Step[] }[] = [];
  for (let run = 0; run < Number(arg.runs); run++) {
    starts.push(await inBrowser(copyOf(profile), coldStart));
  }
  const coldStartSec = spreadOf(starts.map(({ ms }) => ms / 1000));
  const coldStartSteps = medianSteps(starts.map(({ steps }) => steps));
  const { median, least, most, runs } = coldStartSec;
  const [m, from, to] = [median, least, most].map((s) => s.toFixed(2));
  console.log(`page open to first token           ${m} s   (${from} to ${to}, ${runs} runs)`);
  for (const step of coldStartSteps) console.log(lineOf(step));
  const bench = arg.cold ? null : await inBrowser(copyOf(profile), measure);
  for (const { contextTokens, tokens, tokensPerSec } of bench?.decode ?? []) {
    const [rate, slowest, fastest] = [
      tokensPerSec.median,
      tokensPerSec.least,
      tokensPerSec.most,
    ].map((x) => x.toFixed(1));
    console.log(
      `${`decode, ${tokens} tokens after ${contextTokens}`.padEnd(34)} ${rate} tokens/s   (${slowest} to ${fastest}, ${tokensPerSec.runs} runs)`,
    );
  }
  const figures: ChromiumFigures = { adapter, coldStartSec, coldStartSteps, bench };
  if (arg.json) writeFileSync(arg.json, `${JSON.stringify(figures, null, 2)}\n`);
  for (const refusal of bench?.refused ?? []) console.error(refusal);
  if (bench && bench.refused.length > 0) process.exitCode = 1;
} finally {
  rmSync(profiles, { recursive: true, force: true });
  await site.close();
}

function copyOf(profile: string): string {
  const copy = join(profiles, `run${opened++}`);
  cpSync(profile, copy, { recursive: true });
  return copy;
}

/** Work in a browser of its own on a profile. */
async function inBrowser<T>(profile: string, work: (page: Page) => Promise<T>): Promise<T> {
  const context: BrowserContext = await chromium.launchPersistentContext(profile, {
    ...chromiumLaunch(),
    acceptDownloads: true,
  });
  context.setDefaultTimeout(300_000);
  try {
    return await work(context.pages()[0] ?? (await context.newPage()));
  } finally {
    await context.close();
  }
}

/** Store the weights, and have the browser keep what it compiled, without a word on the page. Fails on another adapter. */
async function store(page: Page): Promise<DeviceReport> {
  await page.goto(address);
  await page.evaluate(
    `import(new URL('api.js', document.baseURI).href).then((api) => Object.assign(globalThis, api))`,
  );
  const device = await page.evaluate(async (name) => {
    const library = globalThis as unknown as { createEngine: typeof createEngine };
    const model = new URL(`models/${name}/`, document.baseURI).href;
    const engine = await library.createEngine({ model });
    const messages = [{ role: 'user' as const, content: 'Hello' }];
    await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 4 });
    engine.close();
    return engine.loaded.device;
  }, arg.model);
  const meant = arg.adapter
    ? device.name.toLowerCase().includes(arg.adapter.toLowerCase())
    : !device.software || process.env.PALIMPSEST_ADAPTER === 'swiftshader';
  if (!meant) {
    throw new Error(
      `The browser computes on ${device.name}, which is not the adapter that is meant.`,
    );
  }
  return device;
}

/** Milliseconds from the page's opening to the first text of an answer, asked for as soon as the page takes a message. */
async function coldStart(page: Page): Promise<{ ms: number; steps: Step[] }> {
  await noteAsking(page);
  await page.goto(address, { waitUntil: 'commit' });
  // What is not there yet is looked for seldom by locators, and here with every frame.
  await page.waitForFunction(() => document.querySelector('textarea[aria-label="Message"]'));
  const message = page.getByRole('textbox', { name: 'Message' });
  await message.fill('What is photosynthesis?');
  await message.press('Enter');
  const first = await page.waitForFunction(() => {
    const answer = document.querySelector(
      '[role=log] article[aria-label="The model"] :is(.inked, .block)',
    );
    return /\S/.test(answer?.textContent ?? '') ? performance.now() : null;
  });
  return { ms: (await first.jsonValue())!, steps: await stepsOf(page) };
}

/** The page's own bench, as its file has it. */
async function measure(page: Page): Promise<NonNullable<ChromiumFigures['bench']>> {
  await page.goto(`${address}&bench`);
  const dialog = page.getByRole('dialog', { name: 'How fast is this machine?' });
  await dialog.getByRole('button', { name: /^Load the model/ }).click();
  await dialog.getByRole('button', { name: 'Measure', exact: true }).click();
  await dialog.getByRole('button', { name: 'Measure again', exact: true }).waitFor();
  const downloading = page.waitForEvent('download');
  await dialog.getByRole('button', { name: 'Download', exact: true }).click();
  return JSON.parse(readFileSync(await (await downloading).path(), 'utf8')) as NonNullable<
    ChromiumFigures['bench']
  >;
}

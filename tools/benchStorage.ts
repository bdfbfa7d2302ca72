/**
 * How fast a stored model is read in a real browser, and what it takes of memory:
 *
 *   node tools/run.mjs benchStorage [--pieces 24] [--rounds 5]
 *
 * The same bytes lie in our store, in IndexedDB as ArrayBuffers, in the Cache API and in the origin's private file system; each is
 * read one piece after another. Verified reads through the worker are ours, hash included. Prints a Markdown table.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Page } from 'playwright-core';
import { openProfile } from '../test/e2e/browser.ts';
import { openLab, processesOf, serveWeightsPage } from '../test/e2e/weightsPage.ts';
import { serveFolder, weights } from '../test/fault/rig.ts';
import { FaultServer } from '../test/fault/server.ts';

const { values: options } = parseArgs({
  options: {
    pieces: { type: 'string', default: '24' },
    rounds: { type: 'string', default: '5' },
  },
});
const pieceBytes = 16 * 1024 * 1024;
const pieces = Number(options.pieces);
const bytes = pieces * pieceBytes;

const server = new FaultServer();
const origin = await server.listen();
serveWeightsPage(server);
const shards = Array.from({ length: pieces }, (_, i) => weights(pieceBytes, i + 1));
const { model } = serveFolder({ server, origin }, 'm', shards);
const profile = mkdtempSync(join(tmpdir(), 'palimpsest-'));
const context = await openProfile(profile);
try {
  const first = await openLab(context, origin);
  await first.evaluate((name) => lab.download(name), model);
  await first.close();
  const page = await openLab(context, origin);
  const grownBytes = process.platform === 'linux' ? await peakOf(page) : null;
  const ways: [string, () => Promise<number>][] = [
    ['our store, verified, through the worker', () => page.evaluate((m) => lab.timeRead(m), model)],
    ['our store, plain get', () => page.evaluate((n) => lab.timePlain(n), bytes)],
    ['IndexedDB, ArrayBuffers', () => page.evaluate((n) => lab.timeBuffers(n), bytes)],
    ['Cache API', () => page.evaluate((n) => lab.timeCache(n), bytes)],
    ['origin private file system', () => page.evaluate((n) => lab.timeFiles(n), bytes)],
    [
      'SHA-256 alone',
      () => page.evaluate(([n, p]) => lab.timeHash(n, p), [bytes, pieceBytes] as const),
    ],
  ];
  const best = new Map<string, number>();
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [name, time] of ways) {
      best.set(name, Math.min(best.get(name) ?? Infinity, await time()));
    }
  }
  const plainMs = best.get('our store, plain get')!;
  const browser = context.browser()!;
  console.log(`${browser.version()}, ${cpus().length} x ${cpus()[0]!.model}`);
  console.log(`${pieces} pieces of 16 MiB, best of ${options.rounds} rounds\n`);
  console.log('| way | MB/s | of a plain get |\n| --- | ---: | ---: |');
  for (const [name, ms] of best) {
    const rate = (bytes / 1e3 / ms).toFixed(0);
    console.log(`| ${name} | ${rate} | ${((100 * plainMs) / ms).toFixed(0)} % |`);
  }
  if (grownBytes !== null) {
    console.log(
      `\nMost memory that the page's process took above its rest while ${inMegabytes(bytes)} were read ` +
        `for the first time: ${inMegabytes(grownBytes)}`,
    );
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
  await server.close();
}

/** How far the memory of the page's process rises above its rest while the model is read. */
async function peakOf(page: Page): Promise<number> {
  const renderers = await processesOf(context, 'renderer');
  const before = renderers.map((id) => restartPeak(id));
  await page.evaluate((m) => lab.timeRead(m), model);
  return Math.max(...renderers.map((id, i) => memoryOf(id, 'VmHWM') - before[i]!));
}

function inMegabytes(n: number): string {
  return `${(n / 1e6).toFixed(0)} MB`;
}

/** Bytes that the kernel counts for a process, by their name in its status. */
function memoryOf(id: number, name: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${id}/status`, 'utf8');
  return 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)![1]);
}

/** Let a process's peak begin at what it takes now; answers that. */
function restartPeak(id: number): number {
  writeFileSync(`/proc/${id}/clear_refs`, '5');
  return memoryOf(id, 'VmRSS');
}

/**
 * How fast a stored model is read in a real browser, and what it takes of memory:
 *
 *   npm run bench:storage                 --pieces 24, --rounds 5, --readers 0,1,2,4
 *
 * The same bytes lie in our store, in IndexedDB as ArrayBuffers, in the Cache API and in the origin's private file system; each is
 * read one piece after another. Verified reads through the worker are ours, hash included; "into the GPU" puts them into
 * buffers there and waits until it has them. Its stages are timed alone as well, and the cores that each way keeps busy are
 * counted: with as many free, the stages run side by side. With --readers it is timed with each of these numbers of reading
 * threads, too. Prints a Markdown table; what it is at on the way, with the threads that are busiest; and fails if what was
 * promised is not held: no more memory than the buffers and two pieces and, where there are cores enough, into the GPU at
 * 60 % of the rate of plain gets or more.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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
    readers: { type: 'string', default: '' },
  },
});
const pieceBytes = 16 * 1024 * 1024;
const pieces = Number(options.pieces);
const bytes = pieces * pieceBytes;
const sizes = [bytes, pieceBytes] as const;
const readers = options.readers.split(',').filter(Boolean).map(Number);
/** Of the rate of plain gets, into the GPU. */
const promised = 0.6;

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
  const grown = process.platform === 'linux' ? await growth(page) : null;
  const ways: [name: string, time: () => Promise<number>][] = [
    ['our store, verified, through the worker', () => page.evaluate((m) => lab.timeRead(m), model)],
    ['our store, verified, into the GPU', () => page.evaluate((m) => lab.timeUpload(m), model)],
    ...readers.map((count): (typeof ways)[number] => [
      `our store, verified, into the GPU, ${count} reading threads`,
      () => page.evaluate((a) => lab.timeReadersUpload(...a), [model, count] as const),
    ]),
    ['our store, plain get', () => page.evaluate((n) => lab.timePlain(n), bytes)],
    ['IndexedDB, ArrayBuffers', () => page.evaluate((n) => lab.timeBuffers(n), bytes)],
    ['Cache API', () => page.evaluate((n) => lab.timeCache(n), bytes)],
    ['origin private file system', () => page.evaluate((n) => lab.timeFiles(n), bytes)],
    ['SHA-256 of leaves alone', () => page.evaluate(([n, p]) => lab.timeLeaves(n, p), sizes)],
    ['SHA-256 of pieces alone', () => page.evaluate(([n, p]) => lab.timeHash(n, p), sizes)],
    ['writing into the GPU alone', () => page.evaluate(([n, p]) => lab.timeWrites(n, p), sizes)],
  ];
  const best = new Map<string, { ms: number; busyMs: number | null }>();
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [name, time] of ways) {
      const [busyBefore, threadsBefore] = [await busy(), await threadTimes()];
      const ms = await time();
      const [threadsAfter, busyAfter] = [await threadTimes(), await busy()];
      // Those that write before they read: what they do is not all of it reading.
      const pure = busyBefore !== null && busyAfter !== null && /our store|alone/.test(name);
      const busyMs = pure ? busyAfter - busyBefore : null;
      if (ms < (best.get(name)?.ms ?? Infinity)) best.set(name, { ms, busyMs });
      const threads = pure ? `; ${busiest(threadsBefore, threadsAfter, ms)}` : '';
      console.error(`round ${round + 1}, ${name}: ${(bytes / 1e3 / ms).toFixed(0)} MB/s${threads}`);
    }
  }
  const plainMs = best.get('our store, plain get')!.ms;
  const browser = context.browser()!;
  console.log(`${browser.version()}, ${cpus().length} x ${cpus()[0]!.model}`);
  console.log(`${pieces} pieces of 16 MiB, best of ${options.rounds} rounds\n`);
  console.log('| way | MB/s | of a plain get | cores busy |\n| --- | ---: | ---: | ---: |');
  for (const [name, { ms, busyMs }] of best) {
    const rate = (bytes / 1e3 / ms).toFixed(0);
    const share = ((100 * plainMs) / ms).toFixed(0);
    const cores = busyMs === null ? '' : (busyMs / ms).toFixed(1);
    console.log(`| ${name} | ${rate} | ${share} % | ${cores} |`);
  }
  const upload = best.get('our store, verified, into the GPU')!;
  let enough = true;
  if (upload.busyMs !== null) {
    const needed = (promised * upload.busyMs) / plainMs;
    const whole = (cpus().length * bytes) / 1e3 / upload.busyMs;
    enough = cpus().length >= needed;
    console.log(
      `\nInto the GPU, a megabyte is ${((1e6 * upload.busyMs) / bytes).toFixed(1)} ms of work for a core: ${cpus().length} cores that do ` +
        `nothing else give at most ${whole.toFixed(0)} MB/s, and ${100 * promised} % of a plain get takes ${needed.toFixed(1)} cores` +
        (enough ? '' : ', which are not here'),
    );
  }
  if (enough && plainMs / upload.ms < promised) process.exitCode = 1;
  if (grown !== null) {
    console.log(`\nMost memory above rest while ${inMegabytes(bytes)} went to the GPU:`);
    for (const [type, grownBytes] of grown) console.log(`  ${type}: ${inMegabytes(grownBytes)}`);
    const sum = [...grown.values()].reduce((a, b) => a + b, 0);
    const allowed = bytes + 2 * pieceBytes;
    console.log(`  together: ${inMegabytes(sum)}; buffers and two pieces: ${inMegabytes(allowed)}`);
    if (sum > allowed) process.exitCode = 1;
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
  await server.close();
}

/** How far the memory of the browser's processes rises above their rest while the model goes to the GPU, by their type. */
async function growth(page: Page): Promise<Map<string, number>> {
  // Once before: what code and drivers take for good is no part of it. Pieces in memory are given back after some seconds.
  await page.evaluate((m) => lab.timeUpload(m), model);
  await new Promise((resolve) => setTimeout(resolve, 8000));
  const rest = new Map<number, [type: string, bytes: number]>();
  for (const type of ['renderer', 'GPU', 'browser', 'utility']) {
    for (const id of await processesOf(context, type)) rest.set(id, [type, restartPeak(id)]);
  }
  await page.evaluate((m) => lab.timeUpload(m), model);
  const grown = new Map<string, number>();
  for (const [id, [type, bytes]] of rest) {
    grown.set(type, (grown.get(type) ?? 0) + memoryOf(id, 'VmHWM') - bytes);
  }
  return grown;
}

/** Milliseconds that cores have worked for the browser so far; null where the system does not tell. */
async function busy(): Promise<number | null> {
  if (process.platform !== 'linux') return null;
  let sum = 0;
  for (const id of await processesOf(context)) sum += workOf(`/proc/${id}/stat`).ms;
  return sum;
}

/** Milliseconds that each thread of the browser has worked so far, by its process, name and number. */
async function threadTimes(): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  if (process.platform !== 'linux') return times;
  for (const type of ['renderer', 'GPU', 'browser', 'utility']) {
    for (const id of await processesOf(context, type)) {
      for (const thread of readdirSync(`/proc/${id}/task`)) {
        try {
          const { name, ms } = workOf(`/proc/${id}/task/${thread}/stat`);
          times.set(`${type} ${name} ${thread}`, ms);
        } catch {
          // It has ended.
        }
      }
    }
  }
  return times;
}

/** The threads with the most to do, and the share of the time that each was at work. */
function busiest(before: Map<string, number>, after: Map<string, number>, ms: number): string {
  return [...after]
    .map(([name, end]) => [name, (100 * (end - (before.get(name) ?? 0))) / ms] as const)
    .filter(([, share]) => share >= 5)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 6)
    .map(([name, share]) => `${name.replace(/ \d+$/, '')} ${share.toFixed(0)} %`)
    .join(', ');
}

/** What the kernel says of a process or thread in this file. */
function workOf(file: string): { name: string; ms: number } {
  const stat = readFileSync(file, 'utf8');
  // The name may hold anything. After it, state is field 3, user and system time are fields 14 and 15.
  const end = stat.lastIndexOf(')');
  const fields = stat.slice(end + 2).split(' ');
  const ticks = Number(fields[11]) + Number(fields[12]);
  return { name: stat.slice(stat.indexOf('(') + 1, end), ms: 10 * ticks }; // a hundred a second, whatever the kernel's own clock
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

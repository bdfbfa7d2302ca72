/**
 * How fast a stored model is read in a real browser, and what it takes of memory:
 *
 *   npm run bench:storage                 --pieces 24, --rounds 5, --stages REGEX
 *
 * The same bytes lie in our store, in IndexedDB as ArrayBuffers, in the Cache API and in the origin's private file system; each is
 * read one piece after another. Verified reads through the worker are ours, hash included; "into the GPU" puts them into
 * buffers there and waits until it has them. Its stages are timed alone as well, and the cores that each way keeps busy are
 * counted: with as many free, the stages run side by side. Prints a Markdown table, what it is at on the way, and fails if what was promised is not held:
 * into the GPU at 60 % of the rate of plain gets or more, and no more memory than the buffers and two pieces. With --stages it times
 * what several readers make of each stage instead, and every way of writing into the GPU, alone and together, as far as their
 * names match.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Page } from 'playwright-core';
import { openProfile } from '../test/e2e/browser.ts';
import type { Writing } from '../test/e2e/weights/stages.ts';
import { openLab, processesOf, serveWeightsPage } from '../test/e2e/weightsPage.ts';
import { serveFolder, weights } from '../test/fault/rig.ts';
import { FaultServer } from '../test/fault/server.ts';

const { values: options } = parseArgs({
  options: {
    pieces: { type: 'string', default: '24' },
    rounds: { type: 'string', default: '5' },
    stages: { type: 'string' },
  },
});
const pieceBytes = 16 * 1024 * 1024;
const pieces = Number(options.pieces);
const bytes = pieces * pieceBytes;
const sizes = [bytes, pieceBytes] as const;

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
  const grown =
    process.platform === 'linux' && options.stages === undefined ? await growth(page) : null;
  const whole: Way[] = [
    ['our store, verified, through the worker', () => page.evaluate((m) => lab.timeRead(m), model)],
    ['our store, verified, into the GPU', () => page.evaluate((m) => lab.timeUpload(m), model)],
    ['our store, plain get', () => page.evaluate((n) => lab.timePlain(n), bytes)],
    ['IndexedDB, ArrayBuffers', () => page.evaluate((n) => lab.timeBuffers(n), bytes)],
    ['Cache API', () => page.evaluate((n) => lab.timeCache(n), bytes)],
    ['origin private file system', () => page.evaluate((n) => lab.timeFiles(n), bytes)],
    ['SHA-256 of leaves alone', () => page.evaluate(([n, p]) => lab.timeLeaves(n, p), sizes)],
    ['SHA-256 of pieces alone', () => page.evaluate(([n, p]) => lab.timeHash(n, p), sizes)],
    ['writing into the GPU alone', () => page.evaluate(([n, p]) => lab.timeWrites(n, p), sizes)],
  ];
  const ways =
    options.stages === undefined
      ? whole
      : stages(page, whole).filter(([name]) =>
          new RegExp(`plain get|into the GPU|${options.stages}`).test(name),
        );
  const best = new Map<string, { ms: number; busyMs: number | null; threads: string }>();
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [name, time] of ways) {
      const before = await busy();
      const begun = options.stages === undefined ? null : await threadTimes();
      const ms = await time();
      const threads = begun === null ? '' : busiest(begun, await threadTimes(), ms);
      const after = await busy();
      // Those that write before they read: what they do is not all of it reading.
      const pure = options.stages !== undefined || /our store|alone/.test(name);
      const busyMs = before === null || after === null || !pure ? null : after - before;
      if (ms < (best.get(name)?.ms ?? Infinity)) best.set(name, { ms, busyMs, threads });
      console.error(`round ${round + 1}, ${name}: ${(bytes / 1e3 / ms).toFixed(0)} MB/s`);
    }
  }
  const plainMs = best.get('our store, plain get')!.ms;
  const browser = context.browser()!;
  console.log(`${browser.version()}, ${cpus().length} x ${cpus()[0]!.model}`);
  console.log(`${pieces} pieces of 16 MiB, best of ${options.rounds} rounds\n`);
  console.log(
    '| way | MB/s | of a plain get | cores busy | ms of a core per MB |\n| --- | ---: | ---: | ---: | ---: |',
  );
  for (const [name, { ms, busyMs, threads }] of best) {
    const rate = (bytes / 1e3 / ms).toFixed(0);
    const share = ((100 * plainMs) / ms).toFixed(0);
    const cores = busyMs === null ? '' : (busyMs / ms).toFixed(1);
    const work = busyMs === null ? '' : ((1e6 * busyMs) / bytes).toFixed(1);
    console.log(`| ${name} | ${rate} | ${share} % | ${cores} | ${work} | ${threads}`);
  }
  const upload = best.get('our store, verified, into the GPU')!;
  if (upload.busyMs !== null && options.stages === undefined) {
    const needed = (0.6 * upload.busyMs) / plainMs;
    const whole = (cpus().length * bytes) / 1e3 / upload.busyMs;
    console.log(
      `\nInto the GPU, a megabyte is ${((1e6 * upload.busyMs) / bytes).toFixed(1)} ms of work for a core: ${cpus().length} cores that do ` +
        `nothing else give at most ${whole.toFixed(0)} MB/s, and 60 % of a plain get takes ${needed.toFixed(1)} cores`,
    );
  }
  if (options.stages === undefined && plainMs / upload.ms < 0.6) process.exitCode = 1;
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

type Way = [name: string, time: () => Promise<number>];

/** Every stage at several numbers of readers and sizes of span, and every way of writing. */
function stages(page: Page, whole: Way[]): Way[] {
  const MiB = 1024 * 1024;
  const found: Way[] = whole.filter(([name]) => name.startsWith('our store'));
  const gets = ['get', 'get and hash'] as const;
  for (const way of gets) {
    for (const count of [1, 2, 4, 8]) {
      for (const span of [0.5, 1, 4]) {
        const asked = [count, way, span * MiB, 2] as const;
        const time = () => page.evaluate((a) => lab.timeGets(...a), asked);
        found.push([`${way}, ${count} readers, spans of ${span} MiB`, time]);
      }
    }
  }
  for (const count of [1, 2, 4]) {
    const time = () => page.evaluate(([c, n]) => lab.timeHashes(c, n), [count, bytes] as const);
    found.push([`hash alone, ${count} workers`, time]);
  }
  for (const readers of [0, 1, 2, 4, 8]) {
    for (const [span, spans] of [
      [1, Math.max(3, 2 * readers + 1)],
      [4, Math.max(3, readers + 1)],
    ] as const) {
      const asked = [model, { readers, spanBytes: span * MiB, spans }] as const;
      const time = () => page.evaluate((a) => lab.timeReadersUpload(...a), asked);
      found.push([`engine's way, ${readers} readers, ${spans} spans of ${span} MiB`, time]);
    }
  }
  const writings: [string, Writing][] = [
    ...[0.25, 0.5, 1, 4].map((part): [string, Writing] => [
      `writeBuffer of ${part} MiB`,
      { by: 'writeBuffer', partBytes: part * MiB },
    ]),
    ...[
      [0.5, 8],
      [1, 4],
      [1, 8],
      [2, 4],
      [4, 3],
    ].map(([part, parts]): [string, Writing] => [
      `ring of ${parts} x ${part} MiB`,
      { by: 'ring', partBytes: part! * MiB, parts: parts! },
    ]),
    ['buffers mapped at creation', { by: 'mapped' }],
  ];
  for (const [name, writing] of writings) {
    const asked = [bytes, 4 * MiB, writing] as const;
    found.push([`${name} alone`, () => page.evaluate((a) => lab.timeWriting(...a), asked)]);
  }
  for (const count of [1, 2, 4]) {
    for (const span of [0.5, 1, 4]) {
      for (const [name, writing] of writings.filter(([name]) =>
        /of 1 MiB|4 x 1 MiB|at creation/.test(name),
      )) {
        const asked = [count, 'get and hash', span * MiB, 2, writing] as const;
        const time = () => page.evaluate((a) => lab.timeTogether(...a), asked);
        found.push([`all, ${count} readers, spans of ${span} MiB, ${name}`, time]);
      }
    }
  }
  return found;
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

/** Milliseconds of each thread of the browser so far, by process, its name and number. */
async function threadTimes(): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  if (process.platform !== 'linux') return times;
  for (const type of ['renderer', 'GPU', 'browser', 'utility']) {
    for (const id of await processesOf(context, type)) {
      for (const thread of readdirSync(`/proc/${id}/task`)) {
        try {
          const stat = readFileSync(`/proc/${id}/task/${thread}/stat`, 'utf8');
          const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
          const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
          times.set(`${type} ${name} ${thread}`, 10 * (Number(fields[11]) + Number(fields[12])));
        } catch {
          // It has ended.
        }
      }
    }
  }
  return times;
}

/** The threads with the most to do, and the share of the time that each was at work. Those that have ended are not among them. */
function busiest(before: Map<string, number>, after: Map<string, number>, ms: number): string {
  return [...after]
    .map(([name, end]) => [name, (100 * (end - (before.get(name) ?? 0))) / ms] as const)
    .filter(([, share]) => share >= 8)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 10)
    .map(([name, share]) => `${name.replace(/ \d+$/, '')} ${share.toFixed(0)} %`)
    .join(', ');
}

/** Milliseconds that cores have worked for the browser so far; null where the system does not tell. */
async function busy(): Promise<number | null> {
  if (process.platform !== 'linux') return null;
  let ticks = 0;
  for (const id of await processesOf(context)) {
    const stat = readFileSync(`/proc/${id}/stat`, 'utf8');
    // After the name, which may hold anything: state is field 3, user and system time are fields 14 and 15.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return 10 * ticks; // a hundred ticks a second, whatever the kernel's own clock
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

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { downloadWithKills } from '../fault/kills.ts';
import { serveFolder, weights, type TestModel } from '../fault/rig.ts';
import { FaultServer } from '../fault/server.ts';
import { openProfile } from './browser.ts';
import { openLab, serveWeightsPage } from './weightsPage.ts';

const mebibyte = 1024 * 1024;
/** Manifests, and what an aborted answer had already put into the socket. */
const slackBytes = 64 * 1024;

let server: FaultServer;
let origin: string;
let profile: string;
let context: BrowserContext;
let page: Page;
let models = 0;

beforeAll(async () => {
  server = new FaultServer();
  origin = await server.listen();
  serveWeightsPage(server);
  profile = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  context = await openProfile(profile);
});
afterAll(async () => {
  await context?.close();
  if (profile) rmSync(profile, { recursive: true, force: true });
  await server?.close();
});
beforeEach(async () => {
  for (const open of context.pages().slice(1)) await open.close();
  server.bytesPerSec = Infinity;
  page = await openLab(context, origin);
  server.sentBytes = 0;
  server.asked.length = 0;
});

/** A model that no other test has stored. */
function serve(...sizes: number[]): TestModel {
  models++;
  const shards = sizes.map((bytes, i) => weights(bytes, 100 * models + i));
  return serveFolder({ server, origin }, `m${models}`, shards);
}

const readIn = (tab: Page, { model }: TestModel) => tab.evaluate((name) => lab.read(name), model);

/** What a promise in the page failed with: name and message. */
const failureOf = (tab: Page, { model }: TestModel, call: 'read' | 'download' | 'remove') =>
  tab.evaluate(
    async ([name, act]) => {
      try {
        await lab[act](name);
        return null;
      } catch (cause) {
        const { name, message } = cause as Error;
        return { name, message };
      }
    },
    [model, call] as const,
  );

test('killed four times, the browser finishes and fetches at most 1 MiB a connection twice', async () => {
  const report = await downloadWithKills(4, 1);
  expect(report).toMatchObject({ kills: 4, right: true });
  // Otherwise there was nothing to lose.
  expect(report.openConnections).toBeGreaterThanOrEqual(4);
  expect(report.sentBytes).toBeLessThanOrEqual(
    report.modelBytes + report.openConnections * mebibyte + slackBytes,
  );
});

test('a stored shard that is damaged by hand is fetched again on its own', async () => {
  const model = serve(2 * mebibyte, 3 * mebibyte, mebibyte);
  expect(await readIn(page, model)).toEqual(model.hashes);
  await page.evaluate(async (hash) => {
    const database = await new Promise<IDBDatabase>((resolve) => {
      const opening = indexedDB.open('palimpsest');
      opening.onsuccess = () => resolve(opening.result);
    });
    const got = database.transaction('weights').objectStore('weights').get(['piece', hash]);
    await new Promise((resolve) => (got.onsuccess = resolve));
    const bytes = new Uint8Array(await (got.result as Blob).arrayBuffer());
    bytes[1_234_567]! ^= 32;
    const transaction = database.transaction('weights', 'readwrite');
    transaction.objectStore('weights').put(new Blob([bytes]), ['piece', hash]);
    await new Promise((resolve) => (transaction.oncomplete = resolve));
    database.close();
  }, model.hashes[1]!);
  server.asked.length = 0;
  const second = await openLab(context, origin);
  expect(await readIn(second, model)).toEqual(model.hashes);
  // By threads that live yet: they have not failed.
  const readers = second.workers().filter((worker) => worker.url().includes('reader.worker'));
  expect(readers.length).toBeGreaterThan(1);
  const asked = server.asked.map(({ path }) => path).filter((path) => path.endsWith('.gguf'));
  expect(asked).toEqual([model.paths[1]]);
  const status = await second.evaluate((name) => lab.status(name), model.model);
  expect(status).toMatchObject({ state: 'complete', repairedPieces: 1 });
  expect(status.note).toContain('damaged');
  const notes = await second.evaluate(() => lab.reports.map(({ note }) => note));
  expect(notes.some((note) => note.includes('damaged'))).toBe(true);
});

test('a full quota says so and loses nothing', async () => {
  // An origin of its own: Chromium remembers for a while how much room it found.
  const other = new FaultServer();
  const otherOrigin = await other.listen();
  for (const [path, file] of server.files) {
    if (/\.(html|js)$/.test(path)) other.files.set(path, file);
  }
  const model = serveFolder(
    { server: other, origin: otherOrigin },
    'm',
    [1, 2, 3].map((seed) => weights(6 * mebibyte, seed)),
  );
  const session = await context.newCDPSession(page);
  await session.send('Storage.overrideQuotaForOrigin', {
    origin: otherOrigin.slice(0, -1),
    quotaSize: 60e6,
  });
  const tab = await openLab(context, otherOrigin);
  other.sentBytes = 0;
  other.bytesPerSec = 2 * mebibyte;
  const failing = failureOf(tab, model, 'download');
  await expect.poll(() => other.sentBytes).toBeGreaterThan(4 * mebibyte);
  await tab.evaluate(fillStorage);
  const failure = await failing;
  expect(failure).toMatchObject({ name: 'QuotaExceeded' });
  expect(failure!.message).toMatch(
    /no room .* MB of 18\.9 MB of m are kept; free room, then go on/,
  );
  const status = await tab.evaluate((name) => lab.status(name), model.model);
  expect(status).toMatchObject({ state: 'failed', place: 'disk', error: failure });
  expect(status.receivedBytes).toBeGreaterThan(2 * mebibyte);

  // Another attempt is refused before anything is fetched, with both numbers. What was on its way has come to rest.
  let sent = NaN;
  await expect.poll(() => sent - (sent = other.sentBytes), { interval: 250 }).toBe(0);
  expect((await failureOf(tab, model, 'download'))!.message).toMatch(
    /^m needs \d+\.\d MB( and \d+\.\d MB to assemble it)?, \d+(\.\d)? [kM]B free/,
  );
  expect(other.sentBytes - sent).toBeLessThan(slackBytes);

  await tab.evaluate(
    () =>
      new Promise(
        (resolve) => (indexedDB.deleteDatabase('filler').onsuccess = () => resolve(null)),
      ),
  );
  await session.send('Storage.overrideQuotaForOrigin', { origin: otherOrigin.slice(0, -1) });
  other.bytesPerSec = Infinity;
  expect(await readIn(tab, model)).toEqual(model.hashes);
  expect(other.sentBytes).toBeLessThan(model.bytes + 3 * mebibyte);
  await tab.close();
  await other.close();
});

/** Runs in the page: another part of the site takes all the room there is. */
async function fillStorage(): Promise<void> {
  const database = await new Promise<IDBDatabase>((resolve) => {
    const opening = indexedDB.open('filler');
    opening.onupgradeneeded = () => opening.result.createObjectStore('filler');
    opening.onsuccess = () => resolve(opening.result);
  });
  for (let bytes = 4 * 1024 * 1024; bytes >= 4096;) {
    const transaction = database.transaction('filler', 'readwrite');
    const noise = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += 65_536)
      crypto.getRandomValues(noise.subarray(at, at + 65_536));
    transaction.objectStore('filler').put(noise, Math.random());
    const stored = await new Promise<boolean>((resolve) => {
      transaction.oncomplete = () => resolve(true);
      transaction.onabort = () => resolve(false);
    });
    if (!stored) bytes /= 2;
  }
  database.close();
}

test('a model that this browser has no room for is refused with both numbers', async () => {
  const shards = Array.from({ length: 1556 }, (_, i) => ({
    file: `${i}.gguf`,
    bytes: 16 * mebibyte,
    sha256: i.toString(16).padStart(64, '0'),
  }));
  const manifest = JSON.stringify({ name: 'Kimi Linear 48B', shards });
  server.files.set('large/manifest.json', { bytes: Buffer.from(manifest), etag: null });
  const session = await context.newCDPSession(page);
  const here = origin.slice(0, -1);
  await session.send('Storage.overrideQuotaForOrigin', { origin: here, quotaSize: 18e9 });
  const large = { model: `${origin}large/` } as TestModel;
  expect(await failureOf(page, large, 'download')).toMatchObject({
    name: 'QuotaExceeded',
    message: expect.stringMatching(/^Kimi Linear 48B needs 26\.1 GB, 1[78]\.\d GB free\./),
  });
  await session.send('Storage.overrideQuotaForOrigin', { origin: here });
});

test('where storage is denied a model lives in memory, and that is said', async () => {
  // The same page again, its worker without what a browser that blocks storage does not give.
  const denied =
    "indexedDB.open = () => { throw new DOMException('Access is denied.', 'SecurityError') };";
  for (const [path, file] of [...server.files]) {
    if (path.startsWith('m') || path.startsWith('denied/')) continue;
    const isWorker = path.includes('download.worker');
    const bytes = isWorker ? Buffer.concat([Buffer.from(denied), file.bytes]) : file.bytes;
    server.files.set(`denied/${path}`, { ...file, bytes });
  }
  const model = serve(3 * mebibyte, 2 * mebibyte);
  const tab = await openLab(context, `${origin}denied/`);
  expect(await readIn(tab, model)).toEqual(model.hashes);
  const status = await tab.evaluate((name) => lab.status(name), model.model);
  expect(status).toMatchObject({ place: 'memory', state: 'complete' });
  expect(status.placeNote).toContain('gives no storage here (Access is denied.)');
  expect(await tab.evaluate(() => lab.room())).toMatchObject({ place: 'memory' });
  expect(await tab.evaluate(() => lab.list())).toMatchObject([{ model: model.model }]);
  await tab.reload();
  await tab.waitForFunction(() => 'lab' in globalThis);
  expect(await tab.evaluate(() => lab.list())).toEqual([]);
});

test('two tabs: one download, and neither can delete under the other', async () => {
  const model = serve(5 * mebibyte, 5 * mebibyte, 20 * mebibyte);
  const second = await openLab(context, origin);
  server.sentBytes = 0;
  const both = await Promise.all([readIn(page, model), readIn(second, model)]);
  expect(both).toEqual([model.hashes, model.hashes]);
  const asked = server.asked.filter(
    ({ path, from, until }) => path.endsWith('.gguf') && until - from > 1,
  );
  expect(asked.length).toBe(4);
  expect(server.sentBytes).toBeLessThan(model.bytes + slackBytes);

  await page.evaluate((name) => lab.close(name), model.model);
  expect(await failureOf(page, model, 'remove')).toMatchObject({
    name: 'Refused',
    message: expect.stringContaining('is in use'),
  });
  await second.close();
  await expect.poll(() => failureOf(page, model, 'remove')).toBeNull();
  const stored = await page.evaluate(() => lab.list());
  expect(stored.map(({ model }) => model)).not.toContain(model.model);
});

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { PalimpsestError } from '../../workers/protocol.ts';
import { memoryShelf } from '../../workers/store.ts';
import type { Asked, Fault } from '../fault/server.ts';
import {
  damage,
  openRig,
  readWhole,
  serveFile,
  serveFolder,
  smallLimits,
  vanish,
  weights,
  type Rig,
} from '../fault/rig.ts';

const noReport = () => {};
const { pieceBytes, partBytes } = smallLimits;

let rig: Rig;
beforeEach(async () => {
  rig = await openRig();
});
afterEach(() => rig.close());

/** Requests for weights, not for manifests or probes. */
const asksFor = (path: string) =>
  rig.server.asked.filter((asked) => asked.path === path && asked.until - asked.from > 1);

/** One fault for the first request for weights at each of these paths, then none. */
function failOnce(...faults: [string, Fault][]): void {
  const left = new Map(faults);
  rig.server.choose = ({ path, from, until }: Asked): Fault => {
    const fault = until - from > 1 ? left.get(path) : undefined;
    if (fault) left.delete(path);
    return fault ?? { kind: 'none' };
  };
}

describe('ranges', () => {
  test('one read brings the whole model, once, and every later read comes from the store', async () => {
    const model = serveFolder(rig, 'm', [weights(20_000, 1), weights(150_000, 2)]);
    const first = rig.tab().library;
    expect(await rig.pass(readWhole(first, model))).toEqual(model.hashes);
    await rig.pass(first.download(model.model));
    const fetchedBytes = rig.server.sentBytes;

    const second = rig.tab().library;
    const probes = rig.server.asked.length;
    expect(await rig.pass(readWhole(second, model))).toEqual(model.hashes);
    const range = await second.read(model.model, 1, pieceBytes - 5, pieceBytes + 10);
    expect(new Uint8Array(range)).toEqual(
      model.shards[1]!.slice(pieceBytes - 5, 2 * pieceBytes + 5),
    );
    expect(rig.server.asked.slice(probes).map(({ path }) => path)).toEqual(['m/manifest.json']);
    expect(fetchedBytes).toBeLessThan(model.bytes + 1000);
  });

  test('what is asked for comes first', async () => {
    const model = serveFolder(
      rig,
      'm',
      [0, 1, 2, 3, 4, 5, 6, 7].map((i) => weights(30_000, i + 1)),
    );
    const { library } = rig.tab();
    await library.open(model.model, noReport);
    await rig.pass(library.read(model.model, 6, 0, 10));
    expect(rig.server.asked[1]!.path).toBe('m/6.gguf');
  });

  test('ranges that do not exist, and models that are not open, are refused', async () => {
    const model = serveFolder(rig, 'm', [weights(5000, 1)]);
    const { library } = rig.tab();
    await expect(library.read(model.model, 0, 0, 1)).rejects.toMatchObject({ name: 'Refused' });
    await library.open(model.model, noReport);
    for (const [shard, offset, bytes] of [
      [0, 4999, 2],
      [1, 0, 1],
      [0, -1, 1],
      [0, 0.5, 1],
      [0, 0, NaN],
    ] as const) {
      const read = library.read(model.model, shard, offset, bytes);
      await expect(read).rejects.toMatchObject({ name: 'Refused' });
    }
  });
});

describe('resuming', () => {
  test('a tab that dies loses less than two parts of each connection', async () => {
    const model = serveFolder(rig, 'm', [
      weights(60_000, 1),
      weights(60_000, 2),
      weights(150_000, 3),
    ]);
    rig.server.bytesPerSec = 400_000;
    const first = rig.tab();
    void first.library.download(model.model).catch(noReport);
    await rig.pass(until(() => rig.server.sentBytes > 120_000));
    first.die();
    await rig.pass(until(() => rig.server.open === 0));
    const second = rig.tab().library;
    const before = (await second.status(model.model)).receivedBytes;
    expect(before).toBeGreaterThan(rig.server.sentBytes - 3 * (2 * partBytes + 16_384));
    expect(await rig.pass(readWhole(second, model))).toEqual(model.hashes);
    await rig.pass(second.download(model.model));
    expect(rig.server.sentBytes).toBeLessThan(model.bytes + 3 * (2 * partBytes + 16_384) + 2000);
  });

  test('a dropped connection goes on from the byte it was dropped at', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1)]);
    failOnce(['m/0.gguf', { kind: 'drop', afterBytes: 20_000 }]);
    const { library } = rig.tab();
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    const [first, second, third] = asksFor('m/0.gguf');
    expect(first!.from).toBe(0);
    // What the socket had not delivered when it was reset may be lost, what it had is not.
    expect(second!.from).toBeGreaterThan(0);
    expect(second!.from).toBeLessThanOrEqual(20_000);
    expect(third).toBeUndefined();
  });

  test('pause keeps what has arrived and reads wait; cancel tells them so', async () => {
    const model = serveFolder(rig, 'm', [weights(60_000, 1), weights(60_000, 2)]);
    rig.server.bytesPerSec = 200_000;
    const { library } = rig.tab();
    await library.open(model.model, noReport);
    const read = library.read(model.model, 0, 59_000, 1000);
    await rig.pass(until(() => rig.server.sentBytes > 30_000));
    await rig.pass(library.pause(model.model));
    const paused = await library.status(model.model);
    expect(paused.state).toBe('paused');
    expect(paused.receivedBytes).toBeGreaterThan(0);
    expect(paused.receivedBytes).toBeLessThan(model.bytes);
    const requests = rig.server.asked.length;
    rig.server.bytesPerSec = Infinity;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(rig.server.asked.length).toBe(requests);
    await rig.pass(library.download(model.model));
    expect(new Uint8Array(await read)).toEqual(model.shards[0]!.slice(59_000));
    expect(asksFor('m/0.gguf')[1]!.from).toBeGreaterThan(0);

    const other = serveFolder(rig, 'n', [weights(60_000, 3)]);
    rig.server.bytesPerSec = 100_000;
    await library.open(other.model, noReport);
    const waiting = library.read(other.model, 0, 0, 60_000);
    const refused = expect(waiting).rejects.toMatchObject({ name: 'Refused' });
    await rig.pass(until(() => asksFor('n/0.gguf').length > 0));
    await rig.pass(library.cancel(other.model));
    await refused;
    expect((await library.status(other.model)).state).toMatch(/absent|partial/);
  });
});

describe('servers', () => {
  test('Retry-After is followed, in seconds and as a date; otherwise waits grow', async () => {
    const model = serveFolder(rig, 'm', [weights(5000, 1)]);
    const at: number[] = [];
    const answers: Fault[] = [
      { kind: 'status', status: 429, retryAfter: '120' },
      {
        kind: 'status',
        status: 503,
        retryAfter: new Date(rig.clock.now() + 300_000).toUTCString(),
      },
      { kind: 'status', status: 500 },
      { kind: 'refuse' },
    ];
    rig.server.choose = ({ path }) => {
      if (path === 'm/manifest.json') return { kind: 'none' };
      at.push(rig.clock.now());
      return answers.shift() ?? { kind: 'none' };
    };
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    const [first, second, third, fourth, fifth] = at.map((ms) => ms - at[0]!);
    expect([first, second, third]).toEqual([0, 120_000, 300_000]);
    expect(fourth! - third!).toBeGreaterThanOrEqual(1000);
    expect(fifth! - fourth!).toBeGreaterThan(fourth! - third!);
  });

  test('a server that never recovers ends in DownloadFailed, and the next attempt goes on', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1)]);
    rig.server.choose = ({ path, from }) => {
      if (path === 'm/manifest.json') return { kind: 'none' };
      return from > 0 ? { kind: 'status', status: 500 } : { kind: 'short', afterBytes: 20_000 };
    };
    const { library } = rig.tab();
    await expect(rig.pass(readWhole(library, model))).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringContaining('answered 500, at the last of 8 attempts'),
    });
    expect(await library.status(model.model)).toMatchObject({ receivedBytes: 20_000 });
    rig.server.choose = () => ({ kind: 'none' });
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(asksFor('m/0.gguf').at(-1)!.from).toBe(20_000);
  });

  test.each([
    [401, 'access is restricted'],
    [403, 'access is restricted'],
    [404, 'no such file'],
    [418, 'not an answer'],
  ])('%i is explained at once', async (status, words) => {
    const model = serveFolder(rig, 'm', [weights(5000, 1)]);
    failOnce(['m/0.gguf', { kind: 'status', status }]);
    const failure = expect(readWhole(rig.tab().library, model)).rejects;
    await failure.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringContaining(words),
    });
    expect(asksFor('m/0.gguf').length).toBe(1);
  });

  test('without ranges a shard of several pieces comes in one answer; what is there is not stored again', async () => {
    const model = serveFolder(rig, 'm', [weights(200_000, 1), weights(10_000, 2)]);
    rig.server.choose = () => ({ kind: 'whole' });
    const { library } = rig.tab();
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(asksFor('m/0.gguf').length).toBe(1);
    expect(rig.server.sentBytes).toBeLessThan(model.bytes + 220_000);
  });

  test('a silent connection is given up after the stall time', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1)]);
    failOnce(['m/0.gguf', { kind: 'stall', afterBytes: 30_000 }]);
    const start = rig.clock.now();
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    expect(rig.clock.now() - start).toBeGreaterThanOrEqual(smallLimits.stallMs);
  });

  test('a lie about the length and another range than asked for are tried again', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1), weights(50_000, 2)]);
    failOnce(
      ['m/0.gguf', { kind: 'length', totalBytes: 70_000 }],
      ['m/1.gguf', { kind: 'elsewhere', byBytes: 100 }],
    );
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
  });
});

describe('integrity', () => {
  test('a flipped bit on the way costs the piece, not the download', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1), weights(50_000, 2)]);
    failOnce(['m/0.gguf', { kind: 'flip', atByte: 31_337 }]);
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    expect(asksFor('m/0.gguf').map(({ from }) => from)).toEqual([0, 0]);
    expect(asksFor('m/1.gguf').length).toBe(1);
  });

  test('a file that is not the one the manifest means is ShardCorrupt', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1)]);
    rig.server.files.set('m/0.gguf', { bytes: weights(50_000, 9), etag: '"other"' });
    await expect(rig.pass(readWhole(rig.tab().library, model))).rejects.toMatchObject({
      name: 'ShardCorrupt',
    });
  });

  test('a shard of several pieces must have its stated hash as a whole', async () => {
    const model = serveFolder(rig, 'm', [weights(150_000, 1)]);
    const wrong = model.shards[0]!.slice();
    wrong[70_000]! ^= 1;
    rig.server.files.set('m/0.gguf', { bytes: wrong, etag: '"same"' });
    const { library } = rig.tab();
    await expect(rig.pass(readWhole(library, model))).rejects.toMatchObject({
      name: 'ShardCorrupt',
      message: expect.stringContaining('arrived twice with SHA-256'),
    });
    expect(await library.status(model.model)).toMatchObject({ storedBytes: 0 });
    rig.server.files.set('m/0.gguf', { bytes: model.shards[0]!, etag: '"right"' });
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
  });

  test('a shard of several pieces with a wrong bit comes a second time by itself', async () => {
    const model = serveFolder(rig, 'm', [weights(150_000, 1)]);
    failOnce(['m/0.gguf', { kind: 'flip', atByte: 100 }]);
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    expect(asksFor('m/0.gguf').length).toBe(6);
  });

  test('a piece that arrived wrong and then rotted does not bind the one that comes instead', async () => {
    const model = serveFolder(rig, 'm', [weights(150_000, 1)]);
    const wrong = model.shards[0]!.slice();
    wrong[100]! ^= 1;
    rig.server.choose = ({ from }) => {
      const served = from === 0 ? wrong : model.shards[0]!;
      rig.server.files.set('m/0.gguf', { bytes: served, etag: '"m0"' });
      return from === 2 * pieceBytes ? { kind: 'stall', afterBytes: 0 } : { kind: 'none' };
    };
    const first = rig.tab();
    void readWhole(first.library, model).catch(noReport);
    const stored = () => rig.shelf.transact('readonly', (on) => on.keys(['piece']));
    while ((await stored()).length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    first.die();
    await damage(rig, wrong.slice(0, pieceBytes));
    rig.server.choose = () => ({ kind: 'none' });
    rig.server.files.set('m/0.gguf', { bytes: model.shards[0]!, etag: '"m0"' });
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
  });

  test('a file that changes under way is noticed by its validator, and its beginning dropped', async () => {
    const model = serveFolder(rig, 'm', [weights(60_000, 1)]);
    rig.server.files.set('m/0.gguf', { bytes: weights(60_000, 9), etag: '"early"' });
    rig.server.choose = ({ path }) => {
      if (path !== 'm/0.gguf' || rig.server.files.get(path)!.etag !== '"early"') {
        return { kind: 'none' };
      }
      setTimeout(() => {
        rig.server.files.set(path, { bytes: model.shards[0]!, etag: '"late"' });
      }, 5);
      return { kind: 'stall', afterBytes: 30_000 };
    };
    const { library } = rig.tab();
    const notes: string[] = [];
    await library.watch(model.model, ({ note }) => void notes.push(note));
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(asksFor('m/0.gguf').map(({ from }) => from)).toEqual([0, 30_000, 0]);
    expect(notes.join()).toContain('was changed on the server');
  });

  test('without a manifest hashes are pinned at the first download', async () => {
    const bytes = weights(150_000, 1);
    const model = serveFile(rig, 'x.gguf', bytes, '"1"');
    const { library } = rig.tab();
    expect(await library.open(model.model, noReport)).toEqual([
      { file: 'x.gguf', bytes: 150_000, sha256: null },
    ]);
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    // The second piece rots in the store; what comes instead must be what it was.
    await damage(rig, bytes.slice(pieceBytes, 2 * pieceBytes));
    const other = bytes.slice();
    other[pieceBytes + 7]! ^= 1;
    serveFile(rig, 'x.gguf', other, '"1"');
    const second = rig.tab().library;
    await expect(rig.pass(readWhole(second, model))).rejects.toMatchObject({
      name: 'ShardCorrupt',
    });
    serveFile(rig, 'x.gguf', bytes, '"1"');
    expect(await rig.pass(readWhole(second, model))).toEqual(model.hashes);
  });

  test('another version at a plain address takes the place of the earlier one, whole', async () => {
    const early = serveFile(rig, 'x.gguf', weights(150_000, 1), '"1"');
    expect(await rig.pass(readWhole(rig.tab().library, early))).toEqual(early.hashes);
    const late = serveFile(rig, 'x.gguf', weights(150_000, 2), '"2"');
    const { library } = rig.tab();
    expect(await rig.pass(readWhole(library, late))).toEqual(late.hashes);
    const [stored] = await library.list();
    expect(stored).toMatchObject({ storedBytes: 150_000, ownBytes: 150_000 });
    expect((await rig.shelf.transact('readonly', (on) => on.keys(['piece']))).length).toBe(3);
  });

  test('versions of a file are never mixed, not even to repair one', async () => {
    const early = serveFile(rig, 'x.gguf', weights(250_000, 1), '"1"');
    await rig.pass(readWhole(rig.tab().library, early));
    const { library } = rig.tab();
    await library.open(early.model, noReport);
    const head = await library.read(early.model, 0, 0, 1000);
    expect(new Uint8Array(head)).toEqual(early.shards[0]!.slice(0, 1000));
    // The last of four pieces: those after the one being read are in memory by now.
    const late = serveFile(rig, 'x.gguf', weights(250_000, 2), '"2"');
    await damage(rig, early.shards[0]!.slice(3 * pieceBytes));
    await expect(
      rig.pass(library.read(early.model, 0, 3 * pieceBytes, 1000)),
    ).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringContaining('was changed on the server'),
    });
    expect(await rig.pass(readWhole(library, late))).toEqual(late.hashes);
  });

  test('a piece of a shard that was right as a whole is repaired whatever its version is called', async () => {
    const model = serveFolder(rig, 'm', [weights(150_000, 1)]);
    await rig.pass(readWhole(rig.tab().library, model));
    rig.server.files.set('m/0.gguf', { bytes: model.shards[0]!, etag: '"moved"' });
    await damage(rig, model.shards[0]!.slice(pieceBytes, 2 * pieceBytes));
    const asked = rig.server.asked.length;
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    expect(rig.server.asked.slice(asked).map(({ from }) => from)).toEqual([0, pieceBytes]);
  });

  test('a stored piece that rots or vanishes is fetched again alone, and that is told', async () => {
    const model = serveFolder(rig, 'm', [
      weights(40_000, 1),
      weights(50_000, 2),
      weights(60_000, 3),
    ]);
    await rig.pass(readWhole(rig.tab().library, model));
    for (const harm of [damage, vanish]) {
      await harm(rig, model.shards[1]!);
      const asked = rig.server.asked.length;
      const { library } = rig.tab();
      const notes: string[] = [];
      await library.open(model.model, ({ note }) => void notes.push(note));
      expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
      expect(rig.server.asked.slice(asked).map(({ path }) => path)).toEqual([
        'm/manifest.json',
        'm/1.gguf',
      ]);
      expect(await library.status(model.model)).toMatchObject({
        repairedPieces: 1,
        note: expect.stringMatching(/(damaged|missing) and (is|are) fetched again/),
      });
      rig.clock.advance(1000);
      await library.room();
      expect(notes).toContain((await library.status(model.model)).note);
    }
  });

  test('verify finds what rotted and leaves the rest', async () => {
    const model = serveFolder(rig, 'm', [weights(40_000, 1), weights(50_000, 2)]);
    const { library } = rig.tab();
    await rig.pass(readWhole(library, model));
    await damage(rig, model.shards[0]!);
    rig.clock.advance(1000);
    const reports: number[] = [];
    expect(await library.verify(model.model, (done) => reports.push(done))).toEqual({
      pieces: 2,
      damagedPieces: 1,
    });
    expect(reports).toEqual([40_000, 90_000]);
    expect(await library.list()).toMatchObject([
      { storedBytes: 50_000, verifiedAt: rig.clock.now() },
    ]);
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
  });
});

describe('room', () => {
  test('what will not fit is refused before the first byte, with both numbers', async () => {
    const tight = { ...smallLimits, memoryBytes: 10_000 };
    const small = await openRig({ limits: tight });
    const model = serveFolder(small, 'm', [weights(50_000, 1)]);
    Object.assign(small.room, { quota: 120_000, usage: 90_000 });
    const { library } = small.tab();
    await expect(small.pass(readWhole(library, model))).rejects.toMatchObject({
      name: 'QuotaExceeded',
      message: expect.stringContaining('m needs 50 kB, 30 kB free'),
    });
    expect(small.server.asked.map(({ path }) => path)).toEqual(['m/manifest.json']);
    expect(await library.room()).toMatchObject({ freeBytes: 30_000, persisted: true });
    await small.close();
  });

  test('what memory can hold stays there, and says so', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1)]);
    Object.assign(rig.room, { quota: 120_000, usage: 90_000 });
    const { library } = rig.tab();
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(await library.status(model.model)).toMatchObject({
      place: 'memory',
      placeNote: expect.stringContaining('needs 50 kB, 30 kB free'),
      state: 'complete',
    });
  });

  test('a full disk keeps what is whole readable, and stops the rest with what it kept', async () => {
    const inner = memoryShelf(Infinity);
    let fullAfter = Infinity;
    const full = await openRig({
      shelf: {
        place: 'disk',
        takesBlobs: false,
        transact: async (mode, work) => {
          if (mode === 'readwrite' && --fullAfter < 0) {
            throw new PalimpsestError('QuotaExceeded', 'The browser has no room.');
          }
          return inner.transact(mode, work);
        },
      },
    });
    const whole = serveFolder(full, 'w', [weights(50_000, 1)]);
    await full.pass(readWhole(full.tab().library, whole));
    const model = serveFolder(full, 'm', [weights(50_000, 2), weights(60_000, 3)]);
    fullAfter = 12;
    const { library } = full.tab();
    await expect(full.pass(readWhole(library, model))).rejects.toMatchObject({
      name: 'QuotaExceeded',
      message: expect.stringMatching(/no room.* \d+ kB of 110 kB of m are kept; free room/),
    });
    const { receivedBytes } = await library.status(model.model);
    expect(receivedBytes).toBeGreaterThanOrEqual(8 * partBytes);
    expect(await full.pass(readWhole(full.tab().library, whole))).toEqual(whole.hashes);

    fullAfter = Infinity;
    const sentBytes = full.server.sentBytes;
    expect(await full.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(full.server.sentBytes - sentBytes).toBeLessThan(model.bytes - receivedBytes + 1000);
    await full.close();
  });

  test('blocked storage: small models live in memory, large ones are refused', async () => {
    const blocked = await openRig({
      limits: { ...smallLimits, memoryBytes: 60_000 },
      openShelf: () => Promise.reject(new DOMException('denied', 'SecurityError')),
    });
    const model = serveFolder(blocked, 'm', [weights(50_000, 1)]);
    const large = serveFolder(blocked, 'l', [weights(50_000, 2), weights(50_000, 3)]);
    const { library } = blocked.tab();
    expect(await blocked.pass(readWhole(library, model))).toEqual(model.hashes);
    expect(await library.status(model.model)).toMatchObject({ place: 'memory' });
    expect(await library.room()).toMatchObject({ place: 'memory' });
    await expect(blocked.pass(readWhole(library, large))).rejects.toMatchObject({
      name: 'QuotaExceeded',
    });
    await blocked.close();
  });
});

describe('tabs', () => {
  test('two tabs at once: one download', async () => {
    const model = serveFolder(
      rig,
      'm',
      [0, 1, 2, 3, 4, 5].map((i) => weights(60_000, i + 1)),
    );
    const [one, two] = [rig.tab().library, rig.tab().library];
    const both = Promise.all([readWhole(one, model), readWhole(two, model)]);
    expect(await rig.pass(both)).toEqual([model.hashes, model.hashes]);
    for (const path of model.paths) expect(asksFor(path).length).toBe(1);
  });

  test('a tab that comes later leaves what an earlier one has under way', async () => {
    const model = serveFolder(rig, 'm', [weights(200_000, 1)]);
    rig.server.bytesPerSec = 200_000;
    const first = rig.tab().library;
    const whole = readWhole(first, model);
    await rig.pass(until(() => rig.server.sentBytes > 100_000));
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
    expect(await rig.pass(whole)).toEqual(model.hashes);
    expect(rig.server.sentBytes).toBeLessThan(model.bytes + 2000);
  });

  test('a second tab goes on where the first one dies', async () => {
    const model = serveFolder(rig, 'm', [weights(60_000, 1)]);
    const [one, two] = [rig.tab(), rig.tab()];
    rig.server.bytesPerSec = 200_000;
    void readWhole(one.library, model).catch(noReport);
    await rig.pass(until(() => rig.server.sentBytes > 30_000));
    const second = readWhole(two.library, model);
    await rig.pass(until(() => rig.server.asked.length > 2));
    one.die();
    expect(await rig.pass(second)).toEqual(model.hashes);
    expect(asksFor('m/0.gguf')[1]!.from).toBeGreaterThan(0);
  });

  test('a model in use is not removed; a closed one is, but not what others share', async () => {
    const [shared, own] = [weights(50_000, 1), weights(40_000, 2)];
    const a = serveFolder(rig, 'a', [shared, own]);
    const b = serveFolder(rig, 'b', [shared]);
    const [one, two] = [rig.tab(), rig.tab()];
    await rig.pass(readWhole(one.library, a));
    rig.clock.advance(1);
    await rig.pass(readWhole(one.library, b));
    for (const { library } of [one, two]) {
      await expect(library.remove(a.model)).rejects.toMatchObject({ name: 'Refused' });
    }
    expect(await two.library.list()).toMatchObject([
      { model: b.model, storedBytes: 50_000, ownBytes: 0 },
      { model: a.model, storedBytes: 90_000, ownBytes: 40_000, license: 'apache-2.0' },
    ]);
    await one.library.close(a.model);
    await two.library.remove(a.model);
    expect(await two.library.list()).toMatchObject([
      { model: b.model, storedBytes: 50_000, ownBytes: 50_000 },
    ]);
    const asked = rig.server.asked.length;
    expect(await rig.pass(readWhole(two.library, b))).toEqual(b.hashes);
    expect(rig.server.asked.length).toBe(asked + 1);
    await expect(one.library.remove('kept:nothing')).rejects.toMatchObject({ name: 'Refused' });
  });
});

// ------------------------------------------------------------------------------------------------ means

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

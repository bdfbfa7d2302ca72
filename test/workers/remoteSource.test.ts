import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { remoteSource, type RemoteFile } from '../../workers/remoteSource.ts';
import { limits, type World } from '../../workers/transfer.ts';
import { FakeClock, passingTime } from '../fault/clock.ts';
import { FakeLocks } from '../fault/locks.ts';
import { sha256Of, weights } from '../fault/rig.ts';
import { FaultServer, type Fault } from '../fault/server.ts';
import { random } from '../reference/random.ts';

const bytes = weights(300_000, 7);
let server: FaultServer;
let origin: string;
let clock: FakeClock;

beforeEach(async () => {
  server = new FaultServer();
  origin = await server.listen();
  clock = new FakeClock();
  server.files.set('w.safetensors', { bytes, etag: '"1"' });
});
afterEach(() => server.close());

function open(changes: Partial<RemoteFile> = {}, signal = new AbortController().signal) {
  const world: World = {
    fetch: (address, init) => fetch(address, init),
    clock,
    locks: new FakeLocks().tab(),
    random: () => 0.5,
    estimate: async () => ({}),
    common: null,
    persisted: async () => true,
  };
  const file = {
    name: 'w.safetensors',
    address: `${origin}w.safetensors`,
    bytes: bytes.length,
    sha256: null,
  };
  const notes: string[] = [];
  const source = remoteSource(
    world,
    limits,
    { ...file, ...changes },
    (note) => notes.push(note),
    signal,
  );
  const read = (offset: number, count: number) =>
    passingTime(clock, () => server.activity, source.read(offset, count));
  return { source, read, notes };
}

const expectRange = (found: Uint8Array, offset: number, count: number) =>
  expect(Buffer.compare(found, bytes.subarray(offset, offset + count))).toBe(0);

describe('a file on a server', () => {
  test('is read by ranges, and no more than them', async () => {
    const { source, read } = open();
    expect([source.name, source.byteLength]).toEqual(['w.safetensors', 300_000]);
    for (const [offset, count] of [
      [0, 8],
      [1000, 50_000],
      [299_999, 1],
      [0, 300_000],
    ]) {
      expectRange(await read(offset, count), offset, count);
    }
    expect(server.asked.map(({ from, until }) => [from, until])).toEqual([
      [0, 8],
      [1000, 51_000],
      [299_999, 300_000],
      [0, 300_000],
    ]);
    expect(await source.read(5, 0)).toHaveLength(0);
  });

  test('an answer that breaks off is gone on with from where it stopped', async () => {
    const faults: Fault[] = [
      { kind: 'drop', afterBytes: 100_000 },
      { kind: 'status', status: 503 },
      { kind: 'stall', afterBytes: 50_000 },
      { kind: 'short', afterBytes: 20_000 },
      { kind: 'elsewhere', byBytes: 7 },
      { kind: 'refuse' },
    ];
    server.choose = () => faults.shift() ?? { kind: 'none' };
    const { read, notes } = open();
    expectRange(await read(10, 280_000), 10, 280_000);
    // The clock may run on before a connection is made again: there may be more notes than faults.
    for (const why of [
      /broke/,
      /did not answer|503/,
      /Nothing/,
      /ended early/,
      /instead of/,
      /reached/,
    ]) {
      expect(
        notes.some((note) => why.test(note)),
        String(why),
      ).toBe(true);
    }
    const starts = server.asked.map(({ from }) => from);
    expect(starts).toEqual([...starts].sort((a, b) => a - b));
    expect(starts.at(-1)).toBeGreaterThan(150_000);
  });

  test('seeded storms of faults end in the right bytes or a clear error', async () => {
    let refused = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const next = random(seed);
      server.choose = () => {
        const draw = next();
        if (draw < 0.5) return { kind: 'none' };
        const afterBytes = Math.floor(80_000 * next());
        if (draw < 0.65) return { kind: 'drop', afterBytes };
        if (draw < 0.75) return { kind: 'short', afterBytes };
        if (draw < 0.85) return { kind: 'stall', afterBytes };
        return { kind: 'status', status: draw < 0.95 ? 503 : 404 };
      };
      const { read } = open();
      for (let i = 0; i < 5; i++) {
        const offset = Math.floor(200_000 * next());
        try {
          expectRange(await read(offset, 90_000), offset, 90_000);
        } catch (cause) {
          expect(cause).toMatchObject({ name: 'DownloadFailed' });
          refused++;
        }
      }
    }
    expect(refused).toBeGreaterThan(0);
    expect(refused).toBeLessThan(60);
  });

  const failures: [why: string, fault: Fault, changes: Partial<RemoteFile>, message: RegExp][] = [
    ['a server without ranges', { kind: 'whole' }, {}, /gives files whole only/],
    ['another length', { kind: 'none' }, { bytes: 299_000 }, /has 300000 bytes, not the 299000/],
    [
      'a file that is not there',
      { kind: 'none' },
      { address: 'gone' },
      /404: there is no such file/,
    ],
    ['access denied', { kind: 'status', status: 403 }, {}, /403: access is restricted/],
    ['a server that is down', { kind: 'refuse' }, {}, /at the last of 8 attempts/],
  ];
  test.each(failures)('%s is an error', async (_, fault, { address, ...changes }, message) => {
    server.choose = () => fault;
    const { read } = open({ ...changes, ...(address ? { address: origin + address } : {}) });
    await expect(read(100, 1000)).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringMatching(message) as unknown,
    });
  });

  test('that is read whole is held to its hash; a range of it cannot be', async () => {
    const right = open({ sha256: sha256Of(bytes) });
    expectRange(await right.read(0, bytes.length), 0, bytes.length);
    const wrong = open({ sha256: 'e'.repeat(64) });
    expectRange(await wrong.read(5, 1000), 5, 1000);
    await expect(wrong.read(0, bytes.length)).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringMatching(/instead of eeeeeeee, which it is listed with/) as unknown,
    });
  });

  test('that becomes another one meanwhile is an error, not a mixture', async () => {
    const { read } = open();
    await read(0, 10);
    server.files.set('w.safetensors', { bytes: weights(300_000, 8), etag: '"2"' });
    await expect(read(10, 10)).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringMatching(/was changed while it was read/) as unknown,
    });
  });

  test('an abort ends a read', async () => {
    const stop = new AbortController();
    server.choose = () => {
      stop.abort(new Error('enough'));
      return { kind: 'stall', afterBytes: 10 };
    };
    await expect(open({}, stop.signal).read(0, 1000)).rejects.toThrow('enough');
  });
});

/**
 * Hundreds of downloads from servers and networks that do whatever can be done wrong, each a function of its number: tabs
 * die under way, files change, storage rots. A run ends with the right bytes or a clear error, never with others, and what
 * is stored and verified is not fetched again.
 */
import 'fake-indexeddb/auto';
import { expect, test } from 'vitest';
import { diskShelf, memoryShelf, piecesOf, Store } from '../../workers/store.ts';
import {
  openRig,
  readWhole,
  serveFile,
  serveFolder,
  sha256Of,
  weights,
  type Rig,
  type TestModel,
} from '../fault/rig.ts';
import type { Asked, Fault } from '../fault/server.ts';
import { random } from '../reference/random.ts';

/** More by `node tools/run.mjs soakDownload`. */
const runs = Number(process.env.PALIMPSEST_FAULT_RUNS ?? 200);
const clearErrors = ['DownloadFailed', 'ShardCorrupt'];

interface Outcome {
  /** Names of the errors that attempts ended with. */
  errors: string[];
  faults: Record<string, number>;
  deaths: number;
  changes: number;
  rotten: number;
}

test(
  `${runs} seeded runs end with verified bytes or a clear error`,
  async () => {
    const outcomes: Outcome[] = [];
    for (let seed = 1; seed <= runs; seed += 4) {
      const four = [seed, seed + 1, seed + 2, seed + 3].filter((n) => n <= runs);
      outcomes.push(...(await Promise.all(four.map(run))));
    }
    // The runs would prove nothing if what they are about did not happen in them.
    const sum = (count: (o: Outcome) => number) => outcomes.reduce((n, o) => n + count(o), 0);
    const kinds = [
      'drop',
      'stall',
      'short',
      'flip',
      'status',
      'whole',
      'length',
      'elsewhere',
      'refuse',
    ];
    for (const kind of kinds)
      expect(
        sum((o) => o.faults[kind] ?? 0),
        kind,
      ).toBeGreaterThan(40);
    expect(sum((o) => o.deaths)).toBeGreaterThan(50);
    expect(sum((o) => o.changes)).toBeGreaterThan(20);
    expect(sum((o) => o.rotten)).toBeGreaterThan(10);
    const clean = outcomes.filter(({ errors }) => errors.length === 0).length;
    expect(clean).toBeGreaterThan(50);
    expect(clean).toBeLessThan(runs);
  },
  1000 * runs,
);

async function run(seed: number): Promise<Outcome> {
  const next = random(seed);
  const below = (n: number) => Math.floor(n * next());
  const onDisk = seed % 4 === 0;
  const shelf = onDisk ? await diskShelf(`faults-${seed}`) : memoryShelf(Infinity);
  const rig = await openRig({ shelf, seed });
  const outcome: Outcome = { errors: [], faults: {}, deaths: 0, changes: 0, rotten: 0 };
  try {
    const plain = next() < 0.3;
    // Without a stated hash a wrong bit on the first way cannot be told from a right one.
    const hashed = () => !plain && next() < 0.8;
    const stated = [hashed(), hashed(), hashed()];
    const make = (version: number): TestModel => {
      if (plain) {
        return serveFile(
          rig,
          `${seed}.gguf`,
          weights(180_000, seed + 1000 * version),
          `"${version}"`,
        );
      }
      const sizes = [10_000, 150_000, 64 * 1024];
      const shards = sizes.map((bytes, i) => weights(bytes, seed + i + 1000 * version));
      return serveFolder(rig, `m${seed}`, shards, (i) => stated[i]!);
    };
    let model = make(1);
    const versions = [model];
    const rate = 0.1 + 0.5 * next();
    const deathEvery = next() < 0.4 ? 3 + below(12) : Infinity;
    const changeAt = next() < 0.3 ? 3 + below(8) : Infinity;
    let requests = 0;
    // Of a file that changes, or whose length is lied about, one tab may know another version than the store.
    const doubtful = new Set<string>();
    let refetched: Asked | null = null;
    let die = () => {};
    rig.server.choose = async (asked): Promise<Fault> => {
      if (!doubtful.has(asked.path) && (await isVerified(rig, model, asked))) refetched = asked;
      requests++;
      if (requests % deathEvery === 0) {
        outcome.deaths++;
        die();
      }
      if (requests === changeAt) {
        outcome.changes++;
        doubtful.add(asked.path);
        const early = rig.server.files.get(asked.path)!;
        if (plain) versions.push((model = make(2)));
        else if (stated[model.paths.indexOf(asked.path)]) {
          // For a while the server has another file at this address than its manifest says.
          const other = weights(early.bytes.length, seed + 7);
          rig.server.files.set(asked.path, { bytes: other, etag: '"other"' });
        }
      }
      if (next() >= rate) return { kind: 'none' };
      const shard = model.paths.indexOf(asked.path);
      const fault = chooseFault(below, asked, !plain && stated[shard] === true);
      if (fault.kind === 'length' && plain) doubtful.add(asked.path);
      outcome.faults[fault.kind] = (outcome.faults[fault.kind] ?? 0) + 1;
      return fault;
    };

    // Under faults: a tab that dies is followed by another, one that fails tries again, twice.
    let read: string[] | null = null;
    for (let attempt = 0; attempt < 3 && read === null; attempt++) {
      const tab = rig.tab();
      const died = new Promise<null>((resolve) => {
        die = () => {
          tab.die();
          resolve(null);
        };
      });
      const second = next() < 0.2 ? readWhole(rig.tab().library, model).catch(() => null) : null;
      try {
        read = await rig.pass(Promise.race([readWhole(tab.library, model), died]));
        await rig.pass(Promise.resolve(second));
      } catch (cause) {
        const { name, message } = cause as Error;
        expect(clearErrors, `run ${seed}: ${String(cause)}`).toContain(name);
        expect(message.length, `run ${seed}`).toBeGreaterThan(40);
        outcome.errors.push(name);
      }
      if (read !== null) expectRight(read, versions, seed);
      if (next() < 0.2 && (await rot(rig, below))) outcome.rotten++;
    }

    // Once all is well, what is missing comes, and it is what the model says.
    die = () => {};
    rig.server.choose = async (asked) => {
      if (!doubtful.has(asked.path) && (await isVerified(rig, model, asked))) refetched = asked;
      return { kind: 'none' };
    };
    if (!plain) model = make(1);
    const healed = rig.tab().library;
    const again = (cause: unknown) => {
      // What is stored may be another version than the server's, which a tab learns only on its way.
      if ((cause as Error).name === 'DownloadFailed') return readWhole(healed, model);
      throw cause;
    };
    const hashes = readWhole(healed, model).catch(again);
    expectRight(await rig.pass(hashes), [model], seed);
    expect(refetched, `run ${seed}`).toBeNull();
    return outcome;
  } finally {
    await rig.close();
  }
}

/** Every shard is that of one of these versions, whole: bytes of two versions would have another hash. */
function expectRight(hashes: string[], versions: TestModel[], seed: number): void {
  expect(
    versions.map((version) => version.hashes),
    `run ${seed}`,
  ).toContainEqual(hashes);
}

/** A wrong bit is among the faults only where a hash can tell: a manifest is protected by TLS alone. */
function chooseFault(below: (n: number) => number, asked: Asked, hashed: boolean): Fault {
  const bytes = asked.until - asked.from;
  const faults: Fault[] = [
    { kind: 'drop', afterBytes: below(bytes) },
    { kind: 'stall', afterBytes: below(bytes) },
    { kind: 'short', afterBytes: below(bytes) },
    { kind: 'status', status: [416, 429, 500, 502, 503][below(5)]!, retryAfter: `${below(100)}` },
    { kind: 'status', status: [429, 503][below(2)]! },
    { kind: 'whole' },
    { kind: 'length', totalBytes: 1 + below(2 * asked.totalBytes) },
    { kind: 'elsewhere', byBytes: 1 },
    { kind: 'refuse' },
  ];
  if (hashed) faults.push({ kind: 'flip', atByte: below(bytes) });
  return faults[below(faults.length)]!;
}

/** True if the piece whose bytes are asked for is in the store already, and a living tab asks for them. */
async function isVerified(rig: Rig, model: TestModel, asked: Asked): Promise<boolean> {
  if (asked.until - asked.from <= 1) return false;
  const store = new Store(rig.shelf);
  const record = await store.record(model.model);
  const shard = model.paths.indexOf(asked.path);
  const piece =
    record && piecesOf(record).findLast((p) => p.shard === shard && p.start <= asked.from);
  if (!piece || !(await store.lookUp(model.model, piece)).held) return false;
  // A request of a tab that died meanwhile is no waste: somebody else may have brought the piece.
  return !rig.deadTabs.has(asked.tab);
}

/** Flip a bit of one stored piece that is still sound. */
async function rot({ shelf }: Rig, below: (n: number) => number): Promise<boolean> {
  const keys = await shelf.transact('readonly', (on) => on.keys(['piece']));
  const key = keys[below(keys.length)];
  if (!key) return false;
  const bytes = new Uint8Array((await new Store(shelf).piece(key[1] as string))!);
  if (sha256Of(bytes) !== key[1]) return false;
  bytes[below(bytes.length)]! ^= 1;
  await shelf.transact('readwrite', async (on) => on.put(key, bytes.buffer));
  return true;
}

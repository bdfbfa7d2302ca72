/** Models on a fault server, and tabs that load them: one store, one set of locks and one clock for all tabs. */
import { createHash } from 'node:crypto';
import type { CommonStorage } from '../../workers/transfer.ts';
import { Library } from '../../workers/library.ts';
import type { Shard } from '../../workers/protocol.ts';
import { memoryShelf, Store, type Shelf } from '../../workers/store.ts';
import { limits, type Limits } from '../../workers/transfer.ts';
import { random } from '../reference/random.ts';
import { FakeClock, passingTime } from './clock.ts';
import { FakeLocks } from './locks.ts';
import { FaultServer } from './server.ts';

/** The real limits, with pieces small enough that a test model has many. */
export const smallLimits: Limits = {
  ...limits,
  pieceBytes: 64 * 1024,
  partBytes: 4 * 1024,
  connections: 3,
};

export interface Tab {
  library: Library;
  /** The tab ends as by a crash: nothing it had not finished happens any more. */
  die(): void;
}

export interface Rig {
  server: FaultServer;
  origin: string;
  clock: FakeClock;
  shelf: Shelf;
  /** What the browser says of storage; changed by tests. */
  room: StorageEstimate;
  tab(): Tab;
  /** Names of dead tabs, as their requests carry them. */
  deadTabs: Set<string>;
  /** Waits for `work` while the clock runs whenever it may. */
  pass<T>(work: Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export interface RigOptions {
  /** What sites have in common; nothing unless given. */
  common?: CommonStorage;
  limits?: Limits;
  shelf?: Shelf;
  openShelf?: () => Promise<Shelf>;
  seed?: number;
}

export async function openRig(options: RigOptions = {}): Promise<Rig> {
  const server = new FaultServer();
  const origin = await server.listen();
  // A process's first request takes longer than passingTime waits for what is under way.
  await (await fetch(origin)).arrayBuffer();
  const clock = new FakeClock();
  const locks = new FakeLocks();
  const shelf = options.shelf ?? memoryShelf(Infinity);
  const room: StorageEstimate = { quota: 1e9, usage: 0 };
  const draw = random(options.seed ?? 1);
  const never = new Promise<never>(() => {});
  const deadTabs = new Set<string>();
  let tabs = 0;
  let transactions = 0;
  let underWay = 0;
  return {
    server,
    origin,
    clock,
    shelf,
    room,
    deadTabs,
    tab() {
      const name = `${++tabs}`;
      const death = new AbortController();
      const { signal } = death;
      const tabLocks = locks.tab();
      const tabShelf: Shelf = {
        place: 'disk',
        takesBlobs: shelf.takesBlobs,
        transact: async (mode, work) => {
          if (signal.aborted) return never;
          transactions++;
          underWay++;
          try {
            const result = await shelf.transact(mode, work);
            return signal.aborted ? never : result;
          } finally {
            underWay--;
          }
        },
      };
      const library = new Library(
        {
          fetch: (address, init) =>
            fetch(address, {
              ...init,
              headers: { ...(init.headers as Record<string, string>), 'x-tab': name },
              signal: AbortSignal.any([signal, init.signal!]),
            }),
          clock,
          locks: tabLocks,
          random: draw,
          estimate: async () => room,
          persisted: async () => true,
          common: options.common ?? null,
        },
        options.limits ?? smallLimits,
        async () => new Store(options.openShelf ? await options.openShelf() : tabShelf),
      );
      return {
        library,
        die() {
          death.abort();
          tabLocks.die();
          deadTabs.add(name);
        },
      };
    },
    pass: (work) =>
      passingTime(
        clock,
        () => {
          const { activity } = server;
          return activity === null || underWay > 0 ? null : activity + transactions;
        },
        work,
      ),
    close: () => server.close(),
  };
}

/** Bytes that look like weights: no two pieces alike. */
export function weights(bytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const next = random(seed);
  return Uint8Array.from({ length: bytes }, () => 256 * next());
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

export interface TestModel {
  /** The name it is opened by. */
  model: string;
  shards: Uint8Array<ArrayBuffer>[];
  /** Of each shard, its path on the server. */
  paths: string[];
  bytes: number;
  /** SHA-256 of each shard. */
  hashes: string[];
}

/** A folder with a manifest and shards. `hashed(i)` tells whether the manifest states the hash of shard i. */
export function serveFolder(
  rig: Pick<Rig, 'server' | 'origin'>,
  folder: string,
  shards: Uint8Array<ArrayBuffer>[],
  hashed: (shard: number) => boolean = () => true,
): TestModel {
  const listed = shards.map((bytes, i): Shard => ({
    file: `${i}.gguf`,
    bytes: bytes.length,
    sha256: hashed(i) ? sha256Of(bytes) : null,
  }));
  const manifest = JSON.stringify({ name: folder, license: 'apache-2.0', shards: listed });
  const { files } = rig.server;
  files.set(`${folder}/manifest.json`, { bytes: Buffer.from(manifest), etag: null });
  const paths = listed.map(({ file }) => `${folder}/${file}`);
  paths.forEach((path, i) => files.set(path, { bytes: shards[i]!, etag: `"${folder}${i}"` }));
  return {
    model: `${rig.origin}${folder}/`,
    shards,
    paths,
    bytes: shards.reduce((sum, { length }) => sum + length, 0),
    hashes: shards.map(sha256Of),
  };
}

/** A single GGUF file without a manifest; `etag` is its version. */
export function serveFile(
  { server, origin }: Pick<Rig, 'server' | 'origin'>,
  path: string,
  bytes: Uint8Array<ArrayBuffer>,
  etag: string | null,
): TestModel {
  server.files.set(path, { bytes, etag });
  const hashes = [sha256Of(bytes)];
  return { model: origin + path, shards: [bytes], paths: [path], bytes: bytes.length, hashes };
}

/** Everything of a model, read in order: the SHA-256 of each shard. */
export async function readWhole(library: Library, { model }: TestModel): Promise<string[]> {
  const hashes: string[] = [];
  for (const [i, { bytes }] of (await library.open(model, () => {})).entries()) {
    hashes.push(sha256Of(new Uint8Array(await library.read(model, i, 0, bytes))));
  }
  return hashes;
}

/** Flip a bit of a stored piece behind everybody's back. */
export async function damage({ shelf }: Rig, piece: Uint8Array<ArrayBuffer>): Promise<void> {
  const rotten = piece.slice();
  rotten[rotten.length >> 1]! ^= 16;
  await shelf.transact('readwrite', async (on) =>
    on.put(['piece', sha256Of(piece)], rotten.buffer),
  );
}

/** Take a stored piece away, and leave its entry in the index. */
export async function vanish({ shelf }: Rig, piece: Uint8Array<ArrayBuffer>): Promise<void> {
  await shelf.transact('readwrite', async (on) => on.delete(['piece', sha256Of(piece)]));
}

/**
 * The weights that stay: one object store of an IndexedDB database, or a map in memory where the browser gives none.
 *
 *   ['model', model]                  ModelRecord: what a model consists of, and when it was last used
 *   ['pin', model, slot]              SHA-256 of a piece that no manifest states, as it was when first downloaded
 *   ['held', sha256]                  Held: the index of the pieces that are there
 *   ['piece', sha256]                 Blob, or ArrayBuffer where the browser stores no Blobs; at most 16 MiB
 *   ['part', slot, start, bytes]      ArrayBuffer: a finished range of a piece that is not whole yet
 *
 * Pieces are named by their content, so models that share one store it once. What belongs together is written in one
 * transaction: at whatever moment the browser dies, every 'held' has its 'piece', and a part is there or is not.
 */
import { createStore, promisifyRequest } from 'idb-keyval';
import {
  PalimpsestError,
  type ImportEncoding,
  type Manifest,
  type StoredModel,
} from './protocol.ts';
import type { RemoteFile } from './remoteSource.ts';
import { digestBytes, leafBytes, sha256 as wholeSha256, sha256Leaves } from './sha256.ts';

/** A range of a shard that is hashed, stored and repaired on its own. A shard no larger than one is one. */
export interface Piece {
  /** Index of the shard in its model. */
  shard: number;
  /** First byte within the shard. */
  start: number;
  bytes: number;
  /** Lower-case hex, if the manifest states it; otherwise it is pinned when first downloaded. */
  stated: string | null;
  /**
   * Names the piece while its bytes are on their way: the stated hash; or model, place, length and validator, so that
   * ranges of two versions of a file never meet.
   */
  slot: string;
}

/** What the store knows of a model. */
export interface ModelRecord {
  /** The address it is opened by. */
  model: string;
  manifest: Manifest;
  /** ETag or Last-Modified of each shard as last seen; null where the server gives none. */
  validators: (string | null)[];
  /** Largest piece, bytes: fixes where the shards are cut. */
  pieceBytes: number;
  /** Per shard: true once a shard of several pieces was seen to have its stated hash. */
  agreed: boolean[];
  /** Milliseconds since 1970. */
  usedAt: number;
  /** What it is made from, for a model that is made here; otherwise null. */
  origin: Origin | null;
}

/** The checkpoint that a model is made from. */
export interface Origin {
  encoding: ImportEncoding;
  about: { name: string; license: string };
  /** Its files on their server; null for files of this computer, which only the tab has in which they were chosen. */
  remote: RemoteFile[] | null;
}

/** An entry of the index of pieces. */
export interface Held {
  bytes: number;
  /** When its bytes were last found right, milliseconds since 1970. */
  verifiedAt: number;
  /** sha256Leaves of its bytes, taken when the hash that names them had been found right; null in entries without. */
  leaves: Uint8Array | null;
}

/** The pieces of a model in the order of its bytes. */
export function piecesOf({ model, manifest, validators, pieceBytes }: ModelRecord): Piece[] {
  return manifest.shards.flatMap(({ bytes, sha256 }, shard) => {
    const count = Math.ceil(bytes / pieceBytes);
    return Array.from({ length: count }, (_, i) => {
      const start = i * pieceBytes;
      const stated = count === 1 ? sha256 : null;
      const slot = stated ?? `${model}#${shard}+${start}/${bytes}@${validators[shard] ?? ''}`;
      return { shard, start, bytes: Math.min(pieceBytes, bytes - start), stated, slot };
    });
  });
}

const { port1: nowhere, port2: closed } = new MessageChannel();
closed.close();

/**
 * Give memory back at once; garbage collectors let large buffers lie. It is sent to nobody: after ArrayBuffer.transfer
 * Chromium keeps what was transferred until it collects, and collects later for believing it gone.
 */
export function freeBytes(bytes: ArrayBuffer): void {
  nowhere.postMessage(null, [bytes]);
}

// ----------------------------------------------------------------------------------------------- shelf

/** Keys are lists whose first item is the kind; they sort kind by kind, numbers by value. */
type Key = (string | number)[];

/** What may be done inside a transaction. Writes are seen by nobody, not by this transaction's reads either, until it ends. */
interface Transaction {
  get(key: Key): Promise<unknown>;
  /** Keys that begin with `prefix`, sorted. */
  keys(prefix: Key): Promise<Key[]>;
  /** The values of those keys, in their order. */
  values(prefix: Key): Promise<unknown[]>;
  put(key: Key, value: unknown): void;
  delete(key: Key): void;
}

/** A sorted map whose changes are made all or not at all. Values are copied in and out. */
export interface Shelf {
  place: 'disk' | 'memory';
  /** Whether it takes Blobs. Browsers keep them as files, which are read faster than what lies in the database itself. */
  takesBlobs: boolean;
  /** Runs `work`, which may await only what `transaction` returns. Fails: QuotaExceeded. */
  transact<T>(
    mode: 'readonly' | 'readwrite',
    work: (transaction: Transaction) => Promise<T>,
  ): Promise<T>;
}

/** The shelf in IndexedDB. Throws whatever the browser throws where storage is blocked. */
export async function diskShelf(database: string): Promise<Shelf> {
  const shelf = indexedShelf(database);
  await shelf.transact('readonly', (on) => on.get(['model', '']));
  try {
    await shelf.transact('readwrite', async (on) => {
      on.put(['probe'], new Blob(['?']));
      on.delete(['probe']);
    });
    shelf.takesBlobs = true;
  } catch {
    // Private windows of some browsers store everything but Blobs.
  }
  return shelf;
}

/** The same for reading alone: what a browser may refuse is found out by the first transaction, and takesBlobs is false. */
export function indexedShelf(database: string): Shelf {
  const useStore = createStore(database, 'weights');
  return {
    place: 'disk',
    takesBlobs: false,
    transact: (mode, work) =>
      useStore(mode, async (store) => {
        const { transaction } = store;
        const ended = new Promise<void>((resolve, reject) => {
          transaction.oncomplete = () => resolve();
          transaction.onabort = () => reject(asQuota(transaction.error));
        });
        ended.catch(() => {}); // awaited below, unless `work` fails first
        const within = (prefix: Key) => IDBKeyRange.bound(prefix, [...prefix, []]);
        try {
          const result = await work({
            get: (key) => promisifyRequest<unknown>(store.get(key)),
            keys: (prefix) => promisifyRequest(store.getAllKeys(within(prefix))) as Promise<Key[]>,
            values: (prefix) => promisifyRequest<unknown[]>(store.getAll(within(prefix))),
            put: (key, value) => void store.put(value, key),
            delete: (key) => void store.delete(key),
          });
          if (mode === 'readwrite') await ended;
          return result;
        } catch (cause) {
          const why = transaction.error ?? cause;
          try {
            transaction.abort();
          } catch {
            // It has ended already.
          }
          throw asQuota(why);
        }
      }),
  };
}

/** The shelf in this worker's memory, for at most `limitBytes` of ArrayBuffers; gone with the tab. */
export function memoryShelf(limitBytes: number): Shelf {
  let entries: { key: Key; value: unknown }[] = [];
  let last: Promise<unknown> = Promise.resolve();
  const within = (prefix: Key) =>
    entries.filter(({ key }) => prefix.every((item, i) => key[i] === item));
  const run = async <T>(work: (transaction: Transaction) => Promise<T>): Promise<T> => {
    const writes = new Map<string, { key: Key; value: unknown }>();
    const result = await work({
      get: async (key) =>
        structuredClone(entries.find((entry) => compareKeys(entry.key, key) === 0)?.value),
      keys: async (prefix) => within(prefix).map(({ key }) => key),
      values: async (prefix) => within(prefix).map(({ value }) => structuredClone(value)),
      put: (key, value) =>
        void writes.set(JSON.stringify(key), { key, value: structuredClone(value) }),
      delete: (key) => void writes.set(JSON.stringify(key), { key, value: undefined }),
    });
    if (writes.size === 0) return result;
    const after = entries
      .filter(({ key }) => !writes.has(JSON.stringify(key)))
      .concat([...writes.values()].filter(({ value }) => value !== undefined))
      .sort((a, b) => compareKeys(a.key, b.key));
    const bytes = after.reduce(
      (sum, { value }) => sum + (value instanceof ArrayBuffer ? value.byteLength : 0),
      0,
    );
    if (bytes > limitBytes) {
      throw new PalimpsestError(
        'QuotaExceeded',
        `Weights in memory would take ${bytes} bytes, the limit is ${limitBytes}`,
      );
    }
    entries = after;
    return result;
  };
  return {
    place: 'memory',
    takesBlobs: false,
    transact: (_, work) => {
      const turn = last.then(() => run(work));
      last = turn.catch(() => {});
      return turn;
    },
  };
}

/** The order that IndexedDB gives our keys: item by item, numbers before strings, the shorter list first. */
function compareKeys(a: Key, b: Key): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const [x, y] = [a[i]!, b[i]!];
    if (typeof x !== typeof y) return typeof x === 'number' ? -1 : 1;
    if (x !== y) return x < y ? -1 : 1;
  }
  return a.length - b.length;
}

/** The browser's quota error under our name; everything else as it is. */
function asQuota(cause: unknown): Error {
  if (!(cause instanceof Error)) return new DOMException(String(cause), 'AbortError');
  if (cause.name !== 'QuotaExceededError') return cause;
  return new PalimpsestError('QuotaExceeded', 'The browser has no room to store more weights');
}

// ----------------------------------------------------------------------------------------------- store

/** Models, their pieces, and the ranges that are not whole pieces yet. */
export class Store {
  readonly place: Shelf['place'];
  #shelf: Shelf;

  constructor(shelf: Shelf) {
    this.#shelf = shelf;
    this.place = shelf.place;
  }

  records(): Promise<ModelRecord[]> {
    return this.#shelf.transact('readonly', readRecords);
  }

  record(model: string): Promise<ModelRecord | undefined> {
    return this.#shelf.transact(
      'readonly',
      async (on) => (await on.get(['model', model])) as ModelRecord | undefined,
    );
  }

  /** All models, with what is stored of them. */
  list(): Promise<StoredModel[]> {
    return this.#shelf.transact('readonly', async (on) => {
      const records = await readRecords(on);
      const held = await readHeld(on);
      const partial = runLengths(await on.keys(['part']));
      const owners = new Map<string, number>();
      const hashesOf: string[][] = [];
      for (const record of records) {
        const pins = await readPins(on, record.model);
        const named = piecesOf(record).flatMap(
          ({ stated, slot }) => stated ?? pins.get(slot) ?? [],
        );
        const hashes = [...new Set(named)].filter((hash) => held.has(hash));
        for (const hash of hashes) owners.set(hash, (owners.get(hash) ?? 0) + 1);
        hashesOf.push(hashes);
      }
      return records.map((record, i): StoredModel => {
        const { model, manifest, usedAt } = record;
        const hashes = hashesOf[i]!;
        const bytesOf = (some: string[]) =>
          some.reduce((sum, hash) => sum + held.get(hash)!.bytes, 0);
        const unfinishedBytes = piecesOf(record).reduce(
          (sum, { slot }) => sum + (partial.get(slot) ?? 0),
          0,
        );
        return {
          model,
          name: manifest.name,
          license: manifest.license,
          fileType: manifest.file_type,
          shards: manifest.shards.length,
          totalBytes: manifest.bytes,
          storedBytes: bytesOf(hashes) + unfinishedBytes,
          ownBytes: bytesOf(hashes.filter((hash) => owners.get(hash) === 1)) + unfinishedBytes,
          usedAt,
          verifiedAt: hashes.reduce<number | null>(
            (oldest, hash) => Math.min(oldest ?? Infinity, held.get(hash)!.verifiedAt),
            null,
          ),
        };
      });
    });
  }

  /**
   * Write a record. What another tab has learnt meanwhile of shards with stated hashes is kept, and written into `record`,
   * too. Pieces and parts that an earlier record named stay until a sweep.
   */
  save(record: ModelRecord): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      const stored = (await on.get(['model', record.model])) as ModelRecord | undefined;
      const { shards } = record.manifest;
      const same = JSON.stringify(stored?.manifest.shards) === JSON.stringify(shards);
      shards.forEach(({ sha256 }, shard) => {
        if (!stored || !same || sha256 === null) return;
        record.validators[shard] = stored.validators[shard]!;
        record.agreed[shard] = stored.agreed[shard]!;
      });
      on.put(['model', record.model], record);
    });
  }

  /** Write what was learnt of one shard, in `record` and in the store. */
  learn(
    record: ModelRecord,
    shard: number,
    learnt: { validator: string | null } | { agreed: true },
  ): Promise<void> {
    const into = (some: ModelRecord) => {
      if ('agreed' in learnt) some.agreed[shard] = true;
      else {
        some.validators[shard] = learnt.validator;
        some.agreed[shard] = false;
      }
    };
    into(record);
    return this.#shelf.transact('readwrite', async (on) => {
      const stored = ((await on.get(['model', record.model])) ?? record) as ModelRecord;
      into(stored);
      on.put(['model', record.model], stored);
    });
  }

  /** The index: hash -> size and when it was verified. */
  held(): Promise<Map<string, Held>> {
    return this.#shelf.transact('readonly', readHeld);
  }

  /** Hashes pinned for a model: slot -> SHA-256. */
  pins(model: string): Promise<Map<string, string>> {
    return this.#shelf.transact('readonly', (on) => readPins(on, model));
  }

  /** The hash a piece must have: stated or pinned; null if it has not been seen yet. And whether it is held. */
  lookUp(model: string, piece: Piece): Promise<{ sha256: string | null; held: boolean }> {
    return this.#shelf.transact('readonly', async (on) => {
      const pinned = (await on.get(['pin', model, piece.slot])) as string | undefined;
      const sha256 = piece.stated ?? pinned ?? null;
      return { sha256, held: sha256 !== null && (await on.get(['held', sha256])) !== undefined };
    });
  }

  /** A piece as it lies there, not verified; undefined if it does not or cannot be read. */
  async piece(sha256: string): Promise<ArrayBuffer | undefined> {
    try {
      const value = await this.#shelf.transact('readonly', (on) => on.get(['piece', sha256]));
      // Not by a reader with a buffer of its own: such a read of a Blob may never end in Chromium 156 under load.
      return value instanceof Blob ? await value.arrayBuffer() : (value as ArrayBuffer | undefined);
    } catch {
      return undefined; // e.g. Chromium's "Failed to read large IndexedDB value": its file is gone
    }
  }

  /**
   * Bytes [start, end) of a piece, hashed since they were read: by their leaves, or with all of the piece where these do not
   * agree. `start` is a multiple of leafBytes; so is `end`, unless it is the piece's own.
   */
  async sound(
    sha256: string,
    start: number,
    end: number,
  ): Promise<ArrayBuffer | 'missing' | 'damaged'> {
    const stored = await this.#readHeld(sha256, start, end);
    if (!stored) return 'missing';
    const { bytes, held } = stored;
    const first = (start / leafBytes) * digestBytes;
    const leaves = await sha256Leaves(bytes);
    if (held?.leaves && sameBytes(leaves, held.leaves.subarray(first, first + leaves.length))) {
      return bytes;
    }
    const whole = await this.piece(sha256);
    if (!whole) return 'missing';
    if ((await wholeSha256(whole)) !== sha256) return 'damaged';
    await this.#keepLeaves(sha256, await sha256Leaves(whole));
    return whole.slice(start, end);
  }

  /** Bytes [start, end) of a piece as they lie there, with its entry; undefined if they do not or cannot be read. */
  async #readHeld(
    sha256: string,
    start: number,
    end: number,
  ): Promise<{ bytes: ArrayBuffer; held: Held | undefined } | undefined> {
    try {
      const { value, held } = await this.#shelf.transact('readonly', async (on) => ({
        value: (await on.get(['piece', sha256])) as Blob | ArrayBuffer | undefined,
        held: (await on.get(['held', sha256])) as Held | undefined,
      }));
      if (!value) return undefined;
      const part = value.slice(start, end);
      return { bytes: part instanceof Blob ? await part.arrayBuffer() : part, held };
    } catch {
      return undefined; // as in `piece`
    }
  }

  /** Only what is read faster for it: a full disk keeps nobody from reading. */
  async #keepLeaves(sha256: string, leaves: Uint8Array): Promise<void> {
    const write = this.#shelf.transact('readwrite', async (on) => {
      const held = (await on.get(['held', sha256])) as Held | undefined;
      if (held) on.put(['held', sha256], { ...held, leaves } satisfies Held);
    });
    await write.catch(() => {});
  }

  /** Bytes of a piece that are there as parts, from its start without a gap. */
  async partBytes(slot: string): Promise<number> {
    const keys = await this.#shelf.transact('readonly', (on) => on.keys(['part', slot]));
    return runLengths(keys).get(slot) ?? 0;
  }

  /** Unfinished bytes of every piece: slot -> bytes. */
  async partial(): Promise<Map<string, number>> {
    const keys = await this.#shelf.transact('readonly', (on) => on.keys(['part']));
    return runLengths(keys);
  }

  /** Keep a finished range of a piece. It follows the parts that are there, or replaces the last of them. */
  putPart(slot: string, start: number, part: ArrayBuffer): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      // Whatever reaches beyond was written by a tab that is dead.
      for (const key of await on.keys(['part', slot])) {
        if ((key[2] as number) + (key[3] as number) > start) on.delete(key);
      }
      on.put(['part', slot, start, part.byteLength], part);
    });
  }

  /** All parts of a piece, one after another; null if they do not make it whole. */
  async joined({ slot, bytes }: Piece): Promise<ArrayBuffer | null> {
    const { keys, values } = await this.#shelf.transact('readonly', async (on) => ({
      keys: await on.keys(['part', slot]),
      values: (await on.values(['part', slot])) as ArrayBuffer[],
    }));
    const whole = new Uint8Array(bytes);
    let at = 0;
    for (const [i, [, , start]] of keys.entries()) {
      if (start !== at || at + values[i]!.byteLength > bytes) return null;
      whole.set(new Uint8Array(values[i]!), at);
      at += values[i]!.byteLength;
    }
    return at === bytes ? whole.buffer : null;
  }

  dropParts(slot: string): Promise<void> {
    return this.#shelf.transact('readwrite', (on) => deleteAll(on, ['part', slot]));
  }

  /**
   * Mark a piece present, in one transaction: its bytes, its entry in the index, its pin if no manifest states its hash,
   * and its parts gone. `sha256` must have been computed from `bytes`.
   */
  async putPiece(
    model: string,
    piece: Piece,
    sha256: string,
    bytes: ArrayBuffer,
    at: number,
  ): Promise<void> {
    const leaves = await sha256Leaves(bytes);
    const value = this.#shelf.takesBlobs ? new Blob([bytes]) : bytes;
    const held: Held = { bytes: bytes.byteLength, verifiedAt: at, leaves };
    return this.#shelf.transact('readwrite', async (on) => {
      await deleteAll(on, ['part', piece.slot]);
      on.put(['piece', sha256], value);
      on.put(['held', sha256], held);
      if (piece.stated === null) on.put(['pin', model, piece.slot], sha256);
    });
  }

  /** Forget a piece that turned out damaged. Its pin stays: what comes instead must be the same. */
  dropPiece(sha256: string): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      on.delete(['piece', sha256]);
      on.delete(['held', sha256]);
    });
  }

  /** Forget what pieces of a model were pinned to, and with that the pieces. */
  unpin(model: string, slots: string[]): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      for (const slot of slots) {
        const sha256 = (await on.get(['pin', model, slot])) as string | undefined;
        if (sha256 === undefined) continue;
        on.delete(['pin', model, slot]);
        on.delete(['held', sha256]);
        on.delete(['piece', sha256]);
      }
    });
  }

  /** Note that these pieces had their hashes at `at`. */
  markVerified(hashes: Iterable<string>, at: number): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      for (const sha256 of hashes) {
        const held = (await on.get(['held', sha256])) as Held | undefined;
        if (held) on.put(['held', sha256], { ...held, verifiedAt: at } satisfies Held);
      }
    });
  }

  /** Forget a model and whatever no other model refers to. */
  remove(model: string): Promise<void> {
    return this.#shelf.transact('readwrite', async (on) => {
      on.delete(['model', model]);
      const others = (await readRecords(on)).filter((record) => record.model !== model);
      await deleteUnreferenced(on, others);
    });
  }

  /** Delete what no model refers to, and entries of the index whose bytes are gone: the hashes of these are answered. */
  sweep(): Promise<Set<string>> {
    return this.#shelf.transact('readwrite', async (on) =>
      deleteUnreferenced(on, await readRecords(on)),
    );
  }
}

async function readRecords(on: Transaction): Promise<ModelRecord[]> {
  return (await on.values(['model'])) as ModelRecord[];
}

async function readHeld(on: Transaction): Promise<Map<string, Held>> {
  const keys = await on.keys(['held']);
  const values = (await on.values(['held'])) as Held[];
  return new Map(keys.map(([, sha256], i) => [sha256 as string, values[i]!]));
}

async function readPins(on: Transaction, model: string): Promise<Map<string, string>> {
  const keys = await on.keys(['pin', model]);
  const values = (await on.values(['pin', model])) as string[];
  return new Map(keys.map(([, , slot], i) => [slot as string, values[i]!]));
}

async function deleteAll(on: Transaction, prefix: Key): Promise<void> {
  for (const key of await on.keys(prefix)) on.delete(key);
}

/** Leave only what `records` refer to, pieces and index agreeing with each other. Answers what of it is missing. */
async function deleteUnreferenced(on: Transaction, records: ModelRecord[]): Promise<Set<string>> {
  const hashes = new Set<string>();
  const slots = new Set<string>();
  for (const record of records) {
    const pins = await readPins(on, record.model);
    for (const { slot, stated } of piecesOf(record)) {
      slots.add(slot);
      const sha256 = stated ?? pins.get(slot);
      if (sha256 !== undefined) hashes.add(sha256);
    }
  }
  const held = await readHeld(on);
  const pieces = new Set((await on.keys(['piece'])).map(([, sha256]) => sha256 as string));
  for (const sha256 of new Set([...held.keys(), ...pieces])) {
    if (hashes.has(sha256) && held.has(sha256) && pieces.has(sha256)) continue;
    on.delete(['held', sha256]);
    on.delete(['piece', sha256]);
  }
  for (const key of [...(await on.keys(['part'])), ...(await on.keys(['pin']))]) {
    const slot = key[0] === 'part' ? key[1] : key[2];
    if (!slots.has(slot as string)) on.delete(key);
  }
  return new Set([...held.keys()].filter((hash) => hashes.has(hash) && !pieces.has(hash)));
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** How far sorted part keys reach without a gap: slot -> bytes. */
function runLengths(parts: Key[]): Map<string, number> {
  const ends = new Map<string, number>();
  for (const [, slot, start, bytes] of parts) {
    const end = ends.get(slot as string) ?? 0;
    if (start === end) ends.set(slot as string, end + (bytes as number));
  }
  return ends;
}

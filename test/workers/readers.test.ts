import 'fake-indexeddb/auto';
import { expose, type Endpoint } from 'comlink';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { ReadersStore, type ReaderApi } from '../../workers/readers.ts';
import { leafBytes } from '../../workers/sha256.ts';
import { diskShelf, memoryShelf, piecesOf, Store, type ModelRecord } from '../../workers/store.ts';
import { FakeClock } from '../fault/clock.ts';
import { sha256Of, weights } from '../fault/rig.ts';

/** What a read found, to be compared: bytes by their hash. */
const seen = (found: ArrayBuffer | string) =>
  typeof found === 'string' ? found : sha256Of(new Uint8Array(found));
const turns = () => new Promise((resolve) => setTimeout(resolve, 5));
const pieceBytes = 2 * leafBytes;

/** Whole pieces of one model, put into a store. Answers their hashes. */
async function put(store: Store, pieces: Uint8Array<ArrayBuffer>[]): Promise<string[]> {
  const hashes = pieces.map(sha256Of);
  const record: ModelRecord = {
    model: 'm',
    manifest: {
      name: 'm',
      file_type: '',
      license: '',
      parameters: 0,
      context_trained: 0,
      bytes: pieces.length * pieceBytes,
      shards: hashes.map((sha256, i) => ({ file: `${i}.gguf`, bytes: pieceBytes, sha256 })),
    },
    validators: hashes.map(() => null),
    pieceBytes,
    agreed: hashes.map(() => false),
    usedAt: 0,
    origin: null,
  };
  await store.save(record);
  for (const [i, piece] of piecesOf(record).entries()) {
    await store.putPiece('m', piece, hashes[i]!, pieces[i]!.slice().buffer, 0);
  }
  return hashes;
}

describe('among threads', () => {
  /** A thread as the pool sees it, and the reads that wait in it. */
  interface Thread {
    worker: Worker;
    reads: { sha256: string; answer(bytes: ArrayBuffer): void; fail(): void }[];
    ended: boolean;
    die(): void;
  }

  let threads: Thread[];
  let clock: FakeClock;
  let store: ReadersStore;
  let hash: string;
  const bytes = weights(pieceBytes, 1);
  beforeEach(async () => {
    threads = [];
    clock = new FakeClock();
    store = new ReadersStore(memoryShelf(Infinity), clock, 3, start);
    [hash] = (await put(store, [bytes])) as [string];
  });

  function start(): Worker {
    const { port1, port2 } = new MessageChannel();
    const thread: Thread = {
      worker: port1 as unknown as Worker,
      reads: [],
      ended: false,
      die: () => port1.dispatchEvent(Object.assign(new Event('error'), { message: 'gone' })),
    };
    Object.assign(port1, { terminate: () => void (thread.ended = true) });
    expose(
      {
        sound: (sha256) =>
          new Promise((answer, reject) => {
            thread.reads.push({ sha256, answer, fail: () => reject(new RangeError('out')) });
          }),
      } satisfies ReaderApi,
      port2 as unknown as Endpoint,
    );
    threads.push(thread);
    return thread.worker;
  }

  const own = sha256Of(bytes.subarray(0, leafBytes));
  const read = async (sha256 = hash) => seen(await store.sound(sha256, 0, leafBytes));
  /** Until so many reads have come to threads, the answered ones among them: messages take as long as they take. */
  const come = (count: number) =>
    vi.waitFor(() => expect(waiting().flat()).toHaveLength(count), {
      timeout: 30_000,
      interval: 1,
    });
  const waiting = () => threads.map(({ reads }) => reads.map(({ sha256 }) => sha256));
  const one = (n: number) => new Uint8Array([n]).buffer;
  const seenOne = (n: number) => seen(one(n));

  test('each of several reads has a thread, then the least busy one, and each its own bytes whoever is first', async () => {
    const reads = ['a', 'b', 'c', 'd', 'e'].map(read);
    await come(5);
    // A thread is put before those that were there: ties go to the youngest.
    expect(waiting().map(({ length }) => length)).toEqual([1, 2, 2]);
    expect(waiting().flat().sort()).toEqual(['a', 'b', 'c', 'd', 'e']);
    const all = threads.flatMap(({ reads }) => reads);
    for (const { sha256, answer } of all.reverse()) answer(one(sha256.charCodeAt(0)));
    expect(await Promise.all(reads)).toEqual(
      ['a', 'b', 'c', 'd', 'e'].map((c) => seenOne(c.charCodeAt(0))),
    );
  });

  test('reads one after another need one thread', async () => {
    for (const n of [1, 2, 3]) {
      const reading = read();
      await come(n);
      threads[0]!.reads.at(-1)!.answer(one(n));
      expect(await reading).toEqual(seenOne(n));
    }
    expect(threads).toHaveLength(1);
  });

  test.each([
    ['dies', (thread: Thread) => thread.die()],
    ['fails', (thread: Thread) => thread.reads[0]!.fail()],
  ])(
    'where one %s all its and the others’ reads are done here, and so are those after',
    async (_, end) => {
      const reads = [read(), read(), read(), read()];
      await come(4);
      end(threads[1]!);
      expect(await Promise.all(reads)).toEqual([own, own, own, own]);
      expect(threads.map(({ ended }) => ended)).toEqual([true, true, true]);
      expect(await Promise.all([read(), read('another')])).toEqual([own, 'missing']);
      expect(threads).toHaveLength(3);
    },
  );

  test('where none can be started reads are done here; where no more can, by those that are', async () => {
    const refused = vi.fn((): Worker => {
      throw new ReferenceError('Worker is not defined');
    });
    store = new ReadersStore(memoryShelf(Infinity), clock, 3, refused);
    await put(store, [bytes]);
    expect(await Promise.all([read(), read()])).toEqual([own, own]);
    expect(refused).toHaveBeenCalledOnce();

    const second = vi.fn(() => (second.mock.calls.length === 2 ? refused() : start()));
    store = new ReadersStore(memoryShelf(Infinity), clock, 3, second);
    const reads = [read('a'), read('b'), read('c')];
    await come(3);
    expect(waiting()).toEqual([['a', 'b', 'c']]);
    expect(second).toHaveBeenCalledTimes(2);
    threads[0]!.reads.forEach(({ answer }, i) => answer(one(i)));
    expect(await Promise.all(reads)).toEqual([seenOne(0), seenOne(1), seenOne(2)]);
    clock.advance(60_000);
    await turns();
    const later = [read('d'), read('e')];
    await come(5);
    expect(waiting().slice(1)).toEqual([['d', 'e']]);
    threads[1]!.reads.forEach(({ answer }, i) => answer(one(i)));
    expect(await Promise.all(later)).toEqual([seenOne(0), seenOne(1)]);
  });

  test('they end some seconds after the last read, not in the middle of one, and come again', async () => {
    const reads = [read('a'), read('b')];
    await come(2);
    threads[0]!.reads[0]!.answer(one(1));
    await reads[0];
    clock.advance(60_000);
    await turns();
    expect(threads.map(({ ended }) => ended)).toEqual([false, false]);
    threads[1]!.reads[0]!.answer(one(2));
    expect(await reads[1]).toEqual(seenOne(2));
    clock.advance(4_000);
    await turns();
    expect(threads.map(({ ended }) => ended)).toEqual([false, false]);
    clock.advance(2_000);
    await turns();
    expect(threads.map(({ ended }) => ended)).toEqual([true, true]);
    const again = read();
    await come(3);
    threads[2]!.reads[0]!.answer(one(3));
    expect(await again).toEqual(seenOne(3));
  });
});

test('a thread’s script finds what Store finds, by a connection of its own, and hands its bytes over', async () => {
  const { port1, port2 } = new MessageChannel();
  const handed: unknown[] = [];
  vi.stubGlobal('addEventListener', port2.addEventListener.bind(port2));
  vi.stubGlobal('postMessage', (message: unknown, transfers: ArrayBuffer[]) => {
    port2.postMessage(message, transfers);
    handed.push(...transfers.map(({ byteLength }) => byteLength)); // 0: it is not the sender's any more
  });
  await import('../../workers/reader.worker.ts');
  port2.start();
  const disk = await diskShelf('palimpsest');
  const pieces = [weights(pieceBytes, 1), weights(pieceBytes, 2)];
  const plain = new Store(disk);
  const hashes = await put(plain, pieces);
  const rotten = pieces[1]!.slice();
  rotten[leafBytes + 7]! ^= 4;
  await disk.transact('readwrite', async (on) => on.put(['piece', hashes[1]!], rotten.buffer));

  // Its own shelf is empty: what is found has the thread found.
  const worker = Object.assign(port1, { terminate: () => port1.close() }) as unknown as Worker;
  const store = new ReadersStore(memoryShelf(Infinity), new FakeClock(), 1, () => worker);
  const ranges: Parameters<Store['sound']>[] = [
    [hashes[0]!, leafBytes, 2 * leafBytes],
    [hashes[0]!, 0, leafBytes],
    [hashes[1]!, 0, leafBytes],
    [hashes[1]!, leafBytes, 2 * leafBytes],
    ['absent', 0, leafBytes],
  ];
  const find = async (by: Store) =>
    (await Promise.all(ranges.map((range) => by.sound(...range)))).map(seen);
  const found = await find(store);
  expect(found).toEqual([
    sha256Of(pieces[0]!.subarray(leafBytes)),
    sha256Of(pieces[0]!.subarray(0, leafBytes)),
    sha256Of(pieces[1]!.subarray(0, leafBytes)),
    'damaged',
    'missing',
  ]);
  expect(await find(plain)).toEqual(found);
  expect(handed).toEqual([0, 0, 0]);
  port1.close();
});

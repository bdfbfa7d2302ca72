import 'fake-indexeddb/auto';
import { beforeEach, describe, expect, test } from 'vitest';
import { manifestOf } from '../../workers/manifest.ts';
import type { Shard } from '../../workers/protocol.ts';
import {
  diskShelf,
  memoryShelf,
  piecesOf,
  Store,
  type Held,
  type ModelRecord,
  type Shelf,
} from '../../workers/store.ts';
import { leafBytes } from '../../workers/sha256.ts';
import { sha256Of, weights } from '../fault/rig.ts';

let databases = 0;

/** A model of these shards, its hashes stated, in pieces of 100 bytes. */
function record(model: string, shards: Uint8Array[], stated = true): ModelRecord {
  const listed = shards.map((bytes, i): Shard => ({
    file: `${i}.gguf`,
    bytes: bytes.length,
    sha256: stated ? sha256Of(bytes) : null,
  }));
  return {
    model,
    manifest: { ...manifestOf(model, listed), shards: listed },
    validators: shards.map(() => '"1"'),
    pieceBytes: 100,
    agreed: shards.map(() => false),
    usedAt: 0,
    origin: null,
  };
}

const buffer = (bytes: Uint8Array) => bytes.slice().buffer as ArrayBuffer;

describe.each<[string, () => Promise<Shelf>]>([
  ['on disk', () => diskShelf(`store-${++databases}`)],
  ['in memory', async () => memoryShelf(1000)],
])('%s', (_, openShelf) => {
  let shelf: Shelf;
  let store: Store;
  beforeEach(async () => {
    shelf = await openShelf();
    store = new Store(shelf);
  });
  const keys = (kind: string) => shelf.transact('readonly', (on) => on.keys([kind]));

  /** Put every piece of a model, as a download does. */
  async function fill(of: ModelRecord, shards: Uint8Array[]): Promise<void> {
    await store.save(of);
    for (const piece of piecesOf(of)) {
      const bytes = shards[piece.shard]!.slice(piece.start, piece.start + piece.bytes);
      await store.putPiece(of.model, piece, sha256Of(bytes), buffer(bytes), 5);
    }
  }

  test('keys sort by kind, then text, then number', async () => {
    const unsorted = [
      ['part', 'b', 10, 1],
      ['part', 'a', 9, 1],
      ['part', 'a', 100, 1],
      ['part', 'a', 100, 0],
      ['held', 'z'],
      ['part', 'ab', 0, 1],
    ];
    await shelf.transact('readwrite', async (on) => {
      for (const key of unsorted) on.put(key, key.join());
    });
    const sorted = [
      ['part', 'a', 9, 1],
      ['part', 'a', 100, 0],
      ['part', 'a', 100, 1],
    ];
    expect(await shelf.transact('readonly', (on) => on.keys(['part', 'a']))).toEqual(sorted);
    expect(await shelf.transact('readonly', (on) => on.values(['part', 'a']))).toEqual(
      sorted.map((key) => key.join()),
    );
    expect((await keys('part')).length).toBe(5);
  });

  test('what fails in the middle leaves nothing', async () => {
    const half = shelf.transact('readwrite', async (on) => {
      on.put(['held', 'x'], 1);
      await on.get(['held', 'y']);
      throw new RangeError('in the middle');
    });
    await expect(half).rejects.toThrow('in the middle');
    expect(await keys('held')).toEqual([]);
  });

  test('values are copies, on the way in and out', async () => {
    const bytes = buffer(weights(10, 1));
    const before = sha256Of(new Uint8Array(bytes));
    await shelf.transact('readwrite', async (on) => on.put(['piece', 'x'], bytes));
    new Uint8Array(bytes).fill(0);
    const out = (await store.piece('x'))!;
    expect(sha256Of(new Uint8Array(out))).toBe(before);
    new Uint8Array(out).fill(0);
    expect(sha256Of(new Uint8Array((await store.piece('x'))!))).toBe(before);
  });

  test('a shard is cut into pieces that cover it', () => {
    const shards = [weights(100, 1), weights(250, 2)];
    expect(
      piecesOf(record('m', shards)).map(({ shard, start, bytes }) => [shard, start, bytes]),
    ).toEqual([
      [0, 0, 100],
      [1, 0, 100],
      [1, 100, 100],
      [1, 200, 50],
    ]);
    // Only a shard that is one piece has a hash that its piece is known by; the rest go by version.
    const [one, two] = piecesOf(record('m', shards));
    expect([one!.stated, one!.slot]).toEqual([sha256Of(shards[0]!), sha256Of(shards[0]!)]);
    expect([two!.stated, two!.slot]).toEqual([null, 'm#1+0/250@"1"']);
  });

  test('parts grow from the start, and become a piece at once', async () => {
    const bytes = weights(90, 1);
    const model = record('m', [bytes]);
    const [piece] = piecesOf(model);
    await store.save(model);
    for (const [from, until] of [
      [0, 40],
      [40, 41],
      [41, 90],
    ] as const) {
      expect(await store.partBytes(piece!.slot)).toBe(from);
      await store.putPart(piece!.slot, from, buffer(bytes.subarray(from, until)));
    }
    expect(new Map(await store.partial())).toEqual(new Map([[piece!.slot, 90]]));
    expect(await store.list()).toMatchObject([{ storedBytes: 90, ownBytes: 90, verifiedAt: null }]);
    const whole = await store.joined(piece!);
    expect(new Uint8Array(whole!)).toEqual(bytes);
    expect((await store.lookUp('m', piece!)).held).toBe(false);
    await store.putPiece('m', piece!, sha256Of(bytes), whole!, 7);
    expect(await store.lookUp('m', piece!)).toEqual({ sha256: sha256Of(bytes), held: true });
    expect(await keys('part')).toEqual([]);
    expect(await store.list()).toMatchObject([{ storedBytes: 90, verifiedAt: 7 }]);
  });

  test('parts with a gap are not joined', async () => {
    const [piece] = piecesOf(record('m', [weights(30, 1)]));
    await store.putPart(piece!.slot, 0, new ArrayBuffer(10));
    await store.putPart(piece!.slot, 20, new ArrayBuffer(10));
    expect(await store.partBytes(piece!.slot)).toBe(10);
    expect(await store.joined(piece!)).toBeNull();
    await store.dropParts(piece!.slot);
    expect(await store.partBytes(piece!.slot)).toBe(0);
    expect(await store.joined(piece!)).toBeNull();
  });

  test('a part replaces what another writer has left from there on', async () => {
    const bytes = weights(30, 1);
    const [piece] = piecesOf(record('m', [bytes]));
    for (const [from, until] of [
      [0, 10],
      [10, 14],
      [14, 18],
      [10, 20],
      [20, 30],
    ] as const) {
      await store.putPart(piece!.slot, from, buffer(bytes.subarray(from, until)));
    }
    expect(new Uint8Array((await store.joined(piece!))!)).toEqual(bytes);
  });

  test('pieces that models share are stored once and go with the last of them', async () => {
    const [common, own] = [weights(80, 1), weights(70, 2)];
    await fill(record('a', [common, own]), [common, own]);
    await fill(record('b', [own, common]), [own, common]);
    await fill(record('c', [common, common]), [common, common]);
    expect((await keys('piece')).length).toBe(2);
    expect(
      (await store.list()).map(({ ownBytes, storedBytes }) => [ownBytes, storedBytes]),
    ).toEqual([
      [0, 150],
      [0, 150],
      [0, 80],
    ]);
    await store.remove('a');
    expect((await keys('piece')).length).toBe(2);
    await store.remove('b');
    expect(await keys('piece')).toEqual([['piece', sha256Of(common)]]);
    expect(await store.list()).toMatchObject([{ model: 'c', ownBytes: 80 }]);
    await store.remove('c');
    for (const kind of ['model', 'held', 'piece', 'part', 'pin'])
      expect(await keys(kind)).toEqual([]);
  });

  test('pins belong to a version of a file, and go with it', async () => {
    const bytes = weights(250, 1);
    const early = record('u', [bytes], false);
    await fill(early, [bytes]);
    await store.putPart(piecesOf(early)[0]!.slot, 0, new ArrayBuffer(5));
    expect((await store.pins('u')).size).toBe(3);
    const late = { ...early, validators: ['"2"'] };
    const [piece] = piecesOf(late);
    await store.save(late);
    expect(await store.lookUp('u', piece!)).toEqual({ sha256: null, held: false });
    expect(await store.sweep()).toEqual(new Set());
    for (const kind of ['held', 'piece', 'part', 'pin']) expect(await keys(kind)).toEqual([]);
  });

  test('a dropped piece keeps its pin, an unpinned one nothing', async () => {
    const bytes = weights(250, 1);
    const model = record('u', [bytes], false);
    await fill(model, [bytes]);
    const [first, second] = piecesOf(model);
    const { sha256 } = await store.lookUp('u', first!);
    await store.dropPiece(sha256!);
    expect(await store.lookUp('u', first!)).toEqual({ sha256, held: false });
    await store.unpin('u', [second!.slot]);
    expect(await store.lookUp('u', second!)).toEqual({ sha256: null, held: false });
    expect((await keys('piece')).length).toBe(1);
  });

  test('a sweep deletes what nobody refers to, and names what is gone', async () => {
    const shards = [weights(80, 1), weights(70, 2), weights(60, 3)];
    const hashes = shards.map(sha256Of);
    await fill(record('a', shards), shards);
    await shelf.transact('readwrite', async (on) => {
      on.delete(['piece', hashes[0]!]); // an entry without its bytes
      on.delete(['held', hashes[1]!]); // bytes without their entry
      on.put(['piece', 'f'.repeat(64)], new ArrayBuffer(9)); // neither model nor entry
      on.put(['held', 'e'.repeat(64)], { bytes: 9, verifiedAt: 0 });
      on.put(['part', 'nowhere', 0, 9], new ArrayBuffer(9));
      on.put(['pin', 'nobody', 'nowhere'], 'f'.repeat(64));
    });
    expect(await store.sweep()).toEqual(new Set([hashes[0]]));
    expect(await keys('piece')).toEqual([['piece', hashes[2]]]);
    expect(await keys('held')).toEqual([['held', hashes[2]]]);
    expect([...(await keys('part')), ...(await keys('pin'))]).toEqual([]);
    expect(await store.list()).toMatchObject([{ storedBytes: 60 }]);
  });

  test('what one tab has learnt of a shard, another does not write over', async () => {
    const bytes = weights(250, 1);
    const [one, two] = [record('m', [bytes]), record('m', [bytes])];
    const stale = record('m', [bytes]);
    await store.save(one);
    await store.learn(one, 0, { validator: '"2"' });
    await store.learn(two, 0, { agreed: true });
    expect(await store.record('m')).toMatchObject({ validators: ['"2"'], agreed: [true] });
    await store.save(stale);
    expect(stale).toMatchObject({ validators: ['"2"'], agreed: [true] });
    await store.learn(one, 0, { validator: '"3"' });
    expect(await store.record('m')).toMatchObject({ validators: ['"3"'], agreed: [false] });
    // Other shards, or one without a hash, are another matter: what was asked for last stands.
    await store.save(record('m', [weights(250, 2)]));
    expect(await store.record('m')).toMatchObject({ validators: ['"1"'], agreed: [false] });
    await store.save({ ...record('u', [bytes], false), validators: ['"1"'] });
    await store.save({ ...record('u', [bytes], false), validators: ['"2"'] });
    expect(await store.record('u')).toMatchObject({ validators: ['"2"'] });
  });

  test('dates of verification: the oldest counts, and only what is held has one', async () => {
    const shards = [weights(80, 1), weights(70, 2)];
    await fill(record('a', shards), shards);
    await store.markVerified([sha256Of(shards[0]!), 'f'.repeat(64)], 9);
    expect(await store.list()).toMatchObject([{ verifiedAt: 5 }]);
    await store.markVerified([sha256Of(shards[1]!)], 8);
    expect(await store.list()).toMatchObject([{ verifiedAt: 8 }]);
    expect((await keys('held')).length).toBe(2);
  });
});

test('memory ends at its limit, and what is there stays', async () => {
  const store = new Store(memoryShelf(100));
  await store.putPart('s', 0, new ArrayBuffer(60));
  await expect(store.putPart('s', 60, new ArrayBuffer(60))).rejects.toMatchObject({
    name: 'QuotaExceeded',
  });
  expect(await store.partBytes('s')).toBe(60);
});

test('a second tab sees what the first has stored', async () => {
  const [one, two] = [
    new Store(await diskShelf('shared-by-tabs')),
    new Store(await diskShelf('shared-by-tabs')),
  ];
  await one.putPart('s', 0, new ArrayBuffer(60));
  expect(await two.partBytes('s')).toBe(60);
});

test.each<[string, () => Promise<Shelf>]>([
  ['on disk', () => diskShelf(`store-${++databases}`)],
  ['in memory', async () => memoryShelf(4 * leafBytes)],
])(
  'a part of a piece is sound by its leaves, or with the whole piece: %s',
  async (_, openShelf) => {
    const shelf = await openShelf();
    const store = new Store(shelf);
    const bytes = weights(2 * leafBytes + 100, 1);
    const hash = sha256Of(bytes);
    const [piece] = piecesOf({ ...record('m', [bytes]), pieceBytes: bytes.length });
    await store.putPiece('m', piece!, hash, buffer(bytes), 5);
    const held = () =>
      shelf.transact('readonly', async (on) => (await on.get(['held', hash])) as Held);
    const put = (kind: string, value: unknown) =>
      shelf.transact('readwrite', async (on) => on.put([kind, hash], value));
    const part = (from: number, until: number) => store.sound(hash, from, until);
    // By a hash: vitest takes seconds to compare as many bytes one by one.
    const hashOf = async (from: number, until: number) =>
      sha256Of(new Uint8Array((await part(from, until)) as ArrayBuffer));
    const { leaves } = await held();

    expect(await hashOf(leafBytes, bytes.length)).toBe(sha256Of(bytes.slice(leafBytes)));
    // An entry without leaves, or with other ones, over bytes that are right: they are taken anew.
    for (const wrong of [null, leaves!.map((byte) => byte ^ 1), leaves!.slice(32)]) {
      await put('held', { ...(await held()), leaves: wrong });
      expect(await hashOf(0, leafBytes)).toBe(sha256Of(bytes.slice(0, leafBytes)));
      expect((await held()).leaves).toEqual(leaves);
    }
    const rotten = bytes.slice();
    rotten[leafBytes + 7]! ^= 1;
    await put('piece', rotten.buffer);
    expect(await part(leafBytes, 2 * leafBytes)).toBe('damaged');
    expect(await hashOf(0, leafBytes)).toBe(sha256Of(bytes.slice(0, leafBytes)));
    await put('piece', rotten.buffer.slice(0, leafBytes + 3)); // shorter than it was
    expect(await part(leafBytes, bytes.length)).toBe('damaged');
    await store.dropPiece(hash);
    expect(await part(0, leafBytes)).toBe('missing');
  },
);

/** Checkpoints as models of the library: offered, made into the store, broken off and gone on with, repaired. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { importCheckpoint } from '../../workers/importModel.ts';
import type { Library } from '../../workers/library.ts';
import type { CheckpointPlace, HubRepository, ImportEncoding } from '../../workers/protocol.ts';
import type { ModelRecord } from '../../workers/store.ts';
import { openRig, readWhole, sha256Of, smallLimits, type Rig } from '../fault/rig.ts';
import { sources } from './checkpointFiles.ts';

const checkpoint = tinyCheckpoint();
const weightNames = [...checkpoint.keys()].filter((name) => name.endsWith('.safetensors'));
const weightBytes = weightNames.reduce((sum, name) => sum + checkpoint.get(name)!.length, 0);
const commit = '0123456789abcdef0123456789abcdef01234567';

let rig: Rig;
beforeEach(async () => {
  // Pieces of several parts each, and few connections: an import that is cut has something to lose.
  rig = await openRig({ limits: { ...smallLimits, partBytes: 2048, connections: 2 } });
});
afterEach(() => rig.close());

/** The checkpoint as a person picks it; `onRead` hears of every read of its weights. */
function picked(onRead: (bytes: number) => void = () => {}): CheckpointPlace {
  const files = [...checkpoint].map(([name, bytes]) => {
    const file = new File([bytes.slice()], name, { lastModified: 1_900_000_000_000 });
    const slice = (from: number, until: number) => {
      if (name.endsWith('.safetensors')) onRead(until - from);
      return new Blob([bytes.slice(from, until)]);
    };
    return Object.assign(file, { slice });
  });
  const others = [new File(['x'], 'README.md'), new File(['x'], 'optimizer.pt')];
  return { kind: 'files', name: 'tiny', files: [...files, ...others] };
}

/** The checkpoint in a repository of a hub, which is the fault server. */
function atHub(): CheckpointPlace {
  const { files } = rig.server;
  for (const [name, bytes] of checkpoint) files.set(`hub/${name}`, { bytes, etag: `"${name}"` });
  const listed = [...checkpoint].map(([path, { length: bytes }]) => ({
    path,
    bytes,
    sha256: null,
    address: `${rig.origin}hub/${path}`,
  }));
  const repository: HubRepository = {
    id: 'some/tiny',
    commit,
    license: 'mit',
    page: 'https://huggingface.co/some/tiny',
    gguf: [],
    checkpoint: { bytes: weightBytes, files: listed },
  };
  return { kind: 'hub', repository };
}

async function modelOf(library: Library, place: CheckpointPlace, encoding: ImportEncoding) {
  const { choices } = await rig.pass(library.checkpoint(place));
  return choices.find((choice) => choice.encoding === encoding)!.model;
}

async function expected(encoding: ImportEncoding, license = '') {
  const gguf = await importCheckpoint(sources(checkpoint), { name: 'tiny', license }, encoding);
  return gguf.read(0, gguf.byteLength);
}

const hashesOf = (library: Library, model: string) =>
  readWhole(library, { model, shards: [], paths: [], bytes: 0, hashes: [] });

/** Weights asked for: not headers, which are read anew by each session. */
const askedBytes = () =>
  rig.server.asked
    .filter(({ path, from }) => path.endsWith('.safetensors') && from > 8)
    .reduce((sum, { from, until }) => sum + until - from, 0);

describe('files of this computer', () => {
  test('are offered in each encoding with its size, and become a stored model', async () => {
    let readBytes = 0;
    const { library } = rig.tab();
    const offer = await library.checkpoint(picked((bytes) => (readBytes += bytes)));
    expect(readBytes).toBeLessThan(0.1 * weightBytes);
    expect(offer).toMatchObject({ name: 'tiny', license: '' });
    expect(offer.choices.map(({ encoding }) => encoding)).toEqual(['Q4_0', 'Q8_0', 'F32']);
    for (const { model, encoding, bytes } of offer.choices) {
      const whole = await expected(encoding);
      expect(bytes).toBe(whole.length);
      expect(await library.describe(model)).toMatchObject({
        name: `tiny-${encoding}`,
        file_type: encoding,
        bytes,
        shards: [{ file: `tiny-${encoding}.gguf`, bytes, sha256: null }],
      });
      expect(await library.status(model)).toMatchObject({ state: 'absent', place: 'disk' });
      await rig.pass(library.download(model));
      expect(await library.status(model)).toMatchObject({ state: 'complete', storedBytes: bytes });
      // Another session, the files gone: the store is all there is.
      expect(await rig.pass(hashesOf(rig.tab().library, model))).toEqual([sha256Of(whole)]);
    }
    const parameters = offer.choices.map(
      async ({ model }) => (await library.describe(model)).parameters,
    );
    expect(new Set(await Promise.all(parameters)).size).toBe(1);
    const stored = await library.list();
    expect(stored.map(({ fileType }) => fileType).sort()).toEqual(['F32', 'Q4_0', 'Q8_0']);
    expect(rig.server.asked).toEqual([]);
  });

  test('read by the engine while they are made, come first and whole', async () => {
    const { library } = rig.tab();
    const model = await modelOf(library, picked(), 'Q8_0');
    const whole = await expected('Q8_0');
    await library.open(model, () => {});
    const from = 3 * smallLimits.pieceBytes - 100;
    const range = await rig.pass(library.read(model, 0, from, 5000));
    expect(new Uint8Array(range)).toEqual(whole.slice(from, from + 5000));
  });

  test('have to be chosen again after a reload; then it goes on, and nothing is made twice', async () => {
    const readFrom: number[] = [];
    const first = rig.tab();
    let readBytes = 0;
    const place = picked((bytes) => {
      readBytes += bytes;
      if (readBytes > weightBytes / 2) first.die();
    });
    const model = await modelOf(first.library, place, 'F32');
    void first.library.download(model).catch(() => {});
    while (readBytes <= weightBytes / 2) await new Promise((resolve) => setTimeout(resolve, 1));

    const { library } = rig.tab();
    const { receivedBytes, state } = await library.status(model);
    expect(state).toBe('partial');
    expect(receivedBytes).toBeGreaterThan(smallLimits.pieceBytes);
    await expect(rig.pass(library.download(model))).rejects.toMatchObject({
      name: 'Refused',
      message: expect.stringContaining('Open them again'),
    });
    expect(await library.status(model)).toMatchObject({ state: 'failed', receivedBytes });

    const again = picked((bytes) => void readFrom.push(bytes));
    expect(await modelOf(library, again, 'F32')).toBe(model);
    readFrom.length = 0;
    await rig.pass(library.download(model));
    const whole = await expected('F32');
    expect(await rig.pass(hashesOf(library, model))).toEqual([sha256Of(whole)]);
    // BF16 becomes F32: a stored byte takes half a byte of the checkpoint. Headers are read again, rows on borders, too.
    const remadeBytes = readFrom.reduce((a, b) => a + b, 0);
    expect(remadeBytes).toBeLessThan(0.75 * (whole.length - receivedBytes) + 0.1 * weightBytes);
  });

  test('that changed are another model; those of no checkpoint are refused', async () => {
    const { library } = rig.tab();
    const model = await modelOf(library, picked(), 'Q8_0');
    const place = picked() as CheckpointPlace & { kind: 'files' };
    const config = new File([checkpoint.get('config.json')!.slice()], 'config.json', {
      lastModified: 1,
    });
    const files = place.files.map((file) => (file.name === 'config.json' ? config : file));
    expect(await modelOf(library, { ...place, files }, 'Q8_0')).not.toBe(model);

    const without = (name: string): CheckpointPlace => ({
      ...place,
      files: place.files.filter((file) => file.name !== name),
    });
    const cases: [CheckpointPlace, string][] = [
      [{ ...place, files: [] }, 'Refused'],
      [without('config.json'), 'Refused'],
      [without('tiktoken.model'), 'Refused'],
      [without(weightNames[1]!), 'BadModel'],
    ];
    for (const [some, name] of cases) {
      await expect(library.checkpoint(some)).rejects.toMatchObject({ name });
    }
  });
});

describe('a repository', () => {
  test('is read by range through whatever its server does, and stated with its licence', async () => {
    let count = 0;
    rig.server.choose = ({ path, from }) => {
      if (!path.endsWith('.safetensors') || from <= 8 || ++count % 5 !== 0) return { kind: 'none' };
      return count % 2 ? { kind: 'drop', afterBytes: 700 } : { kind: 'status', status: 503 };
    };
    const { library } = rig.tab();
    const model = await modelOf(library, atHub(), 'Q4_0');
    expect(model).toBe(`import:Q4_0:https://huggingface.co/some/tiny/tree/${commit}`);
    expect(await library.describe(model)).toMatchObject({ license: 'mit' });
    await rig.pass(library.download(model));
    const whole = await expected('Q4_0', 'mit');
    expect(await rig.pass(hashesOf(library, model))).toEqual([sha256Of(whole)]);
    expect(count).toBeGreaterThan(20);
  });

  test('goes on by itself in another session; a pause holds it, a damaged piece is made again', async () => {
    const first = rig.tab();
    const model = await modelOf(first.library, atHub(), 'F32');
    void first.library.download(model).catch(() => {});
    await rig.pass(until(() => askedBytes() > weightBytes / 3));
    first.die();
    await rig.pass(until(() => rig.server.open === 0));

    const { library } = rig.tab();
    const whole = await expected('F32', 'mit');
    const before = await library.status(model);
    expect(before.state).toBe('partial');
    const earlierBytes = askedBytes();
    const done = library.download(model);
    await rig.pass(until(() => askedBytes() > earlierBytes + weightBytes / 10));
    await rig.pass(library.pause(model));
    expect((await library.status(model)).state).toBe('paused');
    const held = rig.server.asked.length;
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(rig.server.asked.length).toBe(held);
    await Promise.all([rig.pass(library.download(model)), rig.pass(done)]);
    expect(await rig.pass(hashesOf(library, model))).toEqual([sha256Of(whole)]);
    expect(askedBytes()).toBeLessThan(1.5 * weightBytes);

    await rig.shelf.transact('readwrite', async (on) => {
      const key = (await on.keys(['piece']))[2]!;
      const bytes = new Uint8Array((await on.get(key)) as ArrayBuffer);
      bytes[77]! ^= 4;
      on.put(key, bytes.buffer);
    });
    const third = rig.tab().library;
    expect(await rig.pass(hashesOf(third, model))).toEqual([sha256Of(whole)]);
    expect(await third.status(model)).toMatchObject({ repairedPieces: 1, state: 'complete' });
  });

  test('begun by another version of this program is not gone on with', async () => {
    const first = rig.tab();
    const model = await modelOf(first.library, atHub(), 'Q8_0');
    void first.library.download(model).catch(() => {});
    await rig.pass(until(() => askedBytes() > weightBytes / 3));
    first.die();
    await rig.pass(until(() => rig.server.open === 0));
    await rig.shelf.transact('readwrite', async (on) => {
      const record = (await on.get(['model', model])) as ModelRecord;
      on.put(['model', model], { ...record, validators: ['f'.repeat(64)] });
    });
    const { library } = rig.tab();
    await expect(rig.pass(library.download(model))).rejects.toMatchObject({ name: 'BadModel' });
    // Looked at again it is known anew.
    expect(await modelOf(library, atHub(), 'Q8_0')).toBe(model);
    await rig.pass(library.download(model));
    const whole = await expected('Q8_0', 'mit');
    expect(await rig.pass(hashesOf(library, model))).toEqual([sha256Of(whole)]);
  });
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

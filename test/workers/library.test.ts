/** Models by their names: opened, followed, read in place and kept. How their bytes arrive is download.test.ts's. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LoadProgress, WeightsStatus } from '../../workers/protocol.ts';
import { leafBytes } from '../../workers/sha256.ts';
import {
  damage,
  openRig,
  readWhole,
  serveFolder,
  sha256Of,
  smallLimits,
  weights,
  type Rig,
} from '../fault/rig.ts';
import { writeGguf } from './ggufWriter.ts';

const noReport = () => {};

let rig: Rig;
beforeEach(async () => {
  rig = await openRig();
});
afterEach(() => rig.close());

describe('opening', () => {
  test.each([
    ['not JSON', '<html>'],
    ['null', 'null'],
    ['no shards', '{"shards":[]}'],
    ['a shard that is none', '{"shards":[null]}'],
    ['a path', '{"shards":[{"file":"../x","bytes":1,"sha256":null}]}'],
    ['no size', '{"shards":[{"file":"x","sha256":null}]}'],
    ['half a byte', '{"shards":[{"file":"x","bytes":1.5,"sha256":null}]}'],
    ['a short hash', '{"shards":[{"file":"x","bytes":1,"sha256":"ab"}]}'],
    ['a number for a hash', '{"shards":[{"file":"x","bytes":1,"sha256":7}]}'],
    ['a file twice', '{"shards":[{"file":"x","bytes":1},{"file":"x","bytes":1}]}'],
  ])('a manifest with %s is a BadModel', async (_, text) => {
    rig.server.files.set('m/manifest.json', { bytes: Buffer.from(text), etag: null });
    const opening = rig.tab().library.open(`${rig.origin}m/`, noReport);
    await expect(rig.pass(opening)).rejects.toMatchObject({ name: 'BadModel' });
  });

  test('addresses that name no model are refused, missing ones named', async () => {
    const { library } = rig.tab();
    for (const address of ['models/m/', `${rig.origin}m`, 'kept:x', '']) {
      const opening = library.open(address, noReport);
      await expect(opening).rejects.toMatchObject({ name: 'Refused' });
    }
    for (const [address, why] of [
      [`${rig.origin}m/`, 'has no manifest.json, which says what a folder holds'],
      [`${rig.origin}m.gguf`, 'there is no such file'],
    ] as const) {
      const opening = library.open(address, noReport);
      await expect(opening).rejects.toMatchObject({
        name: 'DownloadFailed',
        message: expect.stringContaining(why) as unknown,
      });
    }
  });

  test('a stored model opens and reads without a network', async () => {
    const model = serveFolder(rig, 'm', [weights(50_000, 1), weights(150_000, 2)]);
    await rig.pass(readWhole(rig.tab().library, model));
    rig.server.choose = () => ({ kind: 'refuse' });
    const { library } = rig.tab();
    expect(await rig.pass(readWhole(library, model))).toEqual(model.hashes);
    rig.server.choose = () => ({ kind: 'stall', afterBytes: 0 });
    expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
  });

  test('a little is read with its leaves alone, and what is damaged of them fetched again', async () => {
    const roomy = await openRig({ limits: { ...smallLimits, pieceBytes: 8 * leafBytes } });
    const bytes = weights(3 * leafBytes + 100, 1);
    const { model } = serveFolder(roomy, 'm', [bytes]);
    await roomy.pass(roomy.tab().library.download(model));
    await damage(roomy, bytes); // in the second leaf
    const { library } = roomy.tab();
    await library.open(model, noReport);
    const read = async (offset: number, count: number) => {
      const range = new Uint8Array(await roomy.pass(library.read(model, 0, offset, count)));
      expect(range).toEqual(bytes.slice(offset, offset + count));
      return (await library.status(model)).repairedPieces;
    };
    expect(await read(0, 0)).toBe(0);
    expect(await read(0, 1000)).toBe(0);
    expect(await read(leafBytes - 10, 10)).toBe(0);
    expect(await read(3 * leafBytes + 90, 10)).toBe(0);
    expect(await read(leafBytes - 10, 20)).toBe(1);
    await roomy.close();
  });

  test('the first file of a split one names them all', async () => {
    const parts = [weights(9000, 1), weights(150_000, 2)];
    parts.forEach((bytes, i) =>
      rig.server.files.set(`s-0000${i + 1}-of-00002.gguf`, { bytes, etag: `"${i}"` }),
    );
    const model = `${rig.origin}s-00001-of-00002.gguf?download=true`;
    const { library } = rig.tab();
    const shards = await library.open(model, noReport);
    expect(shards.map(({ bytes }) => bytes)).toEqual([9000, 150_000]);
    const range = await rig.pass(library.read(model, 1, 65_000, 1000));
    expect(new Uint8Array(range)).toEqual(parts[1]!.slice(65_000, 66_000));
  });

  test('progress counts bytes, gives a rate, and ends whole', async () => {
    const model = serveFolder(rig, 'm', [weights(60_000, 1), weights(60_000, 2)]);
    const { library } = rig.tab();
    const reports: LoadProgress[] = [];
    await library.open(model.model, (p) => void reports.push(p));
    const states: WeightsStatus[] = [];
    await library.watch(model.model, (s) => void states.push(s));
    rig.server.bytesPerSec = 400_000;
    const done = library.download(model.model);
    const ticks = setInterval(() => rig.clock.advance(50), 10);
    await done;
    clearInterval(ticks);
    rig.clock.advance(200);
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(states[0]).toMatchObject({ state: 'absent', totalBytes: 120_000, receivedBytes: 0 });
    expect(states.some(({ bytesPerSec, secondsLeft }) => bytesPerSec > 0 && secondsLeft! > 0)).toBe(
      true,
    );
    expect(states.at(-1)).toMatchObject({
      state: 'complete',
      storedPieces: 2,
      storedBytes: 120_000,
      secondsLeft: null,
    });
    const counts = reports.map(({ doneBytes }) => doneBytes);
    expect(counts).toEqual(counts.toSorted((a, b) => a - b));
    expect(reports.at(-1)).toMatchObject({
      phase: 'download',
      doneBytes: 120_000,
      totalBytes: 120_000,
    });
  });
});

describe('local files', () => {
  /** One of two shards, with a tensor of so many bytes. */
  const shard = (number: number, bytes: number) =>
    writeGguf(
      [
        ['split.no', 'u16', number],
        ['split.count', 'u16', 2],
        ['split.tensors.count', 'i32', 2],
      ],
      [
        {
          name: `t${number}`,
          ne: [bytes / 4],
          type: 0,
          bytes: weights(bytes, number),
          offset: null,
        },
      ],
    );

  test('adopted files are read in place; kept ones from the store, after the files are gone', async () => {
    const bytes = [shard(0, 9000), shard(1, 150_000)];
    const files = bytes.map((part, i) => new File([part], `k-0000${i + 1}-of-00002.gguf`));
    const { library } = rig.tab();
    const adopted = await library.adopt([files[1]!, files[0]!]);
    const hashes = bytes.map(sha256Of);
    const totalBytes = bytes[0]!.length + bytes[1]!.length;
    const local = { model: adopted, shards: bytes, paths: [], bytes: totalBytes, hashes };
    expect(await readWhole(library, local)).toEqual(hashes);
    expect(await library.status(adopted)).toMatchObject({
      place: 'files',
      state: 'complete',
      name: 'k',
    });
    expect(await library.list()).toEqual([]);

    const reports: LoadProgress[] = [];
    const kept = await library.keep(adopted, (p) => void reports.push(p));
    expect(reports.at(-1)).toMatchObject({ doneBytes: totalBytes, totalBytes });
    const second = rig.tab().library;
    expect(await readWhole(second, { ...local, model: kept })).toEqual(hashes);
    expect(await second.list()).toMatchObject([{ name: 'k', storedBytes: totalBytes }]);
    expect(rig.server.asked).toEqual([]);

    await damage(rig, bytes[0]!);
    const third = rig.tab().library;
    await third.open(kept, noReport);
    await expect(rig.pass(third.read(kept, 0, 0, 10))).rejects.toMatchObject({
      name: 'ShardCorrupt',
      message: expect.stringContaining('open the file again'),
    });
  });

  test('what is no GGUF file is refused', async () => {
    const { library } = rig.tab();
    for (const files of [[], [new File(['x'], 'x.txt')], [new File([], 'x.gguf')]]) {
      await expect(library.adopt(files)).rejects.toMatchObject({ name: 'Refused' });
    }
    await expect(library.keep('files:x', noReport)).rejects.toMatchObject({ name: 'Refused' });
  });

  test('files that contradict themselves are refused before anyone would load them', async () => {
    const { library } = rig.tab();
    const [first, second] = [shard(0, 9000), shard(1, 9000)];
    const cases: [Uint8Array<ArrayBuffer>[], RegExp][] = [
      [[new Uint8Array(1)], /^m1\.gguf has 1 of the 24 bytes/],
      [[weights(5000, 1)], /^m1\.gguf is not a GGUF file/],
      [[first], /shard 1 of 2, but it came alone/],
      [[first, second.subarray(0, 5000)], /^m2\.gguf ends at byte 5000/],
      [[first, first], /both say they are shard 1 of 2/],
    ];
    for (const [parts, why] of cases) {
      const files = parts.map((part, i) => new File([part], `m${i + 1}.gguf`));
      await expect(library.adopt(files)).rejects.toMatchObject({
        name: 'BadModel',
        message: expect.stringMatching(why) as unknown,
      });
    }
  });

  test('files in an encoding that the engine does not read are taken: llama.cpp may read them', async () => {
    const mxfp4 = { name: 't', ne: [32], type: 39, bytes: weights(17, 1), offset: null };
    const { library } = rig.tab();
    const adopted = await library.adopt([new File([writeGguf([], [mxfp4])], 'm.gguf')]);
    expect(await library.status(adopted)).toMatchObject({ place: 'files', name: 'm' });
  });
});

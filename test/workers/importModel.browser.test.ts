/**
 * A checkpoint imported in a browser: made piece by piece into IndexedDB, broken off and gone on with, read back from there
 * by the engine on WebGPU, and saved as the file that llama.cpp loads.
 */
import { expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { Engine } from '../../workers/engine.ts';
import type { ByteSource } from '../../workers/gguf.ts';
import { FULL, Gpu } from '../../workers/gpu.ts';
import { Library } from '../../workers/library.ts';
import type { CheckpointPlace, Sampling } from '../../workers/protocol.ts';
import { sha256 } from '../../workers/sha256.ts';
import { diskShelf, Store } from '../../workers/store.ts';
import { limits } from '../../workers/transfer.ts';
import llama from '../fixtures/imported.json';

const greedy: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 0,
  seed: 1,
  maxTokens: 24,
  stop: [],
  candidates: 0,
};

/** The weights of a page, as download.worker.ts makes them. */
const openLibrary = () =>
  new Library(
    {
      fetch: (address, init) => fetch(address, init),
      clock: {
        now: () => Date.now(),
        sleep: (ms, signal) =>
          new Promise((resolve) => {
            const timer = setTimeout(resolve, ms);
            signal.addEventListener('abort', () => (clearTimeout(timer), resolve()));
          }),
      },
      locks: {
        request: <T>(name: string, options: LockOptions, work: (lock: Lock | null) => Promise<T>) =>
          navigator.locks.request(name, options, work) as Promise<T>,
      },
      random: () => Math.random(),
      estimate: () => navigator.storage.estimate(),
      common: null,
      persisted: () => navigator.storage.persisted(),
    },
    { ...limits, pieceBytes: 200_000, partBytes: 4096, connections: 2 },
    async () => new Store(await diskShelf('palimpsest-import-test')),
  );

const picked = (): CheckpointPlace => ({
  kind: 'files',
  name: 'tiny',
  files: [...tinyCheckpoint()].map(
    ([name, bytes]) => new File([bytes.slice()], name, { lastModified: 1 }),
  ),
});

test('as F32 it gives the tokens of llama.cpp, from the store, after a break', async () => {
  const first = openLibrary();
  const { choices } = await first.checkpoint(picked());
  const { model, bytes } = choices.find(({ encoding }) => encoding === 'F32')!;
  let paused: Promise<void> | undefined;
  await first.watch(model, ({ storedPieces }) => {
    if (storedPieces >= 4) paused ??= first.cancel(model);
  });
  await expect(first.download(model)).rejects.toMatchObject({ name: 'Refused' });
  await paused;
  await first.close(model);

  const library = openLibrary();
  await library.checkpoint(picked());
  const before = await library.status(model);
  expect(before).toMatchObject({ state: 'partial', totalBytes: bytes, place: 'disk' });
  expect(before.storedPieces).toBeGreaterThanOrEqual(4);
  await library.download(model);
  expect(await library.status(model)).toMatchObject({ state: 'complete', storedBytes: bytes });

  const file: ByteSource = {
    name: 'tiny-F32.gguf',
    byteLength: bytes,
    read: async (offset, count) => new Uint8Array(await library.read(model, 0, offset, count)),
  };
  const [shard] = await library.open(model, () => {});
  const whole = new Uint8Array(await library.read(model, 0, 0, bytes));
  expect(shard!.file).toBe('tiny-F32.gguf');
  expect(await sha256(whole)).toBe(llama.files['tiny-F32.gguf'].sha256);

  const gpu = await Gpu.open(navigator.gpu, FULL);
  const engine = await Engine.load({
    gpu,
    shards: [file],
    contextTokens: 256,
    report: () => {},
    clock: () => performance.now(),
  });
  const answer = await engine.generate({ kind: 'ids', ids: llama.prompt }, greedy, () => {});
  expect(answer.ids).toEqual(llama.files['tiny-F32.gguf'].tokens);
  engine.destroy();
  await library.close(model);
  await library.remove(model);
}, 120_000);

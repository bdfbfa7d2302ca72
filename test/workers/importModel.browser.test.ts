/**
 * A checkpoint imported in a browser: made piece by piece into IndexedDB, broken off and gone on with, read back from there
 * by the engine on WebGPU, and saved as the file that llama.cpp loads.
 */
import { expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { Engine } from '../../workers/engine.ts';
import type { ByteSource } from '../../workers/gguf.ts';
import { FULL, Gpu } from '../../workers/gpu.ts';
import { copyPieces, importCheckpoint, type PieceSink } from '../../workers/importModel.ts';
import { manifestOf } from '../../workers/manifest.ts';
import type { Sampling } from '../../workers/protocol.ts';
import { sha256 } from '../../workers/sha256.ts';
import { diskShelf, piecesOf, Store, type ModelRecord } from '../../workers/store.ts';
import llama from '../fixtures/imported.json';

const pieceBytes = 200_000;
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

const files = (): ByteSource[] =>
  [...tinyCheckpoint()].map(([name, bytes]) => ({
    name,
    byteLength: bytes.length,
    read: (offset, count) => Promise.resolve(bytes.slice(offset, offset + count)),
  }));

/** Pieces of one file in the store. */
function sinkOf(store: Store, record: ModelRecord): PieceSink & { puts: number } {
  const pieces = piecesOf(record);
  const sink = {
    pieceBytes,
    puts: 0,
    has: async (piece: number) => (await store.lookUp(record.model, pieces[piece])).held,
    put: async (piece: number, bytes: Uint8Array) => {
      sink.puts++;
      const whole = bytes.slice();
      await store.putPiece(record.model, pieces[piece], await sha256(whole), whole.buffer, 0);
    },
  };
  return sink;
}

/** What is stored, read as the engine reads any file. */
function stored(store: Store, record: ModelRecord): ByteSource {
  const pieces = piecesOf(record);
  return {
    name: 'stored.gguf',
    byteLength: record.manifest.bytes,
    async read(offset, count) {
      const out = new Uint8Array(count);
      for (const piece of pieces) {
        const from = Math.max(offset, piece.start);
        const until = Math.min(offset + count, piece.start + piece.bytes);
        if (from >= until) continue;
        const { sha256: hash } = await store.lookUp(record.model, piece);
        const bytes = new Uint8Array((await store.piece(hash!))!);
        out.set(bytes.subarray(from - piece.start, until - piece.start), from - offset);
      }
      return out;
    },
  };
}

test('as F32 it gives the tokens of llama.cpp, from the store, after a break', async () => {
  const about = { name: 'tiny', license: '' };
  const store = new Store(await diskShelf('palimpsest-import-test'));
  const gguf = await importCheckpoint(files(), about, 'F32');
  const record: ModelRecord = {
    model: 'kept:tiny',
    manifest: manifestOf('tiny', [{ file: gguf.name, bytes: gguf.byteLength }]),
    validators: [null],
    pieceBytes,
    agreed: [false],
    usedAt: 0,
  };
  await store.save(record);

  const stop = new AbortController();
  const first = sinkOf(store, record);
  const broken = copyPieces(
    gguf,
    first,
    (done) => done >= 4 * pieceBytes && stop.abort(new Error('the tab was closed')),
    stop.signal,
  );
  await expect(broken).rejects.toThrow('the tab was closed');
  const second = sinkOf(store, record);
  const again = await importCheckpoint(files(), about, 'F32');
  const reports: number[] = [];
  await copyPieces(again, second, (done) => reports.push(done), new AbortController().signal);
  expect(first.puts).toBeGreaterThanOrEqual(4);
  expect(first.puts + second.puts).toBe(piecesOf(record).length);
  expect(reports.at(-1)).toBe(gguf.byteLength);

  const file = stored(store, record);
  const whole = await file.read(0, file.byteLength);
  expect(await sha256(whole.slice())).toBe(llama.files['tiny-F32.gguf'].sha256);

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
  await store.remove(record.model);
}, 120_000);

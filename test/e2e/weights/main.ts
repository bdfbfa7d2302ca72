/** A page with nothing but the weights worker, for tests to call. */
import { createEndpoint, proxy, releaseProxy, type Remote, wrap } from 'comlink';
import type { Reading } from '../../../workers/browserLibrary.ts';
import { FileWeights } from '../../../workers/fileWeights.ts';
import { FULL, Gpu } from '../../../workers/gpu.ts';
import type { LoadProgress, WeightsApi, WeightsStatus } from '../../../workers/protocol.ts';
import { freeBytes } from '../../../workers/store.ts';
import * as peers from './peers.ts';
import * as stages from './stages.ts';

const worker = new Worker(new URL('../../../workers/download.worker.ts', import.meta.url), {
  type: 'module',
});
const weights = wrap<WeightsApi>(worker);

/** Bytes asked for at a time, as the engine asks. */
const rangeBytes = 8 * 1024 * 1024;

/** Each shard as one matrix of F32, by the engine's own way. */
async function upload(library: Remote<WeightsApi>, model: string): Promise<number> {
  const gpu = await Gpu.open(navigator.gpu, FULL);
  try {
    const shards = await library.open(
      model,
      proxy(() => {}),
    );
    const start = performance.now();
    const cols = 1024;
    const tensors = shards.map(({ file: name, bytes: byteLength }, shard) => {
      const ne = [cols, byteLength / 4 / cols];
      return { name, type: 'F32' as const, ne, offset: 0, byteLength, shard };
    });
    const file = {
      tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
      shards: shards.map(({ file: name, bytes: byteLength }, shard) => ({
        name,
        byteLength,
        read: async (offset: number, bytes: number) =>
          new Uint8Array(await library.read(model, shard, offset, bytes)),
      })),
    };
    const wanted = tensors.map((shape) => {
      const [, rows] = shape.ne;
      const codes = gpu.tensor('weights', shape.name, [shape.byteLength / 4]);
      return { shape, part: { firstRow: 0, rows: rows!, offset: 0, codes, scales: null } };
    });
    await new FileWeights(gpu, file, () => {}).bring(wanted);
    // Writes are handed over with the next work that is submitted, and reading a number back is work.
    for (const { part } of wanted) await gpu.read(part.codes, part.codes.bytes / 4 - 1, 1);
    return performance.now() - start;
  } finally {
    gpu.destroy();
  }
}

const lab = {
  ...peers,
  ...stages,

  /** Reports of the last download, as they came. */
  reports: [] as LoadProgress[],
  statuses: [] as WeightsStatus[],

  status: (model: string) => weights.status(model),
  list: () => weights.list(),
  room: () => weights.room(),
  remove: (model: string) => weights.remove(model),
  close: (model: string) => weights.close(model),
  verify: (model: string) =>
    weights.verify(
      model,
      proxy(() => {}),
    ),

  async watch(model: string): Promise<void> {
    await weights.watch(
      model,
      proxy((status) => void lab.statuses.push(status)),
    );
  },

  async download(model: string): Promise<void> {
    await weights.open(
      model,
      proxy((progress) => void lab.reports.push(progress)),
    );
    await weights.download(model);
  },

  /** SHA-256 of each shard, read through a port of its own as the engine reads. */
  async read(model: string): Promise<string[]> {
    const port = await weights[createEndpoint]();
    const engineSide = wrap<WeightsApi>(port);
    const shards = await engineSide.open(
      model,
      proxy((progress) => void lab.reports.push(progress)),
    );
    const hashes: string[] = [];
    for (const [shard, { bytes }] of shards.entries()) {
      const whole = new Uint8Array(bytes);
      for (let at = 0; at < bytes; at += rangeBytes) {
        const range = Math.min(rangeBytes, bytes - at);
        whole.set(new Uint8Array(await engineSide.read(model, shard, at, range)), at);
      }
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', whole));
      hashes.push(Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join(''));
    }
    return hashes;
  },

  /** Milliseconds to read a whole model; each range is let go at once, as after an upload. */
  async timeRead(model: string): Promise<number> {
    const shards = await weights.open(
      model,
      proxy(() => {}),
    );
    const start = performance.now();
    for (const [shard, { bytes }] of shards.entries()) {
      for (let at = 0; at < bytes; at += rangeBytes) {
        const range = await weights.read(model, shard, at, Math.min(rangeBytes, bytes - at));
        freeBytes(range);
      }
    }
    return performance.now() - start;
  },

  /** Milliseconds to read a whole model into buffers of the GPU as the engine does, until it holds all of it. */
  timeUpload: (model: string): Promise<number> => upload(weights, model),

  /** The same by readers of whatever number. */
  async timeReadersUpload(model: string, reading: Reading): Promise<number> {
    const worker = new Worker(new URL('./library.worker.ts', import.meta.url), {
      type: 'module',
      name: JSON.stringify(reading),
    });
    const library = wrap<WeightsApi>(worker);
    try {
      await library.open(
        model,
        proxy(() => {}),
      );
      freeBytes(await library.read(model, 0, 0, rangeBytes)); // the threads are started
      return await upload(library, model);
    } finally {
      library[releaseProxy]();
      setTimeout(() => worker.terminate(), 1000); // its times are read first
    }
  },

  /** Milliseconds until as many bytes of the page's memory are in buffers of the GPU. */
  async timeWrites(bytes: number, pieceBytes: number): Promise<number> {
    const gpu = await Gpu.open(navigator.gpu, FULL);
    const range = new Uint32Array(rangeBytes / 4).fill(7);
    try {
      const start = performance.now();
      for (let at = 0; at < bytes; at += pieceBytes) {
        const buffer = gpu.tensor('weights', 'piece', [pieceBytes / 4]);
        for (let to = 0; to < pieceBytes; to += rangeBytes) gpu.write(buffer, to / 4, range);
        await gpu.read(buffer, pieceBytes / 4 - 1, 1);
      }
      return performance.now() - start;
    } finally {
      gpu.destroy();
    }
  },

  async adopt(files: File[]): Promise<string> {
    return weights.adopt(files);
  },
};

export type Lab = typeof lab;
Object.assign(globalThis, { lab });

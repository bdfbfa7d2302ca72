/** A page with nothing but the weights worker, for tests to call. */
import { createEndpoint, proxy, type Remote, wrap } from 'comlink';
import { FileWeights } from '../../../workers/fileWeights.ts';
import { FULL, Gpu } from '../../../workers/gpu.ts';
import type { LoadProgress, WeightsApi, WeightsStatus } from '../../../workers/protocol.ts';
import { freeBytes } from '../../../workers/store.ts';
import * as peers from './peers.ts';

const worker = new Worker(new URL('../../../workers/download.worker.ts', import.meta.url), {
  type: 'module',
});
const weights = wrap<WeightsApi>(worker);

/** Bytes asked for at a time, as the engine asks. */
const rangeBytes = 8 * 1024 * 1024;

/** Weights workers with readers of another number, by that number. */
const libraries = new Map<number, Remote<WeightsApi>>();

function libraryOf(readers: number): Remote<WeightsApi> {
  let library = libraries.get(readers);
  if (!library) {
    const worker = new Worker(new URL('./library.worker.ts', import.meta.url), {
      type: 'module',
      name: String(readers),
    });
    library = wrap<WeightsApi>(worker);
    libraries.set(readers, library);
  }
  return library;
}

/** Milliseconds until shards of so many bytes, each one matrix of F32, are on the GPU by the engine's own way. */
async function bring(
  shardBytes: number[],
  read: (shard: number, offset: number, bytes: number) => Promise<ArrayBuffer>,
): Promise<number> {
  const gpu = await Gpu.open(navigator.gpu, FULL);
  try {
    const start = performance.now();
    const cols = 1024;
    const tensors = shardBytes.map((byteLength, shard) => {
      const ne = [cols, byteLength / 4 / cols];
      return { name: `${shard}`, type: 'F32' as const, ne, offset: 0, byteLength, shard };
    });
    const file = {
      tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
      shards: tensors.map(({ name, byteLength, shard }) => ({
        name,
        byteLength,
        read: async (offset: number, bytes: number) =>
          new Uint8Array(await read(shard, offset, bytes)),
      })),
    };
    const wanted = tensors.map((shape) => {
      const [, rows] = shape.ne;
      const codes = gpu.tensor('weights', shape.name, [shape.byteLength / 4]);
      return { shape, part: { firstRow: 0, rows: rows!, offset: 0, codes, scales: null } };
    });
    await new FileWeights(gpu, file, () => {}).bring(wanted);
    return performance.now() - start;
  } finally {
    gpu.destroy();
  }
}

async function upload(library: Remote<WeightsApi>, model: string): Promise<number> {
  const shards = await library.open(
    model,
    proxy(() => {}),
  );
  return bring(
    shards.map(({ bytes }) => bytes),
    (shard, offset, bytes) => library.read(model, shard, offset, bytes),
  );
}

const lab = {
  ...peers,

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

  /** The same with so many reading threads. */
  async timeReadersUpload(model: string, readers: number): Promise<number> {
    const library = libraryOf(readers);
    await library.open(
      model,
      proxy(() => {}),
    );
    freeBytes(await library.read(model, 0, 0, rangeBytes)); // the threads are started
    return upload(library, model);
  },

  /** The same with bytes of this thread's memory. */
  timeWrites: (bytes: number, pieceBytes: number): Promise<number> =>
    bring(
      Array.from({ length: bytes / pieceBytes }, () => pieceBytes),
      (_, __, bytes) => Promise.resolve(new ArrayBuffer(bytes)),
    ),

  async adopt(files: File[]): Promise<string> {
    return weights.adopt(files);
  },
};

export type Lab = typeof lab;
Object.assign(globalThis, { lab });

/** A page with nothing but the weights worker, for tests to call. */
import { createEndpoint, proxy, wrap } from 'comlink';
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

  /** Milliseconds to read a whole model into buffers of the GPU, until it holds all of it. */
  async timeUpload(model: string): Promise<number> {
    const gpu = await Gpu.open(navigator.gpu, FULL);
    try {
      const shards = await weights.open(
        model,
        proxy(() => {}),
      );
      const start = performance.now();
      for (const [shard, { file, bytes }] of shards.entries()) {
        const buffer = gpu.tensor('weights', file, [bytes / 4]);
        for (let at = 0; at < bytes; at += rangeBytes) {
          const range = await weights.read(model, shard, at, Math.min(rangeBytes, bytes - at));
          gpu.write(buffer, at / 4, new Uint32Array(range));
          freeBytes(range);
        }
        // Writes are handed over with the next work that is submitted, and reading a number back is work.
        await gpu.read(buffer, bytes / 4 - 1, 1);
      }
      return performance.now() - start;
    } finally {
      gpu.destroy();
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

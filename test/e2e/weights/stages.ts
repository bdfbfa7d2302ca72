/**
 * The stages of the way from the store into the GPU, alone and together: several readers, each with a thread of its own, spans
 * of one size or another, and each way to write into a buffer of the GPU. Every function answers milliseconds.
 */
import { releaseProxy, wrap, type Remote } from 'comlink';
import { freeBytes } from '../../../workers/store.ts';
import type { Reader, Way } from './stages.worker.ts';

const KiB = 1024;
const pieceBytes = 16 * KiB * KiB;

interface Span {
  sha256: string;
  /** Of the model. */
  at: number;
  start: number;
  end: number;
}

/** So many workers, and what `use` does with them; `ahead` calls each are under way at a time. */
async function withReaders<T>(
  count: number,
  use: (readers: Remote<Reader>[]) => Promise<T>,
): Promise<T> {
  const workers = Array.from(
    { length: count },
    () => new Worker(new URL('./stages.worker.ts', import.meta.url), { type: 'module' }),
  );
  const readers = workers.map((worker) => wrap<Reader>(worker));
  try {
    await Promise.all(readers.map((reader) => reader.hash(0, 0)));
    return await use(readers);
  } finally {
    for (const reader of readers) reader[releaseProxy]();
    // Not at once: their times are read first.
    setTimeout(() => workers.forEach((worker) => worker.terminate()), 1000);
  }
}

async function storedHashes(): Promise<string[]> {
  const opening = indexedDB.open('palimpsest');
  const database = await new Promise<IDBDatabase>((resolve, reject) => {
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error!);
  });
  const asked = database
    .transaction('weights')
    .objectStore('weights')
    .getAllKeys(IDBKeyRange.bound(['piece'], ['piece', []]));
  const keys = await new Promise<IDBValidKey[]>((resolve) => {
    asked.onsuccess = () => resolve(asked.result);
  });
  database.close();
  return keys.map((key) => (key as string[])[1]!);
}

async function spansOf(spanBytes: number): Promise<Span[]> {
  return (await storedHashes()).flatMap((sha256, i) =>
    Array.from({ length: pieceBytes / spanBytes }, (_, j): Span => ({
      sha256,
      at: i * pieceBytes + j * spanBytes,
      start: j * spanBytes,
      end: (j + 1) * spanBytes,
    })),
  );
}

/** All spans by all readers, `ahead` under way with each; `use` has them in their order and may keep the next waiting. */
async function pour(
  readers: Remote<Reader>[],
  way: Way,
  spanBytes: number,
  ahead: number,
  use: (bytes: ArrayBuffer, at: number) => Promise<void> | void,
): Promise<number> {
  const spans = await spansOf(spanBytes);
  const start = performance.now();
  const underWay: Promise<ArrayBuffer>[] = [];
  let asked = 0;
  const ask = () => {
    const { sha256, start, end } = spans[asked]!;
    // Neighbours go to different readers, so that those at work are on few pieces.
    const read = readers[asked++ % readers.length]!.read(sha256, start, end, way);
    underWay.push(read as Promise<ArrayBuffer>);
  };
  for (const { at } of spans) {
    while (asked < spans.length && underWay.length < ahead * readers.length) ask();
    const bytes = await underWay.shift()!;
    await use(bytes, at);
    freeBytes(bytes);
  }
  return performance.now() - start;
}

/** Gets, hashed or not, of as many readers as are said. */
export function timeGets(count: number, way: Way, spanBytes: number, ahead: number) {
  return withReaders(count, (readers) => pour(readers, way, spanBytes, ahead, () => {}));
}

/** Hashes of leaves of as many workers at once. */
export function timeHashes(count: number, bytes: number): Promise<number> {
  return withReaders(count, async (readers) => {
    const start = performance.now();
    await Promise.all(readers.map((reader) => reader.hash(bytes / count, 512 * KiB)));
    return performance.now() - start;
  });
}

// ---------------------------------------------------------------------------------------------------- writing

export type Writing =
  | { by: 'writeBuffer'; partBytes: number }
  | { by: 'ring'; partBytes: number; parts: number }
  | { by: 'mapped' };

/** Takes bytes into buffers of 16 MiB, one after another. */
interface Writer {
  write(bytes: ArrayBuffer, at: number): Promise<void> | void;
  end(): Promise<void>;
}

function writerBy(device: GPUDevice, writing: Writing): Writer {
  const buffers: GPUBuffer[] = [];
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  const { queue } = device;
  const at = (place: number, mappedAtCreation: boolean) =>
    (buffers[Math.floor(place / pieceBytes)] ??= device.createBuffer({
      size: pieceBytes,
      usage,
      mappedAtCreation,
    }));
  /** What is handed over and not done yet is two pieces at most. */
  let before: Promise<unknown> = Promise.resolve();
  const keepUp = async (place: number, bytes: number) => {
    if ((place + bytes) % (pieceBytes / 2) !== 0) return;
    await before;
    queue.submit([]);
    before = queue.onSubmittedWorkDone();
  };
  const end = async () => {
    queue.submit([]);
    await queue.onSubmittedWorkDone();
    const probe = device.createBuffer({
      size: 16,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffers.at(-1)!, pieceBytes - 16, probe, 0, 16);
    queue.submit([encoder.finish()]);
    await probe.mapAsync(GPUMapMode.READ);
  };

  if (writing.by === 'writeBuffer') {
    return {
      write(bytes, place) {
        const buffer = at(place, false);
        for (let part = 0; part < bytes.byteLength; part += writing.partBytes) {
          const size = Math.min(writing.partBytes, bytes.byteLength - part);
          queue.writeBuffer(buffer, (place % pieceBytes) + part, bytes, part, size);
        }
        return keepUp(place, bytes.byteLength);
      },
      end,
    };
  }

  if (writing.by === 'mapped') {
    let mapped: Uint8Array | null = null;
    return {
      write(bytes, place) {
        const buffer = at(place, true);
        mapped ??= new Uint8Array(buffer.getMappedRange());
        mapped.set(new Uint8Array(bytes), place % pieceBytes);
        if ((place + bytes.byteLength) % pieceBytes !== 0) return;
        buffer.unmap();
        mapped = null;
        return keepUp(place, bytes.byteLength);
      },
      end,
    };
  }

  const ring = Array.from({ length: writing.parts }, () =>
    device.createBuffer({
      size: writing.partBytes,
      usage: GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC,
      mappedAtCreation: true,
    }),
  );
  const ready = ring.map(() => Promise.resolve());
  let turn = 0;
  return {
    async write(bytes, place) {
      const buffer = at(place, false);
      for (let part = 0; part < bytes.byteLength; part += writing.partBytes) {
        const size = Math.min(writing.partBytes, bytes.byteLength - part);
        const slot = turn++ % ring.length;
        await ready[slot];
        const staging = ring[slot]!;
        new Uint8Array(staging.getMappedRange(0, size)).set(new Uint8Array(bytes, part, size));
        staging.unmap();
        const encoder = device.createCommandEncoder();
        encoder.copyBufferToBuffer(staging, 0, buffer, (place % pieceBytes) + part, size);
        queue.submit([encoder.finish()]);
        ready[slot] = staging.mapAsync(GPUMapMode.WRITE);
      }
    },
    async end() {
      await Promise.all(ready);
      await end();
    },
  };
}

async function withDevice<T>(use: (device: GPUDevice) => Promise<T>): Promise<T> {
  const adapter = (await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }))!;
  const device = await adapter.requestDevice();
  try {
    return await use(device);
  } finally {
    device.destroy();
  }
}

/** The page's memory into the GPU, `spanBytes` at a time. */
export function timeWriting(bytes: number, spanBytes: number, writing: Writing): Promise<number> {
  const span = new Uint8Array(spanBytes).fill(7).buffer;
  return withDevice(async (device) => {
    const start = performance.now();
    const writer = writerBy(device, writing);
    for (let at = 0; at < bytes; at += spanBytes) await writer.write(span, at);
    await writer.end();
    return performance.now() - start;
  });
}

/** All stages at once: the rate that there is to be had. */
export function timeTogether(
  count: number,
  way: Way,
  spanBytes: number,
  ahead: number,
  writing: Writing,
): Promise<number> {
  return withDevice((device) =>
    withReaders(count, async (readers) => {
      const start = performance.now();
      const writer = writerBy(device, writing);
      await pour(readers, way, spanBytes, ahead, (bytes, at) => writer.write(bytes, at));
      await writer.end();
      return performance.now() - start;
    }),
  );
}

/** A file's tensors reach the GPU in whatever pieces it is read. The numbers themselves are quant.test.ts's and model.test.ts's. */
import { describe, expect, test } from 'vitest';
import { FileWeights } from '../../workers/fileWeights.ts';
import type { GgufFile, TensorEntry } from '../../workers/gguf.ts';
import type { Gpu, Tensor } from '../../workers/gpu.ts';
import type { LoadProgress } from '../../workers/protocol.ts';
import { repack } from '../../workers/quant.ts';
import type { MatrixPart, Wanted } from '../../workers/weights.ts';

const MiB = 1024 * 1024;

/** A device that keeps what is written, as bytes by the tensor's name. */
function fakeGpu() {
  const written = new Map<string, Uint8Array>();
  const gpu = {
    bytes: { weights: 1 },
    written: () => Promise.resolve(),
    write({ name, bytes }: Tensor, element: number, values: Uint32Array | Float32Array) {
      const into = written.get(name) ?? new Uint8Array(bytes);
      written.set(name, into);
      into.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 4 * element);
    },
  };
  return { gpu: gpu as unknown as Gpu & typeof gpu, written };
}

/** Shards of random bytes with tensors in them: name -> shard, offset, type and extents. */
function fakeFile(sizes: number[], tensors: Omit<TensorEntry, 'byteLength'>[]) {
  const reads: [shard: number, offset: number, bytes: number][] = [];
  const contents = sizes.map((size, shard) =>
    // Below 2^5 in every second byte: as f16, a scale that repacking takes.
    Uint8Array.from({ length: size }, (_, i) => (Math.imul(i + shard, 2654435761) >>> 27) & 31),
  );
  const file = {
    tensors: new Map(
      tensors.map((t) => {
        const numbers = t.ne.reduce((a, b) => a * b);
        return [t.name, { ...t, byteLength: t.type === 'F32' ? 4 * numbers : (18 * numbers) / 32 }];
      }),
    ),
    shards: contents.map((bytes, shard) => ({
      name: `${shard}.gguf`,
      byteLength: bytes.length,
      read: (offset: number, count: number) => {
        reads.push([shard, offset, count]);
        return Promise.resolve(bytes.slice(offset, offset + count));
      },
    })),
  };
  return { file: file as unknown as GgufFile, contents, reads };
}

const tensor = (name: string, bytes: number) => ({ name, bytes }) as Tensor;

function rows(shape: TensorEntry, firstRow: number, count: number): MatrixPart {
  const codes = tensor(`${shape.name} ${firstRow}`, (count * shape.ne[0]! * 18) / 32);
  return { firstRow, rows: count, offset: 0, codes, scales: null };
}

describe('what is wanted of a file', () => {
  // 3.4 MiB in rows of 324 bytes, in the second shard; behind it a vector, and far off another one.
  const { file, contents, reads } = fakeFile(
    [1000, 5 * MiB],
    [
      { name: 'norm', type: 'F32', ne: [100], shard: 0, offset: 400 },
      { name: 'bias', type: 'F32', ne: [64], shard: 0, offset: 96 },
      { name: 'matrix', type: 'Q4_0', ne: [576, 11_000], shard: 1, offset: 320 },
      { name: 'near', type: 'F32', ne: [32], shard: 1, offset: 320 + 11_000 * 324 + 64 },
      { name: 'far', type: 'F32', ne: [32], shard: 1, offset: 5 * MiB - 128 },
    ],
  );
  const entry = (name: string) => file.tensors.get(name)!;
  const values = (name: string, into: Map<string, Float32Array>): Wanted => ({
    shape: entry(name),
    take: (taken) => into.set(name, taken),
  });
  const bytesOf = (name: string, from = 0, to = entry(name).byteLength) => {
    const { shard, offset } = entry(name);
    return contents[shard]!.slice(offset + from, offset + to);
  };

  test('comes whole, in few reads that go forward, neighbours together', async () => {
    reads.length = 0;
    const { gpu, written } = fakeGpu();
    const taken = new Map<string, Float32Array>();
    const reports: LoadProgress[] = [];
    const source = new FileWeights(gpu, file, (p) => reports.push(p));
    const [upper, lower] = [rows(entry('matrix'), 0, 8000), rows(entry('matrix'), 8000, 3000)];
    await source.bring([
      values('far', taken),
      { shape: entry('matrix'), part: upper },
      values('near', taken),
      { shape: entry('matrix'), part: lower },
      values('norm', taken),
      values('bias', taken),
      values('norm', taken),
    ]);
    for (const name of ['norm', 'bias', 'near', 'far'])
      expect(new Uint8Array(taken.get(name)!.buffer)).toEqual(bytesOf(name));
    for (const { firstRow, rows: count, codes } of [upper, lower]) {
      const own = bytesOf('matrix', 324 * firstRow, 324 * (firstRow + count));
      const packed = new Uint8Array(repack('Q4_0', own, count, 576).codes.buffer);
      expect(Buffer.compare(written.get(codes.name)!, packed)).toBe(0);
    }
    expect(reads[0]).toEqual([0, 96, 704]);
    expect(reads.length).toBeLessThanOrEqual(5);
    const ends = reads.map(([shard, offset, bytes]) => 1e9 * shard + offset + bytes);
    expect(ends).toEqual(ends.toSorted((a, b) => a - b));
    expect(Math.max(...reads.map(([, , bytes]) => bytes))).toBeLessThanOrEqual(2 * MiB);
    const total = reads.reduce((sum, [, , bytes]) => sum + bytes, 0);
    expect(reports.at(-1)).toMatchObject({ phase: 'upload', doneBytes: total, totalBytes: total });
  });

  test('is not read on once the device is given up', async () => {
    reads.length = 0;
    const { gpu } = fakeGpu();
    const source = new FileWeights(gpu, file, () => (gpu.bytes.weights = 0));
    await source.bring([{ shape: entry('matrix'), part: rows(entry('matrix'), 0, 11_000) }]);
    expect(reads.length).toBe(2);
  });

  test('and cannot be read, or is too little, fails once', async () => {
    const { gpu } = fakeGpu();
    const wanted = [{ shape: entry('matrix'), part: rows(entry('matrix'), 0, 11_000) }];
    const cut = { ...file, shards: file.shards.map((s) => ({ ...s, read: broken })) };
    let left = 1;
    async function broken(_: number, count: number) {
      if (left-- === 0) throw new Error('unplugged');
      return new Uint8Array(count);
    }
    await expect(new FileWeights(gpu, cut, () => {}).bring(wanted)).rejects.toThrow('unplugged');
    const little = async () => new Uint8Array(5);
    const short = { ...file, shards: file.shards.map((s) => ({ ...s, read: little })) };
    await expect(new FileWeights(gpu, short, () => {}).bring(wanted)).rejects.toMatchObject({
      name: 'BadModel',
    });
    expect(() => new FileWeights(gpu, file, () => {}).entry('none')).toThrow('no tensor none');
  });
});

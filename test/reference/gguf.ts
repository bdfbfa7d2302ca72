/**
 * A small GGUF v3 reader for the oracle: whole files or split ones, read at once, values as float32.
 *
 * A file is: magic "GGUF", version, tensor count, metadata count (u64 each); metadata (key, type, value);
 * tensor entries (name, axes fastest first, type, offset); padding to the alignment; tensor bytes.
 * A split file is NAME-0000i-of-0000n.gguf: the first has the metadata, every tensor lies whole in one of them.
 *
 * Block formats hold 32 numbers each. d and m are f16, a nibble byte j holds number j (low) and j + 16 (high):
 *   Q4_0  d, 16 nibble bytes                    (nibble - 8) d
 *   Q4_1  d, m, 16 nibble bytes                  nibble d + m
 *   Q5_0  d, 32 fifth bits, 16 nibble bytes     (nibble + 16 bit - 16) d
 *   Q5_1  d, m, 32 fifth bits, 16 nibble bytes  (nibble + 16 bit) d + m
 *   Q8_0  d, 32 signed bytes                     byte d
 */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

export type Metadata = number | bigint | boolean | string | Metadata[];

/** One tensor, decoded on demand. `shape` is slowest axis first, as the arrays of the oracle are laid out. */
export interface Tensor {
  name: string;
  type: TensorType;
  shape: number[];
  /** `count` numbers from number `from` on, both multiples of 32 where the type has blocks. Not cached. */
  read(from: number, count: number): Float32Array;
}

export interface Gguf {
  metadata: Map<string, Metadata>;
  tensors: Map<string, Tensor>;
}

/** Tensor types by their GGUF number: how many numbers a block holds, and in how many bytes. */
const tensorTypes = {
  F32: { id: 0, block: 1, bytes: 4 },
  F16: { id: 1, block: 1, bytes: 2 },
  Q4_0: { id: 2, block: 32, bytes: 18 },
  Q4_1: { id: 3, block: 32, bytes: 20 },
  Q5_0: { id: 6, block: 32, bytes: 22 },
  Q5_1: { id: 7, block: 32, bytes: 24 },
  Q8_0: { id: 8, block: 32, bytes: 34 },
  BF16: { id: 30, block: 1, bytes: 2 },
} as const;

export type TensorType = keyof typeof tensorTypes;

/** Open a file, any shard of a split file, or a folder that holds one split file. Throws Error with the path. */
export function openGguf(path: string): Gguf {
  const shards = shardPaths(path).map(readShard);
  return {
    metadata: shards[0].metadata,
    tensors: new Map(shards.flatMap(({ tensors }) => tensors.map((t) => [t.name, t]))),
  };
}

function shardPaths(path: string): string[] {
  const numbered = /-(\d{5})-of-(\d{5})\.gguf$/;
  if (statSync(path).isDirectory()) {
    const first = readdirSync(path).filter((file) => numbered.exec(file)?.[1] === '00001');
    if (first.length !== 1) throw new Error(`${path}: ${first.length} split GGUF files, not one`);
    return shardPaths(join(path, first[0]));
  }
  const split = numbered.exec(path);
  if (!split) return [path];
  return Array.from({ length: Number(split[2]) }, (_, i) => {
    const shard = path.replace(numbered, `-${String(i + 1).padStart(5, '0')}-of-${split[2]}.gguf`);
    if (!existsSync(shard))
      throw new Error(`${shard}: shard ${i + 1} of ${Number(split[2])} is missing`);
    return shard;
  });
}

function readShard(path: string): { metadata: Map<string, Metadata>; tensors: Tensor[] } {
  const bytes = readFileSync(path);
  const read = reader(bytes);
  const [magic, version] = [read.u32(), read.u32()];
  if (magic !== 0x46554747 || version !== 3) throw new Error(`${path}: not a GGUF v3 file`);
  const [tensorCount, metadataCount] = [read.count(), read.count()];

  const metadata = new Map<string, Metadata>();
  for (let i = 0; i < metadataCount; i++) {
    const key = read.string();
    metadata.set(key, read.value(read.u32()));
  }
  const entries = Array.from({ length: tensorCount }, () => {
    const name = read.string();
    const shape = Array.from({ length: read.u32() }, () => read.count()).reverse();
    return { name, shape, id: read.u32(), offset: read.count() };
  });

  const alignment = Number(metadata.get('general.alignment') ?? 32);
  const start = Math.ceil(read.position() / alignment) * alignment;
  const tensors = entries.map(({ name, shape, id, offset }): Tensor => {
    const type = typeNames.find((candidate) => tensorTypes[candidate].id === id);
    if (!type)
      throw new Error(`${path}: ${name} has tensor type ${id}, which the oracle does not read`);
    const { block, bytes: blockBytes } = tensorTypes[type];
    return {
      name,
      type,
      shape,
      read(from, count) {
        const at = start + offset + (from / block) * blockBytes;
        return dequantise(type, bytes.subarray(at, at + (count / block) * blockBytes));
      },
    };
  });
  return { metadata, tensors };
}

const typeNames = Object.keys(tensorTypes) as TensorType[];

/** A cursor over the little-endian header. */
function reader(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder();
  let at = 0;
  const advance = (size: number) => (at += size) - size;
  const u32 = () => view.getUint32(advance(4), true);
  const count = () => Number(view.getBigUint64(advance(8), true));
  const string = () => {
    const length = count();
    const from = advance(length);
    return text.decode(bytes.subarray(from, from + length));
  };
  const value = (type: number): Metadata => {
    switch (type) {
      case 0:
        return view.getUint8(advance(1));
      case 1:
        return view.getInt8(advance(1));
      case 2:
        return view.getUint16(advance(2), true);
      case 3:
        return view.getInt16(advance(2), true);
      case 4:
        return u32();
      case 5:
        return view.getInt32(advance(4), true);
      case 6:
        return view.getFloat32(advance(4), true);
      case 7:
        return view.getUint8(advance(1)) !== 0;
      case 8:
        return string();
      case 9: {
        const item = u32();
        return Array.from({ length: count() }, () => value(item));
      }
      case 10:
        return view.getBigUint64(advance(8), true);
      case 11:
        return view.getBigInt64(advance(8), true);
      case 12:
        return view.getFloat64(advance(8), true);
      default:
        throw new Error(`metadata type ${type} at byte ${at} is not one of GGUF's 0 to 12`);
    }
  };
  return { u32, count, string, value, position: () => at };
}

// ------------------------------------------------------------------------------------ stored numbers

/** Stored bytes to float32, bit for bit what ggml gives: products are exact, the one sum is rounded once. */
export function dequantise(type: TensorType, bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { block, bytes: blockBytes } = tensorTypes[type];
  const blocks = bytes.length / blockBytes;
  const out = new Float32Array(blocks * block);
  for (let b = 0; b < blocks; b++) {
    decodeBlock[type](view, b * blockBytes, out, b * block);
  }
  return out;
}

type DecodeBlock = (view: DataView, at: number, out: Float32Array, to: number) => void;

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

const decodeBlock: Record<TensorType, DecodeBlock> = {
  F32(view, at, out, to) {
    out[to] = view.getFloat32(at, true);
  },
  F16(view, at, out, to) {
    out[to] = half(view, at);
  },
  BF16(view, at, out, to) {
    bits[0] = view.getUint16(at, true) << 16;
    out[to] = float[0];
  },
  Q4_0(view, at, out, to) {
    const d = half(view, at);
    for (let j = 0; j < 32; j++) out[to + j] = (nibble(view, at + 2, j) - 8) * d;
  },
  Q4_1(view, at, out, to) {
    const [d, m] = [half(view, at), half(view, at + 2)];
    for (let j = 0; j < 32; j++) out[to + j] = nibble(view, at + 4, j) * d + m;
  },
  Q5_0(view, at, out, to) {
    const d = half(view, at);
    const fifth = view.getUint32(at + 2, true);
    for (let j = 0; j < 32; j++) {
      out[to + j] = (nibble(view, at + 6, j) + 16 * ((fifth >>> j) & 1) - 16) * d;
    }
  },
  Q5_1(view, at, out, to) {
    const [d, m] = [half(view, at), half(view, at + 2)];
    const fifth = view.getUint32(at + 4, true);
    for (let j = 0; j < 32; j++) {
      out[to + j] = (nibble(view, at + 8, j) + 16 * ((fifth >>> j) & 1)) * d + m;
    }
  },
  Q8_0(view, at, out, to) {
    const d = half(view, at);
    for (let j = 0; j < 32; j++) out[to + j] = view.getInt8(at + 2 + j) * d;
  },
};

function nibble(view: DataView, at: number, j: number): number {
  const byte = view.getUint8(at + (j & 15));
  return j < 16 ? byte & 15 : byte >> 4;
}

/** IEEE half precision: sign, 5 exponent bits, 10 fraction bits; exponent 0 is subnormal, 31 is infinity or NaN. */
function half(view: DataView, at: number): number {
  const h = view.getUint16(at, true);
  const sign = h & 0x8000 ? -1 : 1;
  const exponent = (h >> 10) & 31;
  const fraction = (h & 1023) / 1024;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

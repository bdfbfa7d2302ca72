/** Writes GGUF for tests: sound files, and files broken in any field. Also the byte sources that tests read from. */
import { open } from 'node:fs/promises';
import type { ByteSource } from '../../workers/gguf.ts';

/** GGUF's value types by number. */
export const VALUE = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

export type ValueType = keyof typeof VALUE;

/** One key: `[key, type, value]`, or `[key, [element type], values]` for an array. */
export type KeyRow =
  | [key: string, type: ValueType, value: number | bigint | boolean | string]
  | [key: string, type: [ValueType], values: ArrayLike<number | bigint | boolean | string>];

export interface TensorRow {
  name: string;
  ne: (number | bigint)[];
  /** ggml's number of the type. */
  type: number;
  bytes: Uint8Array;
  /** In the tensor data; null for the next aligned place. */
  offset: number | bigint | null;
}

export interface GgufPlan {
  magic: string;
  version: number;
  alignment: number;
  keys: KeyRow[];
  tensors: TensorRow[];
  /** Counts in the header, where they are to lie. */
  tensorCount: number | bigint;
  keyCount: number | bigint;
}

/** Bytes of a GGUF file. Fields of `lies` replace what would be true. */
export function writeGguf(
  keys: KeyRow[],
  tensors: TensorRow[],
  lies: Partial<GgufPlan> = {},
): Uint8Array<ArrayBuffer> {
  const plan: GgufPlan = {
    magic: 'GGUF',
    version: 3,
    alignment: 32,
    keys,
    tensors,
    tensorCount: tensors.length,
    keyCount: keys.length,
    ...lies,
  };
  const header = new Bytes();
  for (const letter of plan.magic) header.number('u8', letter.charCodeAt(0));
  header.number('u32', plan.version);
  header.number('u64', plan.tensorCount);
  header.number('u64', plan.keyCount);
  for (const [key, type, value] of plan.keys) {
    header.string(key);
    if (typeof type === 'string') {
      header.number('u32', VALUE[type]);
      header.value(type, value as string);
    } else {
      const values = Array.from(value as ArrayLike<string>);
      header.number('u32', VALUE.array);
      header.number('u32', VALUE[type[0]]);
      header.number('u64', values.length);
      for (const v of values) header.value(type[0], v);
    }
  }
  const tensorBytes = new Bytes();
  for (const { name, ne, type, bytes, offset } of plan.tensors) {
    tensorBytes.pad(plan.alignment);
    header.string(name);
    header.number('u32', ne.length);
    for (const extent of ne) header.number('u64', extent);
    header.number('u32', type);
    header.number('u64', offset ?? tensorBytes.length);
    tensorBytes.append(bytes);
  }
  header.pad(plan.alignment);
  tensorBytes.pad(plan.alignment);
  header.append(tensorBytes.all());
  return header.all();
}

/** A growing run of little-endian bytes. */
export class Bytes {
  #bytes = new Uint8Array(1024);
  length = 0;

  #room(more: number): DataView {
    if (this.length + more > this.#bytes.length) {
      const larger = new Uint8Array(2 * (this.length + more));
      larger.set(this.#bytes.subarray(0, this.length));
      this.#bytes = larger;
    }
    this.length += more;
    return new DataView(this.#bytes.buffer, this.length - more, more);
  }

  append(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.length - bytes.length);
  }

  pad(alignment: number): void {
    this.append(new Uint8Array((alignment - (this.length % alignment)) % alignment));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.number('u64', bytes.length);
    this.append(bytes);
  }

  value(type: ValueType, value: number | bigint | boolean | string): void {
    if (typeof value === 'string') this.string(value);
    else this.number(type, typeof value === 'boolean' ? Number(value) : value);
  }

  number(type: ValueType, value: number | bigint): void {
    const n = Number(value);
    if (type === 'u8' || type === 'bool') this.#room(1).setUint8(0, n);
    else if (type === 'i8') this.#room(1).setInt8(0, n);
    else if (type === 'u16') this.#room(2).setUint16(0, n, true);
    else if (type === 'i16') this.#room(2).setInt16(0, n, true);
    else if (type === 'u32') this.#room(4).setUint32(0, n, true);
    else if (type === 'i32') this.#room(4).setInt32(0, n, true);
    else if (type === 'f32') this.#room(4).setFloat32(0, n, true);
    else if (type === 'f64') this.#room(8).setFloat64(0, n, true);
    else if (type === 'u64') this.#room(8).setBigUint64(0, BigInt(value), true);
    else if (type === 'i64') this.#room(8).setBigInt64(0, BigInt(value), true);
    else throw new Error(`${type} is no number`);
  }

  all(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.length);
  }
}

/** A source in memory that counts what is read from it. */
export interface CountedSource extends ByteSource {
  readBytes: number;
  reads: number;
  largestRead: number;
}

/** A file in memory. */
export function memorySource(name: string, bytes: Uint8Array): CountedSource {
  const source: CountedSource = {
    name,
    byteLength: bytes.byteLength,
    readBytes: 0,
    reads: 0,
    largestRead: 0,
    read(offset, byteLength) {
      source.readBytes += byteLength;
      source.reads += 1;
      source.largestRead = Math.max(source.largestRead, byteLength);
      return Promise.resolve(bytes.slice(offset, offset + byteLength));
    },
  };
  return source;
}

/** A file on disk, read by ranges. */
export async function fileSource(path: URL): Promise<CountedSource> {
  const file = await open(path);
  const { size } = await file.stat();
  await file.close();
  const source: CountedSource = {
    name: path.pathname.split('/').pop()!,
    byteLength: size,
    readBytes: 0,
    reads: 0,
    largestRead: 0,
    async read(offset, byteLength) {
      source.readBytes += byteLength;
      source.reads += 1;
      source.largestRead = Math.max(source.largestRead, byteLength);
      const handle = await open(path);
      try {
        const { bytesRead, buffer } = await handle.read(
          new Uint8Array(byteLength),
          0,
          byteLength,
          offset,
        );
        return buffer.subarray(0, bytesRead);
      } finally {
        await handle.close();
      }
    },
  };
  return source;
}

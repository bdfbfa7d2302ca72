/**
 * Writing GGUF v3: the header, and where each tensor goes. The layout is gguf.ts's; the tensors' bytes are somebody else's.
 *
 * Values of metadata carry their type, since llama.cpp takes a key in one type only.
 * Source: ggml docs/gguf.md; gguf-py gguf_writer.py (types of values, padding).
 */
import { tensorTypeNumber } from './gguf.ts';
import { rowBytes, type TensorType } from './quant.ts';

/** One key of the metadata. The file holds them in the order given. */
export type MetaEntry =
  | { key: string; type: 'u32' | 'f32'; value: number }
  | { key: string; type: 'bool'; value: boolean }
  | { key: string; type: 'string'; value: string }
  | { key: string; type: 'i32s'; value: readonly number[] }
  | { key: string; type: 'strings'; value: readonly string[] };

export interface TensorPlan {
  name: string;
  type: TensorType;
  /** ggml's order, fastest first. */
  ne: readonly number[];
}

export interface TensorPlace extends TensorPlan {
  /** Absolute. */
  offset: number;
  byteLength: number;
}

export interface GgufLayout {
  /** Header and padding: the file up to the first tensor. */
  header: Uint8Array<ArrayBuffer>;
  /** In the order given, which is that of the file. Between them are zeros. */
  tensors: TensorPlace[];
  /** Of the whole file. */
  byteLength: number;
}

/** Tensors begin at multiples of this; GGUF's own default, so that no key need say it. */
const ALIGNMENT = 32;
/** GGUF's numbers of value types. */
const VALUE = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 };

/** A file with this metadata and these tensors. Fails: BadModel for rows that are no whole number of blocks. */
export function layOutGguf(
  metadata: readonly MetaEntry[],
  tensors: readonly TensorPlan[],
): GgufLayout {
  let end = 0; // in the tensor data
  const placed = tensors.map((tensor): TensorPlace => {
    const [columns, ...others] = tensor.ne;
    const byteLength = rowBytes(tensor.type, columns) * others.reduce((a, b) => a * b, 1);
    const offset = end;
    end = padded(offset + byteLength);
    return { ...tensor, offset, byteLength };
  });

  const writer = new Writer();
  writer.bytes(utf8.encode('GGUF'));
  writer.u32(3);
  writer.u64(placed.length);
  writer.u64(metadata.length);
  for (const entry of metadata) writeEntry(writer, entry);
  for (const { name, ne, type, offset } of placed) {
    writer.string(name);
    writer.u32(ne.length);
    for (const extent of ne) writer.u64(extent);
    writer.u32(tensorTypeNumber(type));
    writer.u64(offset);
  }
  const header = writer.padded();
  return {
    header,
    tensors: placed.map((tensor) => ({ ...tensor, offset: header.length + tensor.offset })),
    byteLength: header.length + end,
  };
}

const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function writeEntry(writer: Writer, entry: MetaEntry): void {
  writer.string(entry.key);
  switch (entry.type) {
    case 'u32':
      writer.u32(VALUE.u32);
      return writer.u32(entry.value);
    case 'f32':
      writer.u32(VALUE.f32);
      return writer.f32(entry.value);
    case 'bool':
      writer.u32(VALUE.bool);
      return writer.bytes(Uint8Array.of(entry.value ? 1 : 0));
    case 'string':
      writer.u32(VALUE.string);
      return writer.string(entry.value);
    case 'i32s':
      writer.array(VALUE.i32, entry.value.length);
      for (const value of entry.value) writer.u32(value >>> 0);
      return;
    case 'strings':
      writer.array(VALUE.string, entry.value.length);
      for (const value of entry.value) writer.string(value);
      return;
    default:
      entry satisfies never;
  }
}

const utf8 = new TextEncoder();

/** A growing run of little-endian bytes. */
class Writer {
  #bytes = new Uint8Array(64 * 1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** Make room, and say where. */
  #next(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#length);
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }

  bytes(bytes: Uint8Array): void {
    const at = this.#next(bytes.length);
    this.#bytes.set(bytes, at);
  }

  u32(value: number): void {
    const at = this.#next(4);
    this.#view.setUint32(at, value, true);
  }

  u64(value: number): void {
    const at = this.#next(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  f32(value: number): void {
    const at = this.#next(4);
    this.#view.setFloat32(at, value, true);
  }

  string(text: string): void {
    const bytes = utf8.encode(text);
    this.u64(bytes.length);
    this.bytes(bytes);
  }

  array(type: number, count: number): void {
    this.u32(VALUE.array);
    this.u32(type);
    this.u64(count);
  }

  /** All of it, with zeros up to the next place where a tensor may begin. */
  padded(): Uint8Array<ArrayBuffer> {
    this.#next(padded(this.#length) - this.#length);
    return this.#bytes.slice(0, this.#length);
  }
}

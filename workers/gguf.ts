/**
 * GGUF, llama.cpp's model file: header, metadata, tensor table; single files and gguf-split shards; versions 2 and 3.
 *
 *   "GGUF"  u32 version  u64 tensors  u64 keys
 *   keys    each: string key, u32 type, value          (an array: u32 type, u64 count, the values)
 *   tensors each: string name, u32 dimensions, u64 ne[dimensions], u32 type, u64 offset in the tensor data
 *   tensor data, from the next multiple of general.alignment on
 *
 * Little-endian; a string is u64 bytes and then UTF-8. The header is read by ranges, tensors when asked for, so a file is
 * never in memory whole. Nothing in a header is believed: every count and size is held against the bytes there are before
 * anything is allocated for it.
 * Source: ggml docs/gguf.md, gguf.cpp.
 */
import { PalimpsestError } from './protocol.ts';
import { blockBytes, blockColumns, isTensorType, type TensorType } from './quant.ts';

/**
 * A file, wherever it lies. `read` gives exactly the bytes asked for, in a buffer that is the caller's from there on; gguf.ts
 * never asks beyond `byteLength`.
 */
export interface ByteSource {
  readonly name: string;
  readonly byteLength: number;
  read(offset: number, byteLength: number): Promise<Uint8Array>;
}

/** Arrays of numbers keep their width, booleans are bytes of 0 and 1. */
export type MetaArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array
  | string[];

/** One value of the metadata; 64-bit integers are bigints. */
export type MetaValue = number | bigint | boolean | string | MetaArray;

export interface TensorEntry {
  name: string;
  type: TensorType;
  /** Extents in ggml's order, fastest first, as the file states them. */
  ne: number[];
  /** Index into `GgufFile.shards`. */
  shard: number;
  /** Absolute, in that shard. */
  offset: number;
  byteLength: number;
}

export interface GgufFile {
  /** Of the first shard. */
  metadata: Map<string, MetaValue>;
  /** Of all shards, in their order. */
  tensors: Map<string, TensorEntry>;
  /** In the order of their numbers, whatever order they were given in. */
  shards: ByteSource[];
  /**
   * Bytes of a tensor as stored: all, or `byteLength` from `byteOffset` on.
   * Fails: Refused for a range outside the tensor, BadModel for a source that gives too little, and as the source does.
   */
  read(entry: TensorEntry, byteOffset?: number, byteLength?: number): Promise<Uint8Array>;
}

/** The most bytes a header may take. A vocabulary of 262,144 tokens with its merges takes some 12 MB. */
const HEADER_BYTES = 64 * 1024 * 1024;
/** The first range read, then twice the last, up to the largest. */
const FIRST_READ_BYTES = 64 * 1024;
const LARGEST_READ_BYTES = 8 * 1024 * 1024;
/** The most characters of a key or a tensor's name. ggml itself stops at 63 for tensors. */
const NAME_LENGTH = 1024;
/** The most tensors, and the most keys, of one file. The largest models have a few thousand. */
const MOST_ENTRIES = 65_536;
/** The most extents of a tensor, as ggml's GGML_MAX_DIMS. */
const DIMENSIONS = 4;

/**
 * Open a model: one source is a whole file, several are the shards of a split one, in any order.
 * Fails: BadModel (not GGUF, truncated, contradictory, shards missing), Unsupported (version, byte order, tensor type).
 */
export async function openGguf(shards: ByteSource[]): Promise<GgufFile> {
  if (shards.length === 0)
    throw new PalimpsestError('Refused', 'Choose a GGUF file: none was given.');
  const parts = await Promise.all(shards.map(readShard));
  const ordered = inOrder(parts);

  const tensors = new Map<string, TensorEntry>();
  for (const [shard, part] of ordered.entries()) {
    for (const entry of part.tensors) {
      if (tensors.has(entry.name)) bad(part.source, `has tensor ${entry.name} twice`);
      tensors.set(entry.name, { ...entry, shard });
    }
  }
  const first = ordered[0]!;
  const stated = first.metadata.has('split.tensors.count')
    ? metaNumber(first.metadata, 'split.tensors.count')
    : tensors.size;
  if (stated !== tensors.size) {
    bad(first.source, `promises ${stated} tensors in all shards, but they hold ${tensors.size}`);
  }

  const sources = ordered.map((part) => part.source);
  return {
    metadata: first.metadata,
    tensors,
    shards: sources,
    async read(entry, byteOffset = 0, byteLength = entry.byteLength - byteOffset) {
      const end = byteOffset + byteLength;
      if (!(byteOffset >= 0 && byteLength >= 0 && end <= entry.byteLength)) {
        const asked = `${byteLength} from ${byteOffset} on were asked for`;
        throw new PalimpsestError(
          'Refused',
          `Tensor ${entry.name} has ${entry.byteLength} bytes; ${asked}.`,
        );
      }
      return readExactly(sources[entry.shard]!, entry.offset + byteOffset, byteLength);
    },
  };
}

function bad(source: ByteSource, what: string): never {
  throw new PalimpsestError(
    'BadModel',
    `${source.name} ${what}. The file is damaged or incomplete; download it again.`,
  );
}

function unsupported(source: ByteSource, what: string): never {
  throw new PalimpsestError('Unsupported', `${source.name} ${what}`);
}

/** Bytes of a source. Fails: BadModel where it gives too few, and as the source does. */
export async function readExactly(
  source: ByteSource,
  offset: number,
  byteLength: number,
): Promise<Uint8Array> {
  const bytes = await source.read(offset, byteLength);
  if (bytes.byteLength !== byteLength) {
    bad(source, `gave ${bytes.byteLength} bytes at ${offset} where ${byteLength} were asked for`);
  }
  return bytes;
}

/** Put shards in the order of their numbers, and see that each is there once. */
function inOrder(parts: Shard[]): Shard[] {
  const ordered: Shard[] = [];
  for (const part of parts) {
    const { metadata, source } = part;
    const count = metadata.has('split.count') ? metaNumber(metadata, 'split.count') : 1;
    const number = metadata.has('split.no') ? metaNumber(metadata, 'split.no') : 0;
    const place = `shard ${number + 1} of ${count}`;
    if (count !== parts.length) {
      const given = parts.length === 1 ? 'it came alone' : `${parts.length} files were given`;
      throw new PalimpsestError(
        'BadModel',
        count > 1
          ? `${source.name} is ${place}, but ${given}. Give all ${count} shards.`
          : `${source.name} is a whole model, not a shard of one, but ${given}. Give it alone.`,
      );
    }
    if (!(Number.isInteger(number) && number >= 0 && number < count))
      bad(source, `says it is ${place}`);
    const other = ordered[number];
    if (other) bad(source, `and ${other.source.name} both say they are ${place}`);
    ordered[number] = part;
  }
  return ordered;
}

// ------------------------------------------------------------------------------------------------ one file

interface Shard {
  source: ByteSource;
  metadata: Map<string, MetaValue>;
  tensors: Placed[];
}

type Placed = Omit<TensorEntry, 'shard'>;

async function readShard(source: ByteSource): Promise<Shard> {
  const header = new Header(source);
  await readMagic(header);
  const version = await header.u32('the version');
  if (version !== 0 && (version & 0xffff) === 0) {
    unsupported(source, 'is a big-endian GGUF file; only little-endian ones are read.');
  }
  if (version !== 2 && version !== 3) {
    const advice = 'Convert the model again with a current llama.cpp.';
    unsupported(source, `is GGUF version ${version}; 2 and 3 are read. ${advice}`);
  }

  // A tensor takes at least 8 + 1 (name) + 4 + 8 (one extent) + 4 + 8 bytes, a key 8 + 1 + 4 + 1.
  const tensorCount = await header.count('tensors', 33);
  const keyCount = await header.count('keys', 14);
  if (Math.max(tensorCount, keyCount) > MOST_ENTRIES) {
    bad(source, `has ${tensorCount} tensors and ${keyCount} keys; ${MOST_ENTRIES} are the most`);
  }

  const metadata = new Map<string, MetaValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await header.name(`key ${i + 1} of ${keyCount}`);
    if (metadata.has(key)) bad(source, `has key ${key} twice`);
    metadata.set(key, await readValue(header, key));
  }

  const stated: Placed[] = [];
  for (let i = 0; i < tensorCount; i++) {
    stated.push(await readTensor(header, `tensor ${i + 1} of ${tensorCount}`));
  }
  const tensors = place(source, stated, header.position, alignmentOf(source, metadata));
  return { source, metadata, tensors };
}

async function readMagic(header: Header): Promise<void> {
  const { source } = header;
  if (source.byteLength < 24) {
    bad(source, `has ${source.byteLength} of the 24 bytes that a GGUF file begins with`);
  }
  const magic = await header.bytes(4, 'the first bytes');
  const text = String.fromCharCode(...magic);
  if (text === 'GGUF') return;
  const shown = /^[\x20-\x7e]{4}$/.test(text)
    ? `"${text}"`
    : `bytes ${[...magic].map((b) => b.toString(16).padStart(2, '0')).join(' ')}`;
  throw new PalimpsestError(
    'BadModel',
    `${source.name} is not a GGUF file: it begins with ${shown}, not "GGUF". It is something else under this name; download the model again.`,
  );
}

function alignmentOf(source: ByteSource, metadata: Map<string, MetaValue>): number {
  if (!metadata.has('general.alignment')) return 32;
  const alignment = metaNumber(metadata, 'general.alignment');
  if (!(alignment > 0 && Number.isInteger(Math.log2(alignment)))) {
    bad(source, `states an alignment of ${alignment}, which is no power of two`);
  }
  return alignment;
}

/** One row of the tensor table; its offset is still that in the tensor data. */
async function readTensor(header: Header, what: string): Promise<Placed> {
  const { source } = header;
  const name = await header.name(`the name of ${what}`);
  const dimensions = await header.u32(`the extents of ${name}`);
  if (dimensions < 1 || dimensions > DIMENSIONS) {
    bad(source, `gives tensor ${name} ${dimensions} dimensions; 1 to ${DIMENSIONS} are possible`);
  }
  const ne: number[] = [];
  let elements = 1;
  for (let i = 0; i < dimensions; i++) {
    const extent = await header.u64(`the extents of ${name}`);
    elements *= Number(extent);
    if (extent === 0n || !Number.isSafeInteger(elements)) {
      bad(source, `gives tensor ${name} an impossible shape [${[...ne, extent].join(', ')}]`);
    }
    ne.push(Number(extent));
  }
  const type = tensorType(source, name, await header.u32(`the type of ${name}`));
  const columns = blockColumns(type);
  if (ne[0]! % columns !== 0) {
    bad(
      source,
      `has tensor ${name} in ${type}: rows of ${ne[0]}, but blocks of ${columns} columns`,
    );
  }
  const byteLength = (elements / columns) * blockBytes(type);
  const offset = Number(await header.u64(`the offset of ${name}`));
  return { name, type, ne, offset, byteLength };
}

/** Make offsets absolute, and see that tensors lie inside the file and apart. */
function place(
  source: ByteSource,
  stated: Placed[],
  headerBytes: number,
  alignment: number,
): Placed[] {
  const start = Math.ceil(headerBytes / alignment) * alignment;
  const tensors = stated.map((entry) => {
    const { name, byteLength } = entry;
    const offset = start + entry.offset;
    if (offset % alignment !== 0) {
      bad(source, `has tensor ${name} at ${entry.offset}, no multiple of ${alignment}`);
    }
    if (offset + byteLength > source.byteLength) {
      const end = `ends at byte ${source.byteLength}`;
      bad(source, `${end}; tensor ${name} needs ${byteLength} bytes from ${offset} on`);
    }
    return { ...entry, offset };
  });
  const byOffset = [...tensors].sort((a, b) => a.offset - b.offset);
  for (const [i, { name, offset }] of byOffset.entries()) {
    const before = byOffset[i - 1];
    if (before && before.offset + before.byteLength > offset) {
      bad(source, `has tensors ${before.name} and ${name} in the same place`);
    }
  }
  return tensors;
}

// ggml's tensor types by number (ggml.h), withdrawn ones included.
const TYPE_NAMES = (
  'F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL ' +
  'IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 IQ4_NL_4_8 ' +
  'IQ4_NL_8_8 MXFP4 NVFP4 Q1_0 Q2_0'
).split(' ');

/** ggml's number of a tensor type. */
export function tensorTypeNumber(type: TensorType): number {
  return TYPE_NAMES.indexOf(type);
}

function tensorType(source: ByteSource, tensor: string, number: number): TensorType {
  const name = TYPE_NAMES[number] ?? `number ${number}`;
  if (isTensorType(name)) return name;
  unsupported(
    source,
    `stores tensor ${tensor} in ggml type ${name}, which is not read. Choose a file in Q4_0, Q8_0, a K-quant, IQ4_NL, IQ4_XS, F16 or BF16.`,
  );
}

// ---------------------------------------------------------------------------------------------- the values

const BOOL = 7;
const STRING = 8;
const ARRAY = 9;

// GGUF's numbers of value types, as arrays of them. Files and every machine with WebGPU are little-endian.
const NUMBERS: Record<number, NumberArray> = {
  0: Uint8Array,
  1: Int8Array,
  2: Uint16Array,
  3: Int16Array,
  4: Uint32Array,
  5: Int32Array,
  6: Float32Array,
  [BOOL]: Uint8Array,
  10: BigUint64Array,
  11: BigInt64Array,
  12: Float64Array,
};

interface NumberArray {
  readonly BYTES_PER_ELEMENT: number;
  new (bytes: ArrayBuffer): Exclude<MetaArray, string[]>;
}

async function readValue(header: Header, key: string): Promise<MetaValue> {
  const { source } = header;
  const type = await header.u32(`the type of key ${key}`);
  if (type === STRING) return header.string(`key ${key}`);
  if (type !== ARRAY) {
    const value = (await readNumbers(header, key, type, 1))[0]!;
    return type === BOOL ? value === 1 : value;
  }
  const of = await header.u32(`the type of key ${key}`);
  if (of === ARRAY) {
    unsupported(source, `has nested arrays in key ${key}, which no model needs.`);
  }
  const what = `values of key ${key}`;
  if (of === STRING) return header.strings(await header.count(what, 8), key);
  return readNumbers(
    header,
    key,
    of,
    await header.count(what, NUMBERS[of]?.BYTES_PER_ELEMENT ?? 1),
  );
}

async function readNumbers(
  header: Header,
  key: string,
  type: number,
  count: number,
): Promise<Exclude<MetaArray, string[]>> {
  const Numbers = NUMBERS[type];
  if (!Numbers) bad(header.source, `has a value of the unknown type ${type} in key ${key}`);
  const bytes = await header.bytes(count * Numbers.BYTES_PER_ELEMENT, `key ${key}`);
  const odd = type === BOOL ? bytes.find((byte) => byte > 1) : undefined;
  if (odd !== undefined) bad(header.source, `has ${odd} where key ${key} is true or false`);
  return new Numbers(new Uint8Array(bytes).buffer);
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// ---------------------------------------------------------------------------------------- reading in order

// A byte order mark is part of a token, not of the encoding.
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
const strictUtf8 = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

/** Reads a header front to back through a window that refills by ranges. */
class Header {
  readonly source: ByteSource;
  #window: Uint8Array = new Uint8Array(0);
  #view = viewOf(this.#window);
  /** File offset of the window's first byte. */
  #start = 0;
  /** The next byte, in the window. */
  #at = 0;
  #nextReadBytes = FIRST_READ_BYTES;

  constructor(source: ByteSource) {
    this.source = source;
  }

  /** File offset of the next byte. */
  get position(): number {
    return this.#start + this.#at;
  }

  /** Bytes that the header may still take. */
  get #left(): number {
    return Math.min(this.source.byteLength, HEADER_BYTES) - this.position;
  }

  /** See that the next bytes are in the window. */
  async #need(bytes: number, what: string): Promise<void> {
    if (this.#window.length - this.#at >= bytes) return;
    if (bytes > this.#left) this.#tooMuch(`${bytes} bytes`, what);
    const kept = this.#window.subarray(this.#at);
    const end = this.#start + this.#window.length;
    const more = Math.min(
      this.source.byteLength - end,
      Math.max(bytes - kept.length, this.#nextReadBytes),
    );
    const read = await readExactly(this.source, end, more);
    const window = new Uint8Array(kept.length + more);
    window.set(kept);
    window.set(read, kept.length);
    this.#start += this.#at;
    this.#at = 0;
    this.#window = window;
    this.#view = viewOf(window);
    this.#nextReadBytes = Math.min(LARGEST_READ_BYTES, 2 * this.#nextReadBytes);
  }

  #tooMuch(asked: string, what: string): never {
    const { source, position } = this;
    if (source.byteLength <= HEADER_BYTES) {
      bad(source, `ends at byte ${source.byteLength}, but ${what} at ${position} needs ${asked}`);
    }
    bad(
      source,
      `needs ${asked} for ${what} at ${position}, but a header may have ${HEADER_BYTES} bytes`,
    );
  }

  /** The next bytes: a view that later reads do not change. */
  async bytes(count: number, what: string): Promise<Uint8Array> {
    await this.#need(count, what);
    this.#at += count;
    return this.#window.subarray(this.#at - count, this.#at);
  }

  async u32(what: string): Promise<number> {
    await this.#need(4, what);
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4, true);
  }

  async u64(what: string): Promise<bigint> {
    await this.#need(8, what);
    this.#at += 8;
    return this.#view.getBigUint64(this.#at - 8, true);
  }

  /** A count of things of at least so many bytes each, which the rest of the header must have room for. */
  async count(what: string, leastBytes: number): Promise<number> {
    const count = Number(await this.u64(`the number of ${what}`));
    if (count > this.#left / leastBytes) this.#tooMuch(`room for ${count}`, what);
    return count;
  }

  async string(what: string): Promise<string> {
    const length = Number(await this.u64(`the length of ${what}`));
    return utf8.decode(await this.bytes(length, what));
  }

  /** The string by which something is known: neither empty nor endless. */
  async name(what: string): Promise<string> {
    const name = await this.string(what);
    if (name === '') bad(this.source, `has an empty string for ${what}`);
    if (name.length > NAME_LENGTH) {
      bad(this.source, `has ${name.length} characters in ${what}; ${NAME_LENGTH} are the most`);
    }
    return name;
  }

  /**
   * An array of strings. A vocabulary has hundreds of thousands, far too many to decode one by one: the bytes of all whole
   * strings in the window are put together, decoded at once, and cut by their lengths in UTF-16.
   */
  async strings(count: number, key: string): Promise<string[]> {
    const strings: string[] = [];
    while (strings.length < count) {
      const found = this.#wholeStrings(count - strings.length, key);
      for (const text of found) strings.push(text);
      if (found.length === 0) {
        await this.#need(8, `key ${key}`);
        const length = this.#stringBytes(key);
        await this.#need(8 + length, `key ${key}`);
      }
    }
    return strings;
  }

  /** The length of the string that comes next, held against what is left. */
  #stringBytes(key: string): number {
    const low = this.#view.getUint32(this.#at, true);
    const length = low + this.#view.getUint32(this.#at + 4, true) * 2 ** 32;
    if (8 + length > this.#left) this.#tooMuch(`${8 + length} bytes`, `a string of key ${key}`);
    return length;
  }

  /** Up to `most` strings that lie in the window whole. */
  #wholeStrings(most: number, key: string): string[] {
    const window = this.#window;
    const lengths: number[] = [];
    const from = this.#at;
    while (lengths.length < most && this.#at + 8 <= window.length) {
      const length = this.#stringBytes(key);
      if (this.#at + 8 + length > window.length) break;
      lengths.push(length);
      this.#at += 8 + length;
    }
    const together = new Uint8Array(this.#at - from - 8 * lengths.length);
    const byteEnds: number[] = [];
    const unitEnds: number[] = [];
    let read = from;
    let bytes = 0;
    let units = 0;
    let separable = true;
    for (const length of lengths) {
      read += 8;
      // A string that begins inside a character could not be cut from the others.
      if (length > 0 && (window[read]! & 0xc0) === 0x80) separable = false;
      for (const end = read + length; read < end; read++) {
        const byte = window[read]!;
        together[bytes++] = byte;
        // One UTF-16 unit for each byte that begins a character, two for a character of four bytes.
        if ((byte & 0xc0) !== 0x80) units += byte >= 0xf0 ? 2 : 1;
      }
      byteEnds.push(bytes);
      unitEnds.push(units);
    }
    const whole = separable ? decodeStrictly(together) : null;
    return whole === null
      ? byteEnds.map((end, i) => utf8.decode(together.subarray(byteEnds[i - 1] ?? 0, end)))
      : unitEnds.map((end, i) => whole.slice(unitEnds[i - 1] ?? 0, end));
  }
}

function decodeStrictly(bytes: Uint8Array): string | null {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return null;
  }
}

// --------------------------------------------------------------------------------- metadata with its type

type Metadata = ReadonlyMap<string, MetaValue>;

function found(metadata: Metadata, key: string): string {
  const value = metadata.get(key);
  if (value === undefined) return 'is missing';
  if (typeof value !== 'object') return `is the ${typeof value} "${String(value).slice(0, 60)}"`;
  return `is an array of ${value.length} (${Array.isArray(value) ? 'strings' : value.constructor.name})`;
}

function wrong(metadata: Metadata, key: string, wanted: string): never {
  throw new PalimpsestError(
    'BadModel',
    `Metadata key ${key} ${found(metadata, key)}; ${wanted} is needed. Convert the model again with a current llama.cpp.`,
  );
}

/** A number, integer or not. Fails: BadModel where the key is missing, of another type, or beyond 2^53. */
export function metaNumber(metadata: Metadata, key: string): number {
  const value = metadata.get(key);
  const number = typeof value === 'bigint' ? Number(value) : value;
  if (typeof number !== 'number') wrong(metadata, key, 'a number');
  const exact = typeof value === 'number' || Number.isSafeInteger(number);
  return exact ? number : wrong(metadata, key, 'a smaller number');
}

/** A text. Fails: BadModel where the key is missing or of another type. */
export function metaString(metadata: Metadata, key: string): string {
  const value = metadata.get(key);
  return typeof value === 'string' ? value : wrong(metadata, key, 'a text');
}

/** True or false. Fails: BadModel where the key is missing or of another type. */
export function metaBoolean(metadata: Metadata, key: string): boolean {
  const value = metadata.get(key);
  return typeof value === 'boolean' ? value : wrong(metadata, key, 'true or false');
}

/** An array of texts. Fails: BadModel where the key is missing or of another type. */
export function metaStrings(metadata: Metadata, key: string): string[] {
  const value = metadata.get(key);
  return Array.isArray(value) ? value : wrong(metadata, key, 'an array of texts');
}

/** An array of numbers. Fails: BadModel where the key is missing, of another type, or beyond 2^53. */
export function metaNumbers(metadata: Metadata, key: string): number[] {
  const value = metadata.get(key);
  const numeric = typeof value === 'object' && !Array.isArray(value);
  if (!numeric) wrong(metadata, key, 'an array of numbers');
  const numbers = Array.from<number | bigint, number>(value, Number);
  if (value instanceof BigUint64Array || value instanceof BigInt64Array) {
    if (!numbers.every(Number.isSafeInteger)) wrong(metadata, key, 'an array of smaller numbers');
  }
  return numbers;
}

/**
 * Weights as numbers: ggml's tensor types, decoded, encoded, and laid out for the GPU. Pure functions, no model, no file.
 *
 * A ggml block is a run of columns of one row with its scales inside. On the GPU codes and scales lie apart, so that lanes
 * read whole u32s of codes side by side; of Q4_0 and Q8_0, the types that models are mostly read in, four rows lie side by
 * side, so that a lane's read of 16 bytes is a word of each. Nothing is rounded, nothing is lost, and
 * `shaders/lib/matrix_<type>.wgsl` gives the very floats that ggml's decoder gives.
 */
import { PalimpsestError } from './protocol.ts';

export type TensorType =
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'Q8_0'
  | 'Q2_K'
  | 'Q3_K'
  | 'Q4_K'
  | 'Q5_K'
  | 'Q6_K'
  | 'IQ4_NL'
  | 'IQ4_XS';

/** A run of 16-bit halves inside a ggml block. */
interface Run {
  from: number;
  halves: number;
}

/**
 * One type: columns and bytes of a block, and where its halves go. On the GPU a row of codes is first the `codes[0]` run of
 * every block of the row, then the `codes[1]` run of every block. A row of scales is, block after block, `scaleStride`
 * halves that begin with the `scales` runs; a row starts on a u32.
 */
interface Format {
  columns: number;
  bytes: number;
  codes: Run[];
  scales: Run[];
  scaleStride: number;
}

const run = (from: number, halves: number): Run => ({ from, halves });
const format = (
  columns: number,
  bytes: number,
  codes: Run[],
  scales: Run[] = [],
  scaleStride = 0,
): Format => ({ columns, bytes, codes, scales, scaleStride });

// Blocks in halves, in ggml's order (ggml-common.h). d, m, dmin are f16; qs hold the low bits of the weights, qh the high.
const FORMATS: Record<TensorType, Format> = {
  F32: format(1, 4, [run(0, 2)]),
  F16: format(1, 2, [run(0, 1)]),
  BF16: format(1, 2, [run(0, 1)]),
  Q4_0: format(32, 18, [run(1, 8)], [run(0, 1)], 1), // d, qs 8
  Q4_1: format(32, 20, [run(2, 8)], [run(0, 2)], 2), // d, m, qs 8
  Q5_0: format(32, 22, [run(3, 8), run(1, 2)], [run(0, 1)], 1), // d, qh 2, qs 8
  Q5_1: format(32, 24, [run(4, 8), run(2, 2)], [run(0, 2)], 2), // d, m, qh 2, qs 8
  Q8_0: format(32, 34, [run(1, 16)], [run(0, 1)], 1), // d, qs 16
  Q2_K: format(256, 84, [run(8, 32)], [run(0, 8), run(40, 2)], 10), // scales 8, qs 32, d, dmin
  Q3_K: format(256, 110, [run(16, 32), run(0, 16)], [run(48, 7)], 8), // hmask 16, qs 32, scales 6, d
  Q4_K: format(256, 144, [run(8, 64)], [run(0, 8)], 8), // d, dmin, scales 6, qs 64
  Q5_K: format(256, 176, [run(24, 64), run(8, 16)], [run(0, 8)], 8), // d, dmin, scales 6, qh 16, qs 64
  Q6_K: format(256, 210, [run(0, 64), run(64, 32)], [run(96, 9)], 10), // ql 64, qh 32, scales 8, d
  IQ4_NL: format(32, 18, [run(1, 8)], [run(0, 1)], 1), // d, qs 8
  IQ4_XS: format(256, 136, [run(4, 64)], [run(0, 4)], 4), // d, scales_h, scales_l 2, qs 64
};

/** Is this the ggml name of a type we read? */
export function isTensorType(name: string): name is TensorType {
  return Object.hasOwn(FORMATS, name);
}

/** Columns in one block of a type; a row is a whole number of blocks. */
export function blockColumns(type: TensorType): number {
  return FORMATS[type].columns;
}

/** Bytes of one block as ggml stores it. */
export function blockBytes(type: TensorType): number {
  return FORMATS[type].bytes;
}

/** Bytes of a row of `cols` columns as ggml stores it. Fails: BadModel where that is no whole number of blocks. */
export function rowBytes(type: TensorType, cols: number): number {
  const { columns, bytes } = FORMATS[type];
  if (cols % columns !== 0) {
    throw new PalimpsestError(
      'BadModel',
      `Rows of ${cols} columns cannot be ${type}, whose blocks have ${columns}. The file contradicts itself; convert it again.`,
    );
  }
  return (cols / columns) * bytes;
}

// --------------------------------------------------------------------------------------------- GPU layout

/** Matrices on the GPU have rows of a multiple of this many columns: kernels take blocks of 8, and groups of 32 share a scale. */
export const COLUMN_UNIT = 32;

/** Types whose rows lie in fours. */
const IN_FOURS: ReadonlySet<TensorType> = new Set<TensorType>(['Q4_0', 'Q8_0']);

/** Rows that a packed range begins at a multiple of, and is filled up to: 4 where rows lie in fours, else 1. */
export function rowUnit(type: TensorType): number {
  return IN_FOURS.has(type) ? 4 : 1;
}

/** A matrix in the GPU's layout: [rows, codeWords] and [rows, scaleWords] of u32, rows (or fours of rows) one after another. */
export interface Packed {
  codes: Uint32Array<ArrayBuffer>;
  /** null for F32, F16 and BF16, which have none, and for Q4_0 and Q8_0, whose scales follow the codes of each four rows. */
  scales: Uint32Array<ArrayBuffer> | null;
}

/** u32 words of one row in the GPU's layout. Fails: BadModel, Unsupported, as `repack`. */
export function packedRow(
  type: TensorType,
  cols: number,
): { codeWords: number; scaleWords: number } {
  rowBytes(type, cols);
  if (cols % COLUMN_UNIT !== 0) {
    throw new PalimpsestError(
      'Unsupported',
      `Rows of ${cols} columns: matrices are read in groups of ${COLUMN_UNIT} columns. Choose a model whose sizes are multiples of that.`,
    );
  }
  const { columns, codes, scaleStride } = FORMATS[type];
  const blocks = cols / columns;
  const codeHalves = codes.reduce((sum, r) => sum + r.halves, 0);
  const codeWords = (blocks * codeHalves) / 2;
  const scaleWords = Math.ceil((blocks * scaleStride) / 2);
  return IN_FOURS.has(type)
    ? { codeWords: codeWords + scaleWords, scaleWords: 0 }
    : { codeWords, scaleWords };
}

/**
 * ggml rows -> the GPU's layout. `bytes` holds `rows` rows of `cols` columns; any range of rows that begins at a multiple of
 * `rowUnit` will do, since every row takes `packedRow` words: ranges repacked apart and put one after another are the tensor
 * repacked at once. The codes of F32, F16 and BF16 may be a view of `bytes`.
 * Fails: BadModel for a wrong number of bytes or columns, Unsupported for columns that are no multiple of 32, and for groups
 * of Q4_0 or Q8_0 that are scaled by 64 or more.
 */
export function repack(type: TensorType, bytes: Uint8Array, rows: number, cols: number): Packed {
  const { codeWords, scaleWords } = packedRow(type, cols);
  checkBytes(type, bytes, rows * rowBytes(type, cols), `${rows} rows of ${cols} columns`);
  const {
    columns,
    bytes: perBlock,
    codes: codeRuns,
    scales: scaleRuns,
    scaleStride,
  } = FORMATS[type];
  if (scaleRuns.length === 0) return { codes: words(bytes), scales: null };
  if (IN_FOURS.has(type)) return { codes: inFours(type, halves(bytes), rows, cols), scales: null };

  const blocks = cols / columns;
  const source = halves(bytes);
  const codes = new Uint32Array(rows * codeWords);
  const scales = new Uint32Array(rows * scaleWords);
  const stride = perBlock / 2;
  let firstCode = 0; // of the run, in the row
  for (const r of codeRuns) {
    move(
      source,
      stride,
      r,
      new Uint16Array(codes.buffer, 2 * firstCode),
      r.halves,
      2 * codeWords,
      rows,
      blocks,
    );
    firstCode += blocks * r.halves;
  }
  let firstScale = 0; // of the run, in the block
  for (const r of scaleRuns) {
    move(
      source,
      stride,
      r,
      new Uint16Array(scales.buffer, 2 * firstScale),
      scaleStride,
      2 * scaleWords,
      rows,
      blocks,
    );
    firstScale += r.halves;
  }
  return { codes, scales };
}

/**
 * Rows in fours: word j of the codes of each of four rows, for every j; then the scales of group g of each of them, for every
 * g, the last group filled up to a pair. A group of ggml's is its scale, then its codes.
 */
function inFours(
  type: TensorType,
  source: Uint16Array,
  rows: number,
  cols: number,
): Uint32Array<ArrayBuffer> {
  const { columns, bytes } = FORMATS[type];
  const groups = cols / columns;
  const groupHalves = bytes / 2;
  const fourWords = 4 * packedRow(type, cols).codeWords;
  const firstScale = 4 * groups * (groupHalves - 1); // in halves: the codes of four rows lie before
  const codes = new Uint32Array(Math.ceil(rows / 4) * fourWords);
  const scales = new Uint16Array(codes.buffer);
  let read = 0;
  for (let row = 0; row < rows; row++) {
    const four = (row >> 2) * fourWords;
    let code = four + (row & 3);
    let scale = 2 * four + firstScale + (row & 3);
    for (let g = 0; g < groups; g++, read += groupHalves, scale += 4) {
      scales[scale] = times1024(type, source[read]!);
      for (let i = 1; i < groupHalves; i += 2, code += 4) {
        codes[code] = source[read + i]! | (source[read + i + 1]! << 16);
      }
    }
  }
  return codes;
}

/**
 * The bits of an f16, times 2^10: exact, and above 0 never subnormal, which a GPU may take for 0. Infinity and NaN stay.
 * Fails: Unsupported where that is no f16.
 */
function times1024(type: TensorType, bits: number): number {
  const exponent = (bits >> 10) & 31;
  if (exponent === 31 || (bits & 0x7fff) === 0) return bits;
  if (exponent > 20) {
    throw new PalimpsestError(
      'Unsupported',
      `A group of ${type} weights is scaled by ${F16_VALUES[bits]}: those of models are far below 64. The file is damaged, or of no trained model.`,
    );
  }
  if (exponent > 0) return bits + (10 << 10);
  const shift = Math.clz32(bits & 1023) - 21; // to bring the highest bit to where it goes without saying
  return (bits & 0x8000) | ((11 - shift) << 10) | (((bits & 1023) << shift) & 1023);
}

/** Copy one run of every block: block b of row r goes to `to[r * rowStride + b * blockStride]`. Strides in halves. */
function move(
  source: Uint16Array,
  sourceStride: number,
  { from, halves }: Run,
  to: Uint16Array,
  blockStride: number,
  rowStride: number,
  rows: number,
  blocks: number,
): void {
  let read = from;
  for (let row = 0; row < rows; row++) {
    let write = row * rowStride;
    for (let block = 0; block < blocks; block++) {
      for (let i = 0; i < halves; i++) to[write + i] = source[read + i]!;
      read += sourceStride;
      write += blockStride;
    }
  }
}

function words(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  const { buffer, byteOffset } = aligned(bytes, 4);
  return new Uint32Array(buffer, byteOffset, bytes.byteLength / 4);
}

function halves(bytes: Uint8Array): Uint16Array<ArrayBuffer> {
  const { buffer, byteOffset } = aligned(bytes, 2);
  return new Uint16Array(buffer, byteOffset, bytes.byteLength / 2);
}

/** The same bytes where wider views may begin; copied only if they do not lie so already. */
function aligned(bytes: Uint8Array, to: number): Uint8Array<ArrayBuffer> {
  const plain = bytes.byteOffset % to === 0 && bytes.buffer instanceof ArrayBuffer;
  return plain ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
}

function checkBytes(type: TensorType, bytes: Uint8Array, expected: number, what: string): void {
  if (bytes.byteLength !== expected) {
    throw new PalimpsestError(
      'BadModel',
      `${what} of ${type} are ${expected} bytes, not ${bytes.byteLength}. The file is damaged; download it again.`,
    );
  }
}

// ------------------------------------------------------------------------------------------------ decoding

// One f32 and its bits.
const floatScratch = new Float32Array(1);
const bitScratch = new Uint32Array(floatScratch.buffer);

/** The f32 value of every f16, by its bits. */
const F16_VALUES = Float32Array.from({ length: 65536 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
});

/** The sixteen levels of IQ4_NL and IQ4_XS. Source: ggml-common.h kvalues_iq4nl. */
const IQ4_LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/**
 * The values of `count` elements (whole blocks), bit for bit those of ggml's dequantize_row.
 * Each formula has one rounding at most: products of a scale and a code fit f32's 24 bits, and sums of two such products
 * fit the 53 of a JavaScript number, so storing to a Float32Array rounds once, as ggml does.
 * Fails: BadModel where bytes and count disagree.
 */
export function dequantize(
  type: TensorType,
  bytes: Uint8Array,
  count: number,
): Float32Array<ArrayBuffer> {
  checkBytes(type, bytes, rowBytes(type, count), `${count} values`);
  const y = new Float32Array(count);
  if (type === 'F32') new Uint8Array(y.buffer).set(bytes);
  else {
    const { columns, bytes: perBlock } = FORMATS[type];
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const decode = DECODERS[type];
    for (let at = 0, c = 0; c < count; c += columns, at += perBlock) decode(view, at, y, c);
  }
  return y;
}

/** Decode the block at byte `at` into y[c], y[c + 1], ... */
type Decoder = (view: DataView, at: number, y: Float32Array, c: number) => void;

const f16 = (view: DataView, at: number): number => F16_VALUES[view.getUint16(at, true)]!;

const DECODERS: Record<Exclude<TensorType, 'F32'>, Decoder> = {
  F16: (view, at, y, c) => {
    y[c] = f16(view, at);
  },
  BF16: (view, at, y, c) => {
    bitScratch[0] = view.getUint16(at, true) << 16;
    y[c] = floatScratch[0]!;
  },
  Q4_0: (view, at, y, c) => {
    const d = f16(view, at);
    nibbles(view, at + 2, (i, q) => (y[c + i] = d * (q - 8)));
  },
  Q4_1: (view, at, y, c) => {
    const d = f16(view, at);
    const m = f16(view, at + 2);
    nibbles(view, at + 4, (i, q) => (y[c + i] = d * q + m));
  },
  Q5_0: (view, at, y, c) => {
    const d = f16(view, at);
    const high = view.getUint32(at + 2, true);
    nibbles(view, at + 6, (i, q) => (y[c + i] = d * ((q | (((high >>> i) & 1) << 4)) - 16)));
  },
  Q5_1: (view, at, y, c) => {
    const d = f16(view, at);
    const m = f16(view, at + 2);
    const high = view.getUint32(at + 4, true);
    nibbles(view, at + 8, (i, q) => (y[c + i] = d * (q | (((high >>> i) & 1) << 4)) + m));
  },
  Q8_0: (view, at, y, c) => {
    const d = f16(view, at);
    for (let i = 0; i < 32; i++) y[c + i] = d * view.getInt8(at + 2 + i);
  },
  // Columns c of a Q2_K or Q3_K block: half n = c / 128, pair of bits j = c / 32 % 4 of byte 32 n + c % 32, scale c / 16.
  Q2_K: (view, at, y, c) => {
    const d = f16(view, at + 80);
    const dmin = f16(view, at + 82);
    for (let i = 0; i < 256; i++) {
      const scale = view.getUint8(at + (i >> 4));
      const q = (view.getUint8(at + 16 + 32 * (i >> 7) + (i & 31)) >> (2 * ((i >> 5) & 3))) & 3;
      y[c + i] = d * (scale & 15) * q - dmin * (scale >> 4);
    }
  },
  Q3_K: (view, at, y, c) => {
    const d = f16(view, at + 108);
    for (let i = 0; i < 256; i++) {
      const s = i >> 4;
      const low = (view.getUint8(at + 96 + (s & 7)) >> (4 * (s >> 3))) & 15;
      const high = (view.getUint8(at + 104 + (s & 3)) >> (2 * (s >> 2))) & 3;
      const q = (view.getUint8(at + 32 + 32 * (i >> 7) + (i & 31)) >> (2 * ((i >> 5) & 3))) & 3;
      const kept = (view.getUint8(at + (i & 31)) >> (i >> 5)) & 1; // a set bit means that nothing is taken off
      y[c + i] = d * ((low | (high << 4)) - 32) * (q - (kept ? 0 : 4));
    }
  },
  Q4_K: (view, at, y, c) => {
    const d = f16(view, at);
    const dmin = f16(view, at + 2);
    for (let s = 0; s < 8; s++) {
      const [scale, min] = sixBits(view, at + 4, s);
      for (let i = 0; i < 32; i++) {
        const q = (view.getUint8(at + 16 + 32 * (s >> 1) + i) >> (4 * (s & 1))) & 15;
        y[c + 32 * s + i] = d * scale * q - dmin * min;
      }
    }
  },
  Q5_K: (view, at, y, c) => {
    const d = f16(view, at);
    const dmin = f16(view, at + 2);
    for (let s = 0; s < 8; s++) {
      const [scale, min] = sixBits(view, at + 4, s);
      for (let i = 0; i < 32; i++) {
        const low = (view.getUint8(at + 48 + 32 * (s >> 1) + i) >> (4 * (s & 1))) & 15;
        const high = (view.getUint8(at + 16 + i) >> s) & 1;
        y[c + 32 * s + i] = d * scale * (low | (high << 4)) - dmin * min;
      }
    }
  },
  // Column i: half n = i / 128, quarter k = i / 32 % 4; low bits in nibble k / 2 of byte 64 n + 32 (k % 2) + i % 32.
  Q6_K: (view, at, y, c) => {
    const d = f16(view, at + 208);
    for (let i = 0; i < 256; i++) {
      const n = i >> 7;
      const k = (i >> 5) & 3;
      const low = (view.getUint8(at + 64 * n + 32 * (k & 1) + (i & 31)) >> (4 * (k >> 1))) & 15;
      const high = (view.getUint8(at + 128 + 32 * n + (i & 31)) >> (2 * k)) & 3;
      y[c + i] = d * view.getInt8(at + 192 + (i >> 4)) * ((low | (high << 4)) - 32);
    }
  },
  IQ4_NL: (view, at, y, c) => {
    const d = f16(view, at);
    nibbles(view, at + 2, (i, q) => (y[c + i] = d * IQ4_LEVELS[q]!));
  },
  IQ4_XS: (view, at, y, c) => {
    const d = f16(view, at);
    const high = view.getUint16(at + 2, true);
    const low = view.getUint32(at + 4, true);
    for (let s = 0; s < 8; s++) {
      const scale = d * ((((low >>> (4 * s)) & 15) | (((high >> (2 * s)) & 3) << 4)) - 32);
      nibbles(view, at + 8 + 16 * s, (i, q) => (y[c + 32 * s + i] = scale * IQ4_LEVELS[q]!));
    }
  },
};

/** The 32 nibbles of 16 bytes in ggml's order: the low ones are columns 0 to 15, the high ones 16 to 31. */
function nibbles(view: DataView, at: number, each: (column: number, q: number) => void): void {
  for (let i = 0; i < 16; i++) {
    const byte = view.getUint8(at + i);
    each(i, byte & 15);
    each(i + 16, byte >> 4);
  }
}

/** Scale and minimum of group s of 8 in the 12 bytes of a Q4_K or Q5_K block: 6 bits each, the last four pairs in leftovers. */
function sixBits(view: DataView, at: number, s: number): [scale: number, min: number] {
  const byte = (i: number): number => view.getUint8(at + i);
  if (s < 4) return [byte(s) & 63, byte(s + 4) & 63];
  return [
    (byte(s + 4) & 15) | ((byte(s - 4) >> 6) << 4),
    (byte(s + 4) >> 4) | ((byte(s) >> 6) << 4),
  ];
}

// ------------------------------------------------------------------------------------------------ encoding

/** Types that `quantize` writes. */
export type WrittenType = 'F16' | 'BF16' | 'Q8_0' | 'Q4_0';

/**
 * Encode values (whole blocks), bit for bit as ggml's reference quantisers do; a NaN becomes some NaN.
 * Fails: BadModel where the count is no whole number of blocks.
 */
export function quantize(type: WrittenType, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { columns, bytes } = FORMATS[type];
  const out = new Uint8Array(rowBytes(type, values.length));
  if (type === 'BF16') {
    encodeBF16(values, new Uint16Array(out.buffer));
    return out;
  }
  const view = new DataView(out.buffer);
  const encode = ENCODERS[type];
  for (let at = 0, c = 0; c < values.length; c += columns, at += bytes) encode(values, c, view, at);
  return out;
}

const ENCODERS: Record<
  Exclude<WrittenType, 'BF16'>,
  (x: Float32Array, c: number, view: DataView, at: number) => void
> = {
  F16: (x, c, view, at) => view.setUint16(at, toF16(x[c]!), true),
  Q8_0: (x, c, view, at) => {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(x[c + i]!));
    const d = Math.fround(largest / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    view.setUint16(at, toF16(d), true);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(x[c + i]! * inverse);
      const magnitude = Math.floor(Math.abs(scaled) + 0.5); // halves away from zero, as C's roundf
      view.setInt8(at + 2 + i, scaled < 0 ? -magnitude : magnitude);
    }
  },
  Q4_0: (x, c, view, at) => {
    let largest = 0; // by magnitude, sign kept: it becomes code 0
    for (let i = 0; i < 32; i++) if (Math.abs(x[c + i]!) > Math.abs(largest)) largest = x[c + i]!;
    const d = Math.fround(largest / -8);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    view.setUint16(at, toF16(d), true);
    const code = (i: number): number =>
      Math.min(15, Math.trunc(Math.fround(Math.fround(x[c + i]! * inverse) + 8.5)));
    for (let i = 0; i < 16; i++) view.setUint8(at + 2 + i, code(i) | (code(i + 16) << 4));
  },
};

/** The bits of the nearest f16, ties to even. */
function toF16(x: number): number {
  floatScratch[0] = x;
  const bits = bitScratch[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above: infinity
  if (magnitude >= 0x38800000) {
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  // Below 2^-14 an f16 counts steps of 2^-24. Adding 2^23 makes f32's own rounding drop what is finer; a count of 1024 is 2^-14.
  return sign | (Math.fround(Math.abs(floatScratch[0]!) * 2 ** 24 + 2 ** 23) - 2 ** 23);
}

/** The bits of the nearest bf16, ties to even, in one loop: models are stored whole in this type. */
function encodeBF16(values: Float32Array, out: Uint16Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i]!;
    const isNaN = (b & 0x7fffffff) > 0x7f800000;
    out[i] = isNaN ? (b >>> 16) | 64 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
}

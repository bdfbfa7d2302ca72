/** How the kernels of latent attention are checked; see layers.ts. */
import type { Library } from '../../workers/link.ts';
import {
  cacheF16,
  cacheF32,
  latentRow,
  mergeColumns,
  mlaMerge,
  outer,
  shares,
  slices as slicesLibrary,
  step,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, randomValues } from '../gpu.ts';
import {
  absorbQueries,
  attendSlice,
  latentRows,
  mergeSlices,
  unfoldValues,
} from '../reference/mla.ts';
import { rms, type Sum } from './layers.ts';
import { randomMatrix } from './matrices.ts';

/** Sizes as in the oracle: heads, own and shared key part, latent. */
export interface MlaShape {
  H: number;
  K: number;
  R: number;
  L: number;
}

export type CacheKind = 'f32' | 'f16';
export const CACHES: Record<CacheKind, Library> = { f32: cacheF32, f16: cacheF16 };

// ---------------------------------------------------------------------------------------------- the cache

/** Values as the cache of a kind holds them: one word per number, or two numbers per word. */
export function pack(kind: CacheKind, values: Float32Array): Float32Array | Uint32Array {
  if (kind === 'f32') return values;
  return Uint32Array.from(
    { length: values.length / 2 },
    (_, i) => toHalf(values[2 * i]!) | (toHalf(values[2 * i + 1]!) << 16),
  );
}

/** The numbers in words of a kind. */
export function unpack(kind: CacheKind, words: Float32Array<ArrayBuffer>): Float32Array {
  if (kind === 'f32') return words;
  const halves = new Uint16Array(words.buffer);
  return Float32Array.from(halves, fromHalf);
}

/** Numbers rounded to what a kind can hold. */
export function rounded(kind: CacheKind, values: Float32Array): Float32Array {
  return kind === 'f32' ? values : values.map((x) => fromHalf(toHalf(x)));
}

/** The nearest normal f16 of a number of ordinary size, as its bits; ties to even. */
function toHalf(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  const magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) return (bits >>> 16) & 0x8000; // below the least normal: zero
  const kept = magnitude - 0x38000000;
  const half = (kept >>> 13) + ((kept & 0x1fff) + ((kept >>> 13) & 1) > 0x1000 ? 1 : 0);
  return ((bits >>> 16) & 0x8000) | half;
}

function fromHalf(half: number): number {
  if ((half & 0x7fff) === 0) return half ? -0 : 0;
  const bits = ((half & 0x8000) << 16) | ((half & 0x7fff) * 0x2000 + 0x38000000);
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!;
}

// ---------------------------------------------------------------------------------------------- append

export interface AppendCase {
  L: number;
  R: number;
  T: number;
  position: number;
  first: number;
  segment: number;
  cache: CacheKind;
  sum: Sum;
  eps: number;
  size: number;
}

/** Rows of this segment are as the oracle says, all others as they were. */
export async function checkMlaAppend(
  kernel: typeof kernels.mlaAppend,
  c: AppendCase,
  append: Library = latentRow,
): Promise<number> {
  const width = c.L + c.R;
  const raw = randomValues(1, c.T * width, c.size);
  const w = randomValues(2, c.L);
  const before = rounded(c.cache, randomValues(3, c.segment * width));
  const out = await dispatch({
    kernel,
    libraries: [c.sum.library, step, append, CACHES[c.cache]],
    consts: { LATENT: c.L, SHARED: c.R, EPS: c.eps, FIRST: c.first, SEGMENT: c.segment },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: { c: raw, w, cache: pack(c.cache, before) },
    outputs: {},
    tokens: c.T,
    position: c.position,
  });
  const rows = latentRows(raw, w, c.R, c.eps);
  const expected = Float64Array.from(before);
  for (let t = 0; t < c.T; t++) {
    const row = c.position + t - c.first;
    if (row < 0 || row >= c.segment) continue;
    expected.set(rows.subarray(t * width, (t + 1) * width), row * width);
  }
  return rms(unpack(c.cache, out.cache!), expected);
}

// ---------------------------------------------------------------------------------------------- attend

export interface OneTokenCase extends MlaShape {
  position: number;
  segment: number;
  slices: number;
  cache: CacheKind;
  /** Size of the queries: large ones make the softmax sharp. */
  size: number;
}

export interface AttendCase extends OneTokenCase {
  T: number;
}

/**
 * All segments of a cache one after another, then the merge: context [T, H, L] against the oracle's.
 * Rows after the last position are NaN: reading one shows.
 */
async function checkAttention(
  c: OneTokenCase & { T: number },
  attend: (
    sizes: Sizes,
    buffers: Buffers,
    libraries: Library[],
  ) => Promise<Record<string, Float32Array<ArrayBuffer>>>,
): Promise<number> {
  const { H, K, R, L, T } = c;
  const width = L + R;
  const seen = c.position + T;
  const q = randomValues(1, T * H * (K + R), c.size);
  const Wk = randomValues(2, H * L * K, K ** -0.5);
  const cache = rounded(c.cache, randomValues(3, seen * width));
  const queries = absorbQueries({ T, H, K, R, L, V: 0 }, q, Wk);
  const qa = Float32Array.from({ length: T * H * L }, (_, i) => {
    return queries[Math.floor(i / L) * width + (i % L)]!;
  });
  let stats = new Float32Array(T * H * c.slices * 2).fill(NaN);
  let parts = new Float32Array(T * H * c.slices * L).fill(NaN);
  const scale = (K + R) ** -0.5;
  for (let first = 0; first < seen; first += c.segment) {
    const segment = new Float32Array(c.segment * width).fill(NaN);
    segment.set(cache.subarray(first * width, (first + c.segment) * width));
    const sizes = {
      ...{ HEADS: H, LATENT: L, SHARED: R, NOPE: K, SCALE: scale },
      ...{ FIRST: first, SEGMENT: c.segment, SLICES: c.slices },
    };
    const buffers = { qa, q, cache: pack(c.cache, segment), stats, parts };
    const out = await attend(sizes, buffers, [CACHES[c.cache], step]);
    stats = out.stats!;
    parts = out.parts!;
  }
  const merged = await dispatch({
    kernel: mlaMerge,
    libraries: [],
    consts: { HEADS: H, LATENT: L, SLICES: c.slices, COLUMNS: mergeColumns(c.slices) },
    inputs: { stats, parts },
    outputs: { context: T * H * L },
    tokens: T,
  });
  const sizes = { T, H, K, R, L, V: 0 };
  const expected = mergeSlices(sizes, [attendSlice(sizes, queries, cache, 0, seen)]);
  return rms(merged.context!, expected);
}

type Sizes = Record<
  'HEADS' | 'LATENT' | 'SHARED' | 'NOPE' | 'SCALE' | 'FIRST' | 'SEGMENT' | 'SLICES',
  number
>;
type Buffers = Record<'qa' | 'q' | 'cache' | 'stats' | 'parts', Float32Array | Uint32Array>;

export async function checkMlaAttend(
  kernel: typeof kernels.mlaAttend,
  c: AttendCase,
): Promise<number> {
  return checkAttention(c, (consts, inputs, libraries) =>
    dispatch({
      kernel,
      libraries: [...libraries, outer],
      consts,
      inputs,
      outputs: {},
      tokens: c.T,
      position: c.position,
    }),
  );
}

/** The same of one token. */
export async function checkMlaAttendToken(
  kernel: typeof kernels.mlaAttendToken,
  c: OneTokenCase,
): Promise<number> {
  return checkAttention({ ...c, T: 1 }, (consts, inputs, libraries) =>
    dispatch({ kernel, libraries, consts, inputs, outputs: {}, tokens: 1, position: c.position }),
  );
}

// ----------------------------------------------------------------------------------------------- merge

/** Slices of made-up statistics, far apart in size; those listed in `empty` saw nothing and hold NaN. */
export async function checkMlaMerge(
  kernel: typeof kernels.mlaMerge,
  c: SliceCase & { T: number },
): Promise<number> {
  const { H, L, T, slices } = c;
  const { stats, parts, context: expected } = slicesOf(c);
  const { context } = await dispatch({
    kernel,
    libraries: [],
    consts: { HEADS: H, LATENT: L, SLICES: slices, COLUMNS: mergeColumns(slices) },
    inputs: { stats, parts },
    outputs: { context: T * H * L },
    tokens: T,
  });
  return rms(context!, expected);
}

export interface SliceCase {
  H: number;
  L: number;
  slices: number;
  empty: number[];
}

/** What mla_attend leaves, made up, and what it comes to: context [T, H, L]. */
export function slicesOf({ H, L, T, slices, empty }: SliceCase & { T: number }) {
  const rows = T * H;
  const tops = randomValues(1, rows * slices, 60);
  const sums = randomValues(2, rows * slices).map((x) => 2 + x);
  const parts = randomValues(3, rows * slices * L);
  const stats = new Float32Array(rows * slices * 2);
  for (let i = 0; i < rows * slices; i++) {
    const unseen = empty.includes(i % slices);
    if (unseen) parts.fill(NaN, i * L, (i + 1) * L);
    stats.set(unseen ? [-3.4e38, 0] : [tops[i]!, sums[i]!], 2 * i);
  }
  const said = Array.from({ length: slices }, (_, s) => s).filter((s) => !empty.includes(s));
  const context = mergeSlices(
    { T, H, L, K: 0, R: 0, V: 0 },
    said.map((s) => ({
      top: Float64Array.from({ length: rows }, (_, n) => tops[n * slices + s]!),
      sum: Float64Array.from({ length: rows }, (_, n) => sums[n * slices + s]!),
      context: Float64Array.from(
        { length: rows * L },
        (_, i) => parts[(Math.floor(i / L) * slices + s) * L + (i % L)]!,
      ),
    })),
  );
  return { stats, parts, context };
}

// -------------------------------------------------------------------------------------------- one token

export interface MlaTokenCase extends MlaShape {
  group: number;
  format: TensorType;
  position: number;
  first: number;
  segment: number;
  cache: CacheKind;
  sum: Sum;
  eps: number;
  size: number;
}

/** Queries in the latent's terms, and the row of the cache; all others as they were. */
export async function checkMlaToken(
  kernel: typeof kernels.mlaToken,
  c: MlaTokenCase,
  append: Library = latentRow,
): Promise<number> {
  const { H, K, R, L } = c;
  const LATENT_AT = 4 * Math.ceil((H * (K + R)) / 4) + 8;
  const inputs = randomValues(1, LATENT_AT + L + R, c.size);
  const w = randomValues(2, L);
  const W = randomMatrix(c.format, 4, H * L, K);
  const before = rounded(c.cache, randomValues(3, c.segment * (L + R)));
  const out = await dispatch({
    kernel,
    libraries: [W.library, c.sum.library, shares, step, append, CACHES[c.cache]],
    consts: {
      ...{ HEADS: H, LATENT: L, SHARED: R, LATENT_AT, EPS: c.eps },
      ...{ FIRST: c.first, SEGMENT: c.segment, GROUP: c.group },
    },
    libraryConsts: { COLS: K, SUM_LANES: c.sum.lanes },
    inputs: { ...W.inputs, inputs, w, cache: pack(c.cache, before) },
    outputs: { qa: H * L },
    tokens: 1,
    position: c.position,
  });
  const sizes = { T: 1, H, K, R, L, V: 0 };
  const queries = absorbQueries(sizes, inputs.subarray(0, H * (K + R)), W.values);
  const wanted = queries.filter((_, i) => i % (L + R) < L);
  const expected = Float64Array.from(before);
  const row = c.position - c.first;
  if (row >= 0 && row < c.segment) {
    expected.set(latentRows(inputs.subarray(LATENT_AT), w, R, c.eps), row * (L + R));
  }
  return Math.max(rms(out.qa!, wanted), rms(unpack(c.cache, out.cache!), expected));
}

export interface MlaValueCase extends SliceCase {
  V: number;
  group: number;
  format: TensorType;
  sum: Sum;
}

export async function checkMlaValue(
  kernel: typeof kernels.mlaValue,
  c: MlaValueCase,
  slices: Library = slicesLibrary,
): Promise<number> {
  const { H, L, V, slices: SLICES } = c;
  const { stats, parts, context } = slicesOf({ ...c, T: 1 });
  const W = randomMatrix(c.format, 4, H * V, L);
  const { o } = await dispatch({
    kernel,
    libraries: [W.library, c.sum.library, slices, shares],
    consts: { HEADS: H, VALUES: V, GROUP: c.group },
    libraryConsts: { COLS: L, SLICES, SUM_LANES: c.sum.lanes },
    inputs: { ...W.inputs, stats, parts },
    outputs: { o: H * V },
    tokens: 1,
  });
  return rms(o!, unfoldValues({ T: 1, H, L, V, K: 0, R: 0 }, context, W.values));
}

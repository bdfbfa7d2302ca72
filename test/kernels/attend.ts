/** How the kernels of latent attention that begin and end with the residual row are checked; see layers.ts. */
import {
  attendWhole,
  latentRow,
  residual,
  shares,
  slices as slicesLibrary,
  step,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { Library } from '../../workers/link.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, type Inputs, randomValues } from '../gpu.ts';
import { add, linear, rmsNorm } from '../reference/layers.ts';
import {
  absorbQueries,
  attendSlice,
  latentRows,
  mergeSlices,
  unfoldValues,
} from '../reference/mla.ts';
import { several } from './decode.ts';
import { rms, rmsWhereWritten, type Sum } from './layers.ts';
import { randomMatrix } from './matrices.ts';
import { CACHES, pack, rounded, slicesOf, unpack, type MlaShape, type SliceCase } from './mla.ts';
import type { CacheKind } from './mla.ts';

export interface MlaQueryCase extends MlaShape {
  D: number;
  /** Of the queries' matrix, the latent's, the keys'. */
  formats: [TensorType, TensorType, TensorType];
  /** Parts that the call before left of the residual row. */
  parts: number;
  position: number;
  first: number;
  segment: number;
  cache: CacheKind;
  sum: Sum;
  /** Of the residual row's norm, and of the latent's. */
  eps: { norm: number; latent: number };
  /** Size of the residual row: a small one lets eps speak. */
  size: number;
}

/** Residual row, queries, latent row and queries in the latent's terms, and the row of the cache; all else as it was. */
export async function checkMlaQuery(
  kernel: typeof kernels.mlaQuery,
  c: MlaQueryCase,
): Promise<number> {
  const { H, K, R, L, D, parts: PARTS, eps } = c;
  const [FROM, TO, PART_FROM] = [2, 0, 4]; // rows between and after are nobody's
  const rows = randomValues(1, (PART_FROM + PARTS + 1) * D, c.size);
  rows.fill(NaN, TO * D, (TO + 1) * D);
  const w = randomValues(2, D);
  const latentNorm = randomValues(3, L);
  const Q = randomMatrix(c.formats[0], 4, H * (K + R), D);
  const C = randomMatrix(c.formats[1], 5, L + R, D);
  const W = randomMatrix(c.formats[2], 6, H * L, K);
  const LATENT_AT = H * (K + R) + 8;
  const inputs = new Float32Array(LATENT_AT + L + R + 4).fill(NaN);
  const before = rounded(c.cache, randomValues(7, c.segment * (L + R)));
  const weights = several(Q, C, W);
  const out = await dispatch({
    kernel,
    libraries: [
      ...weights.libraries,
      ...[residual, shares, latentRow, CACHES[c.cache], step, c.sum.library],
    ],
    consts: {
      ...{ HEADS: H, LATENT: L, SHARED: R, LATENT_AT, EPS: eps.latent },
      ...{ FIRST: c.first, SEGMENT: c.segment },
    },
    libraryConsts: {
      ...{ COLS: D, COLS_b: D, COLS_c: K, SUM_LANES: c.sum.lanes },
      ...{ D, FROM, TO, PARTS, PART_FROM, NORM_EPS: eps.norm },
    },
    inputs: {
      ...{ ...weights.inputs, rows, inputs, cache: pack(c.cache, before) },
      constants: Float32Array.from([...w, ...latentNorm]),
    },
    outputs: { qa: H * L },
    tokens: 1,
    position: c.position,
  });
  const row = (i: number) => rows.subarray(i * D, (i + 1) * D);
  let x: Float64Array = Float64Array.from(row(FROM));
  for (let p = 0; p < PARTS; p++) x = add(x, row(PART_FROM + p));
  const h = rmsNorm(x, w, eps.norm);
  const q = linear(Q.values, h, H * (K + R), D);
  const latent = linear(C.values, h, L + R, D);
  const sizes = { T: 1, H, K, R, L, V: 0 };
  const wanted = absorbQueries(sizes, q, W.values).filter((_, i) => i % (L + R) < L);
  const left = new Float64Array(rows.length).fill(NaN);
  left.set(x, TO * D);
  const made = new Float64Array(inputs.length).fill(NaN);
  made.set(q);
  made.set(latent, LATENT_AT);
  const kept = new Float64Array(before.length).fill(NaN);
  const at = c.position - c.first;
  if (at >= 0 && at < c.segment)
    kept.set(latentRows(latent, latentNorm, R, eps.latent), at * (L + R));
  return Math.max(
    rmsWhereWritten(out.rows!, left, rows),
    rmsWhereWritten(out.inputs!, made, inputs),
    rmsWhereWritten(unpack(c.cache, out.cache!), kept, before),
    rms(out.qa!, wanted),
  );
}

/** What mla_out makes of what its heads have read. */
interface OutCase {
  H: number;
  L: number;
  V: number;
  D: number;
  /** Of the values' matrix and the output's. */
  formats: [TensorType, TensorType];
  /** The row that the first head leaves. */
  partTo: number;
  sum: Sum;
}

export type MlaOutCase = OutCase & SliceCase;

/** With what slices of the cache said. */
export async function checkMlaOut(
  kernel: typeof kernels.mlaOut,
  c: MlaOutCase,
  joining: Library = slicesLibrary,
): Promise<number> {
  const { stats, parts, context } = slicesOf({ ...c, T: 1 });
  const libraryConsts = { SLICES: c.slices };
  return checkOut(kernel, c, context, [joining], libraryConsts, { stats, parts }, 0);
}

export interface MlaWholeCase extends OutCase, MlaShape {
  /** Of context: those of the cache after them hold NaN. */
  rows: number;
  segment: number;
  cache: CacheKind;
  /** Size of the queries: large ones make the softmax sharp. */
  size: number;
}

/** With what each head reads of the cache by itself. */
export async function checkMlaWhole(
  kernel: typeof kernels.mlaOut,
  c: MlaWholeCase,
  reading: Library = attendWhole,
): Promise<number> {
  const { H, K, R, L } = c;
  const width = L + R;
  const q = randomValues(1, H * (K + R), c.size);
  const cache = rounded(c.cache, randomValues(3, c.rows * width));
  const sizes = { T: 1, H, K, R, L, V: 0 };
  const queries = absorbQueries(sizes, q, randomValues(2, H * L * K, K ** -0.5));
  const context = mergeSlices(sizes, [attendSlice(sizes, queries, cache, 0, c.rows)]);
  const words = pack(c.cache, cache);
  const segment = new Uint32Array((words.length / c.rows) * c.segment).fill(0x7fff7fff); // NaN in both
  segment.set(new Uint32Array(words.buffer));
  const consts = { SHARED: R, NOPE: K, SCALE: (K + R) ** -0.5 };
  const qa = Float32Array.from(queries.filter((_, i) => i % width < L));
  q.forEach((_, i) => i % (K + R) < K && (q[i] = NaN)); // is in qa
  const inputs = { qa, q, cache: segment };
  const libraries = [reading, CACHES[c.cache], step];
  return checkOut(kernel, c, context, libraries, consts, inputs, c.rows - 1);
}

/** Values of the heads, and what each adds to the residual row; all other rows as they were. */
async function checkOut(
  kernel: typeof kernels.mlaOut,
  c: OutCase,
  context: Float64Array,
  reading: Library[],
  consts: Record<string, number>,
  read: Inputs,
  position: number,
): Promise<number> {
  const { H, L, V, D, partTo: PART_TO } = c;
  const W = randomMatrix(c.formats[0], 4, H * V, L);
  const O = randomMatrix(c.formats[1], 5, D, H * V);
  const rows = randomValues(6, (PART_TO + H + 1) * D);
  const weights = several(W, O);
  const out = await dispatch({
    kernel,
    libraries: [...weights.libraries, ...reading, shares, c.sum.library],
    consts: { HEADS: H, VALUES: V, D, PART_TO },
    libraryConsts: { COLS: L, COLS_b: H * V, SUM_LANES: c.sum.lanes, ...consts },
    inputs: { ...weights.inputs, ...read, rows },
    outputs: { o: H * V },
    tokens: 1,
    position,
  });
  const o = unfoldValues({ T: 1, H, L, V, K: 0, R: 0 }, context, W.values);
  const left = new Float64Array(rows.length).fill(NaN);
  for (let h = 0; h < H; h++) {
    const own = o.map((value, i) => (Math.floor(i / V) === h ? value : 0));
    left.set(linear(O.values, own, D, H * V), (PART_TO + h) * D);
  }
  return Math.max(rms(out.o!, o), rmsWhereWritten(out.rows!, left, rows));
}

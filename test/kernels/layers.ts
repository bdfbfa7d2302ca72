/**
 * How each plain layer's kernel is checked: dispatched, and compared with the float64 oracle. Every function takes the
 * kernel as an argument, so that one with a known bug can be put in its place, and gives the relative RMS; Infinity
 * where something is wrong that no rounding explains.
 */
import type { Library } from '../../workers/link.ts';
import { activation, outer, step, sumTree, tile as tileLibrary } from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, randomValues, type Inputs } from '../gpu.ts';
import { relativeRms } from '../reference/compare.ts';
import { add, linear, rmsNorm, silu } from '../reference/layers.ts';
import { randomMatrix } from './matrices.ts';

/** A library of sums and how many lanes it sums over. */
export interface Sum {
  library: Library;
  lanes: number;
}

export const TREE_64: Sum = { library: sumTree, lanes: 64 };

/** Relative RMS; Infinity as soon as one number is not finite. */
export function rms(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const figure = relativeRms(actual, expected);
  return Number.isNaN(figure) ? Infinity : figure;
}

/** 0 if all elements are the same, else Infinity. */
export function same(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  return Array.from(actual).every((x, i) => Object.is(x, expected[i])) ? 0 : Infinity;
}

// ------------------------------------------------------------------------------------------- embedding

export interface EmbedCase {
  format: TensorType;
  D: number;
  tokens: number[];
  position: number;
  /** Words from one token id to the next. */
  stride: number;
  /** Another library than the format's own. */
  library?: Library;
}

/** Two parts of the vocabulary, one dispatch each: together they fill every row; `seen` keeps what it knew of other tokens. */
export async function checkEmbed(kernel: typeof kernels.embed, c: EmbedCase): Promise<number> {
  const [vocabulary, cut] = [40, 23];
  const T = c.tokens.length;
  const ids = new Uint32Array(T * c.stride).fill(7);
  c.tokens.forEach((token, t) => (ids[t * c.stride] = token));
  let x = new Float32Array(T * c.D).fill(NaN);
  const before = Uint32Array.from({ length: vocabulary }, (_, token) => token % 5);
  let seen = before;
  const expected = new Float32Array(T * c.D);
  for (const [first, rows] of [
    [0, cut],
    [cut, vocabulary - cut],
  ] as const) {
    const E = randomMatrix(c.format, 3 + first, rows, c.D);
    const out = await dispatch({
      kernel,
      libraries: [c.library ?? E.library, step],
      consts: { FIRST: first, COUNT: rows, STRIDE: c.stride },
      libraryConsts: { COLS: c.D },
      inputs: { ...E.inputs, tokens: ids, x, seen },
      outputs: {},
      tokens: T,
      position: c.position,
    });
    x = out.x!;
    seen = new Uint32Array(out.seen!.buffer);
    c.tokens.forEach((token, t) => {
      if (token < first || token >= first + rows) return;
      const row = token - first;
      expected.set(E.values.subarray(row * c.D, (row + 1) * c.D), t * c.D);
    });
  }
  const expectedSeen = before.slice();
  c.tokens.forEach((token, t) => (expectedSeen[token] = c.position + t + 1));
  return Math.max(rms(x, expected), same(seen, expectedSeen));
}

// ------------------------------------------------------------------------------------------------ norms

export interface NormCase {
  D: number;
  T: number;
  eps: number;
  /** Size of the activations: small ones let eps speak. */
  size: number;
  sum: Sum;
}

export async function checkNorm(kernel: typeof kernels.norm, c: NormCase): Promise<number> {
  const x = randomValues(1, c.T * c.D, c.size);
  const w = randomValues(2, c.D);
  const { h } = await dispatch({
    kernel,
    libraries: [c.sum.library],
    consts: { D: c.D, EPS: c.eps },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: { x, w },
    outputs: { h: c.T * c.D },
    tokens: c.T,
  });
  return rms(h!, rmsNorm(x, w, c.eps));
}

export async function checkAddNorm(
  kernel: typeof kernels.addNorm,
  c: NormCase & { last: boolean },
): Promise<number> {
  const x = randomValues(1, c.T * c.D, c.size);
  const y = randomValues(2, c.T * c.D, c.size);
  const w = randomValues(3, c.D);
  const out = await dispatch({
    kernel,
    libraries: [c.sum.library, step],
    consts: { D: c.D, EPS: c.eps, LAST: c.last ? 1 : 0 },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: { x, y, w },
    outputs: { h: c.last ? c.D : c.T * c.D },
    tokens: c.T,
  });
  const sum = add(x, y);
  const h = rmsNorm(sum, w, c.eps);
  if (!c.last) return Math.max(rms(out.x!, sum), rms(out.h!, h));
  const from = (c.T - 1) * c.D;
  return Math.max(rms(out.x!.subarray(from), sum.subarray(from)), rms(out.h!, h.subarray(from)));
}

// --------------------------------------------------------------------------------------------- products

export interface ProductCase {
  format: TensorType;
  rows: number;
  cols: number;
  T: number;
  /** Matrices in the stack. */
  batch: number;
  /** All matrices of the stack read the same x. */
  sharedX: boolean;
  /** Leave room before, between and after: offsets and strides that no size explains; rows of W that others own. */
  apart: boolean;
  /** Another library than the format's own. */
  library?: Library;
}

/** Where W, x and y lie for a case: the constants that matvec and matmul share. */
function places({ rows, cols, batch, sharedX, apart }: ProductCase) {
  const [wGap, xGap, yGap] = apart ? [8, 4, 3] : [0, 0, 0];
  const X_BATCH = sharedX ? 0 : cols + xGap;
  const Y_BATCH = rows + yGap;
  return {
    ROWS: rows,
    BATCH: batch,
    W_FIRST: wGap,
    X_FIRST: 2 * xGap,
    X_TOKEN: (sharedX ? cols : batch * X_BATCH) + 3 * xGap,
    X_BATCH,
    Y_FIRST: yGap,
    Y_TOKEN: batch * Y_BATCH + 2 * yGap,
    Y_BATCH,
  };
}

/** `add`: the product goes on top of what y holds. `each`: rows that a workgroup makes. */
export function checkMatvec(
  kernel: typeof kernels.matvec,
  c: ProductCase & { add: boolean; each: 4 | 8 },
  sum: Sum,
): Promise<number> {
  return checkProduct(c, c.add, async ({ library, consts, inputs }) => {
    const { y } = await dispatch({
      kernel,
      libraries: [library, sum.library],
      consts: { ...consts, ADD: c.add ? 1 : 0, EACH: c.each },
      libraryConsts: { COLS: c.cols, SUM_LANES: sum.lanes },
      inputs,
      outputs: {},
      tokens: c.T,
    });
    return y!;
  });
}

export interface Tile {
  TILE_ROWS: 32 | 64;
  TILE_TOKENS: 32 | 64;
}

export const TILES: Tile[] = [
  { TILE_ROWS: 32, TILE_TOKENS: 32 },
  { TILE_ROWS: 64, TILE_TOKENS: 32 },
  { TILE_ROWS: 32, TILE_TOKENS: 64 },
  { TILE_ROWS: 64, TILE_TOKENS: 64 },
];

export function checkMatmul(
  kernel: typeof kernels.matmul,
  c: ProductCase,
  tile: Tile,
): Promise<number> {
  return checkProduct(c, false, async ({ library, consts, inputs }) => {
    const { y } = await dispatch({
      kernel,
      libraries: [library, outer, tileLibrary, step],
      consts: { ...consts, ...tile },
      libraryConsts: { COLS: c.cols },
      inputs,
      outputs: {},
      tokens: c.T,
    });
    return y!;
  });
}

/** matvec and matmul have the same buffers; `run` dispatches one of them over a y that holds something already. */
async function checkProduct(
  c: ProductCase,
  onTop: boolean,
  run: (d: {
    library: Library;
    consts: ReturnType<typeof places>;
    inputs: Inputs;
  }) => Promise<Float32Array>,
): Promise<number> {
  const { rows, cols, T, batch } = c;
  const consts = places(c);
  const { W_FIRST, X_FIRST, X_TOKEN, X_BATCH, Y_FIRST, Y_TOKEN, Y_BATCH } = consts;
  const W = randomMatrix(c.format, 5, W_FIRST + batch * rows, cols);
  const x = randomValues(6, X_FIRST + T * X_TOKEN);
  const before = randomValues(7, Y_FIRST + T * Y_TOKEN);
  if (!onTop) before.fill(NaN);
  const library = c.library ?? W.library;
  const y = await run({ library, consts, inputs: { ...W.inputs, x, y: before } });
  const expected = new Float64Array(y.length).fill(NaN); // what lies between stays as it was
  for (let t = 0; t < T; t++) {
    for (let n = 0; n < batch; n++) {
      const first = (W_FIRST + n * rows) * cols;
      const from = X_FIRST + t * X_TOKEN + n * X_BATCH;
      const to = Y_FIRST + t * Y_TOKEN + n * Y_BATCH;
      const Wn = W.values.subarray(first, first + rows * cols);
      const product = linear(Wn, x.subarray(from, from + cols), rows, cols);
      expected.set(onTop ? add(before.subarray(to, to + rows), product) : product, to);
    }
  }
  return rmsWhereWritten(y, expected, before);
}

/** Relative RMS of the numbers that are expected; Infinity where others (NaN) are not bit for bit what they were. */
export function rmsWhereWritten(
  actual: Float32Array,
  expected: Float64Array,
  before: Float32Array,
): number {
  const written = [...expected.keys()].filter((i) => !Number.isNaN(expected[i]));
  const rest = [...expected.keys()].filter((i) => Number.isNaN(expected[i]));
  const pick = (x: ArrayLike<number>, at: number[]) => at.map((i) => x[i]!);
  return Math.max(
    written.length > 0 ? rms(pick(actual, written), pick(expected, written)) : 0,
    same(pick(actual, rest), pick(before, rest)),
  );
}

// --------------------------------------------------------------------------------------------- swiglu

export interface SwigluCase {
  width: number;
  slots: number;
  T: number;
  /** gate and up are halves of each row of one buffer. */
  halves: boolean;
  size: number;
}

export async function checkSwiglu(kernel: typeof kernels.swiglu, c: SwigluCase): Promise<number> {
  const rows = c.T * c.slots;
  const STRIDE = c.halves ? 2 * c.width : c.width + 4;
  const gate = randomValues(1, rows * STRIDE, c.size);
  const up = c.halves ? gate : randomValues(2, rows * STRIDE, c.size);
  const UP_FIRST = c.halves ? c.width : 4;
  const { act } = await dispatch({
    kernel,
    libraries: [activation],
    consts: { WIDTH: c.width, SLOTS: c.slots, GATE_FIRST: 0, UP_FIRST, STRIDE },
    inputs: { gate, up },
    outputs: { act: rows * c.width },
    tokens: c.T,
  });
  const expected = Float64Array.from({ length: rows * c.width }, (_, i) => {
    const from = Math.floor(i / c.width) * STRIDE + (i % c.width);
    return silu(gate[from]!) * up[UP_FIRST + from]!;
  });
  return rms(act!, expected);
}

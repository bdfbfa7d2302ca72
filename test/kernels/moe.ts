/** How the kernels of the mixture of experts are checked; see layers.ts. */
import type { Library } from '../../workers/link.ts';
import {
  activation,
  expertGroup,
  expertTiles,
  outer,
  step,
  tile as tileLibrary,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, random, randomValues } from '../gpu.ts';
import { linear } from '../reference/layers.ts';
import { route as reference } from '../reference/moe.ts';
import { rms, same, type Tile } from './layers.ts';
import { randomMatrix } from './matrices.ts';

// ----------------------------------------------------------------------------------------------- router

export interface RouteCase {
  experts: number;
  top: number;
  T: number;
  scale: number;
  /** Largest bias: a large one makes the biased order another than the unbiased. */
  bias: number;
  /** Round logits and bias to multiples of this: whole numbers make ties. 0 leaves them. */
  grain: number;
  norm: boolean;
}

export async function checkRoute(kernel: typeof kernels.route, c: RouteCase): Promise<number> {
  const round = (x: number) => (c.grain ? Math.round(x / c.grain) * c.grain : x);
  const logits = randomValues(1, c.T * c.experts, 4).map(round);
  const bias = randomValues(2, c.experts, c.bias).map(round);
  const { ids, weights } = await dispatch({
    kernel,
    libraries: [activation],
    consts: { EXPERTS: c.experts, TOP: c.top, SCALE: c.scale, NORM: c.norm ? 1 : 0 },
    inputs: { logits, bias },
    outputs: { ids: c.T * c.top, weights: c.T * c.top },
    tokens: c.T,
  });
  const { experts, scores, weights: shares } = reference(logits, bias, c.top, c.scale);
  const expected = c.norm
    ? shares
    : Float64Array.from(
        experts,
        (e, i) => c.scale * scores[Math.floor(i / c.top) * c.experts + e]!,
      );
  return Math.max(same(new Uint32Array(ids!.buffer), experts), rms(weights!, expected));
}

// ---------------------------------------------------------------------------------------------- experts

/** ids [T, top]: distinct experts per token. */
export type Assignment = (t: number, j: number) => number;

/** Experts drawn at random; those of `never` stay without a token. */
export function scattered(experts: number, top: number, never: number[], seed: number): Assignment {
  const next = random(seed);
  const free = Array.from({ length: experts }, (_, e) => e).filter((e) => !never.includes(e));
  const drawn: number[][] = [];
  return (t, j) => {
    drawn[t] ??= free
      .map((e) => [next(), e] as const)
      .sort(([a], [b]) => a - b)
      .slice(0, top)
      .map(([, e]) => e);
    return drawn[t][j]!;
  };
}

function idsOf({ T, top, assign }: GroupCase): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: T * top }, (_, i) => assign(Math.floor(i / top), i % top));
}

export interface ExpertCase extends GroupCase {
  format: TensorType;
  rows: number;
  cols: number;
  /** First experts of the parts that the stack is split into, each a dispatch. */
  parts: number[];
  /** One x per slot (the second layer) instead of one per token. */
  perSlot: boolean;
}

/** The constants, inputs and expected y of a case; `run` dispatches one part over the y so far. */
export async function checkExperts(
  c: ExpertCase,
  run: (part: {
    library: Library;
    consts: Record<(typeof kernels.expertMatvec)['consts'][number], number>;
    inputs: Record<string, Float32Array | Uint32Array>;
  }) => Promise<Float32Array>,
): Promise<number> {
  const { rows, cols, top, T } = c;
  const ids = Uint32Array.from({ length: T * top }, (_, i) =>
    c.assign(Math.floor(i / top), i % top),
  );
  const X_BATCH = c.perSlot ? cols + 4 : 0;
  const X_TOKEN = c.perSlot ? top * X_BATCH + 8 : cols + 8;
  const consts = {
    ROWS: rows,
    TOP: top,
    X_FIRST: 4,
    X_TOKEN,
    X_BATCH,
    Y_FIRST: 1,
    Y_TOKEN: top * (rows + 2) + 3,
    Y_BATCH: rows + 2,
  };
  const x = randomValues(3, 4 + T * X_TOKEN);
  let y: Float32Array = new Float32Array(1 + T * consts.Y_TOKEN).fill(NaN);
  const expected = new Float64Array(y.length).fill(NaN);
  for (const [i, FIRST] of c.parts.entries()) {
    const COUNT = (c.parts[i + 1] ?? c.experts) - FIRST;
    const W = randomMatrix(c.format, 10 + i, COUNT * rows, cols);
    y = await run({
      library: W.library,
      consts: { ...consts, FIRST, COUNT },
      inputs: { ...W.inputs, ids, x, y },
    });
    for (const [slot, id] of ids.entries()) {
      if (id < FIRST || id >= FIRST + COUNT) continue;
      const [t, j] = [Math.floor(slot / top), slot % top];
      const from = 4 + t * X_TOKEN + j * X_BATCH;
      const We = W.values.subarray((id - FIRST) * rows * cols, (id - FIRST + 1) * rows * cols);
      expected.set(
        linear(We, x.subarray(from, from + cols), rows, cols),
        1 + t * consts.Y_TOKEN + j * consts.Y_BATCH,
      );
    }
  }
  if (expected.some((e, i) => Number.isNaN(e) !== Number.isNaN(y[i]))) return Infinity;
  const written = [...expected.keys()].filter((i) => !Number.isNaN(expected[i]));
  return rms(
    written.map((i) => y[i]!),
    written.map((i) => expected[i]!),
  );
}

/** A few tokens: no grouping. */
export function checkExpertMatvec(
  kernel: typeof kernels.expertMatvec,
  c: ExpertCase,
  sum: { library: Library; lanes: number },
): Promise<number> {
  return checkExperts(c, async ({ library, consts, inputs }) => {
    const { y } = await dispatch({
      kernel,
      libraries: [library, sum.library],
      consts,
      libraryConsts: { COLS: c.cols, SUM_LANES: sum.lanes },
      inputs,
      outputs: {},
      tokens: c.T,
    });
    return y!;
  });
}

/** A chunk: grouped by expert first, with the kernel that does so. */
export function checkExpertMatmul(
  kernel: typeof kernels.expertMatmul,
  c: ExpertCase,
  tile: Tile,
): Promise<number> {
  return checkExperts(c, async ({ library, consts, inputs }) => {
    const { ids, x, y: before, ...weights } = inputs;
    const { list, tiles } = await group(expertGroup, c, ids as Uint32Array, tile.TILE_TOKENS);
    const { y } = await dispatch({
      kernel,
      libraries: [library, outer, tileLibrary],
      consts: { ...consts, ...tile, EXPERTS: c.experts },
      libraryConsts: { COLS: c.cols },
      inputs: { ...weights, list, tiles, x: x!, y: before! },
      outputs: {},
      tokens: c.T,
    });
    return y!;
  });
}

// ---------------------------------------------------------------------------------------------- grouping

export interface GroupCase {
  experts: number;
  top: number;
  T: number;
  assign: Assignment;
}

async function group(
  kernel: typeof kernels.expertGroup,
  c: GroupCase,
  ids: Uint32Array,
  tileTokens: number,
): Promise<{ list: Uint32Array; tiles: Uint32Array }> {
  const { list, tiles } = await dispatch({
    kernel,
    libraries: [step],
    consts: { EXPERTS: c.experts, TOP: c.top, TILE_TOKENS: tileTokens },
    inputs: { ids },
    outputs: {
      list: c.experts * c.T,
      tiles: 4 * expertTiles(c.experts, c.top, tileTokens, c.T),
    },
    tokens: c.T,
  });
  return { list: new Uint32Array(list!.buffer), tiles: new Uint32Array(tiles!.buffer) };
}

/** 0 if list and tiles are exactly as the definition has them, else Infinity. */
export async function checkExpertGroup(
  kernel: typeof kernels.expertGroup,
  c: GroupCase,
  tileTokens: number,
): Promise<number> {
  const ids = idsOf(c);
  const { list, tiles } = await group(kernel, c, ids, tileTokens);
  const cut: number[] = [];
  for (let e = 0; e < c.experts; e++) {
    const pairs = [...ids.keys()].filter((pair) => ids[pair] === e);
    if (same(list.subarray(e * c.T, e * c.T + pairs.length), pairs) > 0) return Infinity;
    for (let i = 0; i < pairs.length; i += tileTokens) {
      cut.push(e, e * c.T + i, Math.min(tileTokens, pairs.length - i), 0);
    }
  }
  while (cut.length < tiles.length) cut.push(0);
  return same(tiles, cut);
}

// ------------------------------------------------------------------------------------------------- sum

export async function checkExpertSum(
  kernel: typeof kernels.expertSum,
  c: { D: number; top: number; T: number },
): Promise<number> {
  const weights = randomValues(1, c.T * c.top);
  const down = randomValues(2, c.T * c.top * c.D);
  const always = randomValues(3, c.T * c.D);
  const { y } = await dispatch({
    kernel,
    libraries: [],
    consts: { D: c.D, TOP: c.top },
    inputs: { weights, down, always },
    outputs: { y: c.T * c.D },
    tokens: c.T,
  });
  const expected = Float64Array.from(always);
  for (let slot = 0; slot < c.T * c.top; slot++) {
    const to = Math.floor(slot / c.top) * c.D;
    for (let d = 0; d < c.D; d++) expected[to + d]! += weights[slot]! * down[slot * c.D + d]!;
  }
  return rms(y!, expected);
}

/** How the kernels that only one token takes are checked; see layers.ts. */
import type { Library } from '../../workers/link.ts';
import {
  activation,
  CHOSEN,
  fifth,
  fourth,
  historyWords,
  kdaUnwatched,
  residual,
  routerGiven,
  routerLogits,
  second,
  third,
  step as stepLibrary,
  watchedWords,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, type Dispatch, type Inputs, randomValues } from '../gpu.ts';
import {
  gates,
  outNorm,
  shortConv,
  step,
  writeStrengths,
  type KdaSizes,
} from '../reference/kda.ts';
import { linear, matrix, rmsNorm, unit, type Reals } from '../reference/layers.ts';
import { route, swiglu } from '../reference/moe.ts';
import { rmsF32 } from './kda.ts';
import { rms, rmsWhereWritten, same, type Sum } from './layers.ts';
import { type Change, changeTable } from './probes.ts';
import { randomMatrix, type Matrix } from './matrices.ts';

/** Each of the types of FORMATS as the first matrix and as the second, beside another and beside its like. */
export const PAIRS: [TensorType, TensorType][] = [
  ['F32', 'Q4_0'],
  ['Q4_0', 'Q8_0'],
  ['Q8_0', 'F32'],
  ['Q4_0', 'Q4_0'],
];

/** What a kernel of several matrices links and binds for them. */
export function several(...matrices: Matrix[]) {
  const endings = ['', '_b', '_c', '_d', '_e'];
  const libraries = [(l: Library) => l, second, third, fourth, fifth];
  const inputs = matrices.map((m, i) =>
    Object.entries(m.inputs).map(([name, values]) => [name + endings[i], values]),
  );
  return {
    libraries: matrices.map((m, i) => libraries[i]!(m.library)),
    inputs: Object.fromEntries(inputs.flat()) as Inputs,
  };
}

/** Rows from .. from + rows of a matrix. */
function slice(m: Matrix, cols: number, from: number, rows: number): Float32Array {
  return m.values.subarray(from * cols, (from + rows) * cols);
}

/** Columns from .. from + width of rows that are `stride` long: x [T, stride] -> [T, width]. */
function columns(x: Reals, stride: number, from: number, width: number): Float64Array {
  const T = x.length / stride;
  return Float64Array.from(
    { length: T * width },
    (_, i) => x[Math.floor(i / width) * stride + from + (i % width)]!,
  );
}

// ------------------------------------------------------------------------------------------ projections

/** Rows of a matrix that lie among others: from row `first`, for y from `at`. */
export interface Projected {
  format: TensorType;
  rows: number;
  first: number;
  at: number;
}

export interface ProjectCase {
  a: Projected;
  b: Projected;
  cols: number;
  eps: number;
  /** Size of the activations: small ones let eps speak. */
  size: number;
  /** Rows of a workgroup. */
  each: 4 | 8;
  sum: Sum;
}

/** Elements of y that neither matrix makes must stay as they were. */
export async function checkProject(
  kernel: typeof kernels.project,
  c: ProjectCase,
): Promise<number> {
  const { a, b, cols } = c;
  const A = randomMatrix(a.format, 1, a.first + a.rows + 1, cols);
  const B = randomMatrix(b.format, 2, b.first + b.rows + 1, cols);
  const x = randomValues(3, cols, c.size);
  const w = randomValues(4, cols);
  const before = new Float32Array(Math.max(a.at + a.rows, b.at + b.rows) + 5).fill(NaN);
  const weights = several(A, B);
  const { y } = await dispatch({
    kernel,
    libraries: [...weights.libraries, c.sum.library],
    consts: {
      A_ROWS: a.rows,
      B_ROWS: b.rows,
      A_FIRST: a.first,
      B_FIRST: b.first,
      A_AT: a.at,
      B_AT: b.at,
      EPS: c.eps,
      EACH: c.each,
    },
    libraryConsts: { COLS: cols, COLS_b: cols, SUM_LANES: c.sum.lanes },
    inputs: { ...weights.inputs, x, w, y: before },
    outputs: {},
    tokens: 1,
  });
  const normed = rmsNorm(x, w, c.eps);
  const expected = new Float64Array(before.length).fill(NaN);
  expected.set(linear(slice(A, cols, a.first, a.rows), normed, a.rows, cols), a.at);
  expected.set(linear(slice(B, cols, b.first, b.rows), normed, b.rows, cols), b.at);
  return rmsWhereWritten(y!, expected, before);
}

// ------------------------------------------------------------------------------------ a head of a KDA layer

/** Largest -a: how hard the gates can close. Pre-activations of softplus run from about -4 to 4. */
const CLOSING = { none: 0, gentle: 0.05, strong: 16, total: 300 };
/** Pre-activations of beta: their middle, and how far from it they go. */
const WRITING = { open: [0, 4], never: [-200, 1], whole: [200, 1] } as const;

export interface TokenCase extends KdaSizes {
  taps: number;
  /** Columns of F and G. */
  rank: number;
  F: TensorType;
  G: TensorType;
  /** Rows of others before F's and before G's. */
  first: { F: number; G: number };
  decay: keyof typeof CLOSING;
  beta: keyof typeof WRITING;
  eps: number;
  /** Size of what is convolved and of the memory before: small ones let eps speak. */
  size: number;
  sum: Sum;
  /** null: nobody looks in. Calls are at positions 0, 1, ... */
  watched: { library: Library; changes: Change[][] /* [.., H] */ } | null;
}

/** What kda_watched tells of all tokens, the sums apart. */
interface Watched {
  q: Float64Array; // scaled
  k: Float64Array;
  v: Float64Array;
  g: Float64Array;
  beta: Float64Array;
  u: Float64Array;
  held: Float64Array;
}

/** The tensors of a head's own making, as every layer has them. */
function headTensors(c: TokenCase) {
  const { H, K, V, taps, rank } = c;
  const C = H * (2 * K + V);
  return {
    conv: randomValues(2, C * taps),
    dt: randomValues(3, H * K, 2),
    a: randomValues(4, H).map((x) => -CLOSING[c.decay] * (0.6 + 0.4 * x)),
    w: randomValues(5, V),
    F: randomMatrix(c.F, 6, c.first.F + H * K, rank),
    G: randomMatrix(c.G, 7, c.first.G + H * V, rank),
    tails: randomValues(8, (taps - 1) * C, c.size),
    memory: randomValues(9, H * K * V, c.size),
  };
}

/** What a dispatch of a head links, sets and gives to be looked into, or not. */
function watching(c: TokenCase): Pick<
  Dispatch<string, string>,
  'libraries' | 'inputs' | 'outputs'
> & {
  lanes: Record<string, number>;
} {
  const { H, K, V, watched, sum } = c;
  return {
    libraries: watched ? [watched.library, stepLibrary] : [kdaUnwatched],
    inputs: watched ? { changes: changeTable(watched.changes.flat()) } : {},
    outputs: watched ? { watched: watchedWords({ H, K, V }) } : {},
    lanes: { SUM_LANES: sum.lanes, ...(watched && { CHANGES: watched.changes.length }) },
  };
}

/** What T calls left: y of each token, tails and memory of the last, what was told of each. */
interface TokenRun {
  y: Float32Array;
  tails: Float32Array;
  S: Float32Array;
  told: Float32Array[];
  /** |S|^2 after each token, of each head. */
  energy: number[];
}

/** One call after another, each from the tails and the memory that the one before left. */
async function runTokens(
  c: TokenCase,
  call: (
    t: number,
    state: { tails: Float32Array; S: Float32Array },
  ) => Promise<Record<string, Float32Array> & { y?: Float32Array }>,
): Promise<TokenRun> {
  const { T, H, K, V } = c;
  const first = headTensors(c);
  const run: TokenRun = {
    ...{ y: new Float32Array(0), tails: first.tails, S: first.memory },
    ...{ told: [], energy: [] },
  };
  for (let t = 0; t < T; t++) {
    const out = await call(t, run);
    run.y = Float32Array.from([...run.y, ...out.y!]);
    [run.tails, run.S] = [out.tails!, out.S!];
    if (c.watched) run.told.push(out.watched!);
    for (let h = 0; h < H; h++) {
      const head = run.S.subarray(h * K * V, (h + 1) * K * V);
      run.energy.push(head.reduce((sum, s) => sum + s * s, 0));
    }
  }
  return run;
}

/** The whole run of the oracle from projections [T, q | k | v | f, o_g | b]: y [T, H V], and how far a run is from it, y apart. */
function exactTokens(c: TokenCase, inputs: Reals) {
  const { H, K, V, taps, rank, eps } = c;
  const C = H * (2 * K + V);
  const { conv, dt, a, w, F, G, tails, memory } = headTensors(c);
  const part = (from: number, width: number) => columns(inputs, C + 2 * rank + H, from, width);
  const mixed = shortConv(part(0, C), conv, tails, taps);
  const raw = linear(slice(F, rank, c.first.F, H * K), part(C, rank), H * K, rank);
  const outGate = linear(slice(G, rank, c.first.G, H * V), part(C + rank, rank), H * V, rank);
  const factor = (t: number, h: number, of: 'factor' | 'strength') =>
    (c.watched?.changes ?? []).reduce(
      (f, change) => (t >= change[h]!.from ? f * change[h]![of] : f),
      1,
    );
  const read = {
    q: unit(columns(mixed.y, C, 0, H * K), K, eps, K ** -0.5),
    k: unit(columns(mixed.y, C, H * K, H * K), K, eps, 1),
    v: columns(mixed.y, C, 2 * H * K, H * V),
    g: gates(raw, dt, a).map((g, i) => {
      const head = Math.floor(i / K);
      return g * factor(Math.floor(head / H), head % H, 'factor');
    }),
    beta: writeStrengths(part(C + 2 * rank, H)).map(
      (beta, i) => beta * factor(Math.floor(i / H), i % H, 'strength'),
    ),
  };
  const exact = step(c, read, memory);
  return {
    y: outNorm(exact.o, w, outGate, eps),
    rms: (run: TokenRun, tailsOff: typeof same) =>
      Math.max(
        rmsF32(run.S, exact.S),
        tailsOff(run.tails, mixed.tail),
        c.watched
          ? rmsWatched(c, run.told, { ...read, u: exact.u, held: exact.held }, run.energy)
          : 0,
      ),
  };
}

/** T calls against the whole run of the oracle. */
export async function checkKdaToken(
  kernel: typeof kernels.kdaToken,
  c: TokenCase,
): Promise<number> {
  const { T, H, K, V, taps, rank, eps } = c;
  const C = H * (2 * K + V);
  const STRIDE = C + 2 * rank + H; // q | k | v | f, o_g | b
  const inputs = randomValues(1, T * STRIDE);
  const [middle, reach] = WRITING[c.beta];
  inputs.forEach((x, i) => {
    const at = i % STRIDE;
    inputs[i] = at < C ? c.size * x : at < C + 2 * rank ? 4 * x : middle + reach * x;
  });
  const { conv, dt, a, w, F, G } = headTensors(c);
  const before = randomValues(10, 4);
  const constants = Float32Array.from([before, conv, dt, a, w].flatMap((values) => [...values]));
  const weights = several(F, G);
  const watch = watching(c);
  const run = await runTokens(c, (t, { tails, S }) =>
    dispatch({
      kernel,
      libraries: [...weights.libraries, activation, c.sum.library, ...watch.libraries],
      // prettier-ignore
      consts: { H, K, V, TAPS: taps, BEFORE: before.length, F_FIRST: c.first.F, G_FIRST: c.first.G, EPS: eps },
      libraryConsts: { COLS: rank, COLS_b: rank, ...watch.lanes },
      inputs: {
        ...weights.inputs,
        ...watch.inputs,
        inputs: inputs.subarray(t * STRIDE, (t + 1) * STRIDE),
        ...{ constants, tails, S },
      },
      outputs: { y: H * V, ...watch.outputs },
      tokens: 1,
      position: t,
    }),
  );
  const exact = exactTokens(c, inputs);
  return Math.max(rms(run.y, exact.y), exact.rms(run, same));
}

export interface LayerCase extends TokenCase {
  D: number;
  /** Parts that are still to be added to x. */
  parts: number;
  /** Types of q | k | v, of the low ranks and beta, of the output; rows of others before the first two. */
  wide: TensorType;
  low: TensorType;
  out: TensorType;
  before: { wide: number; low: number };
}

/** T calls of the whole layer, each with a residual row of its own. */
export async function checkKdaLayer(
  kernel: typeof kernels.kdaLayer,
  c: LayerCase,
  residualLibrary: Library = residual,
): Promise<number> {
  const { T, H, K, V, D, taps, rank, eps, parts } = c;
  const C = H * (2 * K + V);
  const { conv, dt, a, w, F, G } = headTensors(c);
  const norm = randomValues(11, D);
  const constants = Float32Array.from([norm, conv, dt, a, w].flatMap((values) => [...values]));
  const wide = randomMatrix(c.wide, 12, c.before.wide + C, D);
  const low = randomMatrix(c.low, 13, c.before.low + 2 * rank + H, D);
  const out = randomMatrix(c.out, 14, D, H * V);
  const weights = several(F, G, wide, low, out);
  const watch = watching(c);
  const FROM = 1;
  const TO = 0;
  const PART_FROM = 2;
  const PART_TO = PART_FROM + parts + 1;
  const rows = randomValues(15, T * (PART_TO + H + 1) * D, c.size);
  const each = rows.length / T;
  const xs = Array.from({ length: T }, (_, t) => {
    const row = (i: number) => rows.subarray(t * each + i * D, t * each + (i + 1) * D);
    const x = Float64Array.from(row(FROM));
    for (let p = 0; p < parts; p++) row(PART_FROM + p).forEach((v, i) => (x[i]! += v));
    return x;
  });
  const left: Float32Array[] = [];
  const run = await runTokens(c, async (t, { tails, S }) => {
    const { rows: after, ...others } = await dispatch({
      kernel,
      libraries: [
        ...weights.libraries,
        ...[activation, c.sum.library, residualLibrary],
        ...watch.libraries,
      ],
      // prettier-ignore
      consts: {
        H, K, V, TAPS: taps, BEFORE: D, F_FIRST: c.first.F, G_FIRST: c.first.G, EPS: eps,
        Q_FIRST: c.before.wide, LOW_FIRST: c.before.low, PART_TO,
      },
      libraryConsts: {
        ...{ COLS: rank, COLS_b: rank, COLS_c: D, COLS_d: D, COLS_e: H * V },
        ...{ D, FROM, TO, PARTS: parts, PART_FROM, NORM_EPS: eps },
        ...watch.lanes,
      },
      inputs: {
        ...weights.inputs,
        ...watch.inputs,
        rows: rows.subarray(t * each, (t + 1) * each),
        ...{ constants, tails, S },
      },
      outputs: watch.outputs,
      tokens: 1,
      position: t,
    });
    left.push(after!);
    return { ...others, y: new Float32Array(0) };
  });
  const h = xs.map((x) => rmsNorm(x, norm, eps));
  const inputs = Float64Array.from(
    h.flatMap((row) => [
      ...linear(slice(wide, D, c.before.wide, C), row, C, D),
      ...linear(slice(low, D, c.before.low, 2 * rank + H), row, 2 * rank + H, D),
    ]),
  );
  const exact = exactTokens(c, inputs);
  const worst = [exact.rms(run, rms)];
  left.forEach((after, t) => {
    const wanted = Float64Array.from(rows.subarray(t * each, (t + 1) * each));
    wanted.set(xs[t]!, TO * D);
    for (let head = 0; head < H; head++) {
      const y = new Float64Array(H * V);
      const own = (t * H + head) * V;
      y.set(exact.y.subarray(own, own + V), head * V);
      wanted.set(linear(out.values, y, D, H * V), (PART_TO + head) * D);
    }
    const rowsOff = (from: number, count: number) =>
      rms(
        after.subarray(from * D, (from + count) * D),
        wanted.subarray(from * D, (from + count) * D),
      );
    worst.push(
      rowsOff(TO, 1),
      rowsOff(FROM, 1 + parts),
      rowsOff(PART_TO, H),
      rowsOff(PART_TO + H, 1),
    );
    worst.push(
      same(
        after.subarray((PART_TO - 1) * D, PART_TO * D),
        wanted.subarray((PART_TO - 1) * D, PART_TO * D),
      ),
    );
  });
  return Math.max(...worst);
}

/** The worst of all that kda_watched tells of each token; `energy` [T, H] is of the memories as they were left. */
function rmsWatched(
  { T, H, K, V }: KdaSizes,
  told: Float32Array[],
  exact: Watched,
  energy: number[],
): number {
  const row = (x: Float64Array, t: number, width: number) => x.subarray(t * width, (t + 1) * width);
  const dot = (x: Float64Array, y: Float64Array, head: number) =>
    row(x, head, V).reduce((sum, value, e) => sum + value * row(y, head, V)[e]!, 0);
  let worst = 0;
  let first = 0;
  const parts: [keyof Watched, number][] = [
    ['q', H * K],
    ['k', H * K],
    ['v', H * V],
    ['g', H * K],
    ['u', H * V],
    ['beta', H],
  ];
  for (const [name, width] of parts) {
    const seen = told.flatMap((values) => [...values.subarray(first, first + width)]);
    worst = Math.max(worst, rmsF32(Float32Array.from(seen), exact[name]));
    first += width;
  }
  if (first !== historyWords({ H, K, V })) return Infinity;
  const { u, held, v } = exact;
  for (let n = 0; n < 5; n++) {
    const seen: number[] = [];
    const wanted: number[] = [];
    for (let head = 0; head < T * H; head++) {
      const all = [dot(u, u, head), dot(held, v, head), dot(held, held, head), dot(v, v, head)];
      wanted.push([...all, energy[head]!][n]!);
      seen.push(told[Math.floor(head / H)]![first + 5 * (head % H) + n]!);
    }
    worst = Math.max(worst, rms(seen, wanted));
  }
  return worst;
}

// ---------------------------------------------------------------------------------------------- experts

/** One token's choice among experts whose matrices come in parts, each part a dispatch. */
interface ChosenCase {
  experts: number;
  /** First experts of the parts. */
  parts: number[];
  /** The chosen experts, best first. */
  ids: number[];
  sum: Sum;
}

/** The parts as the kernels count them, and the slots whose experts they hold. */
function partsOf({ experts, parts, ids }: ChosenCase) {
  return parts.map((FIRST, i) => {
    const COUNT = (parts[i + 1] ?? experts) - FIRST;
    const slots = [...ids.keys()].filter((j) => ids[j]! >= FIRST && ids[j]! < FIRST + COUNT);
    return { FIRST, COUNT, slots };
  });
}

export interface ExpertSwigluCase extends ChosenCase {
  gate: TensorType;
  up: TensorType;
  shared: TensorType;
  width: number;
  /** Rows of the shared expert's gate, and of its up. */
  sharedWidth: number;
  cols: number;
  /** Numbers of a workgroup; both widths are multiples of it. */
  each: 4 | 8;
  eps: number;
  size: number;
  /** null: ids are given. Otherwise the kernel chooses by itself, as many as there are ids; these do not count. Equal rows every `grain`. */
  router: { library: Library; scale: number; norm: boolean; grain: number } | null;
}

/** The choice as the kernels lay it out: ids, from 64 on bits of weights, from 128 on those of logits. */
function chosenRow(ids: ArrayLike<number>, weights: Float32Array): Uint32Array<ArrayBuffer> {
  const row = new Uint32Array(CHOSEN.logits + 3);
  row.set(Array.from(ids));
  row.set(new Uint32Array(weights.buffer, weights.byteOffset, weights.length), CHOSEN.weights);
  return row;
}

/** The worst of all parts; each must leave the slots of the others as they are. */
export async function checkExpertSwiglu(
  kernel: typeof kernels.expertSwiglu,
  c: ExpertSwigluCase,
): Promise<number> {
  const { width, sharedWidth, cols, experts, router } = c;
  const TOP = c.ids.length;
  const x = randomValues(1, cols, c.size);
  const w = randomValues(2, cols);
  const normed = rmsNorm(x, w, c.eps);
  const C = randomMatrix(c.shared, 3, 2 * sharedWidth, cols);
  // Equal rows of the router and equal biases make ties.
  const R = randomMatrix('F32', 4, experts, cols).values.map((value, i, all) =>
    router?.grain ? all[i % (cols * router.grain)]! : value,
  );
  const bias = randomValues(5, experts).map((b, _, all) => (router?.grain ? all[0]! : b));
  const given = router?.library.name === routerLogits.name; // its logits are
  const product = linear(R, normed, experts, cols);
  const logits = given ? Float64Array.from(Float32Array.from(product)) : product;
  const routing = route(logits, bias, TOP, router?.scale ?? 1);
  const ids = router ? [...routing.experts] : c.ids;
  const shares = router?.norm
    ? routing.weights
    : Float64Array.from(ids, (e) => (router?.scale ?? 1) * routing.scores[e]!);
  const constants = Float32Array.from([...w, ...(given ? [] : R), ...bias]);
  let chosen = router
    ? new Uint32Array(CHOSEN.logits + experts).fill(99)
    : chosenRow(ids, new Float32Array(TOP));
  if (given) chosen.set(new Uint32Array(Float32Array.from(logits).buffer), CHOSEN.logits);
  let act = new Float32Array(TOP * width + sharedWidth).fill(NaN);
  let worst = 0;
  for (const [i, { FIRST, COUNT, slots }] of partsOf({ ...c, ids }).entries()) {
    const G = randomMatrix(c.gate, 10 + i, COUNT * width, cols);
    const U = randomMatrix(c.up, 20 + i, COUNT * width, cols);
    const weights = several(G, U, C);
    const { scale: SCALE, norm } = router ?? { scale: 1, norm: true };
    const out = await dispatch({
      kernel,
      libraries: [...weights.libraries, activation, c.sum.library, router?.library ?? routerGiven],
      consts: { WIDTH: width, SHARED: sharedWidth, FIRST, COUNT, TOP, EPS: c.eps, EACH: c.each },
      libraryConsts: {
        ...{ COLS: cols, COLS_b: cols, COLS_c: cols, SUM_LANES: c.sum.lanes },
        ...(router && { EXPERTS: experts, SCALE, NORM: norm ? 1 : 0 }),
      },
      inputs: { ...weights.inputs, x, constants, chosen, act },
      outputs: {},
      tokens: 1,
    });
    if (router) chosen = new Uint32Array(out.chosen!.buffer);
    const expected = new Float64Array(act.length).fill(NaN);
    for (const j of slots) {
      const of = (m: Matrix) =>
        matrix(slice(m, cols, (ids[j]! - FIRST) * width, width), width, cols);
      expected.set(swiglu({ gate: of(G), up: of(U), down: opened }, normed), j * width);
    }
    if (FIRST === 0) {
      const of = (from: number) => matrix(slice(C, cols, from, sharedWidth), sharedWidth, cols);
      const said = swiglu({ gate: of(0), up: of(sharedWidth), down: opened }, normed);
      expected.set(said, TOP * width);
    }
    worst = Math.max(worst, rmsWhereWritten(out.act!, expected, act));
    act = out.act!;
  }
  if (act.some(Number.isNaN)) return Infinity;
  if (!router) return worst;
  const said = new Float32Array(chosen.buffer);
  return Math.max(
    worst,
    same(chosen.subarray(0, TOP), ids),
    rms(said.subarray(CHOSEN.weights, CHOSEN.weights + TOP), shares),
    rms(said.subarray(CHOSEN.logits, CHOSEN.logits + experts), logits),
  );
}

/** In the place of down: leaves silu(gate) up as it is. */
const opened = (act: Reals) => Float64Array.from(act);

export interface ExpertDownCase extends ChosenCase {
  down: TensorType;
  shared: TensorType;
  rows: number;
  cols: number;
  /** Columns of the shared expert. */
  sharedCols: number;
  /** The part that adds it; -1: none does. */
  sharedWith: number;
}

/** The worst of all parts, each adding to x; one that has nothing to add must leave x bit for bit. */
export async function checkExpertDown(
  kernel: typeof kernels.expertDown,
  c: ExpertDownCase,
): Promise<number> {
  const { rows, cols, sharedCols, ids } = c;
  const TOP = ids.length;
  const weights = randomValues(1, TOP).map((value) => 0.5 + 0.4 * value);
  const act = randomValues(2, TOP * cols + sharedCols);
  const Db = randomMatrix(c.shared, 4, rows, sharedCols);
  const shared = linear(Db.values, act.subarray(TOP * cols), rows, sharedCols);
  let x = randomValues(5, rows + 5);
  let worst = 0;
  for (const [i, { FIRST, COUNT, slots }] of partsOf(c).entries()) {
    const D = randomMatrix(c.down, 10 + i, COUNT * rows, cols);
    const matrices = several(D, Db);
    const SHARED = i === c.sharedWith ? 1 : 0;
    const out = await dispatch({
      kernel,
      libraries: [...matrices.libraries, c.sum.library],
      consts: { ROWS: rows, FIRST, COUNT, TOP, SHARED },
      libraryConsts: { COLS: cols, COLS_b: sharedCols, SUM_LANES: c.sum.lanes },
      inputs: { ...matrices.inputs, chosen: chosenRow(ids, weights), act, x },
      outputs: {},
      tokens: 1,
    });
    const said = new Float64Array(rows);
    for (const j of slots) {
      const De = slice(D, cols, (ids[j]! - FIRST) * rows, rows);
      const y = linear(De, act.subarray(j * cols, (j + 1) * cols), rows, cols);
      said.forEach((_, r) => (said[r]! += weights[j]! * y[r]!));
    }
    if (SHARED === 1) said.forEach((_, r) => (said[r]! += shared[r]!));
    const expected = new Float64Array(x.length).fill(NaN);
    if (SHARED === 1 || slots.length > 0) expected.set(said.map((value, r) => x[r]! + value));
    worst = Math.max(worst, rmsWhereWritten(out.x!, expected, x));
    x = out.x!;
  }
  return worst;
}

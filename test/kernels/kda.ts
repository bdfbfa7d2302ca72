/**
 * How the kernels of Kimi Delta Attention are checked: dispatched, and compared with the float64 oracle. Every function
 * takes the kernel as an argument, so that one with a known bug can be put in its place, and gives the relative RMS.
 */
import { activation, step } from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import { dispatch, random, randomValues } from '../gpu.ts';
import {
  gates,
  outNorm,
  shortConv,
  step as stepByStep,
  writeStrengths,
  type KdaInputs,
  type KdaSizes,
} from '../reference/kda.ts';
import { softplus, unit } from '../reference/layers.ts';
import { rms, type Sum } from './layers.ts';

// --------------------------------------------------------------------------------- around the recurrence

export interface ConvCase {
  T: number;
  /** Channels: C. */
  channels: number;
  taps: number;
}

/** Two calls, so that the second begins with the tails that the first left: of T tokens, then of three. */
export async function checkShortConv(
  kernel: typeof kernels.shortConv,
  { T, channels: C, taps: TAPS }: ConvCase,
): Promise<number> {
  const w = randomValues(1, C * TAPS);
  let tails = randomValues(2, (TAPS - 1) * C);
  let worst = 0;
  for (const tokens of [T, 3]) {
    const qkv = randomValues(3 + tokens, tokens * C);
    const expected = shortConv(qkv, w, tails, TAPS);
    const out = await dispatch({
      kernel,
      libraries: [activation, step],
      consts: { C, TAPS },
      inputs: { qkv, w, tails },
      outputs: { mixed: tokens * C },
      tokens,
    });
    worst = Math.max(worst, rms(out.mixed!, expected.y), rms(out.tails!, expected.tail));
    tails = out.tails!;
  }
  return worst;
}

export interface GateCase {
  T: number;
  H: number;
  K: number;
  V: number;
  eps: number;
  /** Size of q and k before they are brought to unit length: small ones let eps speak. */
  size: number;
  sum: Sum;
}

/** The largest of four figures: of q and k together, v (which must stay as it is), beta, and g element by element. */
export async function checkKdaGate(kernel: typeof kernels.kdaGate, c: GateCase): Promise<number> {
  const { T, H, K, V } = c;
  const C = 2 * H * K + H * V;
  const mixed = randomValues(1, T * C, c.size);
  const dt = randomValues(2, H * K, 3);
  const a = randomValues(3, H, 7).map((x) => x - 9); // -2 .. -16
  const beta = randomValues(4, T * H, 20);
  const z = (i: number) => -20 + (40 * i) / Math.max(1, T * H * K - 1); // what softplus meets, from -20 to 20
  const g = Float32Array.from({ length: T * H * K }, (_, i) => z(i) - dt[i % (H * K)]!);
  const out = await dispatch({
    kernel,
    libraries: [activation, c.sum.library],
    consts: { H, K, C, EPS: c.eps },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: { mixed, g, beta, dt, a },
    outputs: {},
    tokens: T,
  });
  const expected = Float64Array.from(mixed);
  for (let t = 0; t < T; t++) {
    const q = mixed.subarray(t * C, t * C + H * K);
    const k = mixed.subarray(t * C + H * K, t * C + 2 * H * K);
    expected.set(unit(q, K, c.eps, K ** -0.5), t * C);
    expected.set(unit(k, K, c.eps, 1), t * C + H * K);
  }
  const part = (x: ArrayLike<number>, isValue: boolean) =>
    Array.from(x).filter((_, i) => i % C >= 2 * H * K === isValue);
  // The oracle starts from z rounded to f32, as softplus meets it: where g = e^z, rounding z costs g |z| roundings.
  const z32 = g.map((raw, i) => raw + dt[i % (H * K)]!);
  const decays = gates(z32, new Float64Array(H * K), a);
  return Math.max(
    rms(part(out.mixed!, false), part(expected, false)),
    rms(part(out.mixed!, true), part(expected, true)),
    rms(out.beta!, writeStrengths(beta)),
    ...Array.from(out.g!, (value, i) => rms([value], [decays[i]!])),
  );
}

export interface OutCase {
  T: number;
  H: number;
  V: number;
  eps: number;
  size: number;
  sum: Sum;
}

export async function checkKdaOut(kernel: typeof kernels.kdaOut, c: OutCase): Promise<number> {
  const { T, H, V } = c;
  const o = randomValues(1, T * H * V, c.size);
  const w = randomValues(2, V);
  const gate = randomValues(3, T * H * V, 20);
  const { y } = await dispatch({
    kernel,
    libraries: [activation, c.sum.library],
    consts: { H, V, EPS: c.eps },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: { o, w, gate },
    outputs: { y: T * H * V },
    tokens: T,
  });
  return rms(y!, outNorm(o, w, gate, c.eps));
}

// ---------------------------------------------------------------------------------------- the recurrence

/** From gentle to violent: the log decay of one key channel at one token, from a uniform number in [-1, 1). */
export const DECAYS = {
  /** As a trained model's slow channels: half-lives of tens to thousands of tokens. */
  gentle: (x: number) => -0.05 * (1 + x) ** 4,
  /** exp(A_log) = 16 with pre-activations to 2: from -0.04 to -34, a chunk's sum to -1,000. */
  strong: (x: number) => -16 * softplus(4 * x - 2),
  /** Violent tokens between almost still ones: differences of running sums would lose the still ones' digits. */
  uneven: (x: number) => (x < 0 ? -60 * -x : -0.01 * x),
  none: () => 0,
  'half none': (x: number) => (x < 0 ? 0 : -2 * x),
  /** Each token forgets all: exp underflows. */
  total: (x: number) => -150 + 50 * x,
} satisfies Record<string, (x: number) => number>;

export interface RecurrenceCase extends KdaSizes {
  decay: keyof typeof DECAYS;
  /** Write strengths: anywhere in (0, 1), or of each head's tokens half 0 and half 1. */
  beta: 'open' | 'extreme';
  /** Keys of their own, or one key for all tokens: then every write corrects the one before. */
  keys: 'random' | 'same';
}

/** The inputs as the kernels get them: mixed [T, C], g, beta, and the memory that stands before, S. */
export interface RecurrenceBuffers {
  mixed: Float32Array;
  g: Float32Array;
  beta: Float32Array;
  S: Float32Array;
}

/** Inputs of a case, f32, the same in two arrangements: as the oracle reads them, and as the kernels do. */
export function recurrence(c: RecurrenceCase): { inputs: KdaInputs; buffers: RecurrenceBuffers } {
  const { T, H, K, V } = c;
  const next = random(100 + T);
  const normal = (n: number) => Float64Array.from({ length: n }, () => next() + next() + next());
  const oneKey = normal(H * K);
  const rawKeys = c.keys === 'random' ? normal(T * H * K) : repeat(oneKey, T);
  const q = Float32Array.from(unit(normal(T * H * K), K, 1e-6, K ** -0.5));
  const k = Float32Array.from(unit(rawKeys, K, 1e-6, 1));
  const v = Float32Array.from(normal(T * H * V));
  const g = Float32Array.from({ length: T * H * K }, () => DECAYS[c.decay](next()));
  const beta = Float32Array.from({ length: T * H }, () => {
    const x = next();
    return c.beta === 'open' ? (1 + x) / 2 : x < 0 ? 0 : 1;
  });
  const S = Float32Array.from(normal(H * K * V));
  const C = 2 * H * K + H * V;
  const mixed = new Float32Array(T * C);
  for (let t = 0; t < T; t++) {
    mixed.set(q.subarray(t * H * K, (t + 1) * H * K), t * C);
    mixed.set(k.subarray(t * H * K, (t + 1) * H * K), t * C + H * K);
    mixed.set(v.subarray(t * H * V, (t + 1) * H * V), t * C + 2 * H * K);
  }
  return { inputs: { q, k, v, g, beta }, buffers: { mixed, g, beta, S } };
}

function repeat(row: Float64Array, times: number): Float64Array {
  const out = new Float64Array(times * row.length);
  for (let t = 0; t < times; t++) out.set(row, t * row.length);
  return out;
}

/** Outputs [T, H, V] and the memory afterwards. */
export interface RecurrenceResult {
  o: Float32Array;
  S: Float32Array;
}

/**
 * Relative RMS where numbers below the smallest normal f32 count as zero on both sides: a GPU may keep them or not, and
 * float64 has many more of them.
 */
export function rmsF32(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const flush = (x: number) => (Math.abs(x) < 2 ** -126 ? 0 : x);
  return rms(Array.from(actual, flush), Array.from(expected, flush));
}

/** The larger of two figures: of the outputs, and of the memory. */
export function apart(
  actual: { o: ArrayLike<number>; S: ArrayLike<number> },
  expected: { o: ArrayLike<number>; S: ArrayLike<number> },
): number {
  return Math.max(rmsF32(actual.o, expected.o), rmsF32(actual.S, expected.S));
}

export interface StepSizes extends KdaSizes {
  /** Lanes that share a value column. */
  parts: number;
}

export async function runKdaStep(
  kernel: typeof kernels.kdaStep,
  { T, H, K, V, parts: PARTS }: StepSizes,
  { mixed, g, beta, S }: RecurrenceBuffers,
): Promise<RecurrenceResult> {
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { H, K, V, PARTS },
    inputs: { mixed, g, beta, S },
    outputs: { o: T * H * V },
    tokens: T,
  });
  return { o: out.o!, S: out.S! };
}

export async function checkKdaStep(
  kernel: typeof kernels.kdaStep,
  c: RecurrenceCase & StepSizes,
): Promise<number> {
  const { inputs, buffers } = recurrence(c);
  return apart(await runKdaStep(kernel, c, buffers), stepByStep(c, inputs, buffers.S));
}

/** A call's buffers cut in two before token `cut`; the second part lacks S, which the first leaves. */
export function cutBuffers(
  { T, H, K, V }: KdaSizes,
  { mixed, g, beta, S }: RecurrenceBuffers,
  cut: number,
): [RecurrenceBuffers, Omit<RecurrenceBuffers, 'S'>] {
  const C = 2 * H * K + H * V;
  const part = (from: number, to: number) => ({
    mixed: mixed.slice(from * C, to * C),
    g: g.slice(from * H * K, to * H * K),
    beta: beta.slice(from * H, to * H),
  });
  return [{ ...part(0, cut), S }, part(cut, T)];
}

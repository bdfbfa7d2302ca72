/**
 * Kimi Delta Attention in float64: the recurrence, the chunk form, and what feeds and follows them.
 *
 * One head, one token (the memory S is a [K, V] matrix):
 *
 *   S <- Diag(exp g) S            forget: decay every key row
 *   held = S^T k                  what the memory says under this key
 *   u    = beta (v - held)        the surprise, as strongly as it is written
 *   S <- S + k u^T                write
 *   o    = S^T q                  read, after the write
 *
 * q arrives scaled by K^-1/2; q and k have unit length before that. g <= 0 is a natural-log decay per key channel.
 * Shapes  q, k, g [T, H, K]   v, o, held, u [T, H, V]   beta [T, H]   S [H, K, V], V fastest
 * After   Kimi Linear (arXiv 2510.26692) equations 1 and 4-9; FLA ops/kda/naive.py for the notation
 */
import { each, expectLength, rmsNorm, sigmoid, silu, softplus, type Reals } from './layers.ts';

/** Tokens, heads, key channels and value channels. K and V may differ. */
export interface KdaSizes {
  T: number;
  H: number;
  K: number;
  V: number;
}

/** What the recurrence reads: q, k, g [T, H, K], v [T, H, V], beta [T, H]. */
export interface KdaInputs {
  q: Reals;
  k: Reals;
  v: Reals;
  g: Reals;
  beta: Reals;
}

/** o, u [T, H, V] and the memory after the last token, S [H, K, V]. */
export interface KdaResult {
  o: Float64Array;
  u: Float64Array;
  S: Float64Array;
}

/** A memory in which nothing was written: zeros [H, K, V]. */
export function emptyMemory({ H, K, V }: Omit<KdaSizes, 'T'>): Float64Array {
  return new Float64Array(H * K * V);
}

// ------------------------------------------------------------------------------------------- step form

/** The recurrence, token by token, from `memory` [H, K, V]. Also gives held [T, H, V]. This form is the definition. */
export function step(
  sizes: KdaSizes,
  inputs: KdaInputs,
  memory: Reals,
): KdaResult & { held: Float64Array } {
  checkShapes(sizes, inputs, memory);
  const { T, H, K, V } = sizes;
  const { q, k, v, g, beta } = inputs;
  const S = Float64Array.from(memory);
  const held = new Float64Array(T * H * V);
  const u = new Float64Array(T * H * V);
  const o = new Float64Array(T * H * V);

  for (let t = 0; t < T; t++) {
    for (let h = 0; h < H; h++) {
      const key = (t * H + h) * K; // this token's row of q, k, g
      const value = (t * H + h) * V; // and of v, held, u, o
      for (let d = 0; d < K; d++) {
        const row = (h * K + d) * V;
        const decay = Math.exp(g[key + d]);
        for (let e = 0; e < V; e++) {
          S[row + e] *= decay;
          held[value + e] += k[key + d] * S[row + e];
        }
      }
      for (let e = 0; e < V; e++) {
        u[value + e] = beta[t * H + h] * (v[value + e] - held[value + e]);
      }
      for (let d = 0; d < K; d++) {
        const row = (h * K + d) * V;
        for (let e = 0; e < V; e++) {
          S[row + e] += k[key + d] * u[value + e];
          o[value + e] += q[key + d] * S[row + e];
        }
      }
    }
  }
  return { o, u, S, held };
}

// ------------------------------------------------------------------------------------------ chunk form

/**
 * The same numbers, C tokens at a time, so that a GPU meets matrices instead of a loop. One head, one chunk of
 * n <= C rows; gc is the running sum of g inside the chunk, G = exp(gc) decays from the chunk's start:
 *
 *   L[i,j]   = sum_d k[i,d] k[j,d] exp(gc[i,d] - gc[j,d])     j <  i
 *   Aqk[i,j] = sum_d q[i,d] k[j,d] exp(gc[i,d] - gc[j,d])     j <= i
 *   u        = (I + Diag(beta) L)^-1 Diag(beta) (V - (G * K) S)
 *   o        = (G * q) S + Aqk u
 *   S       <- Diag(G[last]) S + (K * exp(gc[last] - gc))^T u
 *
 * A decay is always taken between two rows with the later one first, so every exponent is <= 0 and nothing overflows,
 * however hard the gates close. A last chunk of fewer than C rows is simply shorter.
 */
export function chunk(sizes: KdaSizes, inputs: KdaInputs, memory: Reals, C: number): KdaResult {
  checkShapes(sizes, inputs, memory);
  const { T, H, K, V } = sizes;
  const S = Float64Array.from(memory);
  const u = new Float64Array(T * H * V);
  const o = new Float64Array(T * H * V);

  for (let h = 0; h < H; h++) {
    const memoryOfHead = S.subarray(h * K * V, (h + 1) * K * V);
    for (let start = 0; start < T; start += C) {
      const n = Math.min(C, T - start);
      const rows = (x: Reals, width: number) => headRows(x, H, width, h, start, n);
      const k = rows(inputs.k, K);
      const q = rows(inputs.q, K);
      const gc = cumulative(rows(inputs.g, K), K);
      const beta = rows(inputs.beta, 1);

      const { L, Aqk } = chunkPairs({ q, k, gc }, K);
      const R = chunkSurprise({ k, v: rows(inputs.v, V), gc, beta }, memoryOfHead, K, V);
      const written = product(chunkInverse(L, beta), R, n);
      const read = chunkScan({ q, k, gc, Aqk, u: written }, memoryOfHead, K, V);

      for (let i = 0; i < n; i++) {
        const at = ((start + i) * H + h) * V;
        u.set(written.subarray(i * V, (i + 1) * V), at);
        o.set(read.o.subarray(i * V, (i + 1) * V), at);
      }
      memoryOfHead.set(read.S);
    }
  }
  return { o, u, S };
}

/** Inclusive running sum over rows: g [n, K] -> gc [n, K]. */
export function cumulative(g: Reals, K: number): Float64Array {
  const gc = Float64Array.from(g);
  for (let i = K; i < gc.length; i++) gc[i] += gc[i - K];
  return gc;
}

/** How rows see each other: q, k, gc [n, K] -> L [n, n] (zero from the diagonal up), Aqk [n, n] (zero above it). */
export function chunkPairs(
  { q, k, gc }: { q: Reals; k: Reals; gc: Reals },
  K: number,
): { L: Float64Array; Aqk: Float64Array } {
  const n = gc.length / K;
  const L = new Float64Array(n * n);
  const Aqk = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      for (let d = 0; d < K; d++) {
        const decayed = k[j * K + d] * Math.exp(gc[i * K + d] - gc[j * K + d]);
        if (j < i) L[i * n + j] += k[i * K + d] * decayed;
        Aqk[i * n + j] += q[i * K + d] * decayed;
      }
    }
  }
  return { L, Aqk };
}

/**
 * (I + Diag(beta) L)^-1 by forward substitution: L [n, n] strictly lower, beta [n] -> [n, n], unit lower triangular.
 * Row i of the inverse is e_i less beta_i L[i,j] times each earlier row j.
 */
export function chunkInverse(L: Reals, beta: Reals): Float64Array {
  const n = beta.length;
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    inverse[i * n + i] = 1;
    for (let j = 0; j < i; j++) {
      for (let c = 0; c <= j; c++)
        inverse[i * n + c] -= beta[i] * L[i * n + j] * inverse[j * n + c];
    }
  }
  return inverse;
}

/** What each row would write if its chunk held no earlier row: R = Diag(beta) (v - (exp(gc) * k) S), [n, V]. */
export function chunkSurprise(
  { k, v, gc, beta }: { k: Reals; v: Reals; gc: Reals; beta: Reals },
  S: Reals,
  K: number,
  V: number,
): Float64Array {
  const held = product(decayedFromStart(k, gc), S, K);
  return Float64Array.from(v, (value, i) => beta[Math.floor(i / V)] * (value - held[i]));
}

/** Outputs and the memory after: q, k, gc [n, K], Aqk [n, n], u [n, V], S [K, V] -> o [n, V], S [K, V]. */
export function chunkScan(
  { q, k, gc, Aqk, u }: { q: Reals; k: Reals; gc: Reals; Aqk: Reals; u: Reals },
  S: Reals,
  K: number,
  V: number,
): { o: Float64Array; S: Float64Array } {
  const n = gc.length / K;
  const fromMemory = product(decayedFromStart(q, gc), S, K);
  const fromChunk = product(Aqk, u, n);
  const o = fromMemory.map((value, i) => value + fromChunk[i]);

  const last = (n - 1) * K;
  const after = new Float64Array(K * V);
  for (let d = 0; d < K; d++) {
    for (let e = 0; e < V; e++) {
      let sum = Math.exp(gc[last + d]) * S[d * V + e];
      for (let i = 0; i < n; i++) {
        sum += k[i * K + d] * Math.exp(gc[last + d] - gc[i * K + d]) * u[i * V + e];
      }
      after[d * V + e] = sum;
    }
  }
  return { o, S: after };
}

/** exp(gc) * x: rows as the memory at the chunk's start meets them. */
function decayedFromStart(x: Reals, gc: Reals): Float64Array {
  return Float64Array.from(x, (value, i) => value * Math.exp(gc[i]));
}

/** A [n, inner] times B [inner, columns] -> [n, columns]. */
function product(A: Reals, B: Reals, inner: number): Float64Array {
  const n = A.length / inner;
  const columns = B.length / inner;
  const out = new Float64Array(n * columns);
  for (let i = 0; i < n; i++) {
    for (let m = 0; m < inner; m++) {
      const a = A[i * inner + m];
      for (let c = 0; c < columns; c++) out[i * columns + c] += a * B[m * columns + c];
    }
  }
  return out;
}

/** Rows start .. start + n of one head: x [T, H, width] -> [n, width]. */
export function headRows(
  x: Reals,
  H: number,
  width: number,
  h: number,
  start: number,
  n: number,
): Float64Array {
  const out = new Float64Array(n * width);
  for (let i = 0; i < n; i++) {
    const from = ((start + i) * H + h) * width;
    out.set(x.subarray(from, from + width), i * width);
  }
  return out;
}

// ------------------------------------------------------------------------------ before the recurrence

/**
 * Log decays: g[t,h,d] = a[h] softplus(raw[t,h,d] + dtBias[h,d]), a = -exp(A_log) < 0.
 * raw [T, H, K], dtBias [H, K], a [H] -> g [T, H, K].
 */
export function gates(raw: Reals, dtBias: Reals, a: Reals): Float64Array {
  const width = dtBias.length; // H K
  const K = width / a.length;
  return Float64Array.from(raw, (f, i) => {
    const channel = i % width;
    return a[Math.floor(channel / K)] * softplus(f + dtBias[channel]);
  });
}

/** Write strengths: beta = sigmoid(raw), [T, H]. */
export function writeStrengths(raw: Reals): Float64Array {
  return each(raw, sigmoid);
}

/**
 * Causal depthwise convolution over the last `taps` inputs, then SiLU. The last tap meets the current token.
 *
 *   y[t,c] = silu( sum_j w[c,j] x[t - (taps-1) + j, c] )        x before the first token comes from the tail
 *
 * x [T, C], w [C, taps], tail [taps-1, C] oldest first -> y [T, C] and the next tail: the last raw inputs.
 */
export function shortConv(
  x: Reals,
  w: Reals,
  tail: Reals,
  taps: number,
): { y: Float64Array; tail: Float64Array } {
  const C = w.length / taps;
  expectLength('shortConv: tail', tail, (taps - 1) * C);
  const padded = new Float64Array(tail.length + x.length);
  padded.set(tail);
  padded.set(x, tail.length);
  const y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const c = i % C;
    let sum = 0;
    for (let j = 0; j < taps; j++) sum += w[c * taps + j] * padded[i + j * C];
    y[i] = silu(sum);
  }
  return { y, tail: padded.slice(padded.length - tail.length) };
}

// ------------------------------------------------------------------------------- after the recurrence

/** y = rmsnorm(o) w sigmoid(outGate) per head: o, outGate [T, H, V], the gate before its sigmoid, w [V] -> [T, H, V]. */
export function outNorm(o: Reals, w: Reals, outGate: Reals, eps: number): Float64Array {
  expectLength('outNorm: outGate', outGate, o.length);
  return rmsNorm(o, w, eps).map((y, i) => y * sigmoid(outGate[i]));
}

function checkShapes({ T, H, K, V }: KdaSizes, inputs: KdaInputs, memory: Reals): void {
  for (const name of ['q', 'k', 'g'] as const)
    expectLength(`kda: ${name}`, inputs[name], T * H * K);
  expectLength('kda: v', inputs.v, T * H * V);
  expectLength('kda: beta', inputs.beta, T * H);
  expectLength('kda: memory', memory, H * K * V);
}

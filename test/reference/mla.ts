/**
 * Multi-head latent attention without positions (NoPE), in float64. All heads share one cache row per token:
 *
 *   row = [ rmsnorm(c[0..L]) w | c[L..L+R] ]              latent, then the key part all heads share; c = W_kva x
 *
 * Expanded form (the definition): every head unfolds its own keys and values from the latent.
 *
 *   key_h = [ Wk_h^T latent | shared ]     value_h = Wv_h latent
 *   p     = softmax(q_h . key_h (K+R)^-1/2)
 *   o_h   = sum p value_h
 *
 * Absorbed form (what is cheap): the unfolding moves to the query and to the sum, and the cache is read as it lies.
 *
 *   qa_h  = [ Wk_h q_h[0..K] | q_h[K..K+R] ]
 *   p     = softmax(qa_h . row (K+R)^-1/2)
 *   ctx_h = sum p latent                       o_h = Wv_h ctx_h
 *
 * Token t of a call sees the `past` rows before the call, the rows of the call before its own, and its own.
 * Shapes  q [T, H, K+R]   cache [rows, L+R]   Wk [H, L, K]   Wv [H, V, L]   o [T, H, V]
 */
import { dot, expectLength, rmsNorm, type Reals } from './layers.ts';

/** Tokens of this call, heads, a head's own key part, shared key part, latent, value channels. */
export interface MlaSizes {
  T: number;
  H: number;
  K: number;
  R: number;
  L: number;
  V: number;
}

/** q [T, H, K+R], cache [past + T, L+R] with this call's rows appended, Wk [H, L, K], Wv [H, V, L]. */
export interface MlaInputs {
  q: Reals;
  cache: Reals;
  Wk: Reals;
  Wv: Reals;
}

/** Cache rows of the tokens: c = W_kva x, [T, L+R], w [L] -> [T, L+R]. Only the latent part is normalised. */
export function latentRows(c: Reals, w: Reals, R: number, eps: number): Float64Array {
  const L = w.length;
  const rows = Float64Array.from(c);
  for (let row = 0; row < rows.length; row += L + R) {
    rows.set(rmsNorm(c.subarray(row, row + L), w, eps), row);
  }
  return rows;
}

// --------------------------------------------------------------------------------------- expanded form

/** Attention with keys and values unfolded per head -> o [T, H, V]. */
export function expanded(sizes: MlaSizes, inputs: MlaInputs): Float64Array {
  checkShapes(sizes, inputs);
  const { T, H, K, R, L, V } = sizes;
  const { q, cache, Wk, Wv } = inputs;
  const rows = cache.length / (L + R);
  const o = new Float64Array(T * H * V);
  for (let h = 0; h < H; h++) {
    const keys = new Float64Array(rows * (K + R));
    const values = new Float64Array(rows * V);
    for (let s = 0; s < rows; s++) {
      const latent = s * (L + R);
      for (let l = 0; l < L; l++) {
        for (let d = 0; d < K; d++) {
          keys[s * (K + R) + d] += Wk[(h * L + l) * K + d] * cache[latent + l];
        }
      }
      keys.set(cache.subarray(latent + L, latent + L + R), s * (K + R) + K);
      for (let e = 0; e < V; e++) values[s * V + e] = dot(Wv, (h * V + e) * L, cache, latent, L);
    }
    for (let t = 0; t < T; t++) {
      const out = (t * H + h) * V;
      const p = softmax(
        Float64Array.from(
          { length: rows - T + t + 1 },
          (_, s) => dot(q, (t * H + h) * (K + R), keys, s * (K + R), K + R) * (K + R) ** -0.5,
        ),
      );
      p.forEach((weight, s) => {
        for (let e = 0; e < V; e++) o[out + e] += weight * values[s * V + e];
      });
    }
  }
  return o;
}

/** exp(x) / sum exp(x), with the largest taken out first. */
export function softmax(x: Reals): Float64Array {
  let top = -Infinity;
  for (const value of x) top = Math.max(top, value);
  const e = Float64Array.from(x, (value) => Math.exp(value - top));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

// --------------------------------------------------------------------------------------- absorbed form

/** Attention that reads the cache as it lies, in slices of `sliceRows` -> o [T, H, V]. */
export function absorbed(sizes: MlaSizes, inputs: MlaInputs, sliceRows: number): Float64Array {
  checkShapes(sizes, inputs);
  const { L, R } = sizes;
  const rows = inputs.cache.length / (L + R);
  const qa = absorbQueries(sizes, inputs.q, inputs.Wk);
  const slices: Slice[] = [];
  for (let from = 0; from < rows; from += sliceRows) {
    slices.push(attendSlice(sizes, qa, inputs.cache, from, Math.min(from + sliceRows, rows)));
  }
  return unfoldValues(sizes, mergeSlices(sizes, slices), inputs.Wv);
}

/** Queries in the cache's own terms: q [T, H, K+R], Wk [H, L, K] -> qa [T, H, L+R]. Not scaled. */
export function absorbQueries({ T, H, K, R, L }: MlaSizes, q: Reals, Wk: Reals): Float64Array {
  const qa = new Float64Array(T * H * (L + R));
  for (let th = 0; th < T * H; th++) {
    const [from, to, h] = [th * (K + R), th * (L + R), th % H];
    for (let l = 0; l < L; l++) qa[to + l] = dot(Wk, (h * L + l) * K, q, from, K);
    qa.set(q.subarray(from + K, from + K + R), to + L);
  }
  return qa;
}

/**
 * Attention over one slice of the cache, unfinished: per token and head the largest score, the sum of
 * exp(score - top), and the latents summed with those weights. A token that sees no row of the slice has
 * top = -Infinity, sum = 0 and a context of zeros.
 */
export interface Slice {
  /** [T, H] */
  top: Float64Array;
  /** [T, H] */
  sum: Float64Array;
  /** [T, H, L], not divided by sum */
  context: Float64Array;
}

/** Rows from <= s < to of cache [past + T, L+R], as qa [T, H, L+R] sees them. */
export function attendSlice(
  { T, H, K, R, L }: MlaSizes,
  qa: Reals,
  cache: Reals,
  from: number,
  to: number,
): Slice {
  const past = cache.length / (L + R) - T;
  const top = new Float64Array(T * H).fill(-Infinity);
  const sum = new Float64Array(T * H);
  const context = new Float64Array(T * H * L);
  for (let th = 0; th < T * H; th++) {
    const seen = Math.min(to, past + Math.floor(th / H) + 1);
    const scores = new Float64Array(Math.max(0, seen - from));
    for (let s = from; s < seen; s++) {
      scores[s - from] = dot(qa, th * (L + R), cache, s * (L + R), L + R) * (K + R) ** -0.5;
      top[th] = Math.max(top[th], scores[s - from]);
    }
    for (let s = from; s < seen; s++) {
      const weight = Math.exp(scores[s - from] - top[th]);
      sum[th] += weight;
      for (let l = 0; l < L; l++) context[th * L + l] += weight * cache[s * (L + R) + l];
    }
  }
  return { top, sum, context };
}

/** Slices joined by log-sum-exp: each brought to the common largest score, then divided by the common sum -> [T, H, L]. */
export function mergeSlices({ T, H, L }: MlaSizes, slices: Slice[]): Float64Array {
  const context = new Float64Array(T * H * L);
  for (let th = 0; th < T * H; th++) {
    const top = Math.max(...slices.map((slice) => slice.top[th]));
    const scales = slices.map((slice) => Math.exp(slice.top[th] - top));
    const sum = slices.reduce((total, slice, i) => total + scales[i] * slice.sum[th], 0);
    slices.forEach((slice, i) => {
      for (let l = 0; l < L; l++) {
        context[th * L + l] += (scales[i] * slice.context[th * L + l]) / sum;
      }
    });
  }
  return context;
}

/** Values of the summed latents: context [T, H, L], Wv [H, V, L] -> o [T, H, V]. */
export function unfoldValues({ T, H, L, V }: MlaSizes, context: Reals, Wv: Reals): Float64Array {
  const o = new Float64Array(T * H * V);
  for (let th = 0; th < T * H; th++) {
    for (let e = 0; e < V; e++) {
      o[th * V + e] = dot(Wv, ((th % H) * V + e) * L, context, th * L, L);
    }
  }
  return o;
}

function checkShapes({ T, H, K, R, L, V }: MlaSizes, { q, cache, Wk, Wv }: MlaInputs): void {
  expectLength('mla: q', q, T * H * (K + R));
  expectLength('mla: cache', cache, Math.max(T, Math.floor(cache.length / (L + R))) * (L + R));
  expectLength('mla: Wk', Wk, H * L * K);
  expectLength('mla: Wv', Wv, H * V * L);
}

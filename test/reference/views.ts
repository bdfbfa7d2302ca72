/**
 * What the page shows of a KDA memory, in float64. Everything follows from the recurrence of kda.ts: the memory is a
 * sum of writes, each faded by every decay since (plus the faded memory it started with),
 *
 *   S_t = sum_i Diag(exp(G_t - G_i)) k_i u_i^T         G_t = g_1 + ... + g_t per key channel
 *
 * and each function below reads one thing off it. `held` and `u` come with kda.ts `step`.
 * Shapes  q, k, g [T, H, K]   v, u [T, H, V]   beta [T, H]   S [H, K, V]   results [tokens, H]
 */
import { dot, type Reals } from './layers.ts';
import type { KdaSizes } from './kda.ts';

/** Tokens until half of a channel is forgotten, if its decay stayed as it is: ln 2 / -g. Infinity where g = 0. */
export function halfLife(g: Reals): Float64Array {
  return Float64Array.from(g, (value) => (value === 0 ? Infinity : Math.LN2 / -value));
}

/**
 * How much of each write forgetting alone has left after token t: |k_i * exp(G_t - G_i)|, [t+1, H].
 * 1 = fresh (k has length one), 0 = faded away.
 */
export function ink(
  { H, K }: Pick<KdaSizes, 'H' | 'K'>,
  { k, g }: { k: Reals; g: Reals },
  t: number,
): Float64Array {
  const out = new Float64Array((t + 1) * H);
  for (let h = 0; h < H; h++) {
    const since = new Float64Array(K); // G_t - G_i
    for (let i = t; i >= 0; i--) {
      const at = (i * H + h) * K;
      let squares = 0;
      for (let d = 0; d < K; d++) {
        squares += (k[at + d] * Math.exp(since[d])) ** 2;
        since[d] += g[at + d];
      }
      out[i * H + h] = Math.sqrt(squares);
    }
  }
  return out;
}

/**
 * What the memory S returns for the key of each token, measured along that token's value: (S^T k_i . v_i) / (v_i . v_i),
 * [T, H]. 1 = the value whole, 0 = nothing of it, below 0 = the opposite. Forgetting and overwriting together.
 */
export function recall(
  { T, H, K, V }: KdaSizes,
  { k, v }: { k: Reals; v: Reals },
  S: Reals,
): Float64Array {
  const out = new Float64Array(T * H);
  for (let i = 0; i < T * H; i++) {
    const memory = (i % H) * K * V;
    let along = 0; // sum_d k[d] (S[d] . v)
    for (let d = 0; d < K; d++) along += k[i * K + d] * dot(S, memory + d * V, v, i * V, V);
    out[i] = along / dot(v, i * V, v, i * V, V);
  }
  return out;
}

/**
 * How the write of token s changed the recall of token i < s, at once and before any later decay:
 * (k_i . k_s) (u_s . v_i) / (v_i . v_i), for head h.
 */
export function recallChange(
  { H, K, V }: Omit<KdaSizes, 'T'>,
  { k, v, u }: { k: Reals; v: Reals; u: Reals },
  i: number,
  s: number,
  h: number,
): number {
  const [a, b] = [i * H + h, s * H + h];
  const sameKey = dot(k, a * K, k, b * K, K);
  return (sameKey * dot(u, b * V, v, a * V, V)) / dot(v, a * V, v, a * V, V);
}

/**
 * Which token overwrote each one: the s > i whose write cost the recall of i most, and that loss (<= 0), both [T, H].
 * -1 and 0 where no later token took anything away.
 */
export function overwrittenBy(
  sizes: KdaSizes,
  written: { k: Reals; v: Reals; u: Reals },
): { by: Int32Array; change: Float64Array } {
  const { T, H } = sizes;
  const by = new Int32Array(T * H).fill(-1);
  const change = new Float64Array(T * H);
  for (let h = 0; h < H; h++) {
    for (let i = 0; i < T; i++) {
      for (let s = i + 1; s < T; s++) {
        const delta = recallChange(sizes, written, i, s, h);
        if (delta < change[i * H + h]) {
          change[i * H + h] = delta;
          by[i * H + h] = s;
        }
      }
    }
  }
  return { by, change };
}

/**
 * Reach: the weight with which o_t reads the value of each token up to t, [t+1, H]. No approximation: for a memory that
 * started empty, sum_i w_i v_i = o_t. A walk back from t, with r = q_t to begin with:
 *
 *   w_i = beta_i (k_i . r)        then r <- r - w_i k_i        the delta rule, transposed
 *                                 and  r <- exp(g_i) * r       the forgetting of token i
 *
 * Weights may be negative: a correction taken back.
 */
export function reach(
  { H, K }: Pick<KdaSizes, 'H' | 'K'>,
  { q, k, g, beta }: { q: Reals; k: Reals; g: Reals; beta: Reals },
  t: number,
): Float64Array {
  const out = new Float64Array((t + 1) * H);
  for (let h = 0; h < H; h++) {
    const r = Float64Array.from(q.subarray((t * H + h) * K, (t * H + h + 1) * K));
    for (let i = t; i >= 0; i--) {
      const at = (i * H + h) * K;
      const w = beta[i * H + h] * dot(k, at, r, 0, K);
      for (let d = 0; d < K; d++) r[d] = Math.exp(g[at + d]) * (r[d] - w * k[at + d]);
      out[i * H + h] = w;
    }
  }
  return out;
}

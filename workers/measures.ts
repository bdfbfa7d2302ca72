/**
 * What views show of a memory, from numbers read back: float32 in, float64 arithmetic. Pure. Definitions in docs/MATH.md.
 * A row of history is what shaders/probe_keep.wgsl keeps of a token: [ q | k | v | g | u | beta ] of all heads.
 */

/** Sizes of a KDA layer. */
export interface Heads {
  H: number;
  K: number;
  V: number;
}

/** Rows of history [tokens, words], and where in a row head h has its q, k, v, g, u and beta. */
export interface Rows {
  values: Float32Array;
  words: number;
}

/** Where in a row of history one head's numbers begin. */
export function places({ H, K, V }: Heads, h: number) {
  const C = H * (2 * K + V);
  return {
    q: h * K,
    k: (H + h) * K,
    v: 2 * H * K + h * V,
    g: C + h * K,
    u: C + H * K + h * V,
    beta: C + H * K + H * V + h,
  };
}

/** Tokens until half of a channel is forgotten: ln 2 / -g; Infinity where g = 0. */
export function halfLife(g: number): number {
  return g === 0 ? Infinity : Math.LN2 / -g;
}

/** The middle of some numbers; of an even count, the mean of the two middle ones. Sorts them. */
export function median(values: Float64Array): number {
  values.sort();
  const n = values.length;
  return (values[(n - 1) >> 1]! + values[n >> 1]!) / 2;
}

/** The median over heads of each row: [rows, H] -> [rows]. */
export function medians(values: Float32Array, H: number): Float32Array {
  const row = new Float64Array(H);
  return Float32Array.from({ length: values.length / H }, (_, i) => {
    row.set(values.subarray(i * H, (i + 1) * H));
    return median(row);
  });
}

/** One head's column: [rows, H] -> [rows]. */
export function column(values: Float32Array, H: number, h: number): Float32Array {
  return Float32Array.from({ length: values.length / H }, (_, i) => values[i * H + h]!);
}

/** |k_i exp(G_t - G_i)| of every token up to the last row t: [tokens, H]. */
export function ink(sizes: Heads, { values, words }: Rows): Float32Array {
  const { H, K } = sizes;
  const tokens = values.length / words;
  const out = new Float32Array(tokens * H);
  for (let h = 0; h < H; h++) {
    const at = places(sizes, h);
    const since = new Float64Array(K); // G_t - G_i
    for (let i = tokens - 1; i >= 0; i--) {
      let squares = 0;
      for (let d = 0; d < K; d++) {
        squares += (values[i * words + at.k + d]! * Math.exp(since[d]!)) ** 2;
        since[d]! += values[i * words + at.g + d]!;
      }
      out[i * H + h] = Math.sqrt(squares);
    }
  }
  return out;
}

/**
 * The weight with which the last row's output reads the value of each token, for one head, when the memory started
 * empty: r = q_t; back from t: w_i = beta_i (k_i . r), r <- exp(g_i) (r - w_i k_i). [tokens]
 */
export function reach(sizes: Heads, { values, words }: Rows, h: number): Float32Array {
  const { K } = sizes;
  const at = places(sizes, h);
  const tokens = values.length / words;
  const r = Float64Array.from({ length: K }, (_, d) => values[(tokens - 1) * words + at.q + d]!);
  const out = new Float32Array(tokens);
  for (let i = tokens - 1; i >= 0; i--) {
    const row = i * words;
    let along = 0;
    for (let d = 0; d < K; d++) along += values[row + at.k + d]! * r[d]!;
    const w = values[row + at.beta]! * along;
    for (let d = 0; d < K; d++) {
      r[d] = Math.exp(values[row + at.g + d]!) * (r[d]! - w * values[row + at.k + d]!);
    }
    out[i] = w;
  }
  return out;
}

/** softmax over positions of scale (query . row); query as long as a row, rows [positions, query.length]. */
export function attention(query: Float64Array, rows: Float32Array, scale: number): Float32Array {
  const n = query.length;
  const scores = Float64Array.from({ length: rows.length / n }, (_, s) => {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += query[i]! * rows[s * n + i]!;
    return scale * sum;
  });
  const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - top));
  const total = weights.reduce((a, b) => a + b, 0);
  return Float32Array.from(weights, (w) => w / total);
}

/** Frobenius norm. */
export function norm(values: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i]! ** 2;
  return Math.sqrt(squares);
}

/**
 * Singular values of a matrix [rows, columns], largest first: one-sided Jacobi rotations of its columns (or of its rows
 * where those are fewer) until all are orthogonal.
 */
export function singularValues(
  matrix: ArrayLike<number>,
  rows: number,
  columns: number,
): Float64Array {
  const turned = columns > rows;
  const [m, n] = turned ? [columns, rows] : [rows, columns];
  // Columns one after another.
  const A = Float64Array.from({ length: m * n }, (_, i) => {
    const [c, r] = [Math.floor(i / m), i % m];
    return matrix[turned ? c * columns + r : r * columns + c]!;
  });
  for (let sweep = 0, turns = 1; turns > 0 && sweep < 60; sweep++) {
    turns = 0;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        let [pp, qq, pq] = [0, 0, 0];
        for (let i = 0; i < m; i++) {
          const [x, y] = [A[p * m + i]!, A[q * m + i]!];
          pp += x * x;
          qq += y * y;
          pq += x * y;
        }
        if (Math.abs(pq) <= 1e-14 * Math.sqrt(pp * qq) || pq === 0) continue;
        turns++;
        const zeta = (qq - pp) / (2 * pq);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cos = 1 / Math.hypot(1, t);
        const sin = cos * t;
        for (let i = 0; i < m; i++) {
          const [x, y] = [A[p * m + i]!, A[q * m + i]!];
          A[p * m + i] = cos * x - sin * y;
          A[q * m + i] = sin * x + cos * y;
        }
      }
    }
  }
  return Float64Array.from({ length: n }, (_, c) => norm(A.subarray(c * m, (c + 1) * m)))
    .sort()
    .reverse();
}

/** exp of the entropy of the squared singular values, normalised; 0 for an empty memory. */
export function effectiveRank(singular: Float64Array): number {
  const total = singular.reduce((sum, s) => sum + s * s, 0);
  if (total === 0) return 0;
  let entropy = 0;
  for (const s of singular) {
    const p = (s * s) / total;
    if (p > 0) entropy -= p * Math.log(p);
  }
  return Math.exp(entropy);
}

/**
 * The plain layers of the float64 oracle: products, norms, activations.
 *
 *   linear      y[t,r] = sum_c W[r,c] x[t,c]
 *   rmsNorm     x / sqrt(mean(x^2) + eps) * w
 *   unit        x / sqrt(sum(x^2) + eps)              eps inside the root, added to the sum
 *   sigmoid     1 / (1 + e^-x)
 *   silu        x sigmoid(x)
 *   softplus    log(1 + e^x)
 *
 * Arrays are flat, the last axis fastest. Every function reads float32 or float64, computes in float64, and returns
 * an array of its own: no argument is written to. Sizes are those of docs/MATH.md: T tokens, D width.
 */

/** Numbers as the oracle takes them. Float32 values are exact in float64, so nothing is lost on the way in. */
export type Reals = Float32Array | Float64Array;

/**
 * Rows times a weight matrix: x [T, cols], W [rows, cols] -> [T, rows].
 *
 * Each sum runs over the columns in order, whatever T is, so a token's result does not depend on its company.
 * Four rows at a time keep four independent sums in flight; almost all time of a forward pass is spent here.
 */
export function linear(W: Reals, x: Reals, rows: number, cols: number): Float64Array {
  expectLength('linear: W', W, rows * cols);
  const T = x.length / cols;
  expectLength('linear: x', x, Math.floor(T) * cols);
  const y = new Float64Array(T * rows);
  let r = 0;
  for (; r + 4 <= rows; r += 4) {
    const [w0, w1, w2, w3] = [r * cols, (r + 1) * cols, (r + 2) * cols, (r + 3) * cols];
    for (let t = 0; t < T; t++) {
      const from = t * cols;
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let c = 0; c < cols; c++) {
        const a = x[from + c];
        s0 += W[w0 + c] * a;
        s1 += W[w1 + c] * a;
        s2 += W[w2 + c] * a;
        s3 += W[w3 + c] * a;
      }
      const to = t * rows + r;
      y[to] = s0;
      y[to + 1] = s1;
      y[to + 2] = s2;
      y[to + 3] = s3;
    }
  }
  for (; r < rows; r++) {
    for (let t = 0; t < T; t++) {
      y[t * rows + r] = dot(W, r * cols, x, t * cols, cols);
    }
  }
  return y;
}

/** A matrix as what it does: x [T, cols] -> [T, rows]. */
export type Product = (x: Reals) => Float64Array;

/** The product with W [rows, cols]. */
export function matrix(W: Reals, rows: number, cols: number): Product {
  return (x) => linear(W, x, rows, cols);
}

/** sum_i a[aFrom + i] b[bFrom + i], i < length. */
export function dot(a: Reals, aFrom: number, b: Reals, bFrom: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[aFrom + i] * b[bFrom + i];
  return sum;
}

/** a + b, element by element. */
export function add(a: Reals, b: Reals): Float64Array {
  expectLength('add: b', b, a.length);
  return Float64Array.from(a, (value, i) => value + b[i]);
}

/** Root-mean-square norm of each row: x [.., D], w [D] -> [.., D]. */
export function rmsNorm(x: Reals, w: Reals, eps: number): Float64Array {
  const D = w.length;
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += D) {
    const r = 1 / Math.sqrt(dot(x, row, x, row, D) / D + eps);
    for (let d = 0; d < D; d++) y[row + d] = x[row + d] * r * w[d];
  }
  return y;
}

/**
 * Each row of `width` numbers brought to length one, then scaled: x [.., width] -> [.., width].
 * For q the scale is K^-1/2, for k it is 1. A row far shorter than sqrt(eps) stays short instead of becoming noise.
 */
export function unit(x: Reals, width: number, eps: number, scale: number): Float64Array {
  const y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    const r = scale / Math.sqrt(dot(x, row, x, row, width) + eps);
    for (let d = 0; d < width; d++) y[row + d] = x[row + d] * r;
  }
  return y;
}

export function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

export function silu(x: number): number {
  return x * sigmoid(x);
}

/** log(1 + e^x). log1p keeps the digits where x is very negative: there softplus is e^x, and the memory lasts longest. */
export function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

/** `f` of every element. */
export function each(x: Reals, f: (value: number) => number): Float64Array {
  return Float64Array.from(x, f);
}

/** Refuse an array whose length contradicts the sizes it was given with. Throws RangeError. */
export function expectLength(name: string, array: ArrayLike<number>, length: number): void {
  if (array.length !== length) {
    throw new RangeError(`${name} has ${array.length} numbers where the sizes say ${length}`);
  }
}

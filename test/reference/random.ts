/** Seeded numbers for tests: the same seed gives the same array on every machine. */

/** Uniform numbers in [0, 1) from a positive integer seed: Park and Miller's generator, exact in float64. */
export function random(seed: number): () => number {
  const modulus = 2 ** 31 - 1;
  let state = (seed * 7919) % modulus;
  const next = () => (state = (state * 48271) % modulus) / modulus;
  for (let i = 0; i < 8; i++) next(); // near seeds start alike
  return next;
}

/** `length` numbers between low and high. */
export function uniform(next: () => number, length: number, low: number, high: number) {
  return Float64Array.from({ length }, () => low + (high - low) * next());
}

/** `length` normal numbers of mean 0 and variance 1 (Box-Muller). */
export function gaussian(next: () => number, length: number): Float64Array {
  return Float64Array.from(
    { length },
    () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
}

/**
 * Activations as ggml's CPU code takes them into a product with quantised weights: blocks of 32 numbers, each block a
 * half-precision scale times signed bytes (Q8_0). The maths around it stays float64. With it the oracle meets llama.cpp's
 * logits of quantised files; without it the difference to them is exactly this rounding.
 */
import type { Reals } from './layers.ts';

/** x [.., multiple of 32], each block of 32 rounded: byte = round(x 127 / max |x|), value = half(max |x| / 127) byte. */
export function roundToInt8(x: Reals): Float64Array {
  const y = new Float64Array(x.length);
  for (let block = 0; block < x.length; block += 32) {
    const numbers = Float32Array.from(x.subarray(block, block + 32));
    const scale = Math.fround(numbers.reduce((top, a) => Math.max(top, Math.abs(a)), 0) / 127);
    const inverse = scale ? Math.fround(1 / scale) : 0;
    const stored = roundToHalf(scale);
    numbers.forEach((a, i) => {
      const steps = Math.fround(a * inverse);
      const byte = (steps + 0.5 * Math.sign(steps)) | 0; // halves away from zero
      y[block + i] = byte * stored;
    });
  }
  return y;
}

/** The nearest half-precision number, ties to even; beyond the largest, Infinity. */
export function roundToHalf(x: number): number {
  const size = Math.abs(x);
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const spacing = 2 ** (exponent - 10); // of neighbours at this size
  const steps = Math.floor(size / spacing);
  const rest = size / spacing - steps;
  const up = rest > 0.5 || (rest === 0.5 && steps % 2 === 1);
  const rounded = spacing * (up ? steps + 1 : steps);
  return Math.sign(x) * (rounded > 65504 ? Infinity : rounded);
}

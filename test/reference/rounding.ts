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
      const byte = Math.sign(steps) * Math.floor(Math.abs(steps) + 0.5); // halves away from zero
      y[block + i] = byte * stored;
    });
  }
  return y;
}

/** The nearest half-precision number, ties to even; beyond the largest, Infinity. */
export function roundToHalf(x: number): number {
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), -14);
  const unit = 2 ** (exponent - 10); // distance of neighbours at this size
  const steps = x / unit;
  const low = Math.floor(steps);
  const rest = steps - low;
  const rounded = unit * (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low);
  return Math.abs(rounded) > 65504 ? Math.sign(x) * Infinity : rounded;
}

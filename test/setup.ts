/** Runs before every test file: the matcher that compares numbers with a reference. */
import { expect } from 'vitest';
import { compare } from './reference/compare.ts';

export interface Tolerance {
  /** Largest relative root mean square: of the difference over that of the reference. */
  rms: number;
  /** Shape of both, last dimension fastest: failures then name the worst element by its place. */
  shape?: number[];
  /** What is compared, for the message. */
  what?: string;
}

declare module 'vitest' {
  interface Matchers<T> {
    /**
     * The numbers agree with the reference: `expect(y).toAgreeWith(reference, { rms: 1e-5, shape: [T, D] })`.
     * NaN or infinity anywhere disagrees; so do a different number of values, and no values at all.
     */
    toAgreeWith(reference: ArrayLike<number>, tolerance: Tolerance): T;
  }
}

expect.extend({
  toAgreeWith(actual: ArrayLike<number>, reference: ArrayLike<number>, tolerance: Tolerance) {
    const { rms: allowed, shape = [actual.length], what = 'values' } = tolerance;
    const elements = shape.reduce((product, n) => product * n, 1);
    if (elements !== reference.length) {
      throw new RangeError(
        `${what}: shape [${shape}] has ${elements} elements, the reference ${reference.length}`,
      );
    }
    const { relativeRms: rms, worst } = compare(actual, reference);
    return {
      pass: rms <= allowed,
      message: () =>
        `${what} [${shape}]: relative RMS ${rms.toExponential(2)}, allowed ${allowed.toExponential(2)}; ` +
        `worst at [${place(worst, shape)}]: ${actual[worst]} against ${reference[worst]}`,
    };
  },
});

/** Where element `index` lies in an array of this shape: `[2, 0, 17]`. */
function place(index: number, shape: number[]): number[] {
  return shape.map((extent, axis) => {
    const stride = shape.slice(axis + 1).reduce((product, n) => product * n, 1);
    return Math.floor(index / stride) % extent;
  });
}

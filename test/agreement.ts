/** How far numbers are from a reference: the one measure of every comparison here. */

export interface Agreement {
  /** Root mean square of the difference over that of the reference; Infinity when something is not a number. */
  rms: number;
  /** Where the difference is largest, or the first value that is not a number. */
  worst: number;
}

/**
 * Compare element by element. NaN or infinity on either side gives rms = Infinity, and so does any value but zero
 * against a reference of zeros. Throws where nothing can be compared: no elements, or not the same number of them.
 */
export function agreement(actual: ArrayLike<number>, reference: ArrayLike<number>): Agreement {
  if (actual.length !== reference.length) {
    throw new RangeError(`${actual.length} values against a reference of ${reference.length}`);
  }
  if (actual.length === 0) throw new RangeError('no values to compare');
  let differences = 0;
  let squares = 0;
  let worst = 0;
  let worstDifference = 0;
  for (let i = 0; i < actual.length; i++) {
    const difference = Math.abs(actual[i]! - reference[i]!);
    if (!Number.isFinite(difference)) return { rms: Infinity, worst: i };
    if (difference > worstDifference) [worst, worstDifference] = [i, difference];
    differences += difference * difference;
    squares += reference[i]! * reference[i]!;
  }
  return { rms: differences === 0 ? 0 : Math.sqrt(differences / squares), worst };
}

/** The place of element `index` in an array of this shape, last dimension fastest: `[2, 0, 17]`. */
export function place(index: number, shape: number[]): number[] {
  return shape.map((extent, axis) => {
    const stride = shape.slice(axis + 1).reduce((product, n) => product * n, 1);
    return Math.floor(index / stride) % extent;
  });
}

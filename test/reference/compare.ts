/**
 * How far two arrays are apart.
 *
 *   relative RMS = sqrt( sum (a - e)^2 / sum e^2 )        a actual, e expected
 *
 * One figure per array, after FLA's tests: it forgives an element near zero, and nothing else.
 */

export interface Comparison {
  /** NaN as soon as one number is NaN; Infinity where only zeros were expected and something else came. */
  relativeRms: number;
  /** Flat index of the largest difference; of the first NaN if there is one. */
  worst: number;
  actual: number;
  expected: number;
}

/** Compare two arrays. Throws RangeError when their lengths differ or are zero: nothing compared is nothing checked. */
export function compare(actual: ArrayLike<number>, expected: ArrayLike<number>): Comparison {
  if (actual.length !== expected.length || expected.length === 0) {
    throw new RangeError(`cannot compare ${actual.length} numbers with ${expected.length}`);
  }
  let [error, size, worst, largest] = [0, 0, 0, -1];
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    error += difference ** 2;
    size += expected[i] ** 2;
    if (difference > largest || (Number.isNaN(difference) && !Number.isNaN(largest))) {
      [worst, largest] = [i, difference];
    }
  }
  return {
    relativeRms: largest === 0 ? 0 : Math.sqrt(error / size),
    worst,
    actual: actual[worst],
    expected: expected[worst],
  };
}

/** sqrt( sum (actual - expected)^2 / sum expected^2 ). */
export function relativeRms(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return compare(actual, expected).relativeRms;
}

/** Index of the largest number, the first of equals: the best token of a row of logits. */
export function argmax(x: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < x.length; i++) if (x[i] > x[best]) best = i;
  return best;
}

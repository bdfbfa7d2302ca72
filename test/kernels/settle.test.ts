import { expect, test } from 'vitest';
import { residual, settle } from '../../workers/kernels.ts';
import { dispatch, randomValues, sums } from '../gpu.ts';
import { rms, same } from './layers.ts';

/** How far row TO is from the sum in f64, where all other rows are as they were. */
async function off(c: { D: number; FROM: number; TO: number; PARTS: number }): Promise<number> {
  const PART_FROM = 2;
  const rows = randomValues(1, (PART_FROM + c.PARTS + 1) * c.D);
  const row = (of: Float32Array, i: number) => of.subarray(i * c.D, (i + 1) * c.D);
  const wanted = Float64Array.from(row(rows, c.FROM));
  for (let p = 0; p < c.PARTS; p++) row(rows, PART_FROM + p).forEach((x, i) => (wanted[i]! += x));
  let worst = 0;
  for (const library of await sums()) {
    const { rows: after } = await dispatch({
      kernel: settle,
      libraries: [residual, library],
      consts: {},
      libraryConsts: { ...c, PART_FROM, NORM_EPS: 1e-5, SUM_LANES: 64 },
      inputs: { rows },
      outputs: {},
      tokens: 1,
    });
    worst = Math.max(worst, rms(row(after!, c.TO), wanted));
    for (let i = 0; i < PART_FROM + c.PARTS + 1; i++) {
      if (i !== c.TO) worst = Math.max(worst, same(row(after!, i), row(rows, i)));
    }
  }
  return worst;
}

test('settle: in place and into the other row, any number of parts', async () => {
  for (const PARTS of [0, 1, 7, 8, 9, 17]) {
    expect(await off({ D: 96, FROM: 1, TO: 0, PARTS }), `${PARTS} parts`).toBeLessThan(1e-6);
    expect(await off({ D: 576, FROM: 0, TO: 0, PARTS }), `${PARTS} in place`).toBeLessThan(1e-6);
  }
});

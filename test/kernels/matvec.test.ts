import { expect, test } from 'vitest';
import { matvec } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkMatvec, type Sum, TREE_64 } from './layers.ts';
import { FORMATS, OTHER_FORMATS } from './matrices.ts';

const plain = { batch: 1, sharedX: false, apart: false, add: false };

/** The worse of what workgroups of four and of eight rows are off by. */
async function off(c: Omit<Parameters<typeof checkMatvec>[1], 'each'>, sum: Sum): Promise<number> {
  const [fours, eights] = [4, 8] as const;
  return Math.max(
    await checkMatvec(matvec, { ...c, each: fours }, sum),
    await checkMatvec(matvec, { ...c, each: eights }, sum),
  );
}

for (const format of FORMATS) {
  test(`matvec ${format}: every sum library and number of lanes`, async () => {
    const c = { ...plain, format, rows: 50, cols: 96, T: 3 };
    for (const library of await sums()) {
      for (const lanes of [4, 16, 64, 256]) {
        expect(await off(c, { library, lanes }), `${library.name} ${lanes}`).toBeLessThan(1e-6);
      }
    }
  });

  test(`matvec ${format}: ragged rows and tokens, stacks, offsets and strides`, async () => {
    const base = { ...plain, format, cols: 64, T: 1 };
    for (const rows of [1, 2, 3, 4, 5, 13]) {
      // Few rows, and their products may all be near 0.
      const rms = await off({ ...base, rows }, TREE_64);
      expect(rms, `${rows} rows`).toBeLessThan(rows < 8 ? 5e-6 : 1e-6);
    }
    for (const T of [1, 63, 64, 65, 200]) {
      expect(await off({ ...base, rows: 6, T }, TREE_64), `${T} tokens`).toBeLessThan(3e-6);
    }
    for (const sharedX of [true, false]) {
      const stack = { ...base, rows: 8, T: 5, batch: 3, sharedX, apart: true };
      expect(await off(stack, TREE_64), `stack, shared ${sharedX}`).toBeLessThan(1e-6);
    }
  });

  test(`matvec ${format}: on top of what y holds`, async () => {
    const c = { ...plain, format, rows: 12, cols: 64, T: 3, batch: 2, apart: true, add: true };
    expect(await off(c, TREE_64)).toBeLessThan(1e-6);
  });

  test(`matvec ${format}: the long rows of a large model`, async () => {
    for (const cols of [2304, 9216]) {
      const c = { ...plain, format, rows: 37, cols, T: 1 };
      expect(await off(c, TREE_64), `${cols} columns`).toBeLessThan(1e-6);
    }
  });
}

test.each(OTHER_FORMATS)('matvec %s', async (format) => {
  const c = { ...plain, format, rows: 11, cols: 512, T: 2, apart: true };
  expect(await off(c, TREE_64)).toBeLessThan(1e-6);
});

import { expect, test } from 'vitest';
import { mlaValue } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { TREE_64 } from './layers.ts';
import { FORMATS } from './matrices.ts';
import { checkMlaValue, type MlaValueCase } from './mla.ts';

const plain: MlaValueCase = {
  ...{ H: 3, L: 64, V: 32, slices: 5, empty: [1], group: 16, format: 'F32', sum: TREE_64 },
};

async function expectClose(c: MlaValueCase, name: string): Promise<void> {
  expect(await checkMlaValue(mlaValue, c), name).toBeLessThan(1e-6);
}

test('mla_value: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 256]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test.each(FORMATS)('mla_value: values in %s', async (format) => {
  await expectClose({ ...plain, format }, format);
  await expectClose(
    { ...plain, H: 4, L: 512, V: 128, slices: 32, format },
    'a large model’s heads',
  );
});

test('mla_value: one slice, many, and those that saw nothing; groups and rows of any number of fours', async () => {
  for (const [slices, empty] of [
    [1, []],
    [64, []],
    [64, [0, 1, 2, 63]],
    [8, [1, 2, 3, 4, 5, 6, 7]],
  ] as [number, number[]][]) {
    await expectClose({ ...plain, slices, empty }, `${slices}, ${empty.length} empty`);
  }
  for (const [V, group] of [
    [4, 4],
    [28, 8],
    [20, 16],
    [64, 64],
  ] as const) {
    await expectClose({ ...plain, V, group }, `${V} rows by ${group}`);
  }
});

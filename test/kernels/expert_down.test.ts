import { expect, test } from 'vitest';
import { expertDown } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkExpertDown, PAIRS, type ExpertDownCase } from './decode.ts';
import { TREE_64 } from './layers.ts';

const plain: ExpertDownCase = {
  ...{ experts: 9, parts: [0], ids: [7, 0, 8, 3] },
  ...{ down: 'F32', shared: 'F32', rows: 16, cols: 64 },
  ...{ sharedCols: 96, sharedWith: 0, sum: TREE_64 },
};

async function expectClose(c: ExpertDownCase, name: string): Promise<void> {
  expect(await checkExpertDown(expertDown, c), name).toBeLessThan(1e-6);
}

test('expert_down: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 256]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test.each(PAIRS)('expert_down: experts in %s, the shared one in %s', async (down, shared) => {
  await expectClose({ ...plain, down, shared, parts: [0, 4] }, 'both');
});

test('expert_down: any fours of rows', async () => {
  for (const rows of [4, 8, 20]) await expectClose({ ...plain, rows }, `${rows} rows`);
});

test('expert_down: experts in parts, some without a choice, the shared one with any or none', async () => {
  for (const parts of [
    [0, 8],
    [0, 4, 7],
  ]) {
    for (const sharedWith of [0, 1, -1]) {
      const name = `parts from ${parts.join()}, the shared one with ${sharedWith}`;
      await expectClose({ ...plain, parts, sharedWith }, name);
    }
  }
  await expectClose({ ...plain, ids: [8], parts: [0, 4] }, 'one expert');
  await expectClose({ ...plain, ids: [2, 0, 1], parts: [0, 4], sharedWith: 1 }, 'the shared alone');
});

test('expert_down: a large model’s rows', async () => {
  const ids = [3, 11, 0, 7, 5, 1, 9, 10];
  const large = { rows: 24, cols: 1024, sharedCols: 1024 };
  const c = { ...plain, ...large, experts: 12, ids, parts: [0, 8] };
  await expectClose({ ...c, down: 'Q4_0', shared: 'Q8_0' }, 'Q4_0 and Q8_0');
  await expectClose({ ...c, down: 'Q6_K', shared: 'Q4_K' }, 'Q6_K and Q4_K');
});

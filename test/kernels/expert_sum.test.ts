import { expect, test } from 'vitest';
import { expertSum } from '../../workers/kernels.ts';
import { checkExpertSum } from './moe.ts';

test('expert_sum: any number of tokens', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    expect(await checkExpertSum(expertSum, { D: 96, top: 4, T }), `${T} tokens`).toBeLessThan(1e-6);
  }
});

test('expert_sum: the width and the experts of a large model', async () => {
  expect(await checkExpertSum(expertSum, { D: 2304, top: 8, T: 3 })).toBeLessThan(1e-6);
  expect(await checkExpertSum(expertSum, { D: 2304, top: 1, T: 1 })).toBeLessThan(1e-6);
});

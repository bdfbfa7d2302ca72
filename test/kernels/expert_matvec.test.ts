import { expect, test } from 'vitest';
import { expertMatvec } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { TREE_64 } from './layers.ts';
import { FORMATS } from './matrices.ts';
import { checkExpertMatvec, scattered, type ExpertCase } from './moe.ts';

const base: ExpertCase = {
  format: 'F32',
  experts: 8,
  top: 3,
  T: 2,
  rows: 12,
  cols: 64,
  assign: scattered(8, 3, [], 1),
  parts: [0],
  perSlot: false,
};

for (const format of FORMATS) {
  test(`expert_matvec ${format}: every sum library, first and second layer`, async () => {
    for (const library of await sums()) {
      for (const lanes of [4, 64]) {
        for (const perSlot of [false, true]) {
          const c = { ...base, format, perSlot };
          expect(
            await checkExpertMatvec(expertMatvec, c, { library, lanes }),
            `${library.name} ${lanes}, per slot ${perSlot}`,
          ).toBeLessThan(1e-6);
        }
      }
    }
  });

  test(`expert_matvec ${format}: experts in parts, experts without a token`, async () => {
    const c = { ...base, format, T: 5, parts: [0, 3, 4], assign: scattered(8, 3, [3, 6], 2) };
    expect(await checkExpertMatvec(expertMatvec, c, TREE_64)).toBeLessThan(1e-6);
  });

  test(`expert_matvec ${format}: rows as long as a large model's`, async () => {
    const c = { ...base, format, cols: 2304, rows: 8, T: 1 };
    expect(await checkExpertMatvec(expertMatvec, c, TREE_64)).toBeLessThan(1e-6);
  });
}

test('expert_matvec: any number of tokens, all of them on one expert too', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { ...base, T, rows: 4 };
    expect(await checkExpertMatvec(expertMatvec, c, TREE_64), `${T} tokens`).toBeLessThan(1e-6);
  }
  const one = { ...base, T: 65, top: 1, assign: () => 5 };
  expect(await checkExpertMatvec(expertMatvec, one, TREE_64), 'one expert').toBeLessThan(1e-6);
});

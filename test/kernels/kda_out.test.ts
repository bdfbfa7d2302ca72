import { expect, test } from 'vitest';
import { kdaOut } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkKdaOut } from './kda.ts';
import { TREE_64 } from './layers.ts';

const CASE = { T: 3, H: 3, V: 64, eps: 1e-5, size: 1, sum: TREE_64 };

test('kda_out: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 32, 64, 128]) {
      const c = { ...CASE, sum: { library, lanes } };
      expect(await checkKdaOut(kdaOut, c), `${library.name} ${lanes}`).toBeLessThan(1e-6);
    }
  }
});

test('kda_out: any number of tokens, other head sizes', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    expect(await checkKdaOut(kdaOut, { ...CASE, T, V: 20 }), `${T} tokens`).toBeLessThan(1e-6);
  }
  expect(await checkKdaOut(kdaOut, { ...CASE, H: 32, V: 128 }), 'large').toBeLessThan(1e-6);
});

test('kda_out: eps counts where outputs are as small as its root', async () => {
  for (const size of [1e-2, 1e-3, 1e-5]) {
    expect(await checkKdaOut(kdaOut, { ...CASE, size }), `size ${size}`).toBeLessThan(1e-6);
  }
});

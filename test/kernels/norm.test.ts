import { expect, test } from 'vitest';
import { norm } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkNorm, TREE_64 } from './layers.ts';

test('norm: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 32, 128]) {
      const c = { D: 576, T: 3, eps: 1e-5, size: 2, sum: { library, lanes } };
      expect(await checkNorm(norm, c), `${library.name} ${lanes}`).toBeLessThan(1e-6);
    }
  }
});

test('norm: any number of tokens, the width of a large model', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { D: 96, T, eps: 1e-5, size: 1, sum: TREE_64 };
    expect(await checkNorm(norm, c), `${T} tokens`).toBeLessThan(1e-6);
  }
  const wide = { D: 2304, T: 2, eps: 1e-5, size: 30, sum: TREE_64 };
  expect(await checkNorm(norm, wide), 'wide').toBeLessThan(1e-6);
});

test('norm: eps counts where activations are as small as its root', async () => {
  for (const size of [1e-2, 1e-3, 1e-6]) {
    const c = { D: 64, T: 2, eps: 1e-5, size, sum: TREE_64 };
    expect(await checkNorm(norm, c), `size ${size}`).toBeLessThan(1e-6);
  }
});

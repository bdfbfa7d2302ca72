import { expect, test } from 'vitest';
import { addNorm } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkAddNorm, TREE_64 } from './layers.ts';

test('add_norm: every sum library and number of lanes, all tokens or the last', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 32, 128]) {
      for (const last of [false, true]) {
        const c = { D: 576, T: 3, eps: 1e-5, size: 2, sum: { library, lanes }, last };
        expect(await checkAddNorm(addNorm, c), `${library.name} ${lanes}, ${last}`).toBeLessThan(
          1e-6,
        );
      }
    }
  }
});

test('add_norm: any number of tokens, the width of a large model', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    for (const last of [false, true]) {
      const c = { D: 96, T, eps: 1e-5, size: 1, sum: TREE_64, last };
      expect(await checkAddNorm(addNorm, c), `${T} tokens, ${last}`).toBeLessThan(1e-6);
    }
  }
  const wide = { D: 2304, T: 2, eps: 1e-5, size: 30, sum: TREE_64, last: false };
  expect(await checkAddNorm(addNorm, wide), 'wide').toBeLessThan(1e-6);
});

test('add_norm: eps counts where activations are as small as its root', async () => {
  for (const size of [1e-2, 1e-3, 1e-6]) {
    const c = { D: 64, T: 2, eps: 1e-5, size, sum: TREE_64, last: false };
    expect(await checkAddNorm(addNorm, c), `size ${size}`).toBeLessThan(1e-6);
  }
});

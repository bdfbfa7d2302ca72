import { expect, test } from 'vitest';
import { kdaGate } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkKdaGate } from './kda.ts';
import { TREE_64 } from './layers.ts';

const CASE = { T: 3, H: 3, K: 64, V: 32, eps: 1e-5, size: 1, sum: TREE_64 };

test('kda_gate: every sum library and number of lanes; g within 1e-5 at every element', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 32, 64, 128]) {
      const c = { ...CASE, sum: { library, lanes } };
      expect(await checkKdaGate(kdaGate, c), `${library.name} ${lanes}`).toBeLessThan(1e-5);
    }
  }
});

test('kda_gate: any number of tokens, head sizes that differ', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { ...CASE, T, K: 16, V: 64 };
    expect(await checkKdaGate(kdaGate, c), `${T} tokens`).toBeLessThan(1e-5);
  }
  const odd = { ...CASE, K: 60, V: 20 };
  expect(await checkKdaGate(kdaGate, odd), 'odd').toBeLessThan(1e-5);
});

test('kda_gate: heads of a large model', async () => {
  const c = { ...CASE, T: 2, H: 32, K: 128, V: 128 };
  expect(await checkKdaGate(kdaGate, c)).toBeLessThan(1e-5);
});

test('kda_gate: eps counts where keys are as short as its root', async () => {
  for (const size of [1e-2, 1e-3, 1e-4]) {
    for (const eps of [1e-5, 1e-6]) {
      expect(await checkKdaGate(kdaGate, { ...CASE, size, eps }), `${size}`).toBeLessThan(1e-5);
    }
  }
});

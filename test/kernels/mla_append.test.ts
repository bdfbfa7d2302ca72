import { expect, test } from 'vitest';
import { mlaAppend } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { TREE_64 } from './layers.ts';
import { checkMlaAppend } from './mla.ts';

const base = {
  L: 64,
  R: 32,
  T: 5,
  position: 0,
  first: 0,
  segment: 16,
  cache: 'f32' as const,
  sum: TREE_64,
  eps: 1e-5,
  size: 1,
};

test('mla_append: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 32, 128]) {
      const c = { ...base, sum: { library, lanes } };
      expect(await checkMlaAppend(mlaAppend, c), `${library.name} ${lanes}`).toBeLessThan(1e-6);
    }
  }
});

test('mla_append: any number of tokens, the shape of a large model', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { ...base, T, segment: 256, position: 3 };
    expect(await checkMlaAppend(mlaAppend, c), `${T} tokens`).toBeLessThan(1e-6);
  }
  const large = { ...base, L: 512, T: 2, R: 64, size: 20 };
  expect(await checkMlaAppend(mlaAppend, large), 'large').toBeLessThan(1e-6);
});

test('mla_append: tokens before, in and after a segment far into the conversation', async () => {
  for (const position of [5000, 5006, 5010, 5014, 5040]) {
    const c = { ...base, T: 9, first: 5008, segment: 8, position };
    expect(await checkMlaAppend(mlaAppend, c), `position ${position}`).toBeLessThan(1e-6);
  }
});

test('mla_append: eps counts where latents are small', async () => {
  expect(await checkMlaAppend(mlaAppend, { ...base, size: 1e-3 })).toBeLessThan(1e-6);
});

test('mla_append: a cache of f16', async () => {
  const c = { ...base, cache: 'f16' as const, T: 7, position: 2 };
  expect(await checkMlaAppend(mlaAppend, c)).toBeLessThan(5e-4);
});

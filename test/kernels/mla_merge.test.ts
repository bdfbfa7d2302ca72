import { expect, test } from 'vitest';
import { mlaMerge } from '../../workers/kernels.ts';
import { checkMlaMerge } from './mla.ts';

test('mla_merge: any number of tokens', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { H: 3, L: 64, T, slices: 5, empty: [1] };
    expect(await checkMlaMerge(mlaMerge, c), `${T} tokens`).toBeLessThan(1e-6);
  }
});

test('mla_merge: one slice, many, and those that saw nothing', async () => {
  for (const [slices, empty] of [
    [1, []],
    [64, []],
    [64, [0, 1, 2, 63]],
    [256, [7, 200, 255]],
    [8, [1, 2, 3, 4, 5, 6, 7]],
  ] as [number, number[]][]) {
    const c = { H: 2, L: 512, T: 2, slices, empty };
    expect(await checkMlaMerge(mlaMerge, c), `${slices}, ${empty.length} empty`).toBeLessThan(1e-6);
  }
});

import { expect, test } from 'vitest';
import { argmax, argmaxMerge } from '../../workers/kernels.ts';
import { checkArgmax, type ArgmaxCase } from './output.ts';

const small: ArgmaxCase = { vocabulary: 500, T: 3, slices: 64, set: [], grain: 0 };
const check = (c: Partial<ArgmaxCase>) => checkArgmax(argmax, { ...small, ...c }, argmaxMerge);

test('argmax_merge: fewer slices than lanes, as many, more', async () => {
  for (const slices of [1, 2, 63, 64, 65, 200]) {
    expect(await check({ slices }), `${slices} slices`).toBe(0);
  }
});

test('argmax_merge: the same logit in every slice', async () => {
  expect(await check({ grain: 100 })).toBe(0);
});

test('argmax_merge: bad numbers of all slices are added up', async () => {
  expect(await check({ set: Array.from({ length: 400 }, (_, i) => [i + 50, NaN]) })).toBe(0);
});

import { expect, test } from 'vitest';
import { argmax } from '../../workers/kernels.ts';
import { checkArgmax, type ArgmaxCase } from './output.ts';

const small: ArgmaxCase = { vocabulary: 1000, T: 1, slices: 7, set: [], grain: 0 };
const check = (c: Partial<ArgmaxCase>) => checkArgmax(argmax, { ...small, ...c });

test('argmax: any number of tokens', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    expect(await check({ T, vocabulary: 300 }), `${T} tokens`).toBe(0);
  }
});

test('argmax: the first, the last, and sizes that no slice divides', async () => {
  for (const id of [0, 142, 143, 500, 999]) {
    expect(await check({ set: [[id, 9]] }), `best ${id}`).toBe(0);
  }
  for (const [vocabulary, slices] of [
    [1, 1],
    [5, 7],
    [64, 64],
    [65, 64],
    [1000, 200],
  ] as const) {
    expect(await check({ vocabulary, slices }), `${vocabulary} in ${slices}`).toBe(0);
  }
});

test('argmax: equal logits go to the lower id', async () => {
  expect(await check({ grain: 4, T: 5 }), 'whole logits').toBe(0);
  expect(await check({ grain: 100 }), 'all the same').toBe(0);
  expect(await check({ grain: 100, set: [[8, -0]] }), 'minus zero').toBe(0);
  expect(
    await check({
      set: [
        [901, 9],
        [12, 9],
        [140, 9],
      ],
    }),
    'three',
  ).toBe(0);
});

test('argmax: all logits negative', async () => {
  expect(await check({ set: Array.from({ length: 1000 }, (_, i) => [i, -50 - (i % 17)]) })).toBe(0);
});

test('argmax: NaN and infinity are counted and never win', async () => {
  expect(
    await check({
      set: [
        [3, NaN],
        [4, Infinity],
        [500, -Infinity],
        [999, NaN],
      ],
    }),
    'four bad',
  ).toBe(0);
  expect(await check({ set: Array.from({ length: 1000 }, (_, i) => [i, NaN]) }), 'all').toBe(0);
});

test('argmax: the vocabulary of a large model', async () => {
  expect(await check({ vocabulary: 163840, slices: 64 })).toBe(0);
});

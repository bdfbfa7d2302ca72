import { expect, test } from 'vitest';
import { topLogits } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { TREE_64 } from './layers.ts';
import { checkTopLogits, type TopCase } from './output.ts';

const small: TopCase = {
  vocabulary: 1000,
  slices: 4,
  best: 16,
  position: 300,
  factor: 1.3,
  window: 64,
  spread: 3,
  grain: 0,
  set: [],
  sum: TREE_64,
};
const check = (c: Partial<TopCase>) => checkTopLogits(topLogits, { ...small, ...c });

test('top_logits: every sum library, fewer and more lanes than are kept', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 256]) {
      const c = { sum: { library, lanes } };
      expect(await check(c), `${library.name} ${lanes}`).toBeLessThan(1e-6);
    }
  }
});

test('top_logits: sizes that no slice divides, slices smaller than what is kept', async () => {
  for (const [vocabulary, slices, best] of [
    [1, 1, 4],
    [5, 7, 4],
    [101, 3, 64],
    [999, 8, 64],
    [3000, 1, 64],
  ] as const) {
    const c = { vocabulary, slices, best };
    expect(await check(c), `${best} of ${vocabulary} in ${slices}`).toBeLessThan(1e-6);
  }
});

test('top_logits: the penalty and its window', async () => {
  for (const [factor, window] of [
    [1, 64],
    [1.5, 0],
    [1.5, 1],
    [1.1, 301],
    [1.1, 0xffffffff],
    [0.8, 100],
  ] as const) {
    expect(await check({ factor, window }), `${factor} over ${window}`).toBeLessThan(1e-6);
  }
  expect(await check({ spread: 0 }), 'nothing seen').toBeLessThan(1e-6);
  expect(await check({ position: 0, spread: 1 }), 'the first token').toBeLessThan(1e-6);
});

test('top_logits: equal logits go to the lower id', async () => {
  expect(await check({ grain: 3, factor: 1 }), 'whole logits').toBeLessThan(1e-6);
  expect(await check({ grain: 100, factor: 1 }), 'all the same').toBeLessThan(1e-6);
});

test('top_logits: NaN and infinity are counted and left out', async () => {
  const set: [number, number][] = [
    [0, NaN],
    [1, Infinity],
    [249, -Infinity],
    [999, NaN],
  ];
  expect(await check({ set }), 'a few').toBeLessThan(1e-6);
  const many = Array.from({ length: 245 }, (_, i): [number, number] => [i + 250, NaN]);
  expect(await check({ set: many }), 'a slice but for five').toBeLessThan(1e-6);
});

test('top_logits: the vocabulary of a large model', async () => {
  const c = { vocabulary: 163840, slices: 64, best: 64, sum: { ...TREE_64, lanes: 128 } };
  expect(await check(c)).toBeLessThan(1e-6);
});

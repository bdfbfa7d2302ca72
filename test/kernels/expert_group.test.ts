import { expect, test } from 'vitest';
import { expertGroup } from '../../workers/kernels.ts';
import { checkExpertGroup, scattered } from './moe.ts';

test('expert_group: any number of tokens, both tile heights', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    for (const tile of [32, 64]) {
      const c = { experts: 8, top: 4, T, assign: scattered(8, 4, [], T) };
      expect(await checkExpertGroup(expertGroup, c, tile), `${T} tokens, ${tile}`).toBe(0);
    }
  }
});

test('expert_group: a chunk of a large model, more pairs than a strip holds', async () => {
  const c = { experts: 256, top: 8, T: 512, assign: scattered(256, 8, [], 1) };
  expect(await checkExpertGroup(expertGroup, c, 32)).toBe(0);
});

test('expert_group: more experts than lanes, fewer than a vector', async () => {
  const many = { experts: 300, top: 6, T: 33, assign: scattered(300, 6, [], 1) };
  expect(await checkExpertGroup(expertGroup, many, 32), '300').toBe(0);
  const few = { experts: 3, top: 2, T: 33, assign: scattered(3, 2, [], 1) };
  expect(await checkExpertGroup(expertGroup, few, 32), '3').toBe(0);
});

test('expert_group: experts without a token, and all tokens on the same', async () => {
  const some = { experts: 16, top: 2, T: 65, assign: scattered(16, 2, [0, 3, 4, 15], 1) };
  expect(await checkExpertGroup(expertGroup, some, 32), 'some empty').toBe(0);
  const one = { experts: 16, top: 1, T: 65, assign: () => 9 };
  expect(await checkExpertGroup(expertGroup, one, 32), 'one').toBe(0);
  const two = { experts: 16, top: 2, T: 64, assign: (_: number, j: number) => 15 - j };
  expect(await checkExpertGroup(expertGroup, two, 32), 'two').toBe(0);
});

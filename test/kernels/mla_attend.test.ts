import { expect, test } from 'vitest';
import { mlaAttend } from '../../workers/kernels.ts';
import { checkMlaAttend, type AttendCase } from './mla.ts';

const small: AttendCase = {
  H: 3,
  K: 16,
  R: 8,
  L: 32,
  T: 1,
  position: 0,
  segment: 512,
  slices: 4,
  cache: 'f32',
  size: 3,
};
const check = (c: Partial<AttendCase>) => checkMlaAttend(mlaAttend, { ...small, ...c });

test('mla_attend: any number of tokens, from the first and from later ones', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    for (const position of [0, 130]) {
      expect(await check({ T, position }), `${T} tokens at ${position}`).toBeLessThan(2e-6);
    }
  }
});

test('mla_attend: odd numbers of slices', async () => {
  for (const slices of [1, 3, 8]) {
    expect(await check({ slices, T: 9, position: 200 }), `${slices} slices`).toBeLessThan(2e-6);
  }
});

test('mla_attend: segments, straddled and just begun', async () => {
  for (const position of [60, 63, 64, 100, 255, 256]) {
    for (const T of [1, 7]) {
      const c = { segment: 64, T, position, slices: 3 };
      expect(await check(c), `${T} tokens at ${position}`).toBeLessThan(2e-6);
    }
  }
});

test('mla_attend: a long conversation, one token and a ragged prefill', async () => {
  const long = { position: 5000, segment: 2048, H: 2 };
  expect(await check({ ...long, slices: 16 }), 'one token').toBeLessThan(2e-6);
  expect(await check({ ...long, H: 1, T: 65, slices: 2 }), '65 tokens').toBeLessThan(2e-6);
});

test('mla_attend: the shapes of the embedded and of a large model', async () => {
  const embedded = { H: 9, K: 64, R: 32, L: 192, slices: 8 };
  expect(await check({ ...embedded, position: 300 }), 'embedded').toBeLessThan(2e-6);
  const large = { H: 32, K: 128, R: 64, L: 512 };
  expect(await check({ ...large, position: 150 }), 'large').toBeLessThan(2e-6);
  expect(await check({ ...large, T: 3, slices: 1, position: 40 }), 'prefill').toBeLessThan(2e-6);
});

test('mla_attend: a softmax so sharp that one row takes all', async () => {
  expect(await check({ size: 300, T: 5, position: 200 })).toBeLessThan(2e-5);
});

test('mla_attend: a cache of f16', async () => {
  expect(await check({ cache: 'f16', T: 5, position: 200, segment: 64 })).toBeLessThan(2e-6);
});

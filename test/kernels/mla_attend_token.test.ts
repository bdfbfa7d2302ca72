import { expect, test } from 'vitest';
import { mlaAttendToken } from '../../workers/kernels.ts';
import { checkMlaAttendToken, type OneTokenCase } from './mla.ts';

const small: OneTokenCase = {
  H: 3,
  K: 16,
  R: 8,
  L: 32,
  position: 0,
  segment: 512,
  slices: 4,
  cache: 'f32',
  size: 3,
};
const check = (c: Partial<OneTokenCase>) => checkMlaAttendToken(mlaAttendToken, { ...small, ...c });

test('mla_attend_token: any position and any number of slices', async () => {
  for (const slices of [1, 3, 8]) {
    for (const position of [0, 3, 31, 32, 40, 200]) {
      const name = `${slices} slices at ${position}`;
      expect(await check({ slices, position }), name).toBeLessThan(2e-6);
    }
  }
});

test('mla_attend_token: segments, straddled and just begun', async () => {
  for (const position of [60, 63, 64, 100, 255, 256]) {
    const c = { segment: 64, position, slices: 3 };
    expect(await check(c), `at ${position}`).toBeLessThan(2e-6);
  }
});

test('mla_attend_token: heads that leave a workgroup half empty, and the shapes of models', async () => {
  for (const H of [1, 4, 5, 17]) {
    expect(await check({ H, position: 70 }), `${H} heads`).toBeLessThan(2e-6);
  }
  const embedded = { H: 9, K: 64, R: 32, L: 192, slices: 8 };
  expect(await check({ ...embedded, position: 300 }), 'embedded').toBeLessThan(2e-6);
  const large = { H: 32, K: 128, R: 64, L: 512 };
  expect(await check({ ...large, position: 150 }), 'large').toBeLessThan(2e-6);
  expect(
    await check({ ...large, H: 2, position: 40, segment: 16 }),
    'large, in segments',
  ).toBeLessThan(2e-6);
});

test('mla_attend_token: a long conversation', async () => {
  const long = { position: 5000, segment: 2048, H: 2, slices: 16 };
  expect(await check(long)).toBeLessThan(2e-6);
});

test('mla_attend_token: a softmax so sharp that one row takes all', async () => {
  expect(await check({ size: 300, position: 200 })).toBeLessThan(2e-5);
});

test('mla_attend_token: a cache of f16', async () => {
  expect(await check({ cache: 'f16', position: 200, segment: 64 })).toBeLessThan(2e-6);
});

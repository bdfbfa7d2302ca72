import { expect, test } from 'vitest';
import { shortConv } from '../../workers/kernels.ts';
import { checkShortConv } from './kda.ts';

test('short_conv: any number of tokens, fewer than taps and more than a run, tails carried on', async () => {
  for (const T of [1, 2, 3, 4, 15, 16, 17, 63, 64, 65, 200]) {
    const c = { T, channels: 3 * 2 * 16 + 3 * 24, taps: 4 };
    expect(await checkShortConv(shortConv, c), `${T} tokens`).toBeLessThan(1e-6);
  }
});

test('short_conv: other numbers of taps, channels that fill no workgroup', async () => {
  for (const taps of [2, 3, 5]) {
    for (const T of [1, 40]) {
      const c = { T, channels: 70, taps };
      expect(await checkShortConv(shortConv, c), `${taps} taps`).toBeLessThan(1e-6);
    }
  }
});

test('short_conv: the channels of a large model', async () => {
  const c = { T: 18, channels: 12288, taps: 4 };
  expect(await checkShortConv(shortConv, c)).toBeLessThan(1e-6);
});

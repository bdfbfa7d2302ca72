import { expect, test } from 'vitest';
import { swiglu } from '../../workers/kernels.ts';
import { checkSwiglu } from './layers.ts';

test('swiglu: buffers of their own and halves of one, any number of tokens', async () => {
  for (const halves of [false, true]) {
    for (const T of [1, 63, 64, 65, 200]) {
      const c = { width: 96, slots: 3, T, halves, size: 3 };
      expect(await checkSwiglu(swiglu, c), `${T} tokens, halves ${halves}`).toBeLessThan(1e-6);
    }
  }
});

test('swiglu: the widths of a large model', async () => {
  const dense = { width: 9216, slots: 1, T: 2, halves: false, size: 3 };
  expect(await checkSwiglu(swiglu, dense), 'dense').toBeLessThan(1e-6);
  const experts = { width: 1024, slots: 8, T: 3, halves: true, size: 3 };
  expect(await checkSwiglu(swiglu, experts), 'experts').toBeLessThan(1e-6);
});

test('swiglu: pre-activations whose exponential would overflow', async () => {
  const c = { width: 256, slots: 1, T: 1, halves: false, size: 1000 };
  expect(await checkSwiglu(swiglu, c)).toBeLessThan(1e-6);
});

import { expect, test } from 'vitest';
import { route } from '../../workers/kernels.ts';
import { checkRoute } from './moe.ts';

const small = { experts: 8, top: 4, T: 3, scale: 4, bias: 0.3, grain: 0, norm: true };

test('route: any number of tokens', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    expect(await checkRoute(route, { ...small, T }), `${T} tokens`).toBeLessThan(1e-6);
  }
});

test('route: the router of a large model, and sizes between', async () => {
  const large = { experts: 256, top: 8, T: 5, scale: 2.446, bias: 0.3, grain: 0, norm: true };
  expect(await checkRoute(route, large)).toBeLessThan(1e-6);
  for (const [experts, top] of [
    [8, 2],
    [33, 8],
    [64, 32],
    [300, 6],
  ] as const) {
    const c = { ...large, experts, top };
    expect(await checkRoute(route, c), `${top} of ${experts}`).toBeLessThan(1e-6);
  }
});

test('route: equal scores go to the lower index', async () => {
  const ties = { experts: 64, top: 8, T: 20, scale: 1, bias: 0, grain: 1, norm: true };
  expect(await checkRoute(route, ties), 'whole logits').toBeLessThan(1e-6);
  expect(await checkRoute(route, { ...ties, grain: 100 }), 'all the same').toBeLessThan(1e-6);
});

test('route: the bias chooses and does not weigh', async () => {
  const c = { ...small, experts: 32, T: 20, bias: 2 };
  expect(await checkRoute(route, c)).toBeLessThan(1e-6);
});

test('route: without renormalising', async () => {
  expect(await checkRoute(route, { ...small, norm: false })).toBeLessThan(1e-6);
});

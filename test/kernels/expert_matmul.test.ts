import { expect, test } from 'vitest';
import { expertMatmul } from '../../workers/kernels.ts';
import { TILES } from './layers.ts';
import { FORMATS } from './matrices.ts';
import { checkExpertMatmul, scattered, type ExpertCase } from './moe.ts';

const [SMALL] = TILES;
const base: ExpertCase = {
  format: 'F32',
  experts: 8,
  top: 3,
  T: 50,
  rows: 37,
  cols: 64,
  assign: scattered(8, 3, [], 1),
  parts: [0],
  perSlot: false,
};

for (const format of FORMATS) {
  test(`expert_matmul ${format}: every tile, first and second layer`, async () => {
    for (const tile of TILES) {
      for (const perSlot of [false, true]) {
        const name = `${tile.TILE_ROWS} x ${tile.TILE_TOKENS}, per slot ${perSlot}`;
        const c = { ...base, format, perSlot };
        expect(await checkExpertMatmul(expertMatmul, c, tile), name).toBeLessThan(1e-6);
      }
    }
  });

  test(`expert_matmul ${format}: experts in parts, experts without a token`, async () => {
    const c = { ...base, format, parts: [0, 3, 4], assign: scattered(8, 3, [3, 6], 2) };
    expect(await checkExpertMatmul(expertMatmul, c, SMALL!)).toBeLessThan(1e-6);
  });
}

test('expert_matmul: any number of tokens, all of them on one expert too', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    const c = { ...base, T, cols: 32 };
    expect(await checkExpertMatmul(expertMatmul, c, SMALL!), `${T} tokens`).toBeLessThan(1e-6);
  }
  const one = { ...base, T: 65, top: 1, assign: () => 5 };
  expect(await checkExpertMatmul(expertMatmul, one, SMALL!), 'one expert').toBeLessThan(1e-6);
});

test('expert_matmul: rows as long as a large model, many experts', async () => {
  const long = { ...base, format: 'Q4_0' as const, cols: 2304, T: 9 };
  expect(await checkExpertMatmul(expertMatmul, long, SMALL!), 'long').toBeLessThan(1e-6);
  const many = { ...base, experts: 256, top: 8, T: 40, rows: 5, assign: scattered(256, 8, [], 3) };
  expect(await checkExpertMatmul(expertMatmul, many, SMALL!), 'many').toBeLessThan(1e-6);
});

import { expect, test } from 'vitest';
import { matmul } from '../../workers/kernels.ts';
import { checkMatmul, TILES } from './layers.ts';
import { FORMATS, OTHER_FORMATS } from './matrices.ts';

const plain = { batch: 1, sharedX: false, apart: false };
const [SMALL] = TILES;

for (const format of FORMATS) {
  test(`matmul ${format}: every tile, ragged in rows and tokens`, async () => {
    for (const tile of TILES) {
      const c = { ...plain, format, rows: 77, cols: 96, T: 70 };
      const name = `${tile.TILE_ROWS} x ${tile.TILE_TOKENS}`;
      expect(await checkMatmul(matmul, c, tile), name).toBeLessThan(1e-6);
    }
  });

  test(`matmul ${format}: stacks, offsets and strides`, async () => {
    for (const sharedX of [true, false]) {
      const c = { format, rows: 35, cols: 64, T: 33, batch: 3, sharedX, apart: true };
      expect(await checkMatmul(matmul, c, SMALL!), `shared ${sharedX}`).toBeLessThan(1e-6);
    }
  });
}

test('matmul: any number of tokens and rows', async () => {
  for (const tile of TILES) {
    for (const T of [1, 63, 64, 65, 200]) {
      const c = { ...plain, format: 'F32' as const, rows: 34, cols: 32, T };
      const name = `${tile.TILE_ROWS} x ${tile.TILE_TOKENS}, ${T} tokens`;
      expect(await checkMatmul(matmul, c, tile), name).toBeLessThan(1e-6);
    }
  }
  for (const rows of [1, 31, 32, 33]) {
    const c = { ...plain, format: 'F32' as const, rows, cols: 32, T: 5 };
    expect(await checkMatmul(matmul, c, SMALL!), `${rows} rows`).toBeLessThan(1e-6);
  }
});

test('matmul: the long rows of a large model', async () => {
  for (const cols of [2304, 9216]) {
    const c = { ...plain, format: 'Q4_0' as const, rows: 40, cols, T: 9 };
    expect(await checkMatmul(matmul, c, SMALL!), `${cols} columns`).toBeLessThan(3e-6); // one long sum
  }
});

test.each(OTHER_FORMATS)('matmul %s', async (format) => {
  const c = { ...plain, format, rows: 37, cols: 512, T: 9, apart: true };
  expect(await checkMatmul(matmul, c, SMALL!)).toBeLessThan(1e-6);
});

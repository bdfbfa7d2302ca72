import { expect, test } from 'vitest';
import { kdaLayer, kdaWatched } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkKdaLayer, type LayerCase, PAIRS } from './decode.ts';
import { TREE_64 } from './layers.ts';
import { NO_CHANGE } from './probes.ts';

const plain: LayerCase = {
  ...{ T: 3, H: 3, K: 32, V: 32, taps: 4, rank: 32, D: 96, parts: 5 },
  ...{ F: 'F32', G: 'F32', first: { F: 0, G: 0 }, wide: 'F32', low: 'F32', out: 'F32' },
  ...{ before: { wide: 0, low: 0 }, decay: 'gentle', beta: 'open', eps: 1e-5, size: 1 },
  ...{ sum: TREE_64, watched: null },
};

async function expectClose(c: LayerCase, name: string): Promise<void> {
  expect(await checkKdaLayer(kdaLayer, c), name).toBeLessThan(1e-5);
}

test('kda_layer: every sum library and number of lanes, parts or none', async () => {
  for (const library of await sums()) {
    for (const [lanes, parts] of [
      [32, 0],
      [64, 1],
      [128, 8],
      [256, 17],
    ] as const) {
      const c = { ...plain, T: 2, parts, sum: { library, lanes } };
      await expectClose(c, `${library.name} ${lanes}, ${parts} parts`);
    }
  }
});

test.each(PAIRS)('kda_layer: matrices in %s and %s, slices of larger ones', async (one, other) => {
  const before = { wide: 4, low: 8 };
  const first = { F: 4, G: 8 };
  await expectClose(
    { ...plain, F: other, G: one, wide: one, low: other, out: one, before, first },
    'one',
  );
  await expectClose(
    { ...plain, F: one, G: one, wide: other, low: one, out: other, before },
    'other',
  );
});

test('kda_layer: the embedded model’s sizes', async () => {
  const sizes = { T: 2, H: 9, K: 64, V: 64, rank: 64, D: 576, parts: 16 };
  const types = { F: 'Q8_0', G: 'Q8_0', wide: 'Q4_0', low: 'Q8_0', out: 'Q4_0' } as const;
  for (const library of await sums()) {
    const c = { ...plain, ...sizes, ...types, sum: { library, lanes: 256 } };
    await expectClose(c, library.name);
  }
});

test('kda_layer watched and changed', async () => {
  const slow = { factor: 0.5, strength: 0.25, from: 1 };
  const watched = { library: kdaWatched, changes: [[NO_CHANGE, slow, NO_CHANGE]] };
  for (const library of await sums()) {
    await expectClose({ ...plain, watched, sum: { library, lanes: 256 } }, library.name);
  }
});

test('kda_layer: values wider than keys, heads that are no four, activations so small that eps speaks', async () => {
  await expectClose({ ...plain, K: 24, V: 64, H: 5, sum: { ...TREE_64, lanes: 128 } }, 'wide');
  for (const size of [1e-2, 1e2]) await expectClose({ ...plain, size }, `size ${size}`);
});

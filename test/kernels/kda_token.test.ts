import { expect, test } from 'vitest';
import { kdaToken, kdaWatched } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkKdaToken, PAIRS, type TokenCase } from './decode.ts';
import { TREE_64 } from './layers.ts';
import { NO_CHANGE } from './probes.ts';

const plain: TokenCase = {
  ...{ T: 4, H: 3, K: 32, V: 32, taps: 4, rank: 32 },
  ...{ F: 'F32', G: 'F32', first: { F: 0, G: 0 } },
  ...{ decay: 'gentle', beta: 'open', eps: 1e-5, size: 1, sum: TREE_64 },
  watched: null,
};

async function expectClose(c: TokenCase, name: string): Promise<void> {
  expect(await checkKdaToken(kdaToken, c), name).toBeLessThan(5e-6);
}

test.each([32, 64, 128])(
  'kda_token: values of %i, every sum library and number of lanes',
  async (V) => {
    for (const library of await sums()) {
      for (const lanes of [V, 256]) {
        const c = { ...plain, T: 2, H: 2, V, sum: { library, lanes } };
        await expectClose(c, `${library.name} ${lanes}`);
      }
    }
  },
);

test.each(PAIRS)('kda_token: F in %s and G in %s, slices of larger ones', async (F, G) => {
  await expectClose({ ...plain, T: 2, F, G, rank: 64, first: { F: 4, G: 8 } }, 'both');
});

test('kda_token: keys and values of different sizes, keys that lanes do not share evenly', async () => {
  for (const [K, V, lanes] of [
    [64, 32, 64],
    [32, 64, 256],
    [40, 32, 256],
    [24, 64, 64],
    [128, 32, 128],
    [8, 128, 256],
  ] as const) {
    const c = { ...plain, K, V, rank: 96, sum: { ...TREE_64, lanes } };
    await expectClose(c, `K ${K}, V ${V}, ${lanes} lanes`);
  }
});

test('kda_token: a long run from token to token', async () => {
  await expectClose({ ...plain, T: 60 }, 'gentle decay');
  await expectClose({ ...plain, T: 60, decay: 'none', beta: 'whole' }, 'nothing forgotten');
});

test('kda_token: gates from wide open to shut', async () => {
  for (const decay of ['none', 'gentle', 'strong', 'total'] as const) {
    for (const beta of ['open', 'whole'] as const) {
      await expectClose({ ...plain, decay, beta }, `${decay} decay, ${beta} writes`);
    }
  }
  for (const decay of ['none', 'gentle', 'strong'] as const) {
    await expectClose({ ...plain, decay, beta: 'never' }, `${decay} decay, no writes`);
  }
});

test('kda_token: inputs so small that eps speaks', async () => {
  for (const size of [1e-1, 1e-2, 1e-3]) await expectClose({ ...plain, size }, `size ${size}`);
});

test('kda_token: other numbers of taps', async () => {
  for (const taps of [2, 3, 5]) await expectClose({ ...plain, T: 6, taps }, `${taps} taps`);
});

test('kda_token: a large model’s heads', async () => {
  const heads = { ...plain, T: 2, H: 32, K: 128, V: 128, rank: 128 };
  for (const library of await sums()) {
    const c = { ...heads, F: 'Q4_0', G: 'Q8_0', sum: { library, lanes: 256 } } as const;
    await expectClose(c, library.name);
  }
});

test('kda_token watched: all that it tells, every sum library and shape of head', async () => {
  const watched = { library: kdaWatched, changes: [[NO_CHANGE, NO_CHANGE, NO_CHANGE]] };
  for (const library of await sums()) {
    for (const [K, V, lanes] of [
      [32, 32, 256],
      [64, 64, 64],
      [44, 32, 128],
      [8, 128, 256],
    ] as const) {
      const c = { ...plain, K, V, sum: { library, lanes }, watched };
      await expectClose(c, `${library.name}, K ${K}, V ${V}, ${lanes} lanes`);
    }
  }
});

test('kda_token changed: held, deaf and forgetting heads, from a position on, one change upon another', async () => {
  const hold = { factor: 0, strength: 0, from: 2 };
  const deaf = { factor: 1, strength: 0, from: 0 };
  const slow = { factor: 0.5, strength: 1, from: 1 };
  const fast = { factor: 3, strength: 1, from: 1 };
  const library = kdaWatched;
  for (const changes of [
    [[hold, NO_CHANGE, fast]],
    [
      [slow, deaf, NO_CHANGE],
      [fast, NO_CHANGE, { ...slow, from: 3 }],
    ],
  ]) {
    const c = { ...plain, watched: { library, changes } };
    await expectClose(c, `${changes.length} tables`);
  }
});

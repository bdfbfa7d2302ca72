import { expect, test } from 'vitest';
import { mlaQuery } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkMlaQuery, type MlaQueryCase } from './attend.ts';
import { TREE_64 } from './layers.ts';

const plain: MlaQueryCase = {
  ...{ H: 3, K: 32, R: 16, L: 64, D: 96, formats: ['Q4_0', 'Q4_0', 'F32'], parts: 3 },
  ...{ position: 5, first: 0, segment: 9, cache: 'f32', sum: TREE_64, size: 1 },
  eps: { norm: 1e-5, latent: 1e-6 },
};
/** The widths of the embedded model, with fewer heads. */
const embedded = { H: 3, K: 64, R: 32, L: 192, D: 576, parts: 9 };

async function expectClose(c: MlaQueryCase, name: string, most = 1e-6): Promise<void> {
  expect(await checkMlaQuery(mlaQuery, c), name).toBeLessThan(most);
}

test('mla_query: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    await expectClose({ ...plain, sum: { library, lanes: 128 } }, `${library.name}, half`);
    await expectClose({ ...plain, ...embedded, sum: { library, lanes: 256 } }, library.name);
  }
});

test.each<[MlaQueryCase['formats'], number]>([
  [['F32', 'Q4_0', 'Q8_0'], 0],
  [['Q4_0', 'Q8_0', 'F32'], 1],
  [['Q8_0', 'F32', 'Q4_0'], 8],
  [['F16', 'BF16', 'F16'], 16],
])('mla_query: matrices in %s; %i parts of the residual row', async (formats, parts) => {
  await expectClose({ ...plain, formats, parts }, `${formats}`);
});

test('mla_query: a position before, in and after a segment far into the conversation', async () => {
  for (const position of [5007, 5008, 5015, 5016]) {
    await expectClose({ ...plain, first: 5008, segment: 8, position }, `position ${position}`);
  }
});

test('mla_query: rows so small that eps speaks, a cache of f16', async () => {
  await expectClose({ ...plain, size: 1e-3 }, 'small');
  await expectClose({ ...plain, cache: 'f16', parts: 17 }, 'f16', 5e-4);
});

test('mla_query: one head, more rows than lanes, a large model’s heads', async () => {
  const few = { ...TREE_64, lanes: 4 };
  await expectClose({ ...plain, H: 1, R: 4, L: 20, D: 32, sum: few }, 'odd');
  const large: MlaQueryCase = { ...plain, H: 2, K: 128, R: 64, L: 512, D: 1024 };
  await expectClose({ ...large, sum: { ...TREE_64, lanes: 256 } }, 'large');
});

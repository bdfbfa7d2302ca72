import { expect, test } from 'vitest';
import { mlaToken } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { TREE_64 } from './layers.ts';
import { checkMlaToken, type MlaTokenCase } from './mla.ts';
import { FORMATS } from './matrices.ts';

const plain: MlaTokenCase = {
  ...{ H: 3, K: 32, R: 16, L: 64, group: 16, format: 'F32' },
  ...{ position: 5, first: 0, segment: 9, cache: 'f32', sum: TREE_64, eps: 1e-5, size: 1 },
};

async function expectClose(c: MlaTokenCase, name: string, most = 1e-6): Promise<void> {
  expect(await checkMlaToken(mlaToken, c), name).toBeLessThan(most);
}

test('mla_token: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 128]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test.each(FORMATS)('mla_token: keys in %s', async (format) => {
  await expectClose({ ...plain, format }, format);
  await expectClose(
    { ...plain, H: 4, K: 128, R: 64, L: 512, group: 64, format },
    'a large model’s heads',
  );
});

test('mla_token: a position before, in and after a segment far into the conversation', async () => {
  for (const position of [5007, 5008, 5015, 5016]) {
    await expectClose({ ...plain, first: 5008, segment: 8, position }, `position ${position}`);
  }
});

test('mla_token: latents so small that eps speaks, a cache of f16, an odd shape', async () => {
  await expectClose({ ...plain, size: 1e-3 }, 'small');
  await expectClose({ ...plain, cache: 'f16' }, 'f16', 5e-4);
  await expectClose({ ...plain, H: 1, K: 32, R: 4, L: 20, group: 8 }, 'odd');
});

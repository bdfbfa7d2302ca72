import { expect, test } from 'vitest';
import { project, sumTree } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkProject, PAIRS, type ProjectCase } from './decode.ts';
import { TREE_64 } from './layers.ts';
import { OTHER_FORMATS } from './matrices.ts';

const a = { format: 'F32', rows: 21, first: 0, at: 0 } as const;
const b = { format: 'F32', rows: 10, first: 0, at: 21 } as const;
const plain: ProjectCase = { a, b, cols: 96, eps: 1e-5, size: 1, each: 8, sum: TREE_64 };

async function expectClose(
  c: ProjectCase,
  name: string,
  eachOf: readonly ProjectCase['each'][] = [4, 8],
): Promise<void> {
  for (const each of eachOf) {
    expect(await checkProject(project, { ...c, each }), `${name}, ${each} rows`).toBeLessThan(1e-6);
  }
}

test('project: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 256]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test.each(PAIRS)(
  'project: %s beside %s, slices of larger ones, far apart in y',
  async (format, other) => {
    const c = {
      ...plain,
      a: { ...a, format, first: 8, at: 3 },
      b: { ...b, format: other, first: 4, at: 40 },
    };
    await expectClose(c, 'both');
  },
);

test('project: B before A in y', async () => {
  await expectClose({ ...plain, a: { ...a, at: 12 }, b: { ...b, at: 1 } }, 'B first');
});

test('project: any number of rows', async () => {
  for (const [aRows, bRows, eachOf] of [
    [1, 1, [4, 8]],
    [4, 3, [4, 8]],
    [7, 0, [8]],
    [3, 15, [4, 8]],
    [16, 17, [8]],
  ] as const) {
    const c = {
      ...plain,
      cols: 32,
      a: { ...a, rows: aRows },
      b: { ...b, rows: bRows, at: aRows },
    };
    await expectClose(c, `${aRows} and ${bRows} rows`, eachOf);
  }
});

test('project: activations so small that eps speaks, and large ones', async () => {
  for (const size of [1e-4, 3e-3, 1e3]) await expectClose({ ...plain, size }, `size ${size}`);
});

test('project: the inputs of a large model’s layers', async () => {
  const quantised = { ...plain, cols: 2304, a: { ...a, format: 'Q4_0' as const } };
  const { sum } = plain;
  const wide = { ...quantised, b: { ...b, rows: 32, format: 'Q8_0' } } as const;
  await expectClose(wide, 'into the heads');
  await expectClose(
    { ...quantised, a: { ...a, rows: 40 }, b: { ...b, format: 'Q4_0', at: 256 } },
    'router and shared expert',
    [4, 8],
  );
  await expectClose({ ...quantised, b: { ...b, format: 'Q4_0', rows: 0 } }, 'logits', [8]);
  await expectClose({ ...wide, cols: 2048 }, 'all blocks of a lane at once', [8]);
  await expectClose({ ...wide, sum: { ...sum, lanes: 32 } }, 'several times as many', [8]);
  const lanes = 96; // three subgroups of 32, or more of fewer
  for (const library of (await sums()).filter((l) => l !== sumTree)) {
    await expectClose({ ...wide, sum: { library, lanes } }, 'three subgroups', [8]);
  }
});

test.each(OTHER_FORMATS)('project %s as both matrices', async (format) => {
  const c = { ...plain, cols: 512, a: { ...a, format, first: 4 }, b: { ...b, format, first: 8 } };
  await expectClose(c, 'both');
});

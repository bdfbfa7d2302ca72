import { expect, test } from 'vitest';
import { FLOOR } from '../../workers/limits.ts';
import { moeLayer, moeLayerBytes } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkMoeLayer, type MoeLayerCase } from './layer.ts';
import { TREE_64 } from './layers.ts';

const plain: MoeLayerCase = {
  ...{ experts: 8, top: 4, width: 32, sharedWidth: 64, D: 96, slices: 6, parts: 3 },
  ...{ gate: 'F16', up: 'F16', shared: 'F16', down: 'F16', sharedDown: 'F16' }, // compiles soonest
  ...{ scale: 2.5, norm: true, grain: 0, eps: 1e-5, size: 1, sum: TREE_64 },
};
const q4: Partial<MoeLayerCase> = {
  ...{ gate: 'Q4_0', up: 'Q4_0', shared: 'Q4_0', down: 'Q4_0', sharedDown: 'Q4_0' },
};

async function expectClose(c: MoeLayerCase, name: string): Promise<void> {
  expect(await checkMoeLayer(moeLayer, c), name).toBeLessThan(2e-6);
}

test('moe_layer: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [64, 256]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test('moe_layer: the embedded model’s sizes, in workgroups of 32 and of 64 units', async () => {
  const [library] = (await sums()).slice(-1);
  const sum = { library: library!, lanes: 256 };
  const sizes = { ...plain, ...q4, width: 128, sharedWidth: 512, D: 576, sum };
  await expectClose({ ...sizes, slices: 32, parts: 9 }, '32 units');
  await expectClose({ ...sizes, slices: 16, parts: 17 }, '64 units');
});

test('moe_layer: a width of 1024 leaves room in workgroup memory', () => {
  for (const units of [32, 64, 128]) {
    const bytes = moeLayerBytes({ D: 1024, EXPERTS: 16, units, lanes: 256 });
    expect(bytes, `${units} units`).toBeLessThan(FLOOR.workgroupBytes);
  }
});

test('moe_layer: widths, slices and columns', async () => {
  for (const [width, sharedWidth, slices, D, lanes] of [
    [32, 32, 5, 640, 64],
    [64, 128, 6, 96, 64],
    [96, 192, 6, 1024, 128],
  ] as const) {
    const c = { ...plain, width, sharedWidth, slices, D, sum: { ...TREE_64, lanes } };
    await expectClose(c, `${slices} slices of ${width} and ${sharedWidth}, ${D} columns`);
  }
});

test('moe_layer: workgroups that read what comes next change nothing', async () => {
  for (const library of await sums()) {
    const c = { ...plain, warmers: 3, sum: { library, lanes: 64 } };
    await expectClose(c, library.name);
  }
});

test('moe_layer: any number of few experts', async () => {
  for (const [experts, top, lanes] of [
    [1, 1, 64],
    [3, 2, 128],
    [5, 5, 64],
    [16, 8, 64],
  ] as const) {
    const c = { ...plain, experts, top, slices: top + 2, sum: { ...TREE_64, lanes } };
    await expectClose(c, `${top} of ${experts}`);
  }
});

test('moe_layer: a choice among equals, and weights as they are', async () => {
  for (const grain of [1, 3]) await expectClose({ ...plain, grain }, `${grain} that differ`);
  await expectClose({ ...plain, norm: false, scale: 0.5 }, 'weights as they are');
});

test('moe_layer: parts that the row lacks', async () => {
  for (const parts of [0, 8, 17]) await expectClose({ ...plain, parts }, `${parts}`);
});

test('moe_layer: rows so small that eps speaks, and large ones', async () => {
  for (const size of [1e-4, 3e-3, 1e2]) await expectClose({ ...plain, size }, `size ${size}`);
  await expectClose({ ...plain, size: 1e-2, eps: 1e-3 }, 'another eps');
});

test.each([
  ['Q4_0', 'Q8_0', 'F16', 'F32', 'Q4_0'],
  ['Q8_0', 'F32', 'Q4_0', 'Q4_0', 'F16'],
  ['F16', 'Q4_0', 'Q8_0', 'Q8_0', 'F32'],
] as const)('moe_layer in %s, %s, %s, %s and %s', async (gate, up, shared, down, sharedDown) => {
  const c = { ...plain, gate, up, shared, down, sharedDown, width: 64, slices: 10 };
  await expectClose(c, 'mixed');
});

test('moe_layer without experts: a dense layer, the embedded model’s among them', async () => {
  const dense = { ...plain, experts: 0, top: 0 };
  await expectClose({ ...dense, slices: 2 }, 'two slices');
  for (const library of await sums()) {
    const sizes = { sharedWidth: 1536, D: 576, slices: 24, parts: 9 };
    const c = { ...dense, ...q4, ...sizes, sum: { library, lanes: 256 } };
    await expectClose(c, `${library.name}, 24 slices of 64 units`);
  }
});

test('moe_layer: superblocks of 256 columns', async () => {
  const sizes = { top: 1, experts: 2, width: 256, sharedWidth: 256, D: 256, slices: 2 };
  const c = { ...plain, ...sizes, sum: { ...TREE_64, lanes: 256 } };
  await expectClose({ ...c, gate: 'Q4_K' }, 'Q4_K');
  await expectClose({ ...c, down: 'Q6_K' }, 'Q6_K');
});

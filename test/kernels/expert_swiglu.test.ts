import { expect, test } from 'vitest';
import { expertSwiglu, routerLogits, routerOwn } from '../../workers/kernels.ts';
import { sums } from '../gpu.ts';
import { checkExpertSwiglu, PAIRS, type ExpertSwigluCase } from './decode.ts';
import { TREE_64 } from './layers.ts';

const plain: ExpertSwigluCase = {
  ...{ experts: 9, parts: [0], ids: [7, 0, 8, 3] },
  ...{ gate: 'F32', up: 'F32', shared: 'F32', width: 12, sharedWidth: 16, cols: 96, each: 4 },
  ...{ eps: 1e-5, size: 1, sum: TREE_64, router: null },
};

async function expectClose(c: ExpertSwigluCase, name: string): Promise<void> {
  const eights = c.width % 8 === 0 && c.sharedWidth % 8 === 0;
  for (const each of eights ? ([4, 8] as const) : ([4] as const)) {
    const figure = await checkExpertSwiglu(expertSwiglu, { ...c, each });
    expect(figure, `${name}, ${each} numbers`).toBeLessThan(2e-6);
  }
}

test('expert_swiglu: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    for (const lanes of [4, 16, 64, 256]) {
      await expectClose({ ...plain, sum: { library, lanes } }, `${library.name} ${lanes}`);
    }
  }
});

test.each(PAIRS)('expert_swiglu: gate in %s, up in %s, shared in either', async (gate, up) => {
  await expectClose({ ...plain, gate, up, shared: up, parts: [0, 4] }, 'both');
  await expectClose({ ...plain, gate, up, shared: gate }, 'both');
});

test('expert_swiglu: widths of the experts and of the shared one', async () => {
  for (const [width, sharedWidth] of [
    [4, 8],
    [8, 4],
    [12, 20],
    [24, 40],
  ] as const) {
    await expectClose({ ...plain, width, sharedWidth }, `${width} and ${sharedWidth}`);
  }
});

test('expert_swiglu with a router: any number of few experts, every sum library, parts', async () => {
  const router = { library: routerOwn, scale: 2.5, norm: true, grain: 0 };
  for (const library of await sums()) {
    for (const [experts, top, lanes] of [
      [1, 1, 64],
      [3, 2, 4],
      [4, 4, 16],
      [9, 4, 64],
      [16, 8, 64],
    ] as const) {
      const ids = Array<number>(top).fill(0);
      const c = { ...plain, experts, ids, router, sum: { library, lanes } };
      await expectClose(c, `${top} of ${experts}, ${library.name} ${lanes}`);
      if (experts > 3) await expectClose({ ...c, parts: [0, 3] }, `${experts} in parts`);
    }
  }
  await expectClose({ ...plain, router: { ...router, norm: false } }, 'weights as they are');
  await expectClose({ ...plain, router: { ...router, grain: 3 } }, 'equals');
  for (const size of [1e-3, 1e2]) await expectClose({ ...plain, router, size }, `size ${size}`);
});

test('expert_swiglu with logits: any number of experts and lanes, parts', async () => {
  const router = { library: routerLogits, scale: 2.5, norm: true, grain: 0 };
  const small = { ...plain, width: 4, sharedWidth: 4, cols: 32, router };
  const libraries = await sums();
  for (const [i, [experts, top, lanes, parts]] of (
    [
      [1, 1, 32, [0]],
      [33, 8, 16, [0, 9]],
      [256, 8, 32, [0, 100]],
      [256, 8, 4, [0]],
      [300, 12, 64, [0]],
      [100, 64, 256, [0]],
    ] as const
  ).entries()) {
    const library = libraries[i % libraries.length]!;
    const ids = Array<number>(top).fill(0);
    const c = { ...small, experts, ids, parts: [...parts], sum: { library, lanes } };
    await expectClose(c, `${top} of ${experts}, ${library.name} ${lanes}`);
  }
});

test('expert_swiglu with logits: equals, which go to the lower id, and logits of any size', async () => {
  const router = { library: routerLogits, scale: 2.5, norm: true, grain: 0 };
  const many = { ...plain, experts: 256, ids: Array<number>(8).fill(0), width: 4, cols: 32 };
  for (const grain of [1, 2, 31, 32, 33, 64, 250]) {
    await expectClose({ ...many, router: { ...router, grain } }, `equal every ${grain}`);
  }
  await expectClose({ ...many, router: { ...router, norm: false } }, 'weights as they are');
  for (const size of [1e-3, 1e2]) await expectClose({ ...many, router, size }, `size ${size}`);
});

test('expert_swiglu: experts in parts, some without a choice', async () => {
  for (const parts of [
    [0, 8],
    [0, 4, 7],
    [0, 1, 2, 3],
  ]) {
    await expectClose({ ...plain, parts }, `parts from ${parts.join()}`);
  }
  await expectClose({ ...plain, ids: [8], parts: [0, 4] }, 'one expert');
  await expectClose({ ...plain, ids: [2, 0, 1], parts: [0, 4] }, 'all in the first part');
});

test('expert_swiglu: activations so small that eps speaks, and large ones', async () => {
  for (const size of [1e-4, 3e-3, 1e2]) await expectClose({ ...plain, size }, `size ${size}`);
});

test('expert_swiglu: a large model’s rows', async () => {
  const ids = [3, 11, 0, 7, 5, 1, 9, 10];
  const c = { ...plain, experts: 12, ids, parts: [0, 8], width: 16, cols: 2304 };
  await expectClose({ ...c, gate: 'Q4_0', up: 'Q4_0' }, 'Q4_0');
  await expectClose({ ...c, gate: 'Q4_K', up: 'Q6_K', shared: 'Q5_K' }, 'Q4_K, Q6_K and Q5_K');
});

/** The measurement of models of noise, on a small shape: that it runs whole, and that what it counts is right. */
import { expect, test } from 'vitest';
import { measureLarge, largeGoals } from '../../tools/largeModel.ts';
import { NoiseWeights } from '../../tools/noise.ts';
import { allMla, shape48B, shapeSmall } from '../../tools/shape48B.ts';
import { modelConfig } from '../../workers/config.ts';
import { openGguf } from '../../workers/gguf.ts';
import type { Tensor } from '../../workers/gpu.ts';
import { Plan } from '../../workers/plan.ts';
import { packedRow } from '../../workers/quant.ts';
import { openTestGpu, randomValues, testGpu } from '../gpu.ts';
import { kimiLinear48B } from '../workers/kimiLinear48B.ts';

type Rows = [Tensor, Tensor, Tensor];

test('the 48B’s shape is that of its file', async () => {
  const stated = modelConfig(await openGguf([kimiLinear48B()]));
  const { name, fileType, eps, moe } = shape48B; // a file holds them as f32
  expect(stated).toEqual({
    ...{ ...shape48B, name: `${name} Instruct`, fileType: 'Q4_K_M', eps: Math.fround(eps) },
    moe: { ...moe, scale: Math.fround(moe.scale) },
  });
  expect(fileType).toBe('Q4_0');
  expect(allMla(shape48B).layers.every(({ kind }) => kind === 'mla')).toBe(true);
});

test('noise has the size that keeps an input’s, and no word is another’s', async () => {
  const gpu = await testGpu();
  const source = new NoiseWeights(gpu, shapeSmall);
  const shape = source.entry('blk.0.attn_q.weight');
  const [cols, rows] = shape.ne as [number, number];
  const { codeWords } = packedRow('Q4_0', cols);
  const codes = gpu.tensor('weights', 'codes', [rows, codeWords]);
  const [x, y, step] = [[cols], [rows], [4]].map((n) => gpu.tensor('scratch', 'row', n)) as Rows;
  await source.fill(shape, { firstRow: 0, rows, offset: 0, codes, scales: null });
  const words = new Uint32Array(await gpu.read(codes));
  expect(new Set(words).size).toBeGreaterThan(0.99 * words.length);

  const input = randomValues(1, cols, 3 ** 0.5);
  gpu.write(x, 0, input);
  const plan = new Plan(gpu, 'decode', step);
  const part = { firstRow: 0, rows, offset: 0, codes, scales: null };
  plan.linear({ name: 'noise', type: 'Q4_0', batch: 1, rows, cols, parts: [part] }, x, y);
  await gpu.ready();
  gpu.submit(gpu.record(plan.calls, 1));
  const output = new Float32Array(await gpu.read(y));
  const size = (values: Float32Array) => Math.hypot(...values) / values.length ** 0.5;
  expect(size(output) / size(input)).toBeGreaterThan(0.5);
  expect(size(output) / size(input)).toBeLessThan(2);
  for (const tensor of [codes, x, y, step]) gpu.release(tensor);
});

test('a small shape, measured whole', async () => {
  const lines: string[] = [];
  const contexts = [16, 96];
  const figures = await measureLarge({
    ...{ open: openTestGpu, shape: shapeSmall, contexts, runs: 1, kernels: false },
    say: (line) => lines.push(line),
  });
  const { hybrid, mla } = figures;
  // Q4_0 takes 18 bytes for 32 weights; the router and what is no matrix have 4 a number.
  const { width: D, heads: H, vocabulary, mla: sizes, moe, denseWidth } = shapeSmall;
  const attention =
    D * H * sizes.query +
    D * (sizes.latent + sizes.sharedKey) +
    H * sizes.latent * (sizes.ownKey + sizes.values) +
    H * sizes.values * D;
  const chosen = 3 * D * (moe.expertsUsed * moe.width + moe.sharedWidth);
  const four = vocabulary * D + 5 * attention + 3 * D * denseWidth + 4 * chosen;
  // A layer's norm is read by its router and by its experts.
  const whole = D + 5 * (D + sizes.latent) + D + 4 * (2 * D + D * moe.experts + moe.experts);
  expect(mla.contexts[0]!.weightBytes).toBe((four * 18) / 32 + 4 * whole);

  const row = 2 * (sizes.latent + sizes.sharedKey);
  const memory = 4 * H * 32 * (32 + 3 * 3);
  for (const [at, context] of contexts.entries()) {
    const [a, b] = [hybrid.contexts[at]!, mla.contexts[at]!];
    expect(a).toMatchObject({
      ...{ context, cacheBytes: 2 * context * row, recurrentBytes: 3 * memory },
      stateBytes: 2 * context * row + 3 * memory,
    });
    expect(b).toMatchObject({
      ...{ context, cacheBytes: 5 * context * row, recurrentBytes: 0 },
      stateBytes: 5 * context * row,
    });
    for (const { tokenMs, calls } of [a, b]) {
      expect(tokenMs).toMatchObject({ runs: 1, least: tokenMs.median, most: tokenMs.median });
      expect(tokenMs.median).toBeGreaterThan(0);
      expect(calls).toBeGreaterThan(30);
    }
  }
  expect(hybrid.expertVariety).toBeGreaterThan(0.3);
  expect(lines).toHaveLength(7);
  expect(largeGoals(figures)).toEqual({
    moe48b_decode_1k_ms: null,
    moe48b_bandwidth_share: null,
    million_speedup_over_mla: null,
    million_cache_share: null,
  });
}, 60_000);

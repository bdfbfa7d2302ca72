/** The measurement of models of noise, on a small shape: that it runs whole, and that what it counts is right. */
import { expect, test } from 'vitest';
import { type LargeFigures, largeGoals, measureShape } from '../../tools/largeModel.ts';
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
  const part = { firstRow: 0, rows, offset: 0, codes, scales: null };
  await source.bring([{ shape, part }]);
  const words = new Uint32Array(await gpu.read(codes));
  expect(new Set(words).size).toBeGreaterThan(0.99 * words.length);

  const input = randomValues(1, cols, 3 ** 0.5);
  gpu.write(x, 0, input);
  const plan = new Plan(gpu, 'decode', step);
  plan.linear({ name: 'noise', type: 'Q4_0', batch: 1, rows, cols, parts: [part] }, x, y);
  await gpu.ready();
  gpu.submit(gpu.record(plan.calls, 1));
  const output = new Float32Array(await gpu.read(y));
  const size = (values: Float32Array) => Math.hypot(...values) / values.length ** 0.5;
  expect(size(output) / size(input)).toBeGreaterThan(0.5);
  expect(size(output) / size(input)).toBeLessThan(2);
  for (const tensor of [codes, x, y, step]) gpu.release(tensor);
});

test('a small shape, measured', async () => {
  const gpu = await openTestGpu();
  const lines: string[] = [];
  const context = 96;
  const { contexts, expertVariety } = await measureShape(gpu, shapeSmall, null, {
    ...{ open: openTestGpu, shape: shapeSmall, contexts: [context], runs: 1, kernels: false },
    say: (line) => lines.push(line),
  });
  // Q4_0 takes 18 bytes for 32 weights; the router and what is no matrix have 4 a number.
  const { width: D, heads: H, vocabulary, mla, kda, moe, denseWidth } = shapeSmall;
  const row = mla.latent + mla.sharedKey;
  const channels = H * (2 * kda.keys + kda.values);
  const attention = D * (H * mla.query + row + H * mla.values);
  const unfolded = H * mla.latent * (mla.ownKey + mla.values);
  const low = kda.keys + kda.values;
  const recurrence = D * (channels + low + H + H * kda.values) + H * kda.keys * low;
  const chosen = 3 * D * (moe.expertsUsed * moe.width + moe.sharedWidth);
  const four =
    vocabulary * D + attention + unfolded + 2 * recurrence + 3 * D * denseWidth + 2 * chosen;
  const filled = 2 * 2 * H * low; // a row of 32 columns has one scale, filled up to a pair
  // A layer's norm is read by its projections, and lies before what a head reads.
  const constants = 2 * D + channels * kda.taps + H * (kda.keys + 1) + kda.values;
  // A layer's norm is read by its router and by its experts.
  const router = 2 * D + D * moe.experts + moe.experts;
  const whole = D + 2 * constants + D + mla.latent + D + 2 * router;
  const memoryBytes = 2 * 4 * (H * kda.keys * kda.values + (kda.taps - 1) * channels);
  const [figures] = contexts;
  expect(contexts).toEqual([
    {
      ...{ context, tokenMs: figures!.tokenMs, gpuMs: null, streamShare: null },
      calls: 24,
      weightBytes: (four * 18) / 32 + filled + 4 * whole,
      cacheBytes: context * 2 * row,
      recurrentBytes: memoryBytes,
      stateBytes: context * 2 * row + memoryBytes,
    },
  ]);
  const { median } = figures!.tokenMs;
  expect(figures!.tokenMs).toEqual({ median, least: median, most: median, runs: 1 });
  expect(median).toBeGreaterThan(0);
  expect(expertVariety).toBeGreaterThan(0.3);
  expect(expertVariety).toBeLessThanOrEqual(1);
  expect(lines).toHaveLength(2);
  gpu.destroy();
}, 120_000);

test('goals are those of 1,024 and of a million tokens', () => {
  const spread = (median: number) => ({ median, least: median, most: median, runs: 1 });
  const at = (context: number, ms: number, stateBytes: number) => ({
    ...{ context, tokenMs: spread(ms), gpuMs: null, calls: 1, streamShare: 1 / ms },
    ...{ weightBytes: 0, cacheBytes: 0, recurrentBytes: 0, stateBytes },
  });
  const shape = { name: '', parameters: 0, weightBytes: 0, expertVariety: 1 };
  const figures: LargeFigures = {
    adapter: { name: '', software: false, features: [], maxBindingBytes: 0 },
    stream: null,
    hybrid: { ...shape, contexts: [at(1024, 4, 9), at(2 ** 20, 10, 26)] },
    mla: { ...shape, contexts: [at(1024, 5, 9), at(2 ** 20, 35, 100)] },
  };
  expect(largeGoals(figures)).toEqual({
    moe48b_decode_1k_ms: 4,
    moe48b_bandwidth_share: 0.25,
    million_speedup_over_mla: 3.5,
    million_cache_share: 0.26,
  });
  const told = { ...at(2 ** 20, 90, 100), gpuMs: spread(36) }; // the host was busy
  const own = { ...at(2 ** 20, 10, 26), gpuMs: spread(9) };
  const byGpu = {
    ...figures,
    hybrid: { ...shape, contexts: [own] },
    mla: { ...shape, contexts: [told] },
  };
  expect(largeGoals(byGpu).million_speedup_over_mla).toBe(4);
  expect(largeGoals({ ...figures, hybrid: { ...shape, contexts: [at(8192, 4, 9)] } })).toEqual({
    moe48b_decode_1k_ms: null,
    moe48b_bandwidth_share: null,
    million_speedup_over_mla: null,
    million_cache_share: null,
  });
});

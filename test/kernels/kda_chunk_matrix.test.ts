/**
 * The chunk form by subgroup matrices: against the recurrence where the device has them, and compiled everywhere, since Dawn's
 * null backend has all extensions.
 */
import { expect, test } from 'vitest';
import { nodeGpu, nullGpu } from '../../tools/nodeGpu.ts';
import { takesMatrices } from '../../workers/chunks.ts';
import { WITH_MATRICES, Gpu } from '../../workers/gpu.ts';
import { factorF16, kdaChunkScanMatrix, step } from '../../workers/kernels.ts';
import { inOneGroup, link } from '../../workers/link.ts';
import { DECAYS, type RecurrenceCase } from './kda.ts';
import { checkChunks } from './kda_chunk.ts';

const CASE: RecurrenceCase = {
  ...{ T: 200, H: 3, K: 128, V: 128 },
  ...{ decay: 'gentle', beta: 'open', keys: 'random' },
};

const toggles = ['vulkan_enable_f16_on_nvidia', 'allow_unsafe_apis'];
const gpu = await Gpu.open(await nodeGpu({ toggles }), WITH_MATRICES);

/** The relative RMS of each case, where the device can run it. */
async function checked(cases: readonly RecurrenceCase[]): Promise<number[]> {
  const figures: number[] = [];
  for (const c of cases) {
    if (takesMatrices(gpu, c)) figures.push(await checkChunks(gpu, c));
  }
  return figures;
}

test('kda_chunk_scan_matrix compiles', async () => {
  const adapter = (await nullGpu().requestAdapter())!;
  const extensions = /^(subgroups|shader-f16|chromium-experimental-subgroup-matrix)$/;
  const device = await adapter.requestDevice({
    requiredFeatures: [...adapter.features].filter((f) => extensions.test(f)) as GPUFeatureName[],
  });
  const sources = [factorF16.source, step.source, kdaChunkScanMatrix.source];
  const code = inOneGroup(link('kda_chunk_scan_matrix', sources, { H: 2, K: 64, V: 64 }));
  const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
  expect(messages.map(({ lineNum, message }) => `${lineNum}: ${message}`)).toEqual([]);
});

test('the chunk form by matrices = the recurrence: every decay, tokens that fill no chunk, every size', async () => {
  const decays = Object.keys(DECAYS) as (keyof typeof DECAYS)[];
  const cases = [
    ...decays.map((decay) => ({ ...CASE, decay })),
    ...decays.map((decay) => ({ ...CASE, decay, beta: 'extreme' as const, keys: 'same' as const })),
    ...[1, 15, 16, 63, 64, 65].map((T) => ({ ...CASE, T })),
    { ...CASE, K: 64 },
    { ...CASE, V: 48 },
    { ...CASE, T: 70, H: 32 },
  ];
  const figures = await checked(cases);
  expect(figures).toHaveLength(takesMatrices(gpu, CASE) ? cases.length : 0);
  for (const [i, figure] of figures.entries()) {
    expect(figure, JSON.stringify(cases[i])).toBeLessThan(2e-3);
  }
});

/**
 * What rounding the factors of a prompt's chunks to f16 does to a model: its predictions by subgroup matrices beside those by f32,
 * at every position of the recorded prompts and their answers.
 *
 *   node tools/run.mjs lossy [--model NAME|FILE] [--prompts N (1000)]
 *
 * Prints the mean and the largest Kullback-Leibler divergence in nats, and how many best tokens differ. Needs a device with
 * subgroup matrices; fails where the mean is 1e-3 or more.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Engine } from '../workers/engine.ts';
import { FULL, Gpu, type GpuOptions, WITH_MATRICES } from '../workers/gpu.ts';
import { SUBGROUP_MATRIX } from '../workers/subgroupMatrix.ts';
import { modelSources } from './nodeEngine.ts';
import { nodeGpu } from './nodeGpu.ts';

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    prompts: { type: 'string', default: '1000' },
  },
});
const recorded = JSON.parse(readFileSync('test/fixtures/chat.json', 'utf8')) as {
  ids: number[];
  tokens: number[];
}[];

const dawn = await nodeGpu({ toggles: ['vulkan_enable_f16_on_nvidia', 'allow_unsafe_apis'] });
async function open(options: GpuOptions): Promise<Engine> {
  const gpu = await Gpu.open(dawn, options);
  if (options === WITH_MATRICES && !gpu.has(SUBGROUP_MATRIX)) {
    throw new Error(`${gpu.report.name} has no subgroup matrices of the shape used here`);
  }
  const shards = modelSources(arg.model);
  const clock = () => performance.now();
  return Engine.load({ gpu, shards, contextTokens: 8192, report: () => {}, clock });
}
const exact = await open(FULL);
const rounded = await open(WITH_MATRICES);
const V = exact.loaded.model.vocabulary;

async function logitsOf(engine: Engine, ids: number[]): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  await engine.score(ids, 'chunk', (_, logits) => {
    for (let at = 0; at < logits.length; at += V) rows.push(logits.slice(at, at + V));
  });
  return rows;
}

let [sum, most, positions, others] = [0, 0, 0, 0];
for (const { ids, tokens } of recorded.slice(0, Number(arg.prompts))) {
  const sequence = [...ids, ...tokens.slice(0, -1)];
  const [a, b] = [await logitsOf(exact, sequence), await logitsOf(rounded, sequence)];
  a.forEach((row, i) => {
    const kl = divergence(row, b[i]!);
    sum += kl;
    most = Math.max(most, kl);
    positions++;
    if (best(row) !== best(b[i]!)) others++;
  });
}
const mean = sum / positions;
console.log(
  `${positions} positions: KL ${mean.toExponential(2)} in the mean, ${most.toExponential(2)} at most; ${others} best tokens differ`,
);
exact.destroy();
rounded.destroy();
process.exitCode = mean < 1e-3 ? 0 : 1;

/** KL(p || q) of two rows of logits. */
function divergence(p: Float32Array, q: Float32Array): number {
  const [zp, zq] = [logSum(p), logSum(q)];
  return p.reduce((total, x, i) => total + Math.exp(x - zp) * (x - zp - (q[i]! - zq)), 0);
}

function logSum(row: Float32Array): number {
  const top = row.reduce((a, b) => Math.max(a, b));
  return top + Math.log(row.reduce((total, x) => total + Math.exp(x - top), 0));
}

function best(row: Float32Array): number {
  return row.reduce((at, x, i) => (x > row[at]! ? i : at), 0);
}

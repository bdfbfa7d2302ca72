/**
 * How long the chunk form of Kimi Delta Attention takes on a GPU, whole and kernel by kernel, and its share of FLA's speed.
 * Inside: all that kdaChunks calls, from f32 q, k (of unit length), v, g and beta to f32 outputs and the memory afterwards.
 */
import { readFileSync } from 'node:fs';
import { type HeadSizes, kdaChunks, takesMatrices } from '../workers/chunks.ts';
import type { Gpu, Tensor } from '../workers/gpu.ts';
import { chunkScratch } from '../workers/kernels.ts';
import { Plan } from '../workers/plan.ts';

/** Microseconds. */
export interface ChunkTimes {
  adapter: string;
  tokens: number;
  heads: number;
  by: 'lanes' | 'matrices';
  whole: Spread;
  kernels: Record<string, Spread>;
}

export interface Spread {
  median: number;
  least: number;
  most: number;
  runs: number;
}

/** Those of Kimi Linear 48B-A3B. */
export const LARGE: HeadSizes = { H: 32, K: 128, V: 128 };

/** GPU microseconds of a submission, at least, and most chains in it: a GPU that waits between lowers its clocks. */
const SUBMISSION_US = 15_000;
const MOST_CHAINS = 64;

/** Tokens of noise, repeated until the call is full. */
const PERIOD = 256;

/** Time the chain, whole and kernel by kernel; needs the feature 'timestamp-query'. Fails where results are not finite. */
export async function timeChunks(
  gpu: Gpu,
  runs: number,
  tokens: number,
  sizes = LARGE,
): Promise<ChunkTimes> {
  const { H, K, V } = sizes;
  const used: Tensor[] = [];
  const tensor = (name: string, elements: number) => {
    used.push(gpu.tensor('scratch', name, [elements]));
    return used.at(-1)!;
  };
  const step = tensor('step', 4);
  gpu.write(step, 0, new Uint32Array([tokens, 0, 0, 0]));
  const row = 2 * H * K + H * V;
  const tensors = {
    mixed: tensor('mixed', tokens * row),
    g: tensor('g', tokens * H * K),
    beta: tensor('beta', tokens * H),
    S: tensor('S', H * K * V),
    o: tensor('o', tokens * H * V),
    chunk: Object.fromEntries(
      Object.entries(chunkScratch(tokens, sizes)).map(([name, n]) => [name, tensor(name, n)]),
    ) as Record<keyof ReturnType<typeof chunkScratch>, Tensor>,
  };
  const { mixed, g, beta } = noise(sizes);
  for (let t = 0; t < tokens; t += PERIOD) {
    const some = Math.min(PERIOD, tokens - t);
    gpu.write(tensors.mixed, t * row, mixed.subarray(0, some * row));
    gpu.write(tensors.g, t * H * K, g.subarray(0, some * H * K));
    gpu.write(tensors.beta, t * H, beta.subarray(0, some * H));
  }
  const plan = new Plan(gpu, 'prefill', step);
  kdaChunks(plan, gpu, sizes, tensors);
  const calls = plan.calls.filter((call) => 'program' in call);
  await gpu.ready();

  const times = new Map<string, number[]>();
  const whole = 'whole';
  const note = (name: string, us: number) => times.set(name, [...(times.get(name) ?? []), us]);
  const [firstUs] = await gpu.profile([calls], tokens);
  const rounds = Math.max(4, Math.min(MOST_CHAINS, Math.ceil(SUBMISSION_US / firstUs!)));
  for (let run = -2; run < runs; run++) {
    const chains = await gpu.profile(Array<typeof calls>(rounds).fill(calls), tokens);
    const apart = await gpu.profile(
      Array.from({ length: rounds * calls.length }, (_, i) => [calls[i % calls.length]!]),
      tokens,
    );
    if (run < 0) continue;
    // The first ones may still meet low clocks.
    note(whole, median(chains.slice(1)));
    calls.forEach(({ program }, i) => {
      note(
        program.name,
        median(apart.filter((_, at) => at >= calls.length && at % calls.length === i)),
      );
    });
  }
  for (const result of [tensors.o, tensors.S]) {
    const last = new Float32Array(await gpu.read(result, result.bytes / 4 - H * V, H * V));
    if (!last.every(Number.isFinite)) throw new Error(`${result.name} is not finite`);
  }
  for (const each of used) gpu.release(each);
  const spreads = [...times].map(([name, us]) => [name, spread(us)] as const);
  return {
    adapter: gpu.report.name,
    tokens,
    heads: H,
    by: takesMatrices(gpu, sizes) ? 'matrices' : 'lanes',
    whole: spread(times.get(whole)!),
    kernels: Object.fromEntries(spreads.filter(([name]) => name !== whole)),
  };
}

/** Our share of FLA's speed: its time over ours, with what tools/peers/fla.py printed. */
export function shareOfFla(times: ChunkTimes, file: string): number {
  const fla = JSON.parse(readFileSync(file, 'utf8')) as {
    tokens: number;
    heads: number;
    plain: Spread;
  };
  if (fla.tokens !== times.tokens || fla.heads !== times.heads) {
    throw new Error(`${file} is of ${fla.tokens} tokens and ${fla.heads} heads`);
  }
  return fla.plain.median / times.whole.median;
}

/** PERIOD tokens of what the chain reads: directions that are random, gates as a layer has them before any training. */
function noise({ H, K, V }: HeadSizes): Record<'mixed' | 'g' | 'beta', Float32Array> {
  const row = 2 * H * K + H * V;
  const mixed = new Float32Array(PERIOD * row).map(normal);
  for (let head = 0; head < PERIOD * 2 * H; head++) {
    const at = Math.floor(head / (2 * H)) * row + (head % (2 * H)) * K;
    const values = mixed.subarray(at, at + K);
    const length = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
    const size = head % (2 * H) < H ? K ** -0.5 : 1; // of queries, of keys
    values.forEach((x, i) => (values[i] = (x * size) / length));
  }
  // -A softplus(x + dt), A from 1 to 16 by head, softplus(dt) from 0.001 to 0.1.
  const strength = Array.from({ length: H }, () => 1 + 15 * uniform());
  const dt = Array.from({ length: H * K }, () => Math.log(Math.expm1(10 ** (-3 + 2 * uniform()))));
  const g = new Float32Array(PERIOD * H * K).map((_, i) => {
    const at = i % (H * K);
    return -strength[Math.floor(at / K)]! * Math.log1p(Math.exp(normal() + dt[at]!));
  });
  const beta = new Float32Array(PERIOD * H).map(() => 1 / (1 + Math.exp(normal())));
  return { mixed, g, beta };
}

let seed = 1;
function uniform(): number {
  seed = (Math.imul(seed, 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
  return ((Math.imul(seed ^ (seed >>> 15), 0x297a2d39) >>> 0) + 0.5) / 2 ** 32;
}

function normal(): number {
  return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

function spread(values: number[]): Spread {
  const runs = values.length;
  return { median: median(values), least: Math.min(...values), most: Math.max(...values), runs };
}

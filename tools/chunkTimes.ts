/**
 * How long the chunk form of Kimi Delta Attention takes on a GPU, whole and kernel by kernel, and its share of FLA's speed: 32
 * heads of 128 keys and 128 values. Inside: all that kdaChunks calls, from f32 q, k (of unit length), v, g and beta to f32
 * outputs and the memory afterwards.
 */
import { readFileSync } from 'node:fs';
import { kdaChunks, takesMatrices } from '../workers/chunks.ts';
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

const SIZES = { H: 32, K: 128, V: 128 };

/** Chains in one submission: a GPU that waits between lowers its clocks. */
const CHAINS = 4;

/** Tokens of noise, repeated until the call is full. */
const PERIOD = 256;

/** Time the chain, whole and kernel by kernel; needs the feature 'timestamp-query'. Fails where results are not finite. */
export async function timeChunks(gpu: Gpu, runs: number, tokens: number): Promise<ChunkTimes> {
  const { H, K, V } = SIZES;
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
      Object.entries(chunkScratch(tokens, SIZES)).map(([name, n]) => [name, tensor(name, n)]),
    ) as Record<keyof ReturnType<typeof chunkScratch>, Tensor>,
  };
  for (let t = 0; t < tokens; t += PERIOD) {
    const some = Math.min(PERIOD, tokens - t);
    gpu.write(tensors.mixed, t * row, noise.mixed().subarray(0, some * row));
    gpu.write(tensors.g, t * H * K, noise.g().subarray(0, some * H * K));
    gpu.write(tensors.beta, t * H, noise.beta().subarray(0, some * H));
  }
  const plan = new Plan(gpu, 'prefill', step);
  kdaChunks(plan, gpu, SIZES, tensors);
  const calls = plan.calls.filter((call) => 'program' in call);
  await gpu.ready();

  const times = new Map<string, number[]>();
  const whole = 'whole';
  const note = (name: string, us: number) => times.set(name, [...(times.get(name) ?? []), us]);
  for (let run = -2; run < runs; run++) {
    const chains = await gpu.profile(Array<typeof calls>(CHAINS).fill(calls), tokens);
    const apart = await gpu.profile(
      Array.from({ length: CHAINS * calls.length }, (_, i) => [calls[i % calls.length]!]),
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
    by: takesMatrices(gpu, SIZES) ? 'matrices' : 'lanes',
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
const noise = {
  mixed: once(() => {
    const { H, K, V } = SIZES;
    const rows = new Float32Array(PERIOD * (2 * H * K + H * V)).map(normal);
    for (let t = 0; t < PERIOD; t++) {
      for (let h = 0; h < 2 * H; h++) {
        const at = t * (2 * H * K + H * V) + h * K;
        const head = rows.subarray(at, at + K);
        const length = Math.sqrt(head.reduce((sum, x) => sum + x * x, 0));
        const scale = h < H ? K ** -0.5 : 1; // of queries
        head.forEach((x, i) => (head[i] = (x * scale) / length));
      }
    }
    return rows;
  }),
  /** -A softplus(x + dt), A from 1 to 16 by head, softplus(dt) from 0.001 to 0.1. */
  g: once(() => {
    const { H, K } = SIZES;
    const strength = Array.from({ length: H }, () => 1 + 15 * uniform());
    const dt = Array.from({ length: H * K }, () =>
      Math.log(Math.expm1(10 ** (-3 + 2 * uniform()))),
    );
    return new Float32Array(PERIOD * H * K).map((_, i) => {
      const at = i % (H * K);
      return -strength[Math.floor(at / K)]! * Math.log1p(Math.exp(normal() + dt[at]!));
    });
  }),
  beta: once(() => new Float32Array(PERIOD * SIZES.H).map(() => 1 / (1 + Math.exp(normal())))),
};

function once(make: () => Float32Array): () => Float32Array {
  let made: Float32Array | undefined;
  return () => (made ??= make());
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

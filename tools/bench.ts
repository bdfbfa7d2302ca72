/**
 * `npm run bench`: how fast the embedded model runs on this machine's adapter, and how near the memory's limit.
 *
 *   --model NAME|FILE   --runs N (10)   --tokens N (128) decoded per run   --json FILE   also as JSON
 *   --goals FILE   the figures that docs/BENCH.md sets as goals, each a plain number or null with the reason
 *
 * Medians with the spread of all runs after a warm-up. A share above 1 of the measured stream would be a wrong measurement and
 * ends with an error.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Engine } from '../workers/engine.ts';
import { FULL, Gpu, type Tensor } from '../workers/gpu.ts';
import { kernel } from '../workers/link.ts';
import { Plan } from '../workers/plan.ts';
import type { Sampling } from '../workers/protocol.ts';
import { packedRow } from '../workers/quant.ts';
import { modelSources } from './nodeEngine.ts';
import { nodeGpu } from './nodeGpu.ts';
import streamSource from './stream.wgsl?raw';

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    runs: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '128' },
    json: { type: 'string' },
    goals: { type: 'string' },
  },
});
const runs = Number(arg.runs);
const decoded = Number(arg.tokens);
const results: Record<string, unknown> = {};
const say = (name: string, value: string) => console.log(`${name.padEnd(34)} ${value}`);

interface Spread {
  median: number;
  least: number;
  most: number;
}

function spread(values: number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1]!, least: sorted[0]!, most: sorted.at(-1)! };
}

function record(name: string, values: number[], unit: string, digits: number): Spread {
  const s = spread(values);
  const f = (x: number) => x.toFixed(digits);
  say(name, `${f(s.median)} ${unit}   (${f(s.least)} to ${f(s.most)}, ${values.length} runs)`);
  results[name] = { ...s, unit, runs: values.length };
  return s;
}

const gpu = await Gpu.open(
  await nodeGpu({
    toggles: ['vulkan_enable_f16_on_nvidia'],
    without: ['timestamp_quantization'],
  }),
  FULL,
);
const { name, software, features, maxBindingBytes } = gpu.report;
say(
  'adapter',
  `${name}${software ? ' (software)' : ''}; ${features.join(', ') || 'no optional features'}`,
);
results.adapter = gpu.report;

// ------------------------------------------------------------------------------------------- the roofline

/** Words that do not compress. */
const noise = Uint32Array.from(
  { length: 2 ** 22 },
  (_, i) => Math.imul(i ^ 0x9e3779b9, 0x85ebca6b) ^ (i << 7),
);

function fillWithNoise(tensor: Tensor, words: number): void {
  for (let at = 0; at < words; at += noise.length)
    gpu.write(tensor, at, noise.subarray(0, Math.min(noise.length, words - at)));
}

/** GB/s of reading a buffer far larger than any cache, filled with words that do not compress. */
async function streamRead(): Promise<number> {
  const bytes = Math.min(maxBindingBytes, software ? 2 ** 27 : 2 ** 30);
  const lanes = software ? 2 ** 12 : 2 ** 20;
  const row = kernel('stream', streamSource, {
    binds: ['words', 'sink'],
    consts: ['WORDS', 'LANES'],
    grid: (c) => [c.LANES / 256, 1, 1],
  });
  const words = gpu.tensor('scratch', 'stream', [bytes / 4]);
  fillWithNoise(words, bytes / 4);
  const sink = gpu.tensor('scratch', 'sink', [lanes]);
  const call = gpu.bind(gpu.program(row, [], { WORDS: bytes / 4, LANES: lanes }), { words, sink });
  await gpu.ready();
  const times: number[] = [];
  for (let i = 0; i < runs + 2; i++) {
    const [us] = await gpu.profile([[call]], 1);
    if (i >= 2) times.push(bytes / us! / 1000);
  }
  gpu.release(words);
  gpu.release(sink);
  return record('stream read', times, 'GB/s', 1).median;
}

const stream = gpu.has('timestamp-query') ? await streamRead() : null;

// ------------------------------------------------------------------------------------- products on their own

/** Share of the stream that 4-bit products of one token reach, on as many matrices as no cache holds. */
async function productShare(rows: number, cols: number): Promise<number> {
  const type = 'Q4_0' as const;
  const { codeWords, scaleWords } = packedRow(type, cols);
  const bytes = 4 * rows * (codeWords + scaleWords);
  const count = Math.ceil((software ? 2 ** 24 : 2 ** 28) / bytes);
  const step = gpu.tensor('scratch', 'step', [4]);
  const x = gpu.tensor('scratch', 'x', [cols]);
  const y = gpu.tensor('scratch', 'y', [rows]);
  const w = gpu.tensor('scratch', 'w', [cols]);
  const plan = new Plan(gpu, 'decode', step);
  const used = [step, x, y, w];
  for (let i = 0; i < count; i++) {
    const codes = gpu.tensor('scratch', 'codes', [rows * codeWords]);
    const scales = gpu.tensor('scratch', 'scales', [rows * scaleWords]);
    fillWithNoise(codes, rows * codeWords);
    const part = { firstRow: 0, rows, offset: 0, codes, scales };
    const matrix = { name: 'noise', type, batch: 1, rows, cols, parts: [part] };
    plan.project(matrix, 0, null, { w, eps: 1e-5 }, x, y);
    used.push(codes, scales);
  }
  await gpu.ready();
  // Many times in one submission: a GPU that waits between lowers its clocks.
  const calls = plan.calls.filter((call) => 'program' in call);
  const times: number[] = [];
  for (let i = 0; i < runs + 2; i++) {
    const passes = await gpu.profile(Array<typeof calls>(software ? 1 : 16).fill(calls), 1);
    if (i >= 2) times.push((count * bytes) / passes.at(-1)! / 1000);
  }
  for (const tensor of used) gpu.release(tensor);
  const rate = record(`q4_0 product, ${rows} x ${cols}, ${count} of them`, times, 'GB/s', 0).median;
  if (rate > 1.05 * stream!)
    throw new Error(`${rate} GB/s is more than the stream: one is measured wrongly`);
  return rate / stream!;
}

const shares =
  stream === null
    ? null
    : {
        // The vocabulary of the 48B model, and what its KDA layers project at once.
        large: Math.min(await productShare(163840, 2304), await productShare(12544, 2304)),
        output: await productShare(2304, 4096),
      };

// ------------------------------------------------------------------------------------------ whole model

const started = performance.now();
const engine = await Engine.load({
  gpu,
  shards: modelSources(arg.model),
  contextTokens: 8192,
  report: () => {},
  clock: () => performance.now(),
});
say('load', `${(performance.now() - started).toFixed(0)} ms from disk, pipelines included`);
const { model } = engine.loaded;
results.model = model.name;

const greedy: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 0,
  maxTokens: decoded,
  stop: [],
  candidates: 0,
};

/** Ids that look like text to no one: the same for every run, and no stop tokens. */
const ids = (count: number) =>
  Array.from({ length: count }, (_, i) => 100 + ((i * 7919) % (model.vocabulary - 200)));

const decodeRates: number[] = [];
const gaps: number[] = [];
for (let run = -1; run < runs; run++) {
  await engine.reset();
  let last = 0;
  const own: number[] = [];
  const stop = await engine.generate({ kind: 'ids', ids: ids(32) }, greedy, () => {
    const at = performance.now();
    if (last > 0) own.push(at - last);
    last = at;
  });
  if (run < 0 || stop.ids.length < 2) continue;
  gaps.push(...own);
  decodeRates.push((1000 * (stop.ids.length - 1)) / stop.decodeMs);
}
const decode = record(`decode, ${decoded} tokens after 32`, decodeRates, 'tokens/s', 1);
gaps.sort((a, b) => a - b);
say(
  'between tokens',
  `p50 ${gaps[gaps.length >> 1]?.toFixed(2)} ms, p95 ${gaps[Math.floor(gaps.length * 0.95)]?.toFixed(2)} ms`,
);

const prefills = new Map<number, { rate: number; firstMs: number }>();
for (const length of software ? [32, 128] : [32, 512, 2048]) {
  const rates: number[] = [];
  const first: number[] = [];
  for (let run = -1; run < Math.min(runs, software ? 2 : runs); run++) {
    await engine.reset();
    const stop = await engine.generate(
      { kind: 'ids', ids: ids(length) },
      { ...greedy, maxTokens: 1 },
      () => {},
    );
    if (run < 0) continue;
    rates.push((1000 * (length - 1)) / stop.prefillMs);
    first.push(stop.firstTokenMs);
  }
  prefills.set(length, {
    rate: record(`prefill, ${length} tokens`, rates, 'tokens/s', 0).median,
    firstMs: record(`first token, ${length}-token prompt`, first, 'ms', 1).median,
  });
}

// ------------------------------------------------------------------------------------------- per kernel

if (gpu.has('timestamp-query')) {
  for (const phase of ['decode', 'prefill'] as const) {
    const tokens = phase === 'decode' ? 1 : software ? 64 : 2048;
    const rows = await engine.profile(phase, tokens, runs);
    const total = rows.reduce((sum, r) => sum + r.us, 0);
    console.log(
      `\n${phase}, ${tokens} token(s): ${(total / 1000).toFixed(2)} ms of GPU time in ${rows.reduce((n, r) => n + r.calls, 0)} calls`,
    );
    for (const { name, calls, us, bytes } of rows) {
      const rate = bytes / us / 1000;
      const share =
        stream === null || phase === 'prefill' || bytes === 0
          ? ''
          : `${((100 * rate) / stream).toFixed(1)} % of stream`;
      console.log(
        `  ${name.padEnd(18)} ${String(calls).padStart(4)} calls ${us.toFixed(1).padStart(9)} us  ${share}`,
      );
      if (stream !== null && phase === 'decode' && rate > 1.05 * stream && bytes > 64e6) {
        throw new Error(
          `${name} reads ${rate.toFixed(0)} GB/s and the stream ${stream.toFixed(0)}: one of the two is wrong`,
        );
      }
    }
    results[phase] = { tokens, us: total, kernels: rows };
  }
}
const bytesPerToken = engine.decodeBytes();
if (stream !== null) {
  const floorMs = bytesPerToken / stream / 1e6;
  say(
    '\nweights read per token',
    `${(bytesPerToken / 1e6).toFixed(1)} MB: ${floorMs.toFixed(3)} ms at the stream's rate, ${((100 * floorMs * decode.median) / 1000).toFixed(1)} % reached`,
  );
}
results.memory = engine.memory();
say('memory', JSON.stringify(engine.memory()));
if (arg.goals) {
  const goals = {
    adapter: name,
    stream_read_gbps: stream,
    gemv_q4_0_large_share: shares?.large ?? null,
    gemv_q4_0_2304x4096_share: shares?.output ?? null,
    moe48b_decode_1k_ms: null,
    moe48b_bandwidth_share: null,
    million_speedup_over_mla: null,
    million_cache_share: null,
    default_decode_tps: decode.median,
    default_decode_chromium_tps: null,
    default_prefill_2048_tps: prefills.get(2048)?.rate ?? null,
    kda_chunk_share_of_fla: null,
    kda_chunk_matrix_share_of_fla: null,
    ttft_32_ms: prefills.get(32)!.firstMs,
    cold_start_chromium_s: null,
    notes: {
      moe48b_decode_1k_ms: 'no synthetic 48B model is made yet',
      moe48b_bandwidth_share: 'likewise',
      million_speedup_over_mla: 'likewise',
      million_cache_share: 'likewise',
      default_decode_chromium_tps: 'measured in Node only',
      kda_chunk_share_of_fla: 'not yet run beside Triton',
      kda_chunk_matrix_share_of_fla: 'no kernel uses subgroup matrices yet',
      cold_start_chromium_s: 'measured in Node only',
    },
  };
  writeFileSync(arg.goals, `${JSON.stringify(goals, null, 2)}\n`);
}
if (arg.json) writeFileSync(arg.json, `${JSON.stringify(results, null, 2)}\n`);
engine.destroy();

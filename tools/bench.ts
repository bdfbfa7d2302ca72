/**
 * `npm run bench`: how fast the embedded model runs on this machine's adapter, and how near the memory's limit.
 *
 *   --model NAME|FILE   --runs N (10)   --tokens N (128) decoded per run   --json FILE   also as JSON
 *
 * Medians with the spread of all runs after a warm-up. A share above 1 of the measured stream would be a wrong measurement and
 * ends with an error.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Engine } from '../workers/engine.ts';
import { FULL, Gpu, kernel } from '../workers/gpu.ts';
import type { Sampling } from '../workers/protocol.ts';
import { modelSources } from './nodeEngine.ts';
import { nodeGpu } from './nodeGpu.ts';
import streamSource from './stream.wgsl?raw';

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    runs: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '128' },
    json: { type: 'string' },
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
  const noise = Uint32Array.from(
    { length: 2 ** 22 },
    (_, i) => Math.imul(i ^ 0x9e3779b9, 0x85ebca6b) ^ (i << 7),
  );
  for (let at = 0; at < bytes / 4; at += noise.length)
    gpu.write(words, at, noise.subarray(0, Math.min(noise.length, bytes / 4 - at)));
  const sink = gpu.tensor('scratch', 'sink', [lanes]);
  const call = gpu.bind(gpu.program(row, [], { WORDS: bytes / 4, LANES: lanes }), { words, sink });
  await gpu.ready();
  const times: number[] = [];
  for (let i = 0; i < runs + 2; i++) {
    const [us] = await gpu.profile([call], 1);
    if (i >= 2) times.push(bytes / us! / 1000);
  }
  gpu.release(words);
  gpu.release(sink);
  return record('stream read', times, 'GB/s', 1).median;
}

const stream = gpu.has('timestamp-query') ? await streamRead() : null;

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
  record(`prefill, ${length} tokens`, rates, 'tokens/s', 0);
  record(`first token, ${length}-token prompt`, first, 'ms', 1);
}

// ------------------------------------------------------------------------------------------- per kernel

if (gpu.has('timestamp-query')) {
  for (const phase of ['decode', 'prefill'] as const) {
    const tokens = phase === 'decode' ? 1 : software ? 64 : 512;
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
if (arg.json) writeFileSync(arg.json, `${JSON.stringify(results, null, 2)}\n`);
engine.destroy();

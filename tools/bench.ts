/**
 * `npm run bench`: how fast the embedded model runs on this machine's adapter, and how near the memory's limit.
 *
 *   --model NAME|FILE   --runs N (10)   --tokens N (128) decoded per run   --json FILE   also as JSON
 *   --goals FILE   the figures that the project sets itself as goals, each a plain number or null with the reason (goals.ts);
 *                  of those the 48B's need 65 GB on the GPU
 *   --chromium FILE   for the goals: what `npm run bench:chromium -- --json FILE` wrote on this machine
 *   --fla FILE        for the goals: what tools/peers/fla.py printed on this machine
 *
 * Medians with the spread of all runs after a warm-up; what is measured, and how, is workers/bench.ts. A figure above the
 * measured stream would be a wrong measurement and ends with an error.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Bench } from '../workers/bench.ts';
import { Engine } from '../workers/engine.ts';
import { FULL, Gpu } from '../workers/gpu.ts';
import type { BenchResult, BenchWish, Spread } from '../workers/protocol.ts';
import { gatherGoals } from './goals.ts';
import { modelSources } from './nodeEngine.ts';
import { nodeGpu } from './nodeGpu.ts';

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    runs: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '128' },
    json: { type: 'string' },
    goals: { type: 'string' },
    chromium: { type: 'string' },
    fla: { type: 'string' },
  },
});

const say = (name: string, value: string) => console.log(`${name.padEnd(34)} ${value}`);

function tell(name: string, { median, least, most, runs }: Spread, unit: string, digits: number) {
  const [m, from, to] = [median, least, most].map((x) => x.toFixed(digits));
  say(name, `${m} ${unit}   (${from} to ${to}, ${runs} runs)`);
}

const adapters = await nodeGpu({
  toggles: ['vulkan_enable_f16_on_nvidia'],
  without: ['timestamp_quantization'],
});
const open = () => Gpu.open(adapters, FULL);
const clock = () => performance.now();
const gpu = await open();
const { name, software, features } = gpu.report;
say(
  'adapter',
  `${name}${software ? ' (software)' : ''}; ${features.join(', ') || 'no optional features'}`,
);

const started = clock();
const engine = await Engine.load({
  gpu,
  shards: modelSources(arg.model),
  contextTokens: Infinity,
  report: () => {},
  clock,
});
say('load', `${(clock() - started).toFixed(0)} ms from disk, pipelines included`);

const { kda } = engine.layers();
const wish: BenchWish = {
  runs: Number(arg.runs),
  tokens: Number(arg.tokens),
  // The vocabulary of the 48B model, what its KDA layers project at once, and their output.
  products: [
    [163840, 2304],
    [12544, 2304],
    [2304, 4096],
  ],
  prompts: software ? [32, 128] : [32, 512, 2048],
  contexts: software ? [] : [1024, 8064],
  // As the page begins to watch (src/memory.svelte.ts).
  watch: { layer: kda[Math.floor(kda.length / 2)]!, head: 'median', budgetBytes: 175e6 },
  profiledTokens: software ? 64 : 2048,
  streamBytes: 2 ** 30,
};
let step = '';
const bench = new Bench({ engine, open, clock }, wish, (progress) => {
  if (process.stderr.isTTY && progress.step !== step)
    console.error(`... ${(step = progress.step)}`);
});
const result = await bench.run();
print(result);
if (arg.json) writeFileSync(arg.json, `${JSON.stringify(result, null, 2)}\n`);
engine.destroy();
if (arg.goals) {
  const { chromium, fla } = arg;
  const runs = Number(arg.runs);
  const gathered = await gatherGoals({
    open,
    bench: result,
    chromium,
    fla,
    runs,
    say: (line) => console.log(line),
  });
  const all = { adapter: name, ...gathered.figures, notes: gathered.notes };
  writeFileSync(arg.goals, `${JSON.stringify(all, null, 2)}\n`);
}
for (const refusal of result.refused) console.error(refusal);
if (result.refused.length > 0) process.exitCode = 1;

function print({ stream, ...r }: BenchResult): void {
  if (stream) tell('stream read', stream, 'GB/s', 1);
  for (const { rows, cols, matrices, gbps, together } of r.products) {
    tell(`q4_0 product, ${rows} x ${cols}, ${matrices} of them`, gbps, 'GB/s', 0);
    tell('the same in one call', together, 'GB/s', 0);
  }
  for (const { contextTokens, tokens, tokensPerSec, betweenMs } of r.decode) {
    tell(`decode, ${tokens} tokens after ${contextTokens}`, tokensPerSec, 'tokens/s', 1);
    say('between tokens', `p50 ${betweenMs.p50.toFixed(2)} ms, p95 ${betweenMs.p95.toFixed(2)} ms`);
  }
  if (r.watched) {
    tell('decode, watched', r.watched.on, 'tokens/s', 1);
    tell('decode, unwatched in turn', r.watched.off, 'tokens/s', 1);
    const { share, callsOff, callsOn } = r.watched;
    say(
      'watched',
      `${percent(share)} of unwatched; ${callsOn} calls a token instead of ${callsOff}`,
    );
  }
  for (const { tokens, tokensPerSec, firstTokenMs } of r.prompts) {
    tell(`prefill, ${tokens} tokens`, tokensPerSec, 'tokens/s', 0);
    tell(`first token, ${tokens}-token prompt`, firstTokenMs, 'ms', 1);
  }
  for (const { phase, tokens, rows } of r.kernels) {
    const totalMs = rows.reduce((sum, { us }) => sum + us.median, 0) / 1000;
    const calls = rows.reduce((sum, row) => sum + row.calls, 0);
    console.log(
      `\n${phase}, ${tokens} token(s): ${totalMs.toFixed(2)} ms of GPU time in ${calls} calls`,
    );
    for (const { name, calls, us, bytes, share } of rows) {
      const read = bytes === 0 ? '' : `${(bytes / 1e6).toFixed(2)} MB`;
      const reached = share === null ? '' : `${percent(share)} of stream`;
      console.log(
        `  ${name.padEnd(18)} ${String(calls).padStart(4)} calls ${us.median.toFixed(1).padStart(9)} us ${read.padStart(10)}  ${reached}`,
      );
    }
  }
  if (stream && r.tokenShare !== null) {
    const floorMs = r.tokenBytes / stream.median / 1e6;
    const megabytes = (r.tokenBytes / 1e6).toFixed(1);
    say(
      '\nweights read per token',
      `${megabytes} MB: ${floorMs.toFixed(3)} ms at the stream's rate, ${percent(r.tokenShare)} reached`,
    );
  }
  say('memory', JSON.stringify(r.memory));
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

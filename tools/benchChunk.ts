/**
 * The chunk form of Kimi Delta Attention on this machine's GPU, through 32 heads, beside FLA's on the same one.
 *
 *   node tools/run.mjs benchChunk [--runs N (10)] [--tokens N (8192)] [--fla FILE.json] [--json FILE]
 *
 * FILE.json is what tools/peers/fla.py printed on this machine; the share is its time over ours.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { FULL, Gpu } from '../workers/gpu.ts';
import { shareOfFla, type Spread, timeChunks } from './chunkTimes.ts';
import { nodeGpu } from './nodeGpu.ts';

const { values: arg } = parseArgs({
  options: {
    runs: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '8192' },
    fla: { type: 'string' },
    json: { type: 'string' },
  },
});

const gpu = await Gpu.open(
  await nodeGpu({
    toggles: ['vulkan_enable_f16_on_nvidia'],
    without: ['timestamp_quantization'],
  }),
  FULL,
);
const times = await timeChunks(gpu, Number(arg.runs), Number(arg.tokens));
const say = (name: string, { median, least, most, runs }: Spread) =>
  console.log(
    `${name.padEnd(20)} ${median.toFixed(0).padStart(6)} us   (${least.toFixed(0)} to ${most.toFixed(0)}, ${runs} runs)`,
  );
console.log(`${times.adapter}: ${times.tokens} tokens, ${times.heads} heads`);
say('chain', times.whole);
for (const [name, us] of Object.entries(times.kernels)) say(name, us);
const share = arg.fla ? shareOfFla(times, arg.fla) : null;
if (share !== null) console.log(`share of FLA's speed  ${(100 * share).toFixed(1)} %`);
if (arg.json) writeFileSync(arg.json, `${JSON.stringify({ ...times, share }, null, 2)}\n`);
gpu.destroy();

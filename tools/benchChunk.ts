/**
 * The chunk form of Kimi Delta Attention on this machine's GPU, by lanes in f32 and, where the device has
 * subgroup matrices, by those; beside FLA's on the same one.
 *
 *   node tools/run.mjs benchChunk [--runs N (10)] [--tokens N (8192)] [--heads N (32)] [--width N (128)] [--fla FILE.json] [--json FILE]
 *
 * FILE.json is what tools/peers/fla.py printed on this machine; the share is its time over ours.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { FULL, Gpu, WITH_MATRICES } from '../workers/gpu.ts';
import { SUBGROUP_MATRIX } from '../workers/subgroupMatrix.ts';
import { shareOfFla, type Spread, timeChunks } from './chunkTimes.ts';
import { nodeGpu } from './nodeGpu.ts';

const { values: arg } = parseArgs({
  options: {
    runs: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '8192' },
    heads: { type: 'string', default: '32' },
    width: { type: 'string', default: '128' }, // keys and values of a head
    fla: { type: 'string' },
    json: { type: 'string' },
  },
});

const sizes = { H: Number(arg.heads), K: Number(arg.width), V: Number(arg.width) };
const dawn = await nodeGpu({
  toggles: ['vulkan_enable_f16_on_nvidia', 'allow_unsafe_apis'],
  without: ['timestamp_quantization'],
});
const say = (name: string, { median, least, most, runs }: Spread) =>
  console.log(
    `${name.padEnd(22)} ${median.toFixed(0).padStart(6)} us   (${least.toFixed(0)} to ${most.toFixed(0)}, ${runs} runs)`,
  );
const results = [];
for (const options of [FULL, WITH_MATRICES]) {
  const gpu = await Gpu.open(dawn, options);
  if (options === WITH_MATRICES && !gpu.has(SUBGROUP_MATRIX)) continue;
  const times = await timeChunks(gpu, Number(arg.runs), Number(arg.tokens), sizes);
  gpu.destroy();
  console.log(`${times.adapter}: ${times.tokens} tokens, ${times.heads} heads`);
  say(`chain by ${times.by}`, times.whole);
  for (const [name, us] of Object.entries(times.kernels)) say(name, us);
  const share = arg.fla ? shareOfFla(times, arg.fla) : null;
  if (share !== null)
    console.log(`share of FLA's speed   ${(100 * share).toFixed(1).padStart(6)} %`);
  results.push({ ...times, share });
}
if (arg.json) writeFileSync(arg.json, `${JSON.stringify(results, null, 2)}\n`);

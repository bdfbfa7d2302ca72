/**
 * The measurements of largeModel.ts on their own:
 *
 *   node tools/run.mjs benchLarge [--runs N (10)] [--contexts A,B,..] [--grown] [--kernels] [--small] [--json FILE]
 *
 * Needs some 65 GB of GPU memory for a million tokens, 30 GB for 64k. `--small` is a shape of the kind that a processor
 * runs in seconds; `--grown` has caches in the segments of a conversation that grew.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { FULL, Gpu } from '../workers/gpu.ts';
import { largeGoals, measureLarge } from './largeModel.ts';
import { nodeGpu } from './nodeGpu.ts';
import { shape48B, shapeSmall } from './shape48B.ts';

const { values: arg } = parseArgs({
  options: {
    runs: { type: 'string', default: '10' },
    contexts: { type: 'string' },
    grown: { type: 'boolean', default: false },
    kernels: { type: 'boolean', default: false },
    small: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});
const contexts = arg.contexts ?? (arg.small ? '32,128' : '1024,8192,65536,262144,1048576');
const figures = await measureLarge({
  open: async () => {
    const toggles = ['vulkan_enable_f16_on_nvidia'];
    return Gpu.open(await nodeGpu({ toggles, without: ['timestamp_quantization'] }), FULL);
  },
  shape: arg.small ? shapeSmall : shape48B,
  contexts: contexts.split(',').map(Number),
  runs: Number(arg.runs),
  grown: arg.grown,
  kernels: arg.kernels,
  say: (line) => console.log(line),
});
const goals = largeGoals(figures);
console.log(JSON.stringify(goals));
if (arg.json) writeFileSync(arg.json, `${JSON.stringify({ ...figures, goals }, null, 2)}\n`);

/**
 * Which calls one decoded token makes, and what it costs the processor to record and submit them: the part of
 * the time between two tokens that no faster kernel shortens.
 *
 *   node tools/run.mjs calls [--model NAME|FILE] [--tokens N (20)]
 */
import { parseArgs } from 'node:util';
import { modelConfig, withoutOutputCopy } from '../workers/config.ts';
import { openGguf } from '../workers/gguf.ts';
import { Gpu } from '../workers/gpu.ts';
import { Model } from '../workers/model.ts';
import { State } from '../workers/state.ts';
import { modelSources } from './nodeEngine.ts';
import { nodeGpu } from './nodeGpu.ts';

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    tokens: { type: 'string', default: '20' },
  },
});
const tokens = Number(arg.tokens);

const gpu = await Gpu.open(await nodeGpu(), { floor: false, features: ['subgroups'] });
gpu.report.software = false; // plan as for a GPU
const file = await withoutOutputCopy(await openGguf(modelSources(arg.model)));
const config = modelConfig(file);
const model = await Model.load(gpu, file, config, 'gpu', () => {});
const state = new State(gpu, config, 2048, 'f32');
state.reserve(2048);
await model.attach(state, { tap: null, changes: null });

const names = model.calls('decode');
const counts = new Map<string, number>();
for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
const kinds = config.layers.map((l) => l.kind);
console.log(
  `${config.name}: ${kinds.filter((k) => k === 'kda').length} KDA and ${kinds.filter((k) => k === 'mla').length} MLA layers`,
);
for (const [name, calls] of counts) console.log(`${name.padEnd(16)} ${calls}`);
console.log(`${'calls a token'.padEnd(16)} ${names.length}`);

const times: number[] = [];
for (let position = 0; position < tokens; position++) {
  const started = performance.now();
  model.repeatStep(1, position);
  times.push(1000 * (performance.now() - started));
  await gpu.idle();
}
times.sort((a, b) => a - b);
const [least, median, most] = [times[0]!, times[times.length >> 1]!, times.at(-1)!];
console.log(
  `record and submit ${median.toFixed(0)} us a token   (${least.toFixed(0)} to ${most.toFixed(0)}, ${tokens} tokens)`,
);
gpu.destroy();

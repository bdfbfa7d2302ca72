/**
 * Which calls one decoded token makes, and what it costs the processor to record and submit them: the part of
 * the time between two tokens that no faster kernel shortens.
 *
 *   node tools/run.mjs calls [--model NAME|FILE] [--tokens N (20)]
 */
import { parseArgs } from 'node:util';
import { modelConfig, withoutOutputCopy } from '../workers/config.ts';
import { openGguf } from '../workers/gguf.ts';
import { FULL, Gpu } from '../workers/gpu.ts';
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

const gpu = await Gpu.open(await nodeGpu(), FULL);
gpu.report.software = false; // plan as for a GPU
const file = await withoutOutputCopy(await openGguf(modelSources(arg.model)));
const config = modelConfig(file);
const model = await Model.load(gpu, file, config, 'gpu');
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

/** Microseconds a call, least, median and most. */
function tell(what: string, ms: number[]): void {
  const us = ms.map((time) => (1000 * time) / names.length).sort((a, b) => a - b);
  const [least, median, most] = [us[0]!, us[us.length >> 1]!, us.at(-1)!].map((x) => x.toFixed(1));
  console.log(`${what.padEnd(44)} ${median} us a call   (${least} to ${most})`);
}

const { calls } = (await model.plan(state, { tap: null, changes: null })).shortDecode;
const first: number[] = [];
const next: number[] = [];
const submitted: number[] = [];
const timed = <T>(into: number[], work: () => T): T => {
  const started = performance.now();
  const result = work();
  into.push(performance.now() - started);
  return result;
};
for (let token = 0; token < tokens; token += 4) {
  const recorded = [first, next, next, next].map((into) => timed(into, () => gpu.record(calls, 1)));
  for (const commands of recorded) {
    timed(submitted, () => gpu.submit(commands));
    await gpu.idle();
  }
}
tell('record, after the GPU was waited for', first);
tell('record, after another', next);
tell('submit', submitted);
gpu.destroy();

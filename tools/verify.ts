/**
 * `npm run verify`: the embedded model against float64 at all recorded steps of test/fixtures/chat.json, teacher forced.
 * `--path chunk` scores whole sequences by the prefill kernels, `--path step` feeds token by token through the decode
 * kernels; `--prompts N` takes the first N. Prints a line per prompt and exits with 1 where a best token differs.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { openEngine } from './nodeEngine.ts';

interface Recorded {
  kind: string;
  ids: number[];
  tokens: number[];
  exact: number[];
  exact_margin: number[];
}

const { values: arg } = parseArgs({
  options: {
    path: { type: 'string', default: 'both' },
    prompts: { type: 'string', default: '1000' },
    model: { type: 'string', default: 'palimpsest-150m' },
  },
});
const paths = arg.path === 'both' ? (['chunk', 'step'] as const) : [arg.path as 'chunk' | 'step'];
const recorded = JSON.parse(readFileSync('test/fixtures/chat.json', 'utf8')) as Recorded[];
const prompts = recorded.slice(0, Number(arg.prompts));

const engine = await openEngine(arg.model);
const { device, model } = engine.loaded;
console.log(
  `${model.name} on ${device.name} (${device.features.join(', ') || 'no optional features'})`,
);
const V = model.vocabulary;
let wrong = 0;
let steps = 0;
for (const path of paths) {
  for (const [n, prompt] of prompts.entries()) {
    const sequence = [...prompt.ids, ...prompt.tokens.slice(0, -1)];
    const first = prompt.ids.length - 1;
    const missed: string[] = [];
    await engine.score(sequence, path, (firstRow, logits) => {
      for (let row = 0; row < logits.length / V; row++) {
        const step = firstRow + row - first;
        if (step < 0) continue;
        const best = argmax(logits.subarray(row * V, (row + 1) * V));
        if (best !== prompt.exact[step]) {
          missed.push(
            `step ${step}: ${best} for ${prompt.exact[step]} (margin ${prompt.exact_margin[step]})`,
          );
        }
      }
    });
    steps += prompt.tokens.length;
    wrong += missed.length;
    const right = prompt.tokens.length - missed.length;
    console.log(
      `${path} ${n + 1}. ${prompt.kind}, ${prompt.ids.length} + ${prompt.tokens.length} tokens: ${right} right`,
    );
    for (const line of missed) console.log(`    ${line}`);
  }
}
console.log(`${steps - wrong} of ${steps} best tokens equal those of float64`);
engine.destroy();
process.exitCode = wrong === 0 ? 0 : 1;

/** Index of the largest logit; NaN anywhere gives -1. */
function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (Number.isNaN(logits[i])) return -1;
    if (logits[i]! > logits[best]!) best = i;
  }
  return best;
}

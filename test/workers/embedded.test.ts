/**
 * The embedded model, whole, against float64: at every recorded step of three short prompts the best token is `exact`,
 * teacher forced. `npm run verify` does the same for all 24 prompts, by both paths.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { Engine } from '../../workers/engine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { openTestGpu } from '../gpu.ts';
import { argmax } from '../reference/compare.ts';
import { fixtureJson } from '../reference/golden.ts';
import type { Served } from '../served.ts';

/** An entry of chat.json; what the fields mean is in test/fixtures/README.md. */
interface Recorded {
  kind: string;
  ids: number[];
  tokens: number[];
  exact: number[];
}

const recorded = fixtureJson<Recorded[]>('chat.json');
/** Those that fit one call of the prefill kernels with their 48 tokens. */
const short = [0, 1, 14].map((n) => recorded[n]!);

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.load({
    gpu: await openTestGpu(),
    shards: modelSources('palimpsest-150m'),
    contextTokens: 1024,
    report: () => {},
    clock: () => performance.now(),
  });
}, 120_000);
afterAll(() => engine.destroy());

/** The best token after each of the first `steps` tokens recorded, which are fed whatever the best one is. */
async function best(
  { ids, tokens }: Recorded,
  steps: number,
  path: 'chunk' | 'step',
): Promise<number[]> {
  const V = engine.loaded.model.vocabulary;
  const found: number[] = [];
  const sequence = [...ids, ...tokens.slice(0, steps - 1)];
  await engine.score(sequence, path, (firstRow, logits) => {
    for (let row = 0; row < logits.length / V; row++) {
      if (firstRow + row < ids.length - 1) continue;
      found.push(argmax(logits.subarray(row * V, (row + 1) * V)));
    }
  });
  return found;
}

test.each(short.map((prompt) => ({ ...prompt, length: prompt.ids.length })))(
  '$kind, $length tokens: 48 best tokens by the prefill kernels',
  async (prompt) => {
    expect(prompt.exact).toHaveLength(48);
    expect(await best(prompt, 48, 'chunk')).toEqual(prompt.exact);
  },
  120_000,
);

test('the choices of llama.cpp’s server where its margin is above 0.6', async () => {
  const { prompt, chunks } = fixtureJson<Served>('served.json').embedded;
  const told = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? []);
  const { metadata } = await openGguf(modelSources('palimpsest-150m'));
  const ids = createTokenizer(metadata).encode(prompt, { special: true });
  expect(ids).toHaveLength(chunks.at(-1)!.usage!.prompt_tokens);
  const served = told.map(({ id }) => id);
  const ours = await best({ kind: 'raw', ids, tokens: served, exact: [] }, served.length, 'chunk');
  const clear = told.flatMap(({ top_logprobs: [first, second] }, index) =>
    first!.logprob - second!.logprob > 0.6 ? [index] : [],
  );
  expect(clear.length).toBeGreaterThan(8);
  expect(clear.map((index) => ours[index])).toEqual(clear.map((index) => served[index]));
}, 120_000);

test('8 best tokens by the decode kernels', async () => {
  expect(await best(short[0]!, 8, 'step')).toEqual(short[0]!.exact.slice(0, 8));
}, 120_000);

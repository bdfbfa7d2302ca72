/** A real server's answers through the chat's speaker: the tiny model served by llama.cpp says what it says here. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { listModels, startEndpoint } from '../../src/remote/speaker.ts';
import { greedy as greedySampling } from '../../src/sampling.ts';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { openEndpoint, type EndpointServer } from '../endpoint.ts';
import { fixture, fixtureJson } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import type { Served } from '../served.ts';

let server: EndpointServer;
beforeAll(async () => {
  vi.stubGlobal('location', new URL('https://page.example/'));
  server = await openEndpoint('llamacpp');
});
afterAll(async () => {
  vi.unstubAllGlobals();
  await server?.close();
});

test('24 greedy tokens of the tiny F32 model are those of float64, which the engine here has too', async () => {
  const { prompt, chunks } = fixtureJson<Served>('served.json').tiny;
  const tiny = fixture('tiny-f32.gguf');
  const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
  const model = openModel(tiny);
  const ids = tokenizer.encode(prompt, { special: true });
  const exact = greedy(model, forward(model, ids, emptyState(model)), 24);
  const served = chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? []);
  expect(served.map(({ id }) => id)).toEqual(exact);

  const at = { base: `${server.origin}/v1`, key: '' };
  const [listed] = await listModels(at);
  const speaker = startEndpoint({ ...at, model: listed!, probabilities: true });
  server.next = { recorded: chunks };
  const sampling = { ...greedySampling, maxTokens: 24 };
  const told = await speaker.generate({ kind: 'raw', text: prompt }, sampling, () => {});
  expect(told).toMatchObject({
    text: tokenizer.decode(exact),
    reason: 'length',
    tokens: 24,
    promptTokens: ids.length,
  });
  expect('pieces' in told && told.pieces).toHaveLength(24);
});

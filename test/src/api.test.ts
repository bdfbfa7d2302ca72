/** The library over a client whose answers the test gives: shapes, the queue, signals, states. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { createEngine, engineOf, type CompletionChunk, type Engine } from '../../src/api.ts';
import type { Message } from '../../src/inTab/completions.ts';
import { declarationsOf } from '../../tools/publish.ts';
import type { Branch } from '../../workers/protocol.ts';
import { loaded, ScriptedClient } from './scriptedClient.ts';

// The workers' addresses are the bundler's; nothing here starts one.
vi.mock('../../src/client.ts', () => ({}));

/** As on the 48B's model card. */
const messages = [
  { role: 'system' as const, content: 'You are a helpful assistant provided by Moonshot-AI.' },
  { role: 'user' as const, content: 'Is 123 a prime?' },
];

let client: ScriptedClient;
let engine: Engine;
let closed: number;

beforeEach(() => {
  client = new ScriptedClient();
  closed = 0;
  engine = engineOf(client, loaded, () => (closed += 1));
});
afterEach(() => vi.restoreAllMocks());

const asked = (count: number) =>
  vi.waitFor(() => expect(client.generations).toHaveLength(count)).then(() => client.generations);

async function rest(stream: AsyncIterable<CompletionChunk>): Promise<CompletionChunk[]> {
  const chunks: CompletionChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

test('a stream: role, tokens, and at the end the reason, the usage and the figures', async () => {
  const stream = await engine.chat.completions.create({
    messages,
    stream: true,
    temperature: 0.5,
    top_p: 0.9,
    max_tokens: 50,
    stop: 'END',
    seed: 7,
    logprobs: true,
    top_logprobs: 3,
  });
  const [generation] = await asked(1);
  expect(generation!.prompt).toEqual({ kind: 'chat', turns: messages });
  expect(generation!.sampling).toEqual({
    temperature: 0.5,
    topK: 0,
    topP: 0.9,
    minP: 0,
    repetitionPenalty: 1,
    repetitionWindow: 0,
    seed: 7,
    maxTokens: 50,
    stop: ['END'],
    candidates: 3,
  });
  generation!.write('No', '.');
  generation!.end('stop');
  const chunks = await rest(stream);
  expect(chunks.map(({ choices }) => choices[0]!.delta)).toEqual([
    { role: 'assistant', content: '' },
    { content: 'No' },
    { content: '.' },
    {},
  ]);
  expect(chunks[1]!.choices[0]!.logprobs).toEqual({
    content: [{ token: 'No', logprob: -1, bytes: [78, 111], top_logprobs: [] }],
    refusal: null,
  });
  expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  expect(chunks.slice(0, -1).every(({ choices }) => choices[0]!.finish_reason === null)).toBe(true);
  const last = chunks.at(-1)!;
  expect(last.choices[0]!.finish_reason).toBe('stop');
  expect(last.usage).toEqual({
    prompt_tokens: 2,
    completion_tokens: 2,
    total_tokens: 4,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  expect(last.palimpsest).toMatchObject({ reason: 'stop', ids: [100, 101] });
});

test('the whole answer at once; fed back, it goes on from the ids it was written as', async () => {
  const answering = engine.chat.completions.create({ messages });
  const [first] = await asked(1);
  first!.write('No', '.');
  first!.end('length');
  const { choices, palimpsest } = await answering;
  expect(choices[0]).toMatchObject({
    message: { role: 'assistant', content: 'No.' },
    finish_reason: 'length',
    logprobs: null,
  });
  expect(palimpsest.reason).toBe('length');
  const { role, content } = choices[0]!.message;
  void engine.chat.completions.create({
    messages: [...messages, { role, content }, { role: 'user', content: 'Why?' }],
  });
  const prompt = (await asked(2))[1]!.prompt;
  expect(prompt.kind === 'chat' && prompt.turns[2]).toEqual({ role, content, ids: [100, 101] });
});

describe('several calls', () => {
  test('queue: the second begins when the first has ended, or failed', async () => {
    const one = engine.chat.completions.create({ messages });
    const two = engine.chat.completions.create({ messages });
    const [first] = await asked(1);
    await new Promise((later) => setTimeout(later, 10));
    expect(client.generations).toHaveLength(1);
    first!.reject(new Error('broke'));
    await expect(one).rejects.toThrow('broke');
    (await asked(2))[1]!.end();
    expect((await two).choices[0]!.finish_reason).toBe('stop');
  });

  test('a signal stops the one under way, and takes one that waits out of the queue', async () => {
    const running = new AbortController();
    const waiting = new AbortController();
    const one = engine.chat.completions.create({ messages }, { signal: running.signal });
    const two = engine.chat.completions.create({ messages }, { signal: waiting.signal });
    two.catch(() => {});
    (await asked(1))[0]!.write('No');
    waiting.abort(new Error('not needed'));
    // It does not wait for its turn to say so.
    await expect(two).rejects.toThrow('not needed');
    running.abort();
    expect((await one).palimpsest.reason).toBe('stopped');
    expect(client.stops).toBe(1);
    expect(client.generations).toHaveLength(1);
  });

  test('leaving a stream stops it', async () => {
    const stream = await engine.chat.completions.create({ messages, stream: true });
    (await asked(1))[0]!.write('No', '.');
    for await (const chunk of stream) if (chunk.choices[0]!.delta.content === 'No') break;
    await vi.waitFor(() => expect(client.stops).toBe(1));
  });

  test('a failure is told to whoever reads the stream', async () => {
    const stream = await engine.chat.completions.create({ messages, stream: true });
    (await asked(1))[0]!.reject(new Error('broke'));
    await expect(rest(stream)).rejects.toThrow('broke');
  });
});

test.each([
  [{ messages: [] }, /messages is empty/],
  [{ messages, temperature: 3 }, /temperature is 3/],
  [{ messages, top_logprobs: 21 }, /top_logprobs is 21/],
  [{ messages, max_tokens: 0 }, /max_tokens is 0/],
  [{ messages, seed: -1 }, /seed is -1/],
  [{ messages, temperature: NaN }, /temperature is NaN; it goes from 0 to 2/],
  [{ messages, temperature: '0.7' }, /temperature is "0.7"; it goes/],
  [{ messages, top_p: -0.1 }, /top_p is -0.1/],
  [{ messages, max_tokens: 2.5 }, /max_tokens is 2.5; it is a whole number/],
  [{ messages, max_completion_tokens: Infinity }, /max_completion_tokens is Infinity/],
  [{ messages, seed: 2 ** 32 }, /seed is 4294967296/],
  [{ messages, n: 2 }, /n is 2/],
  [{ messages, stream: 'yes' }, /stream is "yes"/],
  [{ messages, top_logprobs: 2 }, /logprobs: true/],
  [{ messages, stop: [''] }, /stop takes/],
  [{ messages, stop: 5 }, /stop takes/],
  [{ messages, stop: Array(17).fill('a') }, /stop takes/],
  [{ messages, tools: [{}] }, /tools is not taken.*Leave it out/],
  [{ messages, frequency_penalty: 0.5 }, /frequency_penalty is not taken/],
  [{}, /messages is no list/],
  [null, /an object with messages/],
  [{ messages: [null] }, /role undefined/],
  [{ messages: [{ role: 'user', content: [{ type: 'text', text: '' }] }] }, /content is text/],
  [{ messages: [{ role: 'tool', content: '' }] }, /role tool/],
])('what no engine could do is refused by its name: %j', async (request, words) => {
  const answering = engine.chat.completions.create(request as never);
  await expect(answering).rejects.toMatchObject({
    name: 'Refused',
    message: expect.stringMatching(words),
  });
  expect(client.generations).toHaveLength(0);
});

test('what asks for nothing is taken', async () => {
  const neutral = { user: 'me', tools: [], frequency_penalty: 0, stop: null, metadata: { a: 'b' } };
  const answering = engine.chat.completions.create({ messages, ...neutral } as {
    messages: Message[];
  });
  (await asked(1))[0]!.end();
  expect((await answering).choices[0]!.finish_reason).toBe('stop');
});

test.each([
  [undefined, /model is undefined; it takes an absolute address/],
  [{ model: 'models/tiny/' }, /model is models\/tiny\/; it takes an absolute address/],
  [{ model: 'https://host/a.gguf', tabs: 'all' }, /tabs is all; it is share/],
])('an engine that could not be: %j', async (options, words) => {
  await expect(createEngine(options as never)).rejects.toMatchObject({
    name: 'Refused',
    message: expect.stringMatching(words),
  });
});

test('a model without a chat template takes no messages', async () => {
  const raw = { ...loaded, model: { ...loaded.model, mode: 'raw' as const } };
  const answering = engineOf(client, raw, () => {}).chat.completions.create({ messages });
  await expect(answering).rejects.toMatchObject({ name: 'Unsupported' });
});

test('states: a snapshot stays as it is, and is gone back to; an exported one is read anew', async () => {
  const branch = (id: number, ids: number[]): Branch => ({
    id,
    parent: null,
    forkedAt: 0,
    ids,
    interventions: [],
  });
  let branches = [branch(0, [5, 6, 7])];
  let made = 0;
  const selected: number[] = [];
  client.memory.branches = () => Promise.resolve(branches);
  client.memory.fork = (position) => {
    const from = branches.find(({ id }) => id === (selected.at(-1) ?? 0))!;
    const beside = branch(++made, from.ids.slice(0, position + 1));
    branches.push(beside);
    return Promise.resolve(beside);
  };
  client.memory.select = (id) => Promise.resolve(void selected.push(id));
  client.memory.dropBranches = (ids) => {
    branches = branches.filter(({ id }) => !ids.includes(id));
    return Promise.resolve();
  };

  const snapshot = await engine.state.snapshot();
  expect(snapshot).toEqual({ branch: 0, tokens: 3 });
  const state = await engine.state.export();
  expect(state).toEqual({
    format: 'palimpsest-state',
    version: 1,
    model: 'scripted',
    ids: [5, 6, 7],
  });
  await engine.state.restore(snapshot);
  expect(selected).toEqual([0]);
  // What goes on does so beside it, and what nobody comes back to is gone.
  expect(branches.map(({ id }) => id)).toEqual([0, 2]);

  const restoring = engine.state.restore(state);
  const [reading] = await asked(1);
  expect(reading!.prompt).toEqual({ kind: 'ids', ids: [5, 6, 7] });
  reading!.end('length');
  await restoring;
  expect(branches.map(({ id }) => id)).toEqual([0, 3]);
  await engine.state.release(snapshot);
  expect(branches.map(({ id }) => id)).toEqual([3]);
  await expect(engine.state.restore({ ...state, model: 'other' })).rejects.toThrow(
    /none of scripted/,
  );
  for (const nothing of [null, {}, { ...state, ids: null }]) {
    await expect(engine.state.restore(nothing as never)).rejects.toHaveProperty('name', 'Refused');
  }
  // Written as JSON a state has lost its bytes: it is read anew.
  const parsed = JSON.parse(JSON.stringify({ ...state, state: new ArrayBuffer(8) })) as never;
  const again = engine.state.restore(parsed);
  (await asked(2))[1]!.reject(new Error('read anew'));
  await expect(again).rejects.toThrow('read anew');
});

test('of many answers only the newest are known by the ids they were written as', async () => {
  const next = async (wanted: Message[]) => {
    const answering = engine.chat.completions.create({ messages: wanted });
    await new Promise((resolve) => setImmediate(resolve));
    return { answering, generation: client.generations.at(-1)! };
  };
  for (let i = 0; i <= 256; i++) {
    const { answering, generation } = await next(messages);
    generation.write(`answer ${i}`);
    generation.end();
    await answering;
  }
  const idsOf = async (content: string) => {
    const said = [...messages, { role: 'assistant' as const, content }];
    const { answering, generation } = await next(said);
    generation.end();
    await answering;
    return generation.prompt.kind === 'chat' ? generation.prompt.turns.at(-1)!.ids : null;
  };
  expect(await idsOf('answer 1')).toEqual([100]);
  expect(await idsOf('answer 0')).toBeUndefined();
});

test('a watch is begun and ended', async () => {
  const watched: unknown[] = [];
  client.memory.watch = (watch) => Promise.resolve(void watched.push(watch));
  const watch = { layer: 0, head: 'median' as const, budgetBytes: 1 };
  const end = await engine.watch(watch, () => {});
  await end();
  expect(watched).toEqual([watch, null]);
  // One that another took the place of is ended already.
  const first = await engine.watch(watch, () => {});
  const second = await engine.watch(watch, () => {});
  await first();
  expect(watched).toEqual([watch, null, watch, watch]);
  await second();
  expect(watched.at(-1)).toBeNull();
  const third = await engine.watch(watch, () => {});
  engine.close();
  expect(closed).toBe(1);
  // With the engine its watch has ended.
  await third();
  expect(watched.at(-1)).toEqual(watch);
});

test('the types that are published stand by themselves', () => {
  const text = declarationsOf(['workers/protocol.ts', 'src/inTab/completions.ts', 'src/api.ts']);
  expect(text).not.toMatch(/from '\./);
  expect(text).toContain('export declare function createEngine(');
  expect(text).toContain('interface CompletionChunk');
});

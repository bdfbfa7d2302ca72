/** An endpoint as the chat's speaker, against servers that speak as vLLM's and llama.cpp's do, and misbehave as they do. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { requestOf, unheard } from '../../src/remote/dialect.ts';
import { readBase, type Endpoint } from '../../src/remote/endpoint.ts';
import { explainSilence } from '../../src/remote/explain.ts';
import { listModels, startEndpoint } from '../../src/remote/speaker.ts';
import { greedy, varied } from '../../src/sampling.ts';
import type { Piece, Speaker } from '../../src/speaker.ts';
import type { Prompt, Sampling } from '../../workers/protocol.ts';
import {
  logprobOf,
  openEndpoint,
  type Answer,
  type EndpointServer,
  type ServerDialect,
} from '../endpoint.ts';

const page = new URL('https://page.example/');
const key = 'sk-secret-123';
const chat: Prompt = {
  kind: 'chat',
  turns: [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Is 123 a prime?', ids: [1, 2] },
  ],
};
const tokens = ['No', ', 123', ' = 3', ' × 41', '.'];

let server: EndpointServer;
let speaker: Speaker;

beforeEach(() => {
  vi.stubGlobal('location', page);
  vi.stubGlobal('navigator', { onLine: true, userAgent: 'test' });
});
afterEach(async () => {
  vi.unstubAllGlobals();
  await server?.close();
});

async function start(dialect: ServerDialect, next: Answer, change: Partial<Endpoint> = {}) {
  server = await openEndpoint(dialect, key);
  server.next = next;
  const at = { base: `${server.origin}/v1`, key };
  const [model] = await listModels(at);
  const endpoint = { ...at, model: model!, probabilities: true, ...change };
  speaker = startEndpoint(endpoint);
  return endpoint;
}

async function answer(prompt: Prompt = chat, sampling: Sampling = greedy) {
  const pieces: Piece[] = [];
  const told = await speaker.generate(prompt, sampling, (piece) => pieces.push(piece));
  if ('ids' in told) throw new Error('an endpoint has no token ids');
  return { told, pieces };
}

describe.each<ServerDialect>(['vllm', 'llamacpp'])('in the dialect of %s', (dialect) => {
  test('the list says what is served, and by whom', async () => {
    const { model } = await start(dialect, {});
    const contextLimit = dialect === 'vllm' ? 1_048_576 : 8192;
    expect(model).toEqual({ id: 'kimi-linear', dialect, contextLimit });
    expect(await speaker.load('', () => {})).toMatchObject({ kind: 'remote', contextLimit });
  });

  test('an answer streams, with its probabilities and figures', async () => {
    await start(dialect, { tokens });
    const { told, pieces } = await answer();
    expect(pieces.map(({ text }) => text)).toEqual(tokens);
    expect(told).toMatchObject({
      reason: 'end',
      text: tokens.join(''),
      tokens: 5,
      promptTokens: 11,
      reusedTokens: 4,
      contextUsed: 16,
      prefillMs: dialect === 'vllm' ? 0 : 12.5,
    });
    // vLLM tells the probability of the end's own token, too.
    expect(told.pieces).toHaveLength(tokens.length + (dialect === 'vllm' ? 1 : 0));
    const written = told.pieces.slice(0, tokens.length);
    expect(written.map(({ logprob }) => logprob)).toEqual(tokens.map((_, i) => logprobOf(i)));
    expect(told.pieces[0]?.candidates).toEqual([
      { text: 'No', logprob: -0.25 },
      { text: 'other', logprob: -1.25 },
    ]);
  });

  test('raw text goes to completions, whose probabilities have another shape', async () => {
    await start(dialect, { tokens, finish: 'length' });
    const sampling = { ...greedy, maxTokens: 5 };
    const { told } = await answer({ kind: 'raw', text: 'Once' }, sampling);
    expect(server.asked.at(-1)).toMatchObject({
      path: '/v1/completions',
      body: { prompt: 'Once' },
    });
    expect(told).toMatchObject({ reason: 'length', text: tokens.join('') });
    expect(told.pieces.map(({ text }) => text)).toEqual(tokens);
    expect(told.pieces[1]?.candidates[0]).toEqual({ text: ', 123', logprob: -0.5 });
  });

  test('the request says all that the reader set, and goes there with the key alone', async () => {
    const endpoint = await start(dialect, { tokens });
    const sampling = { ...greedy, ...varied, topK: 40, seed: 7, stop: ['END'] };
    await answer(chat, sampling);
    const { body, headers, path } = server.asked.at(-1)!;
    expect(path).toBe('/v1/chat/completions');
    expect(body).toMatchObject({
      model: 'kimi-linear',
      stream: true,
      temperature: 0.7,
      top_p: 0.95,
      top_k: 40,
      min_p: 0.05,
      max_tokens: 192,
      seed: 7,
      stop: ['END'],
      logprobs: true,
      top_logprobs: 5,
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Is 123 a prime?' },
      ],
      ...(dialect === 'vllm' ? { repetition_penalty: 1.05 } : { repeat_penalty: 1.05 }),
    });
    expect(headers.authorization).toBe(`Bearer ${endpoint.key}`);
    expect(Object.keys(headers).filter((name) => name.startsWith('x-stainless'))).toEqual([]);
    expect(headers.cookie).toBeUndefined();
  });

  test('the reader stops: the server is told, and what came is kept', async () => {
    await start(dialect, { tokens, hang: true });
    const pieces: Piece[] = [];
    const answering = speaker.generate(chat, greedy, (piece) => pieces.push(piece));
    await vi.waitFor(() => expect(pieces).toHaveLength(5));
    speaker.stop();
    expect(await answering).toMatchObject({ reason: 'stopped', text: tokens.join(''), tokens: 5 });
    await vi.waitFor(() => expect(server.gone).toBe(1));
  });

  test.each<[string, Answer]>([
    ['cut in the middle', { tokens, cutAfter: 3 }],
    ['ended without a word on how', { tokens, silentAfter: 3 }],
  ])('a stream %s is no whole answer', async (_, next) => {
    await start(dialect, next);
    const pieces: Piece[] = [];
    const answering = speaker.generate(chat, greedy, (piece) => pieces.push(piece));
    await expect(answering).rejects.toMatchObject({
      name: 'RemoteFailed',
      message: expect.stringMatching(/broke off after 3 tokens/),
    });
    expect(pieces.map(({ text }) => text)).toEqual(tokens.slice(0, 3));
  });

  test('what the server took for thinking is written, too, and comments are nothing', async () => {
    await start(dialect, { tokens, thoughts: ['Let me', ' see.'], comments: true });
    const { told, pieces } = await answer();
    expect(told.text).toBe(`<think>Let me see.</think>${tokens.join('')}`);
    expect(pieces.map(({ text }) => text).join('')).toBe(told.text);
    expect(told.reason).toBe('end');
  });

  test('an error in the middle of a stream is told in its own words', async () => {
    await start(dialect, { tokens, errorInside: 'EngineCore died' });
    await expect(answer()).rejects.toMatchObject({
      name: 'RemoteFailed',
      message: expect.stringMatching(/after 5 tokens.*EngineCore died/),
    });
  });
});

test('a stop text that the server says it met, and a context that ran out, are told apart', async () => {
  await start('vllm', { tokens, met: 'END' });
  expect((await answer(chat, { ...greedy, stop: ['END'] })).told.reason).toBe('stop');
  server.next = { tokens, finish: 'length' };
  expect((await answer(chat, { ...greedy, maxTokens: 5 })).told.reason).toBe('length');
  expect((await answer(chat, { ...greedy, maxTokens: 50 })).told.reason).toBe('context');
  server.next = { tokens, finish: 'content_filter' };
  await expect(answer()).rejects.toMatchObject({ name: 'RemoteFailed' });
  server.next = { tokens, finish: 'abort' };
  await expect(answer()).rejects.toThrow(/itself ended the answer after 5 tokens/);
});

test('where others say null, one server says nothing in quotes: its answer has not ended', async () => {
  const chunk = (content: string, finish_reason: string) => ({
    choices: [{ index: 0, delta: { content }, finish_reason }],
  });
  await start('vllm', { recorded: [chunk('No', ''), chunk(', 123', '')] });
  await expect(answer()).rejects.toThrow(/broke off after 2 tokens/);
  server.next = { recorded: [chunk('No', ''), chunk('.', 'stop')] };
  expect((await answer()).told).toMatchObject({ text: 'No.', reason: 'end' });
});

describe('errors in words', () => {
  const cases: [what: string, error: Answer['error'], name: string, words: RegExp][] = [
    [
      'vLLM’s context',
      {
        status: 400,
        body: {
          error: {
            message:
              "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            type: 'BadRequestError',
            code: 400,
          },
        },
      },
      'ContextFull',
      /no room.*4096.*Shorten/,
    ],
    [
      'llama.cpp’s context',
      {
        status: 400,
        body: {
          error: {
            code: 400,
            message: 'the request exceeds the available context size, try increasing it',
            type: 'exceed_context_size_error',
            n_prompt_tokens: 9000,
            n_ctx: 8192,
          },
        },
      },
      'ContextFull',
      /no room/,
    ],
    [
      'no such model',
      { status: 404, body: { error: { message: 'The model `x` does not exist.' } } },
      'RemoteFailed',
      /status 404.*does not exist.*\/v1/,
    ],
    [
      'too many requests',
      {
        status: 429,
        body: { error: { message: 'Rate limit reached' } },
        headers: { 'Retry-After': '17' },
      },
      'RemoteFailed',
      /429.*Try again in 17 s/,
    ],
    [
      'too many requests, no word on how long',
      { status: 429, body: {} },
      'RemoteFailed',
      /wait a little/,
    ],
    [
      'a server still loading',
      {
        status: 503,
        body: { error: { code: 503, message: 'Loading model', type: 'unavailable_error' } },
      },
      'RemoteFailed',
      /503.*Loading model.*fault is there/,
    ],
    [
      'probabilities refused',
      { status: 400, body: { error: { message: 'logprobs are not supported' } } },
      'RemoteFailed',
      /Untick the probabilities/,
    ],
    ['no JSON at all', { status: 502, body: 'Bad Gateway' }, 'RemoteFailed', /502/],
  ];
  test.each(cases)('%s', async (_, error, name, words) => {
    await start('vllm', { error });
    await expect(answer()).rejects.toMatchObject({ name, message: expect.stringMatching(words) });
    expect(server.asked.filter(({ path }) => path.endsWith('completions'))).toHaveLength(1);
  });

  test('a wrong key is refused in words that do not repeat it', async () => {
    server = await openEndpoint('vllm', key);
    const wrong = 'sk-wrong-456';
    const asking = listModels({ base: `${server.origin}/v1`, key: wrong });
    await expect(asking).rejects.toMatchObject({
      name: 'RemoteFailed',
      message: expect.stringMatching(/401.*Incorrect API key provided: Bearer ….*does not accept/),
    });
    const without = listModels({ base: `${server.origin}/v1`, key: '' });
    await expect(without).rejects.toThrow(/It wants a key, and none was given/);
    expect(server.asked.at(-1)?.headers.authorization).toBeUndefined();
  });

  test('nobody there, no leave to read, no network', async () => {
    server = await openEndpoint('vllm');
    const { origin } = server;
    await server.close();
    const at = { base: `${origin}/v1`, key: '' };
    await expect(listModels(at)).rejects.toThrow(/Nothing answers at/);
    vi.stubGlobal('navigator', { onLine: false, userAgent: 'test' });
    await expect(listModels(at)).rejects.toThrow(/offline/);
    expect(explainSilence(at, 'cors', page).message).toMatch(
      /does not let this page \(https:\/\/page\.example\).*--allowed-origins/,
    );
  });

  test('token ids of another model are refused', async () => {
    await start('vllm', { tokens });
    await expect(answer({ kind: 'ids', ids: [1, 2, 3] })).rejects.toMatchObject({
      name: 'Refused',
    });
  });
});

test('the reader ends it all while an answer is under way', async () => {
  await start('vllm', { tokens, hang: true });
  const answering = speaker.generate(chat, greedy, () => {});
  const reason = new Error('gone');
  answering.catch(() => {});
  await vi.waitFor(() => expect(server.asked.at(-1)?.path).toBe('/v1/chat/completions'));
  speaker.destroy(reason);
  await expect(answering).rejects.toBe(reason);
});

describe('the address that a person means', () => {
  test.each([
    ['localhost:8000', 'http://localhost:8000/v1'],
    ['http://127.0.0.1:30000/v1/', 'http://127.0.0.1:30000/v1'],
    ['https://api.example/v1/chat/completions', 'https://api.example/v1'],
    [' api.example ', 'https://api.example/v1'],
    ['https://host/openai/v1', 'https://host/openai/v1'],
  ])('%s', (typed, base) => expect(readBase(typed, page)).toBe(base));

  test.each([
    ['', /no address/],
    ['http://192.168.0.7:8000', /ssh -L/],
    ['ftp://host', /may ask/],
    ['https://user:pass@host/v1', /password/],
    ['https://host/v1?key=abc', /query/],
    ['http://localhost.evil.example', /may ask/],
  ])('%s is refused', (typed, words) => expect(() => readBase(typed, page)).toThrow(words));
});

test('a server of unknown make gets nothing beyond the protocol, and the reader is told', () => {
  const sampling = { ...greedy, ...varied, topK: 40 };
  const request = requestOf(chat, sampling, 'openai', null);
  const beyond = [
    'top_k',
    'min_p',
    'repeat_penalty',
    'repetition_penalty',
    'logprobs',
    'cache_prompt',
  ];
  expect(Object.keys(request).filter((name) => beyond.includes(name))).toEqual([]);
  expect(unheard(sampling, 'openai')).toEqual(['top-k', 'min-p', 'the repetition penalty']);
  expect(unheard(sampling, 'vllm')).toEqual([]);
});

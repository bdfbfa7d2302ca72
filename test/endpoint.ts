/**
 * A model server for tests, in the dialects of vLLM and of llama.cpp: it plays streams as those servers write them, and
 * misbehaves as asked. It listens on 127.0.0.1.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type ServerDialect = 'vllm' | 'llamacpp';

export interface Answer {
  /** The answer's tokens as texts. */
  tokens?: string[];
  finish?: 'stop' | 'length' | 'content_filter' | 'abort';
  /** What the server's parser took for thinking, before the tokens. */
  thoughts?: string[];
  /** Comments in the stream, as a server or a proxy sends them to keep the line open. */
  comments?: boolean;
  /** The stop text that was met. */
  met?: string;
  /** An error instead of an answer. */
  error?: { status: number; body: unknown; headers?: Record<string, string> };
  /** Cut the connection after so many tokens. */
  cutAfter?: number;
  /** End the answer in good order after so many tokens, without saying how it ended. */
  silentAfter?: number;
  /** Say this error in the middle of the stream, after the tokens. */
  errorInside?: string;
  /** Play these chunks of a real server's, as they are, instead of all else. */
  recorded?: unknown[];
  /** Never end: wait after the tokens until the client goes. */
  hang?: boolean;
}

export interface Asked {
  path: string;
  headers: IncomingMessage['headers'];
  body: Record<string, unknown>;
}

export interface EndpointServer {
  origin: string;
  asked: Asked[];
  /** What the next request for a completion gets. */
  next: Answer;
  /** Clients that went before their answer ended. */
  gone: number;
  /** Let pages of any origin read the answers. */
  open: boolean;
  close(): Promise<void>;
}

/** Logarithms of probabilities that differ from token to token. */
export const logprobOf = (index: number) => -0.25 * (index + 1);

export async function openEndpoint(dialect: ServerDialect, key = ''): Promise<EndpointServer> {
  const state: EndpointServer = {
    origin: '',
    asked: [],
    next: {},
    gone: 0,
    open: true,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
  const server = createServer((request, reply) => void serve(request, reply));
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  state.origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return state;

  async function serve(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    if (state.open) {
      reply.setHeader('Access-Control-Allow-Origin', '*');
      reply.setHeader('Access-Control-Allow-Headers', 'authorization, content-type');
      reply.setHeader('Access-Control-Expose-Headers', 'retry-after');
    }
    if (request.method === 'OPTIONS') {
      reply.writeHead(state.open ? 204 : 400).end();
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString();
    const path = request.url ?? '';
    state.asked.push({ path, headers: request.headers, body: body ? JSON.parse(body) : {} });
    if (key !== '' && request.headers.authorization !== `Bearer ${key}`) {
      send(reply, 401, unauthorized(request.headers.authorization));
    } else if (path === '/v1/models') send(reply, 200, listOf(dialect));
    else if (path === '/v1/chat/completions' || path === '/v1/completions') {
      play(reply, path === '/v1/completions');
    } else send(reply, 404, { detail: 'Not Found' });
  }

  function send(reply: ServerResponse, status: number, body: unknown): void {
    reply.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
  }

  function play(reply: ServerResponse, raw: boolean): void {
    const {
      tokens = [],
      thoughts = [],
      comments,
      error,
      cutAfter,
      silentAfter,
      errorInside,
      hang,
    } = state.next;
    if (error) {
      for (const [name, value] of Object.entries(error.headers ?? {})) reply.setHeader(name, value);
      send(reply, error.status, error.body);
      return;
    }
    reply.on('close', () => (state.gone += reply.writableFinished ? 0 : 1));
    reply.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
    const say = (chunk: unknown) => reply.write(`data: ${JSON.stringify(chunk)}\n\n`);
    if (state.next.recorded) {
      state.next.recorded.forEach(say);
      reply.end('data: [DONE]\n\n');
      return;
    }
    const head = {
      id: 'chatcmpl-1',
      object: raw ? 'text_completion' : 'chat.completion.chunk',
      created: 1_760_000_000,
      model: 'kimi-linear',
    };
    if (!raw) {
      // vllm/entrypoints/openai/chat_completion/serving.py; llama.cpp, tools/server/server-task.cpp.
      const content = dialect === 'vllm' ? '' : null;
      say({ ...head, choices: [choiceOf({ role: 'assistant', content }, null, null)] });
    }
    for (const thought of thoughts) {
      if (comments) reply.write(': ping\n\n');
      const named = dialect === 'vllm' ? { reasoning: thought } : { reasoning_content: thought };
      say({ ...head, choices: [choiceOf(named, null, null)] });
    }
    if (comments) reply.write(':\n\n');
    const whole = cutAfter === undefined && silentAfter === undefined && !hang;
    const most = Math.min(
      cutAfter ?? Infinity,
      silentAfter ?? Infinity,
      // vLLM's last token comes with the word on how it ended.
      tokens.length - (whole && lastComesLate(raw) ? 1 : 0),
    );
    tokens.slice(0, most).forEach((token, index) => {
      if (raw) say({ ...head, choices: [rawChoiceOf(token, index)] });
      else say({ ...head, choices: [choiceOf({ content: token }, chatLogprobs(token, index))] });
    });
    if (errorInside !== undefined) {
      say({ error: { message: errorInside, type: 'InternalServerError', code: 500 } });
    }
    if (hang) return;
    if (cutAfter !== undefined) {
      // The last chunk is on its way; then the line is dead.
      setTimeout(() => reply.destroy(), 20);
      return;
    }
    if (silentAfter === undefined && errorInside === undefined) finish(say, head, raw);
    reply.end(silentAfter === undefined ? 'data: [DONE]\n\n' : '');
  }

  function lastComesLate(raw: boolean): boolean {
    const { tokens = [], finish, errorInside } = state.next;
    const ends = finish === 'length' && errorInside === undefined;
    return dialect === 'vllm' && !raw && ends && tokens.length > 0;
  }

  function finish(say: (chunk: unknown) => void, head: object, raw: boolean): void {
    const { tokens = [], finish = 'stop', met } = state.next;
    const usage = {
      prompt_tokens: 11,
      completion_tokens: tokens.length,
      total_tokens: 11 + tokens.length,
      prompt_tokens_details: { cached_tokens: 4 },
    };
    const late = lastComesLate(raw);
    const index = tokens.length - 1;
    // The end's own token has a probability and no text.
    const end = { token: '<|im_end|>', logprob: -0.01, bytes: [], top_logprobs: [] };
    const last = raw
      ? { text: '', index: 0, finish_reason: finish, logprobs: null }
      : dialect === 'llamacpp'
        ? choiceOf({}, null, finish)
        : late
          ? choiceOf({ content: tokens[index] }, chatLogprobs(tokens[index]!, index), finish)
          : choiceOf({ content: '' }, { content: [end] }, finish);
    if (dialect === 'vllm') {
      say({ ...head, choices: [{ ...last, stop_reason: met ?? null }] });
      say({ ...head, choices: [], usage });
    } else {
      const timings = {
        cache_n: 4,
        prompt_n: 7,
        prompt_ms: 12.5,
        predicted_n: tokens.length,
        predicted_ms: 40,
      };
      say({ ...head, choices: [last] });
      say({ ...head, choices: [], usage, timings });
    }
  }

  function choiceOf(delta: object, logprobs: object | null, finish: string | null = null) {
    return { index: 0, delta, logprobs, finish_reason: finish };
  }

  /** Both servers tell a chat's probabilities alike; llama.cpp adds the token's id. */
  function chatLogprobs(token: string, index: number) {
    const one = (text: string, logprob: number) => ({
      ...(dialect === 'llamacpp' ? { id: 100 + index } : {}),
      token: text,
      logprob,
      bytes: [...Buffer.from(text)],
    });
    const logprob = logprobOf(index);
    const top_logprobs = [one(token, logprob), one('other', logprob - 1)];
    return { content: [{ ...one(token, logprob), top_logprobs }] };
  }

  /** Of raw text vLLM tells them as OpenAI did at first, llama.cpp as of a chat. */
  function rawChoiceOf(token: string, index: number) {
    const logprobs =
      dialect === 'llamacpp'
        ? chatLogprobs(token, index)
        : {
            tokens: [token],
            token_logprobs: [logprobOf(index)],
            top_logprobs: [{ other: logprobOf(index) - 1, [token]: logprobOf(index) }],
            text_offset: [index],
          };
    return { text: token, index: 0, finish_reason: null, logprobs };
  }
}

function unauthorized(header: string | undefined) {
  return {
    error: { message: `Incorrect API key provided: ${header ?? 'none'}.`, code: 'invalid_api_key' },
  };
}

function listOf(dialect: ServerDialect) {
  const listed = { id: 'kimi-linear', object: 'model', created: 1_760_000_000 };
  return {
    object: 'list',
    data: [
      dialect === 'vllm'
        ? { ...listed, owned_by: 'vllm', root: 'moonshotai', max_model_len: 1_048_576 }
        : { ...listed, owned_by: 'llamacpp', meta: { n_ctx: 8192, n_ctx_train: 1024 } },
    ],
  };
}

/**
 * OpenAI's shapes of a chat completion for the engine in this tab: a request becomes a prompt with settings, tokens become
 * chunks. The shapes stand here in full, so that whoever uses the library needs no other for its types.
 */
import { PalimpsestError, type Sampling, type Stop, type Token } from '../../workers/protocol.ts';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** What is asked. Settings that are left out are neutral, but for the temperature, which is 1 as OpenAI's is. */
export interface CompletionRequest {
  messages: Message[];
  /** Taken for the protocol's sake: there is one model. */
  model?: string;
  stream?: boolean | null;
  temperature?: number | null;
  top_p?: number | null;
  /** 512 if left out. */
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  stop?: string | string[] | null;
  /** The same seed, messages and settings give the same tokens. Drawn if left out. */
  seed?: number | null;
  logprobs?: boolean | null;
  /** 0 to 20. */
  top_logprobs?: number | null;
  n?: 1 | null;
}

export type FinishReason = 'stop' | 'length';

export interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[] | null;
}
export interface Logprobs {
  content: (TokenLogprob & { top_logprobs: TokenLogprob[] })[] | null;
  refusal: null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Prompt tokens that were in memory already. */
  prompt_tokens_details: { cached_tokens: number };
}

/** Why an answer ended, finer than OpenAI's finish reason. */
export interface Ended {
  /** end: the model's own end; stop: a stop text; length: max_tokens; context: no room left; stopped: by the signal. */
  reason: Stop['reason'];
  ids: number[];
  prefillMs: number;
  firstTokenMs: number;
  decodeMs: number;
  contextUsed: number;
}

interface Head {
  id: string;
  /** Seconds since 1970. */
  created: number;
  model: string;
}

export interface CompletionChunk extends Head {
  object: 'chat.completion.chunk';
  choices: {
    index: 0;
    delta: { role?: 'assistant'; content?: string };
    logprobs: Logprobs | null;
    finish_reason: FinishReason | null;
  }[];
  /** In the last chunk. */
  usage: Usage | null;
  /** In the last chunk: what OpenAI's shape has no place for. */
  palimpsest?: Ended;
}

export interface Completion extends Head {
  object: 'chat.completion';
  choices: {
    index: 0;
    message: { role: 'assistant'; content: string; refusal: null };
    logprobs: Logprobs | null;
    finish_reason: FinishReason;
  }[];
  usage: Usage;
  palimpsest: Ended;
}

/** The settings of a request. Fails: Refused, with the field's name, for what no engine could do. */
export function samplingOf(request: CompletionRequest, drawnSeed: () => number): Sampling {
  const { temperature, top_p, stop, seed, n, logprobs, top_logprobs: best, messages } = request;
  const maxTokens = request.max_completion_tokens ?? request.max_tokens ?? 512;
  within('temperature', temperature ?? 1, 0, 2);
  within('top_p', top_p ?? 1, 0, 1);
  within('max_tokens', maxTokens, 1, 2 ** 20);
  within('top_logprobs', best ?? 0, 0, 20);
  within('seed', seed ?? 0, 0, 2 ** 32 - 1);
  within('n', n ?? 1, 1, 1);
  if (!Array.isArray(messages) || messages.length === 0) throw refused('messages is empty.');
  for (const { role, content } of messages) {
    if (!['system', 'user', 'assistant'].includes(role) || typeof content !== 'string') {
      throw refused(
        `a message of role ${String(role)} with ${typeof content} content is not taken: roles are system, user and assistant, content is text.`,
      );
    }
  }
  const stops = typeof stop === 'string' ? [stop] : (stop ?? []);
  if (stops.length > 16 || stops.some((text) => typeof text !== 'string' || text === '')) {
    throw refused('stop takes up to 16 texts, none of them empty.');
  }
  return {
    temperature: temperature ?? 1,
    topK: 0,
    topP: top_p ?? 1,
    minP: 0,
    repetitionPenalty: 1,
    repetitionWindow: 0,
    seed: seed ?? drawnSeed(),
    maxTokens,
    stop: stops,
    candidates: logprobs ? (best ?? 0) : 0,
  };
}

function within(field: string, value: number, least: number, most: number): void {
  if (!(value >= least && value <= most)) {
    throw refused(`${field} is ${value}; it goes from ${least} to ${most}.`);
  }
}

function refused(words: string): PalimpsestError {
  return new PalimpsestError('Refused', words);
}

export interface Chunks {
  first(): CompletionChunk;
  token(token: Token): CompletionChunk;
  last(stop: Stop): CompletionChunk;
}

/** Makes the chunks of one answer. */
export function chunksOf(head: Head, logprobs: boolean): Chunks {
  const chunk = (
    delta: CompletionChunk['choices'][number]['delta'],
    told: Logprobs | null,
    finish: FinishReason | null,
  ): CompletionChunk => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, logprobs: told, finish_reason: finish }],
    usage: null,
  });
  return {
    first: () => chunk({ role: 'assistant', content: '' }, null, null),
    token: (token: Token) => chunk({ content: token.text }, logprobs ? told([token]) : null, null),
    last: (stop: Stop): CompletionChunk => ({
      ...chunk({}, null, finishOf(stop.reason)),
      usage: usageOf(stop),
      palimpsest: endedOf(stop),
    }),
  };
}

/** The whole answer at once. */
export function completionOf(head: Head, stop: Stop, tokens: Token[] | null): Completion {
  return {
    ...head,
    object: 'chat.completion',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: stop.text, refusal: null },
        logprobs: tokens && told(tokens),
        finish_reason: finishOf(stop.reason),
      },
    ],
    usage: usageOf(stop),
    palimpsest: endedOf(stop),
  };
}

/** OpenAI has no word for an answer that its reader stopped, nor for a context that is full: both were cut. */
function finishOf(reason: Stop['reason']): FinishReason {
  return reason === 'end' || reason === 'stop' ? 'stop' : 'length';
}

const bytesOf = (text: string) => [...new TextEncoder().encode(text)];

function told(tokens: Token[]): Logprobs {
  const one = ({ text, logprob }: { text: string; logprob: number }): TokenLogprob => ({
    token: text,
    logprob,
    bytes: bytesOf(text),
  });
  const content = tokens.map((token) => ({
    ...one(token),
    top_logprobs: token.candidates.map(one),
  }));
  return { content, refusal: null };
}

function usageOf({ promptIds, ids, reusedTokens }: Stop): Usage {
  return {
    prompt_tokens: promptIds.length,
    completion_tokens: ids.length,
    total_tokens: promptIds.length + ids.length,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  };
}

function endedOf({ reason, ids, prefillMs, firstTokenMs, decodeMs, contextUsed }: Stop): Ended {
  return { reason, ids, prefillMs, firstTokenMs, decodeMs, contextUsed };
}

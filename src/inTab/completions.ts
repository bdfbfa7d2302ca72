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

/** What is known of a request: other fields change the answer, and no engine here could do as they say. */
const taken: Record<keyof CompletionRequest, true> = {
  messages: true,
  model: true,
  stream: true,
  temperature: true,
  top_p: true,
  max_tokens: true,
  max_completion_tokens: true,
  stop: true,
  seed: true,
  logprobs: true,
  top_logprobs: true,
  n: true,
};
/** Fields that OpenAI's clients send and that change nothing in an answer. */
const idle = ['user', 'store', 'metadata', 'stream_options', 'service_tier', 'safety_identifier'];

/** The settings of a request. Fails: Refused, with the field's name, for what no engine could do. */
export function samplingOf(request: CompletionRequest, drawnSeed: () => number): Sampling {
  if (typeof request !== 'object' || request === null) {
    throw refused('A request is an object with messages; this is none.');
  }
  const { temperature, top_p, stop, seed, logprobs, top_logprobs: best, stream } = request;
  for (const [field, value] of Object.entries(request)) {
    // Zero, an empty list and the like ask for nothing.
    const asks = Boolean(value) && String(value) !== '';
    if (asks && !Object.hasOwn(taken, field) && !idle.includes(field)) {
      throw refused(
        `${field} is not taken: no engine here does it. Leave it out. Taken are ${Object.keys(taken).join(', ')}.`,
      );
    }
  }
  const maxTokens = request.max_completion_tokens ?? request.max_tokens ?? 512;
  within('temperature', temperature ?? 1, 0, 2);
  within('top_p', top_p ?? 1, 0, 1);
  const limit =
    (request.max_completion_tokens ?? null) !== null ? 'max_completion_tokens' : 'max_tokens';
  within(limit, maxTokens, 1, 2 ** 20, true);
  within('top_logprobs', best ?? 0, 0, 20, true);
  within('seed', seed ?? 0, 0, 2 ** 32 - 1, true);
  within('n', request.n ?? 1, 1, 1);
  for (const [field, value] of Object.entries({ stream, logprobs })) {
    if (typeof (value ?? false) !== 'boolean') {
      throw refused(`${field} is ${shown(value)}; it is true or false.`);
    }
  }
  if (best && !logprobs) throw refused('top_logprobs asks for logprobs: true, too.');
  checkMessages(request.messages);
  const stops = typeof stop === 'string' ? [stop] : (stop ?? []);
  const texts = Array.isArray(stops) && stops.every((text) => typeof text === 'string' && text);
  if (!texts || stops.length > 16) throw refused('stop takes up to 16 texts, none of them empty.');
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

function checkMessages(messages: unknown): void {
  if (!Array.isArray(messages)) throw refused('messages is no list of { role, content }.');
  if (messages.length === 0) throw refused('messages is empty: say something.');
  for (const message of messages as (Message | null)[]) {
    const { role, content } = message ?? ({} as Partial<Message>);
    if (!['system', 'user', 'assistant'].includes(role!) || typeof content !== 'string') {
      throw refused(
        `a message of role ${String(role)} with ${typeof content} content is not taken: roles are system, user and assistant, content is text.`,
      );
    }
  }
}

function within(field: string, value: unknown, least: number, most: number, whole = false): void {
  const fits = typeof value === 'number' && value >= least && value <= most;
  if (fits && (!whole || Number.isInteger(value))) return;
  const kind = whole ? 'it is a whole number' : 'it goes';
  throw refused(`${field} is ${shown(value)}; ${kind} from ${least} to ${most}.`);
}

/** A text stands in quotes: it is no number. */
function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
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

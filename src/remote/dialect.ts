/**
 * OpenAI's protocol of completions, in both directions: our prompt and settings as a request, and the chunks of a stream
 * as pieces of an answer. Servers agree on its core; what they add has other names in each, and one does without.
 */
import type { ChatCompletionChunk, ChatCompletionMessageParam } from 'openai/resources/chat';
import { PalimpsestError, type Prompt, type Sampling, type Stop } from '../../workers/protocol.ts';
import type { Piece, Told } from '../speaker.ts';
import type { Dialect, Served } from './endpoint.ts';

/** The most alternatives that the protocol lets one ask for. */
const mostCandidates = 20;

/** The request of a stream, apart from who is asked. Chat prompts go to chat/completions, raw text to completions. */
export type Request = Record<string, unknown> & { stream: true } & (
    { messages: ChatCompletionMessageParam[] } | { prompt: string }
  );

/**
 * A prompt and settings in the words of a dialect. Settings that a server's own configuration may have changed are always
 * sent, neutral ones included, so that what the reader sees is what is done.
 * @param probabilities how many alternatives to ask for with each token; null asks for no probabilities
 * Fails: Refused for token ids, which are another tokenizer's.
 */
export function requestOf(
  prompt: Prompt,
  sampling: Sampling,
  dialect: Dialect,
  probabilities: number | null,
): Request {
  const { temperature, topP, maxTokens, seed, stop } = sampling;
  const common = {
    stream: true as const,
    stream_options: { include_usage: true },
    temperature,
    top_p: topP,
    max_tokens: maxTokens,
    seed,
    ...(stop.length > 0 ? { stop } : {}),
    ...ownWords(sampling, dialect),
  };
  const best = Math.min(probabilities ?? 0, mostCandidates);
  switch (prompt.kind) {
    case 'chat':
      return {
        ...common,
        ...(probabilities === null ? {} : { logprobs: true, top_logprobs: best }),
        messages: prompt.turns.map(({ role, content }) => ({ role, content })),
      };
    case 'raw':
      return {
        ...common,
        ...(probabilities === null ? {} : { logprobs: best }),
        prompt: prompt.text,
      };
    case 'ids':
      throw new PalimpsestError(
        'Refused',
        `${prompt.ids.length} token ids of another model mean nothing there. Send the text.`,
      );
    default:
      return prompt satisfies never;
  }
}

/** Settings beyond the protocol. */
function ownWords(sampling: Sampling, dialect: Dialect): Record<string, unknown> {
  const { topK, minP, repetitionPenalty, repetitionWindow } = sampling;
  switch (dialect) {
    case 'vllm':
    case 'sglang':
      // -1: all tokens. Either takes what the model's generation_config.json says where a request says nothing.
      return { top_k: topK || -1, min_p: minP, repetition_penalty: repetitionPenalty };
    case 'llamacpp':
      return {
        top_k: topK,
        min_p: minP,
        repeat_penalty: repetitionPenalty,
        repeat_last_n: repetitionWindow,
        cache_prompt: true,
      };
    case 'openai':
      return {};
    default:
      return dialect satisfies never;
  }
}

/** Which of the reader's settings do not reach a server of this dialect, in words. */
export function unheard(sampling: Sampling, dialect: Dialect): string[] {
  const { topK, minP, repetitionPenalty } = sampling;
  if (dialect !== 'openai') return [];
  return [
    ...(topK > 0 ? ['top-k'] : []),
    ...(minP > 0 ? ['min-p'] : []),
    ...(repetitionPenalty !== 1 ? ['the repetition penalty'] : []),
  ];
}

/** What /v1/models says of one model, in the fields that servers add. */
interface Listed {
  id: string;
  owned_by?: string;
  max_model_len?: number;
  /** llama.cpp, of late: the context of one conversation. Its n_ctx_train is the file's, not the server's. */
  meta?: { n_ctx?: number } | null;
}

const owners: Record<string, Dialect> = { vllm: 'vllm', sglang: 'sglang', llamacpp: 'llamacpp' };

export function servedOf(listed: Listed): Served {
  const dialect = owners[listed.owned_by ?? ''] ?? 'openai';
  const limit = listed.max_model_len ?? listed.meta?.n_ctx;
  return { id: listed.id, dialect, contextLimit: typeof limit === 'number' ? limit : null };
}

/** The parts of a chunk that are read, of chat and of raw completions, with what servers add. */
interface Chunk {
  choices?: {
    text?: string;
    /** What a server's parser took for thinking has a name of its own: llama.cpp's and vLLM's, and vLLM's of late. */
    delta?: {
      content?: string | null;
      reasoning_content?: string | null;
      reasoning?: string | null;
    };
    /** Some say '' where others say null: not ended. */
    finish_reason?: string | null;
    /** vLLM: the stop text that was met, or null at the model's own end. SGLang: matched_stop. */
    stop_reason?: string | number | null;
    matched_stop?: string | number | null;
    logprobs?: ChatLogprobs | RawLogprobs | null;
  }[];
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
  } | null;
  /** llama.cpp */
  timings?: { cache_n?: number; prompt_n: number; prompt_ms: number; predicted_n: number };
}
type ChatLogprobs = NonNullable<ChatCompletionChunk.Choice['logprobs']>;
interface RawLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs?: (Record<string, number> | null)[] | null;
}

/**
 * The pieces that a chunk brings: one a token where probabilities are told, else one a chunk. A token of an unfinished
 * character is text to nobody: the chunk's own text is what is written, and its tokens are told apart.
 */
function piecesOf(
  choice: NonNullable<Chunk['choices']>[number],
  thinking: boolean,
): { text: string; told: Piece[]; thinks: boolean } {
  const { logprobs, delta } = choice;
  const said = delta?.content ?? choice.text ?? '';
  const thought = delta?.reasoning_content ?? delta?.reasoning ?? '';
  // Thinking is written as models write it who are read without a parser, so that nothing is kept from the reader.
  const thinks = said === '' && (thought !== '' || thinking);
  const text =
    (thought !== '' && !thinking ? '<think>' : '') +
    thought +
    (said !== '' && (thinking || thought !== '') ? '</think>' : '') +
    said;
  const piece = (text: string, logprob: number | null, candidates: Piece['candidates']): Piece => ({
    id: null,
    position: null,
    text,
    logprob,
    candidates,
  });
  if (logprobs && 'tokens' in logprobs) {
    return {
      text,
      thinks,
      told: logprobs.tokens.map((token, i) => {
        const best = Object.entries(logprobs.top_logprobs?.[i] ?? {});
        return piece(
          token,
          logprobs.token_logprobs[i] ?? null,
          best.map(([text, logprob]) => ({ text, logprob })).sort((a, b) => b.logprob - a.logprob),
        );
      }),
    };
  }
  const told = (logprobs?.content ?? []).map(({ token, logprob, top_logprobs }) =>
    piece(
      token,
      logprob,
      (top_logprobs ?? []).map(({ token, logprob }) => ({ text: token, logprob })),
    ),
  );
  return { text, told, thinks };
}

/**
 * Reads the chunks of one answer in turn.
 * @param now milliseconds; the request went out when this is called
 */
export function hear(sampling: Sampling, now: () => number, onPiece: (p: Piece) => void) {
  const startMs = now();
  let firstMs: number | null = null;
  let lastMs = startMs;
  let text = '';
  let written = 0;
  let finish: string | null = null;
  let metStop = false;
  let thinking = false;
  let usage: Chunk['usage'] = null;
  let timings: Chunk['timings'];
  const pieces: Piece[] = [];

  return {
    /** Tokens so far, as far as one can tell them apart. */
    get tokens() {
      return usage?.completion_tokens ?? (pieces.length || written);
    },
    /** The server said how the answer ended. */
    get finished() {
      return finish !== null;
    },
    take(chunk: Chunk): void {
      usage = chunk.usage ?? usage;
      timings = chunk.timings ?? timings;
      const choice = chunk.choices?.[0];
      if (!choice) return;
      if (choice.finish_reason) {
        finish = choice.finish_reason;
        const met = choice.stop_reason ?? choice.matched_stop;
        metStop = typeof met === 'string' && sampling.stop.includes(met);
      }
      const { text: part, told, thinks } = piecesOf(choice, thinking);
      thinking = thinks;
      pieces.push(...told);
      if (part === '') return;
      lastMs = now();
      firstMs ??= lastMs;
      text += part;
      written += 1;
      const { logprob, candidates } = told[0] ?? { logprob: null, candidates: [] };
      onPiece({ id: null, position: null, text: part, logprob, candidates });
    },
    /** The answer, once no more comes. `stopped`: because the reader said so. */
    end(stopped: boolean): Told {
      const tokens = usage?.completion_tokens ?? timings?.predicted_n ?? (pieces.length || written);
      const cached = usage?.prompt_tokens_details?.cached_tokens ?? timings?.cache_n ?? 0;
      const promptTokens =
        usage?.prompt_tokens ?? (timings ? timings.prompt_n + (timings.cache_n ?? 0) : 0);
      return {
        reason: stopped ? 'stopped' : reasonOf(finish, metStop, tokens, sampling.maxTokens),
        text,
        tokens,
        promptTokens,
        reusedTokens: cached,
        prefillMs: timings?.prompt_ms ?? 0,
        firstTokenMs: (firstMs ?? lastMs) - startMs,
        decodeMs: firstMs === null ? 0 : lastMs - firstMs,
        contextUsed: promptTokens + tokens,
        pieces,
      };
    },
  };
}

function reasonOf(
  finish: string | null,
  metStop: boolean,
  tokens: number,
  maxTokens: number,
): Stop['reason'] {
  if (finish === 'length') return tokens < maxTokens ? 'context' : 'length';
  if (finish === 'content_filter') {
    throw new PalimpsestError(
      'RemoteFailed',
      `The endpoint’s content filter ended the answer after ${tokens} tokens. Ask otherwise.`,
    );
  }
  if (finish === 'abort' || finish === 'error') {
    throw new PalimpsestError(
      'RemoteFailed',
      `The endpoint itself ended the answer after ${tokens} tokens (“${finish}”). Look into its log, and ask again.`,
    );
  }
  return metStop ? 'stop' : 'end';
}

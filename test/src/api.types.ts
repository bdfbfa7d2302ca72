/**
 * Types alone: what the library gives out, the official `openai` package's types take, and its requests ours do. This file
 * is compiled by `npm run check` and never run.
 */
import type OpenAI from 'openai';
import type { Completion, CompletionChunk, CompletionRequest, Engine } from '../../src/api.ts';

type Takes<Wide, Narrow extends Wide> = [Wide, Narrow];

export type Chunks = Takes<OpenAI.Chat.ChatCompletionChunk, CompletionChunk>;
export type Whole = Takes<OpenAI.Chat.ChatCompletion, Completion>;
export type Asked = Takes<OpenAI.Chat.ChatCompletionCreateParams, AsOpenAi<CompletionRequest>>;

/** OpenAI's requests name a model; here there is one. */
type AsOpenAi<T> = T & { model: string };

/** A loop that was written for OpenAI's client reads our stream. */
export async function read(engine: Engine): Promise<string> {
  const stream: AsyncIterable<OpenAI.Chat.ChatCompletionChunk> =
    await engine.chat.completions.create({
      messages: [{ role: 'user', content: 'Is 123 a prime?' }],
      stream: true,
    });
  let text = '';
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
  return text;
}

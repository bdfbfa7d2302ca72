/** What a widget asks whoever answers, and what it tells the page around of the answer. */
import type { Loaded, Prompt, Sampling, Stop } from '../../workers/protocol.ts';
import type { Client } from '../client.ts';
import { clamp, clampSeed, greedy, ranges, type NumberSetting } from '../sampling.ts';
import type { Elsewhere, Told } from '../speaker.ts';
import type { Draw, Outcome, WidgetTurn } from './protocol.ts';

/** The settings of a draw, the rest as the playground begins. */
export function samplingOf(draw: Draw): Sampling {
  const sampling: Sampling = { ...greedy };
  for (const setting of Object.keys(ranges) as NumberSetting[]) {
    const wanted = draw[setting];
    if (wanted !== undefined) sampling[setting] = clamp(setting, wanted);
  }
  if (draw.seed !== undefined) sampling.seed = clampSeed(draw.seed);
  if (draw.stop) sampling.stop = draw.stop.filter((text) => text !== '');
  return sampling;
}

/** What the GPU's model reads: through its chat template, or, where it has none, one text after the other. */
export async function promptOf(
  client: Client,
  turns: readonly WidgetTurn[],
  { model }: Loaded,
): Promise<Prompt> {
  if (model.mode === 'chat') return chatOf(turns);
  // Answers go in as the tokens they were written as: their text might be cut into others.
  const prefix = await client.tokenize({ kind: 'raw', text: '' });
  const ids = [...prefix];
  for (const { content: text, ids: written } of turns) {
    const tokens = written ?? (await client.tokenize({ kind: 'raw', text })).slice(prefix.length);
    ids.push(...tokens);
  }
  return { kind: 'ids', ids };
}

/** What llama.cpp reads, likewise. */
export function toldPromptOf(turns: readonly WidgetTurn[], { mode }: Elsewhere): Prompt {
  if (mode === 'chat') return chatOf(turns);
  return { kind: 'raw', text: turns.map(({ content }) => content).join('') };
}

function chatOf(turns: readonly WidgetTurn[]): Prompt {
  return {
    kind: 'chat',
    turns: turns.map(({ role, content, ids }) => ({ role, content, ...(ids && { ids }) })),
  };
}

/** How an answer ends that was stopped before it began. */
export function unwritten(draw: Draw): Outcome {
  const { seed } = samplingOf(draw);
  return {
    text: '',
    ids: [],
    reason: 'stopped',
    promptTokens: 0,
    firstTokenMs: 0,
    decodeMs: 0,
    seed,
  };
}

export function outcomeOf(stop: Stop | Told, { seed }: Sampling): Outcome {
  const { text, reason, firstTokenMs, decodeMs } = stop;
  const [ids, promptTokens] =
    'ids' in stop ? [stop.ids, stop.promptIds.length] : [[], stop.promptTokens];
  return { text, ids, reason, promptTokens, firstTokenMs, decodeMs, seed };
}

/**
 * Links that replay a conversation: what was asked, of which model, with which settings, and where to look, in the
 * address's fragment, which browsers send to no server. The same model draws the same tokens from the same seeds; a link
 * carries a check of them, so that whoever follows it is told whether that was so.
 */
import type { Sampling } from '../workers/protocol.ts';
import type { TurnNode } from './conversation.ts';
import { shownCompletion, type Paper } from './paper.ts';
import { clampSeed, greedy, ranges, readSampling, type NumberSetting } from './sampling.ts';

export interface Link {
  /** Absolute URL; '' for the page's own choice. */
  model: string;
  /** What was asked, in order. */
  prompts: string[];
  /** A text to be gone on from as it stands, instead of prompts; '' for none. */
  text: string;
  system: string;
  sampling: Sampling;
  /** One for each prompt, or for the text. */
  seeds: number[];
  /** Check of the answers' tokens; '' where there is none. */
  check: string;
}

const mostPrompts = 64;
const mostLength = 20_000;

/** The link in a fragment ("#..."); null where it asks for no replay. `page` is the page's own address. */
export function readLink(hash: string, page: URL): Link | null {
  const asked = new URLSearchParams(hash.slice(1));
  const prompts = asked.getAll('prompt').filter((prompt) => prompt.trim() !== '');
  const text = asked.get('text') ?? '';
  const size = [...prompts, text].join('').length;
  if ((prompts.length === 0 && text === '') || prompts.length > mostPrompts || size > mostLength) {
    return null;
  }
  const numbers: Record<string, unknown> = { stop: asked.getAll('stop') };
  for (const setting of Object.keys(ranges)) {
    const value = asked.get(setting);
    if (value !== null && value !== '') numbers[setting] = Number(value);
  }
  const seeds = (asked.get('seed') ?? '').split(',').map((seed) => clampSeed(Number(seed || 1)));
  const named = asked.get('model') ?? '';
  const model = named !== '' && URL.canParse(named, page) ? new URL(named, page) : null;
  return {
    model: model && /^https?:$/.test(model.protocol) ? model.href : '',
    prompts,
    text: prompts.length > 0 ? '' : text,
    system: asked.get('system') ?? '',
    sampling: readSampling({ ...greedy, ...numbers, seed: seeds[0] }),
    seeds: Array.from({ length: Math.max(1, prompts.length) }, (_, at) => seeds[at] ?? seeds[0]!),
    check: /^[0-9a-f]{8}$/.test(asked.get('tokens') ?? '') ? asked.get('tokens')! : '',
  };
}

/**
 * The fragment that `readLink` reads, with `look` (layer, head, token, view) behind it. Settings that are as they begin
 * are left out.
 */
export function writeLink(link: Link, look: Record<string, string>, page: URL): string {
  const asked = new URLSearchParams();
  if (link.model) asked.set('model', shortAddress(link.model, page));
  for (const prompt of link.prompts) asked.append('prompt', prompt);
  if (link.text) asked.set('text', link.text);
  if (link.system) asked.set('system', link.system);
  for (const setting of Object.keys(ranges) as NumberSetting[]) {
    if (link.sampling[setting] !== greedy[setting]) {
      asked.set(setting, String(link.sampling[setting]));
    }
  }
  for (const stop of link.sampling.stop) asked.append('stop', stop);
  const draws = link.sampling.temperature > 0;
  if (draws)
    asked.set('seed', new Set(link.seeds).size > 1 ? link.seeds.join() : `${link.seeds[0]}`);
  if (link.check) asked.set('tokens', link.check);
  for (const [name, value] of Object.entries(look)) asked.set(name, value);
  return `#${asked}`;
}

/** Relative where the model lies with the page: the link then holds wherever the page is served. */
function shortAddress(model: string, page: URL): string {
  const folder = new URL('.', page).href;
  return model.startsWith(folder) ? model.slice(folder.length) : model;
}

/**
 * The part of a conversation that a link can replay: questions that a person asked, each with the answer that the model
 * gave by itself and to its end, all with the same settings but for the seed. `whole` is false where more was said.
 */
export function linkOf(
  path: readonly TurnNode[],
  model: string,
  system: string,
): { link: Link; whole: boolean } | null {
  const prompts: string[] = [];
  const seeds: number[] = [];
  const ids: number[] = [];
  let sampling: Sampling | null = null;
  let at = 0;
  for (; at + 1 < path.length; at += 2) {
    const [question, answer] = [path[at]!, path[at + 1]!];
    if (question.turn.role !== 'user' || answer.origin.kind !== 'answered') break;
    const { answered } = answer.origin;
    if (answered.reason === 'stopped' || answered.reason === 'context' || !answer.turn.ids) break;
    if (sampling && !sameButSeed(sampling, answered.sampling)) break;
    sampling ??= answered.sampling;
    prompts.push(question.turn.content);
    seeds.push(answered.sampling.seed);
    ids.push(...answer.turn.ids);
  }
  if (!sampling) return null;
  const known = /^https?:/.test(model) ? model : '';
  const link = { model: known, prompts, text: '', system, sampling, seeds, check: checkOf(ids) };
  return { link, whole: at >= path.length };
}

/** The sheet of raw text as a link can replay it: a text that a person wrote, and how the model went on from it. */
export function linkOfSheet(paper: Paper, model: string): Link | null {
  const completion = shownCompletion(paper);
  const { answered = null, ids = null } = completion ?? {};
  // A prompt with ids of its own was cut into tokens as it was written: as text it may be cut otherwise.
  if (!answered || !ids || answered.reason === 'stopped' || paper.ids) return null;
  return {
    model: /^https?:/.test(model) ? model : '',
    prompts: [],
    text: paper.prompt,
    system: '',
    sampling: answered.sampling,
    seeds: [answered.sampling.seed],
    check: checkOf(ids.slice(answered.promptTokens)),
  };
}

function sameButSeed(one: Sampling, other: Sampling): boolean {
  const keys = Object.keys(ranges) as NumberSetting[];
  return (
    keys.every((key) => one[key] === other[key]) && one.stop.join('\0') === other.stop.join('\0')
  );
}

/** Eight hexadecimal digits of a row of token ids (FNV-1a over their 32 bits): tells other tokens, proves nothing. */
export function checkOf(ids: readonly number[]): string {
  let hash = 0x811c9dc5;
  for (const id of ids) {
    for (let shift = 0; shift < 32; shift += 8) {
      hash = Math.imul(hash ^ ((id >>> shift) & 0xff), 0x01000193);
    }
  }
  return (hash >>> 0).toString(16).padStart(8, '0');
}

/**
 * Links that replay a conversation: what was asked, of which model, with which settings, and where to look, in the
 * address's fragment, which browsers send to no server. The same model draws the same tokens from the same seeds; a link
 * carries a check of them, so that whoever follows it is told whether that was so.
 */
import type { Sampling } from '../workers/protocol.ts';
import type { TurnNode } from './conversation.ts';
import { shownCompletion, type Paper } from './paper.ts';
import { clamp, clampSeed, greedy, ranges, readSampling, type NumberSetting } from './sampling.ts';
import { instruments } from './views/instruments.ts';

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

const settings = Object.keys(ranges) as NumberSetting[];

/** All that may stand in a fragment, and how it is written. */
const forms = new Map<string, RegExp>([
  ...['prompt', 'text'].map((name) => [name, /\S/] as const),
  ...['model', 'system', 'stop'].map((name) => [name, /./s] as const),
  ['seed', /^\d{1,10}(,\d{1,10})*$/],
  ['tokens', /^[0-9a-f]{8}$/],
  ...settings.map((setting) => [setting, /^-?\d*\.?\d+(e-?\d+)?$/] as const),
  ...['layer', 'branch'].map((name) => [name, /^\d+$/] as const),
  ['head', /^(\d+|median)$/],
  ['token', /^(\d+|newest)$/],
  ['view', new RegExp(`^((${instruments.join('|')})(,|$))+$`)],
]);

/**
 * The link in a fragment ("#..."), null where it asks for no replay, or not for a whole one; and what stands in the
 * fragment but makes no sense, in words: that is left out, and all else holds. `page` is the page's own address.
 */
export function readLink(hash: string, page: URL): { link: Link | null; leftOut: string[] } {
  const asked = new URLSearchParams();
  const leftOut: string[] = [];
  /** Without one of its prompts a conversation would be another one. */
  let whole = true;
  for (const [name, value] of new URLSearchParams(hash.slice(1))) {
    // What was no UTF-8 is read as this character: the address was cut, or recoded on its way.
    const sound = forms.get(name)?.test(value) && !value.includes('\ufffd');
    if (sound) asked.append(name, value);
    else if (value !== '' || !forms.has(name)) {
      leftOut.push(said(name, value));
      whole &&= name !== 'prompt' && name !== 'text';
    }
  }
  const prompts = asked.getAll('prompt');
  const text = asked.get('text') ?? '';
  const length = [...prompts, text].join('').length;
  if (prompts.length > mostPrompts || length > mostLength) {
    leftOut.push(
      prompts.length > mostPrompts
        ? `its ${prompts.length} prompts, of which ${mostPrompts} are the most`
        : `its prompt of ${length} characters, of which ${mostLength} are the most`,
    );
    whole = false;
  } else if (prompts.length > 0 && text !== '') {
    leftOut.push(said('text', text));
  }
  const numbers: Record<string, unknown> = { stop: asked.getAll('stop') };
  for (const setting of settings) {
    const value = asked.get(setting);
    if (value === null) continue;
    numbers[setting] = Number(value);
    const taken = clamp(setting, Number(value));
    if (taken !== Number(value)) leftOut.push(`${said(setting, value)}, ${taken} in its place`);
  }
  const seeds = (asked.get('seed') ?? '1').split(',').map((seed) => clampSeed(Number(seed)));
  const named = asked.get('model');
  const model = named !== null && URL.canParse(named, page) ? new URL(named, page) : null;
  const usable = model !== null && /^https?:$/.test(model.protocol);
  if (named !== null && !usable) leftOut.push(said('model', named));
  if (!whole || (prompts.length === 0 && text === '')) return { link: null, leftOut };
  const link = {
    model: usable ? model.href : '',
    prompts,
    text: prompts.length > 0 ? '' : text,
    system: asked.get('system') ?? '',
    sampling: readSampling({ ...greedy, ...numbers, seed: seeds[0] }),
    seeds: Array.from({ length: Math.max(1, prompts.length) }, (_, at) => seeds[at] ?? seeds[0]!),
    check: asked.get('tokens') ?? '',
  };
  return { link, leftOut };
}

function said(name: string, value: string): string {
  const quoted = (text: string) => `“${text.length > 40 ? `${text.slice(0, 39)}…` : text}”`;
  return value === '' ? quoted(name) : `${name} ${quoted(value)}`;
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
  for (const setting of settings) {
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
  return (
    settings.every((key) => one[key] === other[key]) &&
    one.stop.join('\0') === other.stop.join('\0')
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

/**
 * The tokenizer files of a Hugging Face checkpoint as GGUF metadata: tokenizer.json, or tiktoken.model with
 * tokenizer_config.json. Ids, kinds and merges come out as llama.cpp's converter writes them.
 *
 * A tiktoken file gives each token a rank and no merges. The merge that made a token is found by encoding the token's bytes
 * with the tokens of lower rank alone: the two parts that are left are what was joined.
 * Source: llama.cpp conversion/base.py (get_vocab_base), conversion/kimi_linear.py (set_vocab), conversion/qwen.py (bpe);
 * gguf-py vocab.py (SpecialVocab); MoonshotAI's tokenization_kimi.py.
 */
import type { CheckpointConfig } from './checkpoint.ts';
import type { ByteSource } from './gguf.ts';
import type { MetaEntry } from './ggufFile.ts';
import { Fields, isObject, readJson, readWhole, type Json, type JsonLimits } from './json.ts';
import { PalimpsestError } from './protocol.ts';
import { asByteCharacters } from './tokenizer.ts';

/** What both kinds of files come down to. */
interface Vocabulary {
  pre: 'gpt-2' | 'smollm' | 'kimi-k2';
  tokens: string[];
  /** GGUF's kinds: see `KIND`. */
  kinds: number[];
  merges: string[];
  /** Ids of the tokens that have a text of their own, which tokenizer_config.json refers to by it. */
  added: Map<string, number>;
  /** Whether the file itself puts its first token in front of a text; null where it does not say. */
  addBos: boolean | null;
}

const KIND = { normal: 1, control: 3, userDefined: 4, unused: 5 };

const TOKENIZER_LIMITS: JsonLimits = { bytes: 64 * 1024 * 1024, depth: 32, values: 6_000_000 };
const SMALL_LIMITS: JsonLimits = { bytes: 4 * 1024 * 1024, depth: 32, values: 200_000 };
const RANKS_BYTES = 16 * 1024 * 1024;
/** Finding merges takes time with the square of a token's length. Kimi's own file comes to a tenth of this. */
const RANKS_WORK = 100_000_000;
/** Kimi names 256 ids after the ranks, and two more. */
const KIMI_SPECIALS = 258;

/**
 * The keys `tokenizer.*` for a model with `config.vocabulary` ids.
 * Fails: Refused (no tokenizer among the files), BadModel, Unsupported (another kind of tokenizer), and as the files do.
 */
export async function tokenizerMetadata(
  files: readonly ByteSource[],
  config: Pick<CheckpointConfig, 'vocabulary' | 'tokenIds'>,
): Promise<MetaEntry[]> {
  const file = (name: string) => files.find((source) => source.name === name);
  const settingsFile = file('tokenizer_config.json');
  const settings = new Fields(
    settingsFile ? await readJson(settingsFile, SMALL_LIMITS) : {},
    'tokenizer_config.json',
  );
  const json = file('tokenizer.json');
  const ranks = file('tiktoken.model');
  if (!json && !ranks) {
    throw new PalimpsestError(
      'Refused',
      'There is neither tokenizer.json nor tiktoken.model among the files. Choose the whole folder of a checkpoint.',
    );
  }
  const vocabulary = json
    ? readTokenizerJson(
        new Fields(await readJson(json, TOKENIZER_LIMITS), 'tokenizer.json'),
        config.vocabulary,
      )
    : readRanks(await readWhole(ranks!, RANKS_BYTES), settings, config.vocabulary);
  const template = await chatTemplate(settings, file);
  return entriesOf(vocabulary, settings, config.tokenIds, template);
}

function bad(what: string): never {
  throw new PalimpsestError('BadModel', `${what}. The file is damaged; get it again.`);
}

function unsupported(what: string): never {
  throw new PalimpsestError('Unsupported', `${what} Choose a GGUF file of this model instead.`);
}

function entriesOf(
  { pre, tokens, kinds, merges, added, addBos }: Vocabulary,
  settings: Fields,
  stated: Map<string, number>,
  template: string | null,
): MetaEntry[] {
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const entries: MetaEntry[] = [
    { key: key('model'), type: 'string', value: 'gpt2' },
    { key: key('pre'), type: 'string', value: pre },
    { key: key('tokens'), type: 'strings', value: tokens },
    { key: key('token_type'), type: 'i32s', value: kinds },
    { key: key('merges'), type: 'strings', value: merges },
  ];
  const id = (name: string, value: number | undefined): void => {
    if (value !== undefined) entries.push({ key: key(name), type: 'u32', value });
  };
  /** By the tokenizer's own settings, else by config.json. */
  const named = (name: string) =>
    added.get(tokenText(settings.get(`${name}_token`)) ?? '') ?? stated.get(name);
  const eos = named('eos');
  id('bos_token_id', named('bos'));
  id('eos_token_id', eos);
  // A chat model's config.json may name the end of a turn, its tokenizer the end of a text. Both end an answer.
  if (stated.get('eos') !== eos) id('eot_token_id', stated.get('eos'));
  id('unknown_token_id', named('unk'));
  id('padding_token_id', named('pad'));
  const settled = settings.get('add_bos_token');
  const addsBos = typeof settled === 'boolean' ? settled : addBos;
  if (addsBos !== null) entries.push({ key: key('add_bos_token'), type: 'bool', value: addsBos });
  if (template !== null) {
    entries.push({ key: 'tokenizer.chat_template', type: 'string', value: template });
  }
  return entries;
}

/** Written as a text, or as an object with the text inside. */
function tokenText(value: Json): string | null {
  const text = isObject(value) ? value.content : value;
  return typeof text === 'string' ? text : null;
}

/** The settings' own, else the file beside them. Of several the one named default. */
async function chatTemplate(
  settings: Fields,
  file: (name: string) => ByteSource | undefined,
): Promise<string | null> {
  let template = settings.get('chat_template');
  const [plain, wrapped] = [file('chat_template.jinja'), file('chat_template.json')];
  if (template === null && plain) {
    template = new TextDecoder().decode(await readWhole(plain, SMALL_LIMITS.bytes));
  } else if (template === null && wrapped) {
    template = (await readJson(wrapped, SMALL_LIMITS)).chat_template ?? null;
  }
  if (Array.isArray(template)) {
    const named = template.filter(isObject);
    template = (named.find(({ name }) => name === 'default') ?? named[0])?.template ?? null;
  }
  return typeof template === 'string' && template !== '' ? template : null;
}

// ---------------------------------------------------------------------------------------- tokenizer.json

function readTokenizerJson(file: Fields, size: number): Vocabulary {
  const model = new Fields(file.object('model'), 'tokenizer.json');
  const kind = model.text('type');
  if (kind !== 'BPE' || model.flag('byte_fallback', false)) {
    unsupported(`tokenizer.json is of the kind ${kind.slice(0, 40)}; byte-level BPE is read.`);
  }
  if (file.get('normalizer') !== null) {
    unsupported('tokenizer.json changes texts before it splits them, which GGUF cannot say.');
  }
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const kinds = new Array<number>(size).fill(KIND.unused);
  const enter = (id: Json | undefined, text: string, kindOfToken: number): number => {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= size) {
      const shown = JSON.stringify(text.slice(0, 40));
      const found = JSON.stringify(id ?? null).slice(0, 40);
      return bad(`tokenizer.json gives ${shown} the id ${found}, of ${size} ids`);
    }
    tokens[id] = text;
    kinds[id] = kindOfToken;
    return id;
  };
  for (const [text, id] of Object.entries(model.object('vocab'))) enter(id, text, KIND.normal);

  const added = new Map<string, number>();
  for (const entry of file.list('added_tokens')) {
    const text = tokenText(entry);
    if (!isObject(entry) || text === null) bad('tokenizer.json has an added token without text');
    const isControl = entry.special === true || /^<\|.*\|>$/s.test(text);
    added.set(text, enter(entry.id, text, isControl ? KIND.control : KIND.userDefined));
  }
  return {
    pre: splitterName(file.get('pre_tokenizer')),
    tokens,
    kinds,
    merges: model.list('merges').map(mergeText),
    added,
    addBos: putsFirst(file.get('post_processor')),
  };
}

/** Written as "a b", or as ["a", "b"]. A space inside a part is the byte-level Ġ. */
function mergeText(merge: Json): string {
  if (typeof merge === 'string') return merge;
  const parts = Array.isArray(merge) ? merge : [];
  if (parts.length !== 2 || !parts.every((part) => typeof part === 'string')) {
    bad('tokenizer.json has a merge that is not of two parts');
  }
  return parts.map((part) => String(part).replaceAll(' ', 'Ġ')).join(' ');
}

/** True where a template begins with a token of its own. */
function putsFirst(processor: Json): boolean | null {
  if (!isObject(processor)) return null;
  const steps = Array.isArray(processor.processors) ? processor.processors : [processor];
  const template = steps.find((step) => isObject(step) && step.type === 'TemplateProcessing');
  if (!isObject(template) || !Array.isArray(template.single)) return null;
  const [first] = template.single;
  return isObject(first) && isObject(first.SpecialToken);
}

/** Kimi's pattern, as its tokenizer states it. */
const kimiPattern = [
  String.raw`[\p{Han}]+`,
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`,
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?`,
  String.raw`\p{N}{1,3}`,
  String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*`,
  String.raw`\s*[\r\n]+`,
  String.raw`\s+(?!\S)`,
  String.raw`\s+`,
].join('|');

/** llama.cpp's name of the rule by which texts are split into words: told by the steps the file prescribes. */
function splitterName(preTokenizer: Json): Vocabulary['pre'] {
  const sequence = isObject(preTokenizer) ? preTokenizer.pretokenizers : null;
  const steps = Array.isArray(sequence) ? sequence : [preTokenizer];
  const known: Record<string, Vocabulary['pre']> = {
    words: 'gpt-2',
    'digits words': 'smollm',
    'kimi bytes': 'kimi-k2',
  };
  const found = known[steps.map(stepName).join(' ')];
  return (
    found ?? unsupported('tokenizer.json splits texts into words by a rule that is not known here.')
  );
}

function stepName(step: Json): string {
  if (!isObject(step)) return 'unknown';
  const { type, pattern } = step;
  if (type === 'ByteLevel' && step.add_prefix_space !== true) {
    return step.use_regex === false ? 'bytes' : 'words';
  }
  if (type === 'Digits' && step.individual_digits === true) return 'digits';
  const isKimi = isObject(pattern) && pattern.Regex === kimiPattern;
  if (type === 'Split' && isKimi && step.behavior === 'Isolated' && step.invert !== true) {
    return 'kimi';
  }
  return 'unknown';
}

// ---------------------------------------------------------------------------------------- tiktoken.model

/** Lines of a token's bytes in base64, a space, and its rank. Bytes are held as texts of that many Latin-1 characters. */
function readRanks(bytes: Uint8Array, settings: Fields, size: number): Vocabulary {
  const ranks = new Map<string, number>();
  const ordered: string[] = [];
  let work = 0;
  const text = new TextDecoder('latin1').decode(bytes);
  for (let at = 0; at < text.length;) {
    const end = text.indexOf('\n', at);
    const line = text.slice(at, end < 0 ? text.length : end);
    at += line.length + 1;
    const [, base64, rank] = /^([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?$/.exec(line) ?? [];
    const token = base64 === undefined ? null : decodeBase64(base64);
    if (!token) bad(`Line ${ordered.length + 1} of tiktoken.model is not a token and its rank`);
    if (ranks.has(token) || Number(rank) !== ordered.length) {
      bad(`Line ${ordered.length + 1} of tiktoken.model repeats a token or leaves out a rank`);
    }
    work += token.length ** 2;
    if (work > RANKS_WORK) bad('tiktoken.model has tokens of impossible lengths');
    ranks.set(token, ordered.length);
    ordered.push(token);
  }
  if (ordered.length > size) {
    bad(`tiktoken.model has ${ordered.length} tokens, and the model ${size}`);
  }

  const tokens = ordered.map(characters);
  const kinds = tokens.map(() => KIND.normal);
  const added = new Map<string, number>();
  const names = new Fields(settings.object('added_tokens_decoder'), 'added_tokens_decoder');
  for (let id = tokens.length; id < size; id++) {
    const isSpecial = id < ordered.length + KIMI_SPECIALS;
    const text = tokenText(names.get(String(id))) ?? `<|reserved_token_${id}|>`;
    tokens.push(isSpecial ? text : `[PAD${id}]`);
    kinds.push(isSpecial ? KIND.control : KIND.unused);
    if (isSpecial) added.set(text, id);
  }
  const merges = ordered.flatMap((token, rank) => {
    const parts = token.length > 1 ? partsBelow(rank, token, ranks) : [];
    return parts.length === 2 ? [parts.map(characters).join(' ')] : [];
  });
  return { pre: 'kimi-k2', tokens, kinds, merges, added, addBos: null };
}

function decodeBase64(text: string): string | null {
  try {
    return atob(text);
  } catch {
    return null;
  }
}

function characters(token: string): string {
  return asByteCharacters(Uint8Array.from(token, (byte) => byte.charCodeAt(0)));
}

/** A token's bytes, joined as the tokens of lower rank join them: the lowest rank first, the first of equals first. */
function partsBelow(rank: number, token: string, ranks: ReadonlyMap<string, number>): string[] {
  const parts = [...token];
  const rankAt = (i: number): number => ranks.get(parts[i] + parts[i + 1]) ?? Infinity;
  const joined = parts.slice(1).map((_, i) => rankAt(i)); // of part i with the next
  for (;;) {
    let at = -1;
    let lowest = rank;
    for (let i = 0; i < joined.length; i++) {
      if (joined[i] < lowest) [lowest, at] = [joined[i], i];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, parts[at] + parts[at + 1]);
    joined.splice(at, 1);
    if (at > 0) joined[at - 1] = rankAt(at - 1);
    if (at < joined.length) joined[at] = rankAt(at);
  }
}

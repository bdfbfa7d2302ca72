/**
 * Text to token ids and back, from a GGUF file's own tables (`tokenizer.ggml.*`).
 *
 * Encoding goes in four steps: special tokens are cut out; what is left is split into words by a regular expression
 * that the file names (`tokenizer.ggml.pre`); each word's UTF-8 bytes are written as the 256 printable characters of
 * GPT-2; byte-pair merges (@huggingface/tokenizers) join them into tokens. A byte the vocabulary lacks is dropped
 * without a word, as llama.cpp does. The ids are llama.cpp's, with one exception, `kimi-k2`: there the words are those
 * of the pattern that Kimi's own tokenizer publishes. llama.cpp takes "helloWorld" as one word, the pattern as two,
 * and the model was trained on two.
 */
import { BPE } from '@huggingface/tokenizers';
import { chatTemplate, kimiControls, kimiTemplate, splitAt, type LayOut } from './chat.ts';
import { metaNumber, metaNumbers, metaString, metaStrings, type MetaValue } from './gguf.ts';
import { PalimpsestError, type Turn } from './protocol.ts';

export interface Tokenizer {
  /** Number of token ids. */
  readonly vocabulary: number;
  /** 'chat' where the file has a chat template or the Kimi K2 tokens. */
  readonly mode: 'chat' | 'raw';
  /** Ids that end an answer: the file's end tokens, and the control tokens known by name to end a turn or a text. */
  readonly stopIds: readonly number[];
  /** What the file wants in front of every prompt: the id of its first token, or nothing. */
  readonly prefix: readonly number[];
  isStop(id: number): boolean;
  /**
   * Ids of a text, nothing added in front. `special` recognises control tokens (`<|im_end|>`) in it; without, what
   * looks like one is ordinary text, as must be for anything a person types.
   */
  encode(text: string, options: { special: boolean }): number[];
  /**
   * Ids of a conversation laid out by the chat template (chat.ts), `prefix` in front. With `generate` it ends where the
   * answer is to begin. A turn's `ids` are taken over as they are; an end token they close with is not doubled by
   * the template's own. Fails: Refused (turns that make no sense, a file without chat), BadModel (broken template).
   */
  encodeChat(turns: readonly Turn[], options: { generate: boolean }): number[];
  /** The text of some ids; control tokens have none. Bytes that are not UTF-8 show as U+FFFD. Fails: Refused. */
  decode(ids: readonly number[]): string;
  /** Decodes ids as they come. The parts joined are `decode` of all ids. */
  stream(): TextStream;
  /**
   * One token as a view prints it: its text, control tokens by name, control characters as pictures (␊), and where it
   * is only part of a character its bytes as ⟨E4 BD⟩.
   */
  piece(id: number): string;
}

export interface TextStream {
  /** The text that became whole with this id: '' inside a character. */
  push(id: number): string;
  /** What is left at the end: U+FFFD if the ids stopped inside a character, otherwise ''. */
  flush(): string;
}

/**
 * A tokenizer from a file's metadata. Fails: Unsupported (another kind of tokenizer, named), BadModel (tables that are
 * missing or contradict each other).
 */
export function createTokenizer(metadata: ReadonlyMap<string, MetaValue>): Tokenizer {
  const tables = readTables(metadata);
  const { tokens, kinds } = tables;
  const vocabulary = tokens.length;
  const userDefined = tokens.filter((_, id) => kinds[id] === 'userDefined');
  const controlIds = new Map(
    tokens.flatMap((text, id) => (kinds[id] === 'control' ? [[text, id]] : [])),
  );
  const merges = buildMerges(tables);
  const plainIds = merges.tokens_to_ids;
  const splitWords = wordSplitter(tables.pre);
  const controls = [...controlIds.keys()];
  const layOut = findLayout(tables, controls);

  const namedEnds = endNames.flatMap((name) => controlIds.get(name) ?? []);
  const stops = new Set([...tables.endIds, ...namedEnds].sort((a, b) => a - b));
  const prefix = tables.addBos && tables.bos !== null ? [tables.bos] : [];

  /** Ids of text without control tokens. User-defined tokens count wherever they stand, as in llama.cpp. */
  function encodeOrdinary(text: string): number[] {
    return splitAt(text, userDefined).flatMap((stretch) => {
      if (stretch.kind === 'control') return [plainIds.get(stretch.text)!];
      const joined = merges.encode(splitWords(stretch.text).map(toByteCharacters));
      return joined.map((token) => plainIds.get(token)!);
    });
  }

  const known: Uint8Array[] = [];
  function bytesOf(id: number): Uint8Array {
    return (known[checkId(id, vocabulary)] ??= tokenBytes(tokens[id], kinds[id]));
  }

  return {
    vocabulary,
    mode: layOut ? 'chat' : 'raw',
    stopIds: [...stops],
    prefix,
    isStop: (id) => stops.has(id),

    encode: (text, { special }) =>
      splitAt(text.toWellFormed(), special ? controls : []).flatMap((stretch) =>
        stretch.kind === 'control' ? [controlIds.get(stretch.text)!] : encodeOrdinary(stretch.text),
      ),

    encodeChat(turns, options) {
      if (!layOut) {
        throw new PalimpsestError(
          'Refused',
          'This model file has no chat template. Use raw completion, or a file that has one.',
        );
      }
      let writtenEnd = -1; // the end token an answer's own ids close with
      const ids = layOut(turns, options).flatMap((span) => {
        if (span.kind === 'text') {
          writtenEnd = -1;
          return encodeOrdinary(span.text);
        }
        if (span.kind === 'ids') {
          span.ids.forEach((id) => checkId(id, vocabulary));
          const last = span.ids.at(-1) ?? -1;
          writtenEnd = stops.has(last) ? last : -1;
          return span.ids;
        }
        const id = controlIds.get(span.text)!;
        const doubled = id === writtenEnd;
        writtenEnd = -1;
        return doubled ? [] : [id];
      });
      return ids[0] === prefix[0] ? ids : [...prefix, ...ids];
    },

    decode: (ids) => new TextDecoder('utf-8', keepBom).decode(joinBytes(ids.map(bytesOf))),

    stream() {
      const decoder = new TextDecoder('utf-8', keepBom);
      return {
        push: (id) => decoder.decode(bytesOf(id), { stream: true }),
        flush: () => decoder.decode(),
      };
    },

    piece(id) {
      const own = bytesOf(id);
      return own.length > 0 ? printable(own) : tokens[id];
    },
  };
}

// --------------------------------------------------------------------------------------------------- tables

/** normal: bytes, joined by merges. control: never from plain text. userDefined: from plain text, as a whole. */
type Kind = 'normal' | 'control' | 'userDefined' | 'unused';

interface Tables {
  pre: string;
  tokens: string[];
  kinds: Kind[];
  merges: string[];
  bos: number | null;
  eos: number | null;
  endIds: number[];
  addBos: boolean;
  template: string | null;
}

/** By `tokenizer.ggml.token_type`; 2, "unknown", is recognised where control tokens are, as in llama.cpp. */
const kindOfType: readonly Kind[] = [
  'unused',
  'normal',
  'control',
  'control',
  'userDefined',
  'unused',
  'unused',
];

/** Control tokens that end a turn or a text, whatever `eos_token_id` says: one file names one of two, another the other. */
const endNames = [
  '<|im_end|>',
  '<|endoftext|>',
  '[EOS]',
  '[EOT]',
  '<|end|>',
  '<|eot_id|>',
  '<|end_of_text|>',
  '</s>',
];

function readTables(metadata: ReadonlyMap<string, MetaValue>): Tables {
  const key = (name: string) => `tokenizer.ggml.${name}`;

  const model = metaString(metadata, key('model'));
  if (model !== 'gpt2') {
    throw new PalimpsestError(
      'Unsupported',
      `This file's tokenizer is of the kind "${model.slice(0, 60)}"; "gpt2", byte-level BPE, is read. Use another file.`,
    );
  }
  const pre = metadata.get(key('pre')) ?? 'none';
  if (typeof pre !== 'string' || !splitters.has(pre)) {
    throw new PalimpsestError(
      'Unsupported',
      `This file splits text into words by the rule "${String(pre).slice(0, 60)}" (${key('pre')}); known are ` +
        `${[...splitters.keys()].join(', ')}. Use another file.`,
    );
  }

  const tokens = metaStrings(metadata, key('tokens'));
  const types = metaNumbers(metadata, key('token_type'));
  if (tokens.length === 0 || types.length !== tokens.length) {
    throw damaged(`The vocabulary has ${tokens.length} tokens and ${types.length} token types.`);
  }
  const kinds = tokens.map((text, id): Kind => {
    const kind = kindOfType[types[id]] ?? 'unused';
    return kind === 'userDefined' && controlLike(text) ? 'control' : kind;
  });

  const id = (name: string): number | null => {
    if (!metadata.has(key(name))) return null;
    const number = metaNumber(metadata, key(name));
    if (Number.isInteger(number) && number >= 0 && number < tokens.length) return number;
    throw damaged(`${key(name)} is ${number}, and the vocabulary has ${tokens.length} tokens.`);
  };
  const template = metadata.get('tokenizer.chat_template');
  return {
    pre,
    tokens,
    kinds,
    merges: metaStrings(metadata, key('merges')),
    bos: id('bos_token_id'),
    eos: id('eos_token_id'),
    endIds: ['eos_token_id', 'eot_token_id', 'eom_token_id'].flatMap((name) => id(name) ?? []),
    addBos: metadata.get(key('add_bos_token')) === true,
    template: typeof template === 'string' && template !== '' ? template : null,
  };
}

function damaged(what: string): PalimpsestError {
  return new PalimpsestError('BadModel', `${what} The file is damaged; get another.`);
}

/** Some files list their control tokens as user-defined, which would let anyone type them. */
function controlLike(text: string): boolean {
  return /^<\|.*\|>$/s.test(text) || endNames.includes(text);
}

function findLayout(tables: Tables, controls: string[]): LayOut | null {
  const text = (id: number | null) => (id === null ? '' : tables.tokens[id]);
  const special = { controls, bos: text(tables.bos), eos: text(tables.eos) };
  if (tables.template !== null) return chatTemplate(tables.template, special);
  return kimiControls.every((name) => controls.includes(name))
    ? chatTemplate(kimiTemplate, special)
    : null;
}

/** The merge rules, without the control tokens: no text is merged into one. */
function buildMerges({ tokens, kinds, merges }: Tables): BPE {
  // Without a prototype, or the token "__proto__" would be lost.
  const vocab: Record<string, number> = Object.create(null);
  tokens.forEach((text, id) => {
    if (kinds[id] !== 'control') vocab[text] = id;
  });
  merges.forEach((merge, rank) => {
    const space = merge.indexOf(' ');
    if (space > 0 && merge.slice(0, space) + merge.slice(space + 1) in vocab) return;
    throw damaged(`Merge ${rank}, "${merge.slice(0, 60)}", makes no token of the vocabulary.`);
  });
  return new BPE({ type: 'BPE', vocab, merges, ignore_merges: false });
}

function checkId(id: number, vocabulary: number): number {
  if (Number.isInteger(id) && id >= 0 && id < vocabulary) return id;
  throw new PalimpsestError(
    'Refused',
    `${id} is no token id of this model: they go from 0 to ${vocabulary - 1}.`,
  );
}

// ---------------------------------------------------------------------------------------------------- words

// White_Space and not \s: JavaScript's \s takes U+FEFF in and leaves U+0085 out.
const gpt2Words =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

// The pattern of Kimi's tokenizer. Two shapes of word: capitals, if any, before small letters; small letters, if any,
// after capitals. Letters without case (Lm, Lo) and marks are both. ſ is an s wherever case is ignored.
const kimiWords = (() => {
  const upper = String.raw`[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Script=Han}]`;
  const lower = String.raw`[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Script=Han}]`;
  const before = String.raw`[^\r\n\p{L}\p{N}]?`;
  const contraction = `(?:'(?:[sSſ]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?`;
  const alternatives = [
    String.raw`\p{Script=Han}+`,
    `${before}${upper}*${lower}+${contraction}`,
    `${before}${upper}+${lower}*${contraction}`,
    String.raw`\p{N}{1,3}`,
    String.raw` ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*`,
    String.raw`\p{White_Space}*[\r\n]+`,
    String.raw`\p{White_Space}+(?!\P{White_Space})`,
    String.raw`\p{White_Space}+`,
  ];
  return new RegExp(alternatives.join('|'), 'gv');
})();

const splitters = new Map<string, (text: string) => string[]>([
  ['gpt-2', (text) => text.match(gpt2Words) ?? []],
  ['smollm', (text) => text.split(/(\p{N})/u).flatMap((part) => part.match(gpt2Words) ?? [])],
  ['kimi-k2', (text) => cutLongRuns(text).flatMap((part) => part.match(kimiWords) ?? [])],
]);

/**
 * The rule by which a file splits text into words before merging, by its name in `tokenizer.ggml.pre`. The words
 * joined are the text. Time grows with the length of the text, whatever it holds.
 */
export function wordSplitter(pre: string): (text: string) => string[] {
  return splitters.get(pre)!;
}

/** Kimi's tokenizer works on so many characters at a time, and in them on runs of (non-)space of so many. */
const kimiTextCharacters = 400_000;
const kimiRunCharacters = 25_000;

/** The pieces Kimi's tokenizer cuts a text into before it looks for words. Counts characters, not UTF-16 units. */
function cutLongRuns(text: string): string[] {
  if (text.length <= kimiRunCharacters) return [text];
  const pieces: string[] = [];
  let from = 0;
  let at = 0;
  let characters = 0;
  let run = 0;
  let inSpace = false;
  for (const character of text) {
    // Python's idea of white space has the four separators U+001C to U+001F on top of Unicode's.
    const isSeparator = character >= '\x1c' && character <= '\x1f';
    const isSpace = isSeparator || /\p{White_Space}/u.test(character);
    run = isSpace === inSpace ? run + 1 : 1;
    inSpace = isSpace;
    if (characters === kimiTextCharacters || run > kimiRunCharacters) {
      pieces.push(text.slice(from, at));
      from = at;
      run = 1;
      if (characters === kimiTextCharacters) characters = 0;
    }
    characters++;
    at += character.length;
  }
  return [...pieces, text.slice(from)];
}

// ---------------------------------------------------------------------------------------------------- bytes

/** Byte-level BPE writes each byte as one printable character: itself where it is one, else from U+0100 on. */
const byteCharacters = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();
const byteOfCharacter = new Map(byteCharacters.map((character, byte) => [character, byte]));
const utf8 = new TextEncoder();

/** A decoder drops a leading U+FEFF unless told to keep it. */
const keepBom = { ignoreBOM: true };

function toByteCharacters(word: string): string {
  return asByteCharacters(utf8.encode(word));
}

/** Bytes as a vocabulary writes them: one printable character each. */
export function asByteCharacters(bytes: Uint8Array): string {
  let characters = '';
  for (const byte of bytes) characters += byteCharacters[byte];
  return characters;
}

/** The bytes a token stands for; none for control tokens. Characters that stand for no byte stand for themselves. */
function tokenBytes(text: string, kind: Kind): Uint8Array {
  if (kind === 'control' || kind === 'unused') return new Uint8Array();
  if (kind === 'userDefined') return utf8.encode(text);
  return joinBytes(
    Array.from(text, (character) => {
      const byte = byteOfCharacter.get(character);
      return byte === undefined ? utf8.encode(character) : Uint8Array.of(byte);
    }),
  );
}

function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function printable(bytes: Uint8Array): string {
  const hex = (some: Uint8Array) =>
    `⟨${Array.from(some, (byte) => byte.toString(16).toUpperCase().padStart(2, '0')).join(' ')}⟩`;
  try {
    const text = new TextDecoder('utf-8', { ...keepBom, fatal: true }).decode(bytes);
    return text.replace(/\p{Cc}/gu, (control) => {
      const code = control.charCodeAt(0);
      if (code === 0x7f) return '␡';
      return code < 0x20 ? String.fromCharCode(0x2400 + code) : hex(utf8.encode(control));
    });
  } catch {
    return hex(bytes);
  }
}

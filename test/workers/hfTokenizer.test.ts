import { beforeAll, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { metaNumbers, metaStrings, openGguf, type MetaValue } from '../../workers/gguf.ts';
import type { MetaEntry } from '../../workers/ggufFile.ts';
import { tokenizerMetadata } from '../../workers/hfTokenizer.ts';
import type { ErrorName } from '../../workers/protocol.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { fixtureJson } from '../reference/golden.ts';
import { sources, type Folder } from './checkpointFiles.ts';
import { fileSource } from './ggufWriter.ts';

const bytesOf = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
const folder = (files: Record<string, unknown>): Folder =>
  new Map(Object.entries(files).map(([name, value]) => [name, bytesOf(value)]));

const tokenIds = (ids: Record<string, number> = {}) => new Map(Object.entries(ids));

async function metadataOf(files: Folder, vocabulary: number, ids: Record<string, number> = {}) {
  const given = { vocabulary, tokenIds: tokenIds(ids) };
  const entries = await tokenizerMetadata(sources(files), given);
  return new Map(entries.map(({ key, value }): [string, MetaEntry['value']] => [key, value]));
}

/** As they come out of a file. */
const asMetadata = (entries: Map<string, MetaEntry['value']>): Map<string, MetaValue> =>
  new Map(
    [...entries].map(([key, value]) => [
      key,
      key.endsWith('token_type') ? Int32Array.from(value as number[]) : (value as MetaValue),
    ]),
  );

// ------------------------------------------------------------------------- the embedded model's vocabulary

const shardUrl = (n: number) =>
  new URL(
    `../../public/models/palimpsest-150m/palimpsest-150m.Q4_0-0000${n}-of-00008.gguf`,
    import.meta.url,
  );
let tokens: string[];
let kinds: number[];
let merges: string[];

beforeAll(async () => {
  const shards = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) => fileSource(shardUrl(n))));
  const { metadata } = await openGguf(shards);
  tokens = metaStrings(metadata, 'tokenizer.ggml.tokens');
  kinds = metaNumbers(metadata, 'tokenizer.ggml.token_type');
  merges = metaStrings(metadata, 'tokenizer.ggml.merges');
});

/** tokenizer.json as its first author wrote it. */
const smollm = () => ({
  version: '1.0',
  added_tokens: tokens.flatMap((content, id) =>
    kinds[id] === 3 ? [{ id, content, special: true, normalized: false }] : [],
  ),
  normalizer: null,
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Digits', individual_digits: true },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    ],
  },
  post_processor: null,
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: '<|endoftext|>',
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges: merges as unknown[],
  },
});

describe('tokenizer.json', () => {
  const settings = { bos_token: '<|im_start|>', eos_token: { content: '<|im_end|>' } };

  test.each(['texts', 'pairs'])(
    'of the embedded model, merges as %s, gives its tables back',
    async (as) => {
      const file = smollm();
      if (as === 'pairs') file.model.merges = merges.map((merge) => merge.split(' '));
      const files = folder({ 'tokenizer.json': file, 'tokenizer_config.json': settings });
      const found = await metadataOf(files, tokens.length);
      expect(found.get('tokenizer.ggml.model')).toBe('gpt2');
      expect(found.get('tokenizer.ggml.pre')).toBe('smollm');
      expect(found.get('tokenizer.ggml.tokens')).toEqual(tokens);
      expect(found.get('tokenizer.ggml.token_type')).toEqual(kinds);
      expect(found.get('tokenizer.ggml.merges')).toEqual(merges);
      expect(found.get('tokenizer.ggml.bos_token_id')).toBe(1);
      expect(found.get('tokenizer.ggml.eos_token_id')).toBe(2);
      expect(found.has('tokenizer.ggml.add_bos_token')).toBe(false);
      expect(found.has('tokenizer.chat_template')).toBe(false);
    },
  );

  const small = (changes: Record<string, unknown> = {}) => ({
    added_tokens: [
      { id: 4, content: '<|end|>', special: false },
      { id: 5, content: 'ab ab', special: false },
    ],
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
    model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2, Ġ: 3 }, merges: ['a b'] },
    ...changes,
  });

  test('fills ids without a token, and tells control tokens by their looks', async () => {
    const found = await metadataOf(folder({ 'tokenizer.json': small() }), 8);
    expect(found.get('tokenizer.ggml.pre')).toBe('gpt-2');
    expect(found.get('tokenizer.ggml.tokens')).toEqual([
      'a',
      'b',
      'ab',
      'Ġ',
      '<|end|>',
      'ab ab',
      '[PAD6]',
      '[PAD7]',
    ]);
    expect(found.get('tokenizer.ggml.token_type')).toEqual([1, 1, 1, 1, 3, 4, 5, 5]);
    const tokenizer = createTokenizer(asMetadata(found));
    expect(tokenizer.encode('abab  abb', { special: false })).toEqual([2, 2, 3, 3, 2, 1]);
    expect(tokenizer.encode('abab abb', { special: false })).toEqual([2, 5, 1]); // user-defined tokens come first
  });

  test('a space inside a merge is the byte-level one', async () => {
    const file = small({
      model: { type: 'BPE', vocab: { a: 0, Ġ: 1, Ġa: 2 }, merges: [[' ', 'a']] },
    });
    const found = await metadataOf(folder({ 'tokenizer.json': { ...file, added_tokens: [] } }), 3);
    expect(found.get('tokenizer.ggml.merges')).toEqual(['Ġ a']);
  });

  test('the pattern of Kimi is known', async () => {
    // As transformers writes it when it converts the tiktoken file.
    const pattern =
      "[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" +
      "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?" +
      '|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
    const file = small({
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [
          { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
          { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
    });
    const found = await metadataOf(folder({ 'tokenizer.json': file }), 6);
    expect(found.get('tokenizer.ggml.pre')).toBe('kimi-k2');
  });

  test('a template that begins with a token asks for it in front of every prompt', async () => {
    const single = [{ SpecialToken: { id: '<|end|>', type_id: 0 } }, { Sequence: { id: 'A' } }];
    const post_processor = {
      type: 'Sequence',
      processors: [{ type: 'ByteLevel' }, { type: 'TemplateProcessing', single }],
    };
    const files = { 'tokenizer.json': small({ post_processor }) };
    const asked = await metadataOf(folder(files), 6, { bos: 4 });
    expect(asked.get('tokenizer.ggml.add_bos_token')).toBe(true);
    expect(createTokenizer(asMetadata(asked)).prefix).toEqual([4]);
    // The settings have the last word.
    const settled = { ...files, 'tokenizer_config.json': { add_bos_token: false } };
    const not = await metadataOf(folder(settled), 6, { bos: 4 });
    expect(not.get('tokenizer.ggml.add_bos_token')).toBe(false);
  });

  test("config.json's end token is kept beside the tokenizer's own", async () => {
    const files = { 'tokenizer.json': small(), 'tokenizer_config.json': { eos_token: '<|end|>' } };
    const found = await metadataOf(folder(files), 8, { eos: 5, pad: 7 });
    expect(found.get('tokenizer.ggml.eos_token_id')).toBe(4);
    expect(found.get('tokenizer.ggml.eot_token_id')).toBe(5);
    expect(found.get('tokenizer.ggml.padding_token_id')).toBe(7);
    const same = await metadataOf(folder(files), 8, { eos: 4 });
    expect(same.has('tokenizer.ggml.eot_token_id')).toBe(false);
  });

  const refusals: [why: string, file: unknown, ErrorName, RegExp][] = [
    ['not JSON', '{"model":', 'BadModel', /tokenizer\.json is not JSON/],
    [
      'another kind',
      small({ model: { type: 'Unigram', vocab: [] } }),
      'Unsupported',
      /kind Unigram/,
    ],
    [
      'bytes as tokens of their own',
      small({ model: { type: 'BPE', byte_fallback: true } }),
      'Unsupported',
      /byte-level BPE is read/,
    ],
    ['a normalizer', small({ normalizer: { type: 'NFC' } }), 'Unsupported', /changes texts before/],
    [
      'a space put in front',
      small({ pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } }),
      'Unsupported',
      /rule that is not known/,
    ],
    ['no rule', small({ pre_tokenizer: null }), 'Unsupported', /rule that is not known/],
    [
      'an id beyond the vocabulary',
      small({ model: { type: 'BPE', vocab: { a: 8 }, merges: [] } }),
      'BadModel',
      /gives "a" the id 8, of 8 ids/,
    ],
    [
      'an id that is no number',
      small({ model: { type: 'BPE', vocab: { a: '0' }, merges: [] } }),
      'BadModel',
      /the id "0", of 8/,
    ],
    [
      'a merge of three',
      small({ model: { type: 'BPE', vocab: { a: 0 }, merges: [['a', 'a', 'a']] } }),
      'BadModel',
      /not of two parts/,
    ],
    [
      'an added token without text',
      small({ added_tokens: [{ id: 3 }] }),
      'BadModel',
      /without text/,
    ],
  ];
  test.each(refusals)('refuses %s', async (_, file, name, message) => {
    await expect(metadataOf(folder({ 'tokenizer.json': file }), 8)).rejects.toMatchObject({
      name,
      message: expect.stringMatching(message) as unknown,
    });
  });
});

// ------------------------------------------------------------------------------------------ tiktoken.model

const base64 = (text: string) => Buffer.from(text, 'latin1').toString('base64');
const ranks = (...list: string[]) =>
  list.map((token, rank) => `${base64(token)} ${rank}\n`).join('');

describe('tiktoken.model', () => {
  test("with the embedded model's vocabulary gives its merges back", async () => {
    // Its ids count up in the order its merges were learned: bytes, then one token for each merge.
    const byteOf = new Map<string, number>();
    let next = 0x100;
    for (let byte = 0; byte < 256; byte++) {
      const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
      byteOf.set(String.fromCharCode(printable ? byte : next++), byte);
    }
    const raw = (token: string) =>
      String.fromCharCode(...Array.from(token, (character) => byteOf.get(character)!));
    const normal = tokens.filter((_, id) => kinds[id] === 1);
    const list = normal.map(raw);
    // The vocabulary lacks some bytes, which a tiktoken file would have; merges are in the order of the tokens they make.
    const start = performance.now();
    const found = await metadataOf(folder({ 'tiktoken.model': ranks(...list) }), list.length);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(found.get('tokenizer.ggml.tokens')).toEqual(normal);
    expect(found.get('tokenizer.ggml.merges')).toEqual(merges);
  });

  test('llama.cpp and this read the same ids out of the same text', async () => {
    const files = new Map([...tinyCheckpoint()].filter(([name]) => !name.includes('safetensors')));
    const found = await metadataOf(files, 512, { bos: 376, eos: 378, pad: 511 });
    const tokenizer = createTokenizer(asMetadata(found));
    const { files: results } = fixtureJson<{
      files: Record<string, { tokenized: { text: string; ids: number[] } }>;
    }>('imported.json');
    const { text, ids } = results['tiny-F32.gguf'].tokenized;
    expect(tokenizer.encode(text, { special: false })).toEqual(ids);
    expect(found.get('tokenizer.ggml.bos_token_id')).toBe(376);
    expect(found.get('tokenizer.ggml.eos_token_id')).toBe(377);
    expect(found.get('tokenizer.ggml.eot_token_id')).toBe(378);
    expect(found.get('tokenizer.ggml.unknown_token_id')).toBe(510);
    expect(found.get('tokenizer.ggml.padding_token_id')).toBe(511);
  });

  test('258 ids after the ranks are control tokens, by name where they have one', async () => {
    const files = folder({
      'tiktoken.model': ranks('a', 'b', 'ab'),
      'tokenizer_config.json': {
        added_tokens_decoder: { 4: { content: '[EOS]' } },
        eos_token: '[EOS]',
      },
    });
    const found = await metadataOf(files, 300);
    const names = found.get('tokenizer.ggml.tokens') as string[];
    const types = found.get('tokenizer.ggml.token_type') as number[];
    expect(names.slice(0, 6)).toEqual([
      'a',
      'b',
      'ab',
      '<|reserved_token_3|>',
      '[EOS]',
      '<|reserved_token_5|>',
    ]);
    expect([names[260], types[260], names[261], types[261]]).toEqual([
      '<|reserved_token_260|>',
      3,
      '[PAD261]',
      5,
    ]);
    expect(found.get('tokenizer.ggml.eos_token_id')).toBe(4);
    expect(found.get('tokenizer.ggml.pre')).toBe('kimi-k2');
  });

  test('a token that its parts do not make has no merge', async () => {
    // "abc" is b + c first, then a + bc; "xyz" has no parts at all.
    const files = folder({
      'tiktoken.model': ranks('a', 'b', 'c', 'x', 'y', 'z', 'bc', 'abc', 'xyz'),
    });
    const found = await metadataOf(files, 9);
    expect(found.get('tokenizer.ggml.merges')).toEqual(['b c', 'a bc']);
  });

  const refusals: [why: string, file: string, RegExp][] = [
    [
      'a line of something else',
      `${ranks('a')}hello\n`,
      /Line 2 of tiktoken\.model is not a token/,
    ],
    ['bytes that are no base64', 'YQ=a 0\n', /Line 1 of tiktoken\.model is not a token/],
    ['base64 cut short', 'Y 0\n', /Line 1 of tiktoken\.model is not a token/],
    ['a rank left out', `${base64('a')} 0\n${base64('b')} 2\n`, /Line 2 .* leaves out a rank/],
    ['a token twice', `${base64('a')} 0\n${base64('a')} 1\n`, /Line 2 .* repeats a token/],
    ['more tokens than the model', ranks(...'abcdefghi'), /9 tokens, and the model 8/],
    ['a token without end', ranks('a', 'b'.repeat(20_000)), /impossible lengths/],
  ];
  test.each(refusals)('refuses %s', async (_, file, message) => {
    await expect(metadataOf(folder({ 'tiktoken.model': file }), 8)).rejects.toMatchObject({
      name: 'BadModel',
      message: expect.stringMatching(message) as unknown,
    });
  });
});

describe('the chat template', () => {
  const given = (files: Record<string, unknown>) =>
    metadataOf(folder({ 'tiktoken.model': ranks('a'), ...files }), 1).then((found) =>
      found.get('tokenizer.chat_template'),
    );
  test('comes from the settings, else from the file beside them', async () => {
    expect(await given({})).toBeUndefined();
    expect(await given({ 'tokenizer_config.json': { chat_template: 'A' } })).toBe('A');
    expect(
      await given({ 'tokenizer_config.json': { chat_template: 'A' }, 'chat_template.jinja': 'B' }),
    ).toBe('A');
    expect(await given({ 'tokenizer_config.json': {}, 'chat_template.jinja': 'B' })).toBe('B');
    expect(await given({ 'chat_template.json': { chat_template: 'C' } })).toBe('C');
  });
  test('is the one named default where there are several', async () => {
    const chat_template = [
      { name: 'tool_use', template: 'T' },
      { name: 'default', template: 'D' },
    ];
    expect(await given({ 'tokenizer_config.json': { chat_template } })).toBe('D');
    expect(
      await given({ 'tokenizer_config.json': { chat_template: chat_template.slice(0, 1) } }),
    ).toBe('T');
    expect(await given({ 'tokenizer_config.json': { chat_template: [] } })).toBeUndefined();
  });
});

import { describe, expect, test } from 'vitest';
import {
  latentBytesPerToken,
  modelConfig,
  recurrentBytes,
  splitKvB,
  withoutOutputCopy,
  type ModelConfig,
} from '../../workers/config.ts';
import { openGguf, type GgufFile, type MetaValue, type TensorEntry } from '../../workers/gguf.ts';
import type { ErrorName } from '../../workers/protocol.ts';
import { dequantize } from '../../workers/quant.ts';
import { fileSource } from './ggufWriter.ts';
import { kimiLinear48B } from './kimiLinear48B.ts';

const tiny = async (type: string): Promise<GgufFile> =>
  openGguf([await fileSource(new URL(`../fixtures/tiny-${type}.gguf`, import.meta.url))]);

const embedded = async (): Promise<GgufFile> => {
  const folder = new URL('../../public/models/palimpsest-150m/', import.meta.url);
  const names = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `palimpsest-150m.Q4_0-0000${n}-of-00008.gguf`);
  return openGguf(await Promise.all(names.map((name) => fileSource(new URL(name, folder)))));
};

const TINY: Omit<ModelConfig, 'fileType' | 'parameters'> = {
  name: 'tiny random kimi-linear',
  architecture: 'kimi-linear',
  layers: [
    { kind: 'kda', ffn: 'dense' },
    { kind: 'kda', ffn: 'moe' },
    { kind: 'mla', ffn: 'moe' },
    { kind: 'kda', ffn: 'moe' },
  ],
  width: 64,
  heads: 2,
  eps: Math.fround(1e-5),
  vocabulary: 512,
  contextTrained: 4096,
  tiedOutput: false,
  kda: { keys: 64, values: 64, taps: 4 },
  mla: { latent: 96, sharedKey: 16, ownKey: 32, query: 48, values: 64, joined: false },
  denseWidth: 160,
  moe: { experts: 6, expertsUsed: 3, width: 32, sharedWidth: 64, scale: 1.75, normalised: true },
};

describe('sound files', () => {
  test.each([
    ['f32', 'F32'],
    ['q8_0', 'Q8_0'],
    ['q4_0', 'Q4_0'],
  ])('tiny-%s', async (file, fileType) => {
    expect(modelConfig(await tiny(file))).toEqual({
      ...TINY,
      fileType,
      parameters: expect.any(Number) as number,
    });
  });

  test('the embedded model', async () => {
    const file = await embedded();
    const config = modelConfig(file);
    expect(config).toMatchObject({
      name: 'Palimpsest 150M',
      fileType: 'Q4_0',
      width: 576,
      heads: 9,
      vocabulary: 49152,
      contextTrained: 8192,
      tiedOutput: false,
      kda: { keys: 64, values: 64, taps: 4 },
      mla: { latent: 192, sharedKey: 32, ownKey: 64, query: 96, values: 64, joined: false },
      denseWidth: 1536,
      moe: { experts: 8, expertsUsed: 4, width: 128, sharedWidth: 512, scale: 4, normalised: true },
    });
    const mla = config.layers.flatMap((layer, i) => (layer.kind === 'mla' ? [i] : []));
    expect(mla).toEqual([3, 7, 11, 15, 19, 23, 27]);
    expect(config.layers.map((layer) => layer.ffn)).toEqual([
      'dense',
      ...Array<string>(29).fill('moe'),
    ]);
    expect(recurrentBytes(config)).toBe(23 * 9 * (64 * 64 + 3 * 3 * 64) * 4);
    expect(latentBytesPerToken(config, 4)).toBe(7 * 224 * 4);
  });

  test('the 48B model in Q4_K, by its header alone', async () => {
    const file = await openGguf([kimiLinear48B()]);
    expect(file.tensors.size).toBe(610);
    const config = modelConfig(file);
    expect(config).toMatchObject({
      fileType: 'Q4_K_M',
      parameters: 49_122_681_728,
      width: 2304,
      heads: 32,
      vocabulary: 163_840,
      contextTrained: 1_048_576,
      kda: { keys: 128, values: 128, taps: 4 },
      mla: { latent: 512, sharedKey: 64, ownKey: 128, query: 192, values: 128, joined: false },
      denseWidth: 9216,
      moe: {
        experts: 256,
        expertsUsed: 8,
        width: 1024,
        sharedWidth: 1024,
        scale: Math.fround(2.446),
      },
    });
    expect(config.layers.filter((layer) => layer.kind === 'kda')).toHaveLength(20);
    expect(recurrentBytes(config)).toBe(20 * (2 * 1024 * 1024 + 36_864 * 4));
    expect(latentBytesPerToken(config, 2)).toBe(8064);
  });
});

describe('an output matrix that repeats the embedding', () => {
  test('is one matrix stored twice: the parameters are those of the card', async () => {
    const file = await withoutOutputCopy(await embedded());
    expect(modelConfig(file)).toMatchObject({ parameters: 150_573_687, tiedOutput: true });
  });

  test.each([
    ['last', -1, 2 * 15_925_248],
    ['first', 0, 2 * 4 * 1024 * 1024],
  ])('is another matrix if its %s byte differs, and read no further', async (_, at, bytes) => {
    const file = await embedded();
    const output = file.tensors.get('output.weight')!;
    let readBytes = 0;
    const differing: GgufFile = {
      ...file,
      async read(entry, offset = 0, count = entry.byteLength - offset) {
        const range = await file.read(entry, offset, count);
        const place = (at < 0 ? at + output.byteLength : at) - offset;
        if (entry === output && place < count) range[place]! ^= 1;
        readBytes += count;
        return range;
      },
    };
    expect(await withoutOutputCopy(differing)).toBe(differing);
    expect(readBytes).toBe(bytes);
  });

  test('is another matrix if it is of another type', async () => {
    const file = changed(await embedded(), {}, { 'output.weight': { type: 'IQ4_NL' } });
    expect(await withoutOutputCopy(file)).toBe(file);
  });
});

/** A copy of a file with keys and tensors changed; undefined removes. */
function changed(
  file: GgufFile,
  keys: Record<string, MetaValue | undefined>,
  tensors: Record<string, Partial<TensorEntry> | undefined> = {},
): GgufFile {
  const copy = { ...file, metadata: new Map(file.metadata), tensors: new Map(file.tensors) };
  for (const [key, value] of Object.entries(keys)) {
    if (value === undefined) copy.metadata.delete(key);
    else copy.metadata.set(key, value);
  }
  for (const [name, change] of Object.entries(tensors)) {
    const entry = {
      ...file.tensors.values().next().value!,
      ...file.tensors.get(name),
      name,
      ...change,
    };
    if (change === undefined) copy.tensors.delete(name);
    else copy.tensors.set(name, entry);
  }
  return copy;
}

describe('keys that a file may lack', () => {
  const k = (key: string): string => `kimi-linear.${key}`;
  const cases: [what: string, keys: Record<string, MetaValue | undefined>, expected: object][] = [
    ['the layer map: tensors tell', { [k('attention.head_count_kv')]: undefined }, {}],
    ['the shared key: its tensor tells', { [k('rope.dimension_count')]: undefined }, {}],
    [
      'the expert scale',
      { [k('expert_weights_scale')]: undefined },
      { moe: { ...TINY.moe, scale: 1 } },
    ],
    [
      'the expert scale, written as 0',
      { [k('expert_weights_scale')]: 0 },
      { moe: { ...TINY.moe, scale: 1 } },
    ],
    ['the norm of expert weights', { [k('expert_weights_norm')]: undefined }, {}],
    ['the size of the vocabulary', { [k('vocab_size')]: undefined }, {}],
    ['the tokenizer', { 'tokenizer.ggml.tokens': undefined }, {}],
    ['the name', { 'general.name': undefined }, { name: 'tiny-q4_0.gguf' }],
    ['the file type: bytes tell', { 'general.file_type': undefined }, { fileType: 'Q4_0' }],
    ['a known file type', { 'general.file_type': 999 }, { fileType: 'Q4_0' }],
    [
      'one number of heads: the same for all',
      { [k('attention.head_count')]: new Uint32Array(4).fill(2) },
      {},
    ],
    [
      'sizes with _mla: old files',
      {
        [k('attention.key_length_mla')]: undefined,
        [k('attention.value_length_mla')]: undefined,
        [k('attention.key_length')]: 48,
        [k('attention.value_length')]: 64,
      },
      {},
    ],
  ];
  test.each(cases)('%s', async (_, keys, expected) => {
    expect(modelConfig(changed(await tiny('q4_0'), keys))).toMatchObject({ ...TINY, ...expected });
  });

  test('weights of experts that are not normalised', async () => {
    const config = modelConfig(changed(await tiny('q4_0'), { [k('expert_weights_norm')]: false }));
    expect(config.moe.normalised).toBe(false);
  });

  test('an output matrix', async () => {
    const config = modelConfig(changed(await tiny('q4_0'), {}, { 'output.weight': undefined }));
    expect(config.tiedOutput).toBe(true);
  });

  test('extents of 1', async () => {
    const file = await tiny('q4_0');
    const fewer = changed(
      file,
      {},
      { 'blk.0.ssm_a': { ne: [1, 2] }, 'blk.0.ssm_conv1d_q.weight': { ne: [4, 1, 128] } },
    );
    expect(modelConfig(fewer)).toEqual(modelConfig(file));
  });
});

describe('old files with attn_kv_b', () => {
  const joined = (ne: number[]) => ({
    'blk.2.attn_k_b.weight': undefined,
    'blk.2.attn_v_b.weight': undefined,
    'blk.2.attn_kv_b.weight': { ne },
  });

  test('open', async () => {
    const config = modelConfig(changed(await tiny('f32'), {}, joined([96, 2 * (32 + 64)])));
    expect(config.mla.joined).toBe(true);
  });

  test('are refused in another shape', async () => {
    const file = changed(await tiny('f32'), {}, joined([96, 2 * 64]));
    expect(() => modelConfig(file)).toThrow(
      /attn_kv_b.weight should have the shape \[96, 192\] and has \[96, 128\]/,
    );
  });

  test('may hold the two halves as well, which are then used', async () => {
    const file = changed(await tiny('f32'), {}, { 'blk.2.attn_kv_b.weight': { ne: [96, 192] } });
    expect(modelConfig(file).mla.joined).toBe(false);
  });

  test('split into what a newer file holds', async () => {
    const file = await tiny('f32');
    const config = modelConfig(file);
    const floats = async (name: string): Promise<Float32Array> => {
      const entry = file.tensors.get(name)!;
      return dequantize(entry.type, await file.read(entry), entry.byteLength / 4);
    };
    const keys = await floats('blk.2.attn_k_b.weight'); // [H, L, P]
    const values = await floats('blk.2.attn_v_b.weight'); // [H, V, L]
    const [H, L, P, V] = [2, 96, 32, 64];
    const whole = new Float32Array(H * (P + V) * L); // rows: of each head its P key rows, then its V value rows
    for (let h = 0; h < H; h++) {
      for (let l = 0; l < L; l++) {
        for (let p = 0; p < P; p++) whole[(h * (P + V) + p) * L + l] = keys[(h * L + l) * P + p]!;
        for (let v = 0; v < V; v++)
          whole[(h * (P + V) + P + v) * L + l] = values[(h * V + v) * L + l]!;
      }
    }
    expect(splitKvB(config, whole)).toEqual({ keys, values });
  });
});

describe('what is refused', () => {
  const k = (key: string): string => `kimi-linear.${key}`;
  const cases: [
    what: string,
    keys: Record<string, MetaValue | undefined>,
    tensors: Record<string, Partial<TensorEntry> | undefined>,
    name: ErrorName,
    message: RegExp,
  ][] = [
    [
      'another architecture',
      { 'general.architecture': 'llama' },
      {},
      'Unsupported',
      /the llama architecture/,
    ],
    [
      'no architecture',
      { 'general.architecture': undefined },
      {},
      'Unsupported',
      /the unnamed architecture/,
    ],
    [
      'a missing key',
      { [k('attention.kv_lora_rank')]: undefined },
      {},
      'BadModel',
      /kv_lora_rank is missing/,
    ],
    [
      'a key of another type',
      { [k('block_count')]: 'four' },
      {},
      'BadModel',
      /block_count is the string "four"/,
    ],
    ['a size of 0', { [k('embedding_length')]: 0 }, {}, 'BadModel', /embedding_length is 0/],
    ['a size of 2.5', { [k('kda.head_dim')]: 2.5 }, {}, 'BadModel', /head_dim is 2.5/],
    [
      'an eps of NaN',
      { [k('attention.layer_norm_rms_epsilon')]: NaN },
      {},
      'BadModel',
      /epsilon is NaN/,
    ],
    [
      '2^32 layers',
      { [k('block_count')]: 2 ** 31 },
      {},
      'BadModel',
      /2147483648 layers .* 89 tensors/,
    ],
    [
      'a layer map of another length',
      { [k('block_count')]: 5 },
      {},
      'BadModel',
      /4 entries for 5 layers/,
    ],
    [
      'heads that differ',
      { [k('attention.head_count')]: new Uint32Array([2, 2, 4, 2]) },
      {},
      'Unsupported',
      /head_count differs/,
    ],
    ['a softmax router', { [k('expert_gating_func')]: 1 }, {}, 'Unsupported', /number 1; only 2/],
    [
      'no gating function',
      { [k('expert_gating_func')]: undefined },
      {},
      'BadModel',
      /expert_gating_func is missing/,
    ],
    [
      'more experts used than there are',
      { [k('expert_used_count')]: 7 },
      {},
      'BadModel',
      /7 of 6 experts/,
    ],
    ['low-rank queries', { [k('attention.q_lora_rank')]: 16 }, {}, 'Unsupported', /q_lora_rank/],
    ['a bounded decay', { [k('kda.gate_lower_bound')]: -5 }, {}, 'Unsupported', /gate_lower_bound/],
    ['groups of experts', { [k('expert_group_count')]: 8 }, {}, 'Unsupported', /by groups/],
    [
      'no key part of its own',
      { [k('rope.dimension_count')]: 48 },
      {},
      'BadModel',
      /keys of 48 with a shared part of 48/,
    ],
    [
      'a missing tensor',
      {},
      { 'blk.1.ssm_f_b.weight': undefined },
      'BadModel',
      /blk.1.ssm_f_b.weight \[64, 128\] is missing/,
    ],
    [
      'a missing bias',
      {},
      { 'blk.3.exp_probs_b.bias': undefined },
      'BadModel',
      /exp_probs_b.bias \[6\] is missing/,
    ],
    [
      'a wrong shape',
      {},
      { 'blk.1.attn_q.weight': { ne: [64, 64] } },
      'BadModel',
      /blk.1.attn_q.weight .*\[64, 128\] and has \[64, 64\]/,
    ],
    [
      'swapped axes',
      {},
      { 'blk.2.attn_v_b.weight': { ne: [64, 96, 2] } },
      'BadModel',
      /\[96, 64, 2\] and has \[64, 96, 2\]/,
    ],
    [
      'a vocabulary of another size',
      { 'tokenizer.ggml.tokens': ['a'] },
      {},
      'BadModel',
      /token_embd.weight should have the shape \[64, 1\]/,
    ],
    [
      'a layer of the other kind',
      { [k('attention.head_count_kv')]: new Int32Array([0, 0, 0, 0]) },
      {},
      'BadModel',
      /blk.2.*is missing|blk.2.attn_q/,
    ],
    [
      'a tensor nobody asked for',
      {},
      { 'blk.0.attn_gate.weight': {} },
      'Unsupported',
      /tensor blk.0.attn_gate.weight/,
    ],
  ];
  test.each(cases)('%s', async (_, keys, tensors, name, message) => {
    const file = changed(await tiny('q4_0'), keys, tensors);
    expect(() => modelConfig(file)).toThrow(
      expect.objectContaining({ name, message: expect.stringMatching(message) as unknown }),
    );
  });

  test('rows that kernels cannot read', async () => {
    const keys = { [k('expert_feed_forward_length')]: 16, [k('expert_shared_count')]: 4 };
    const file = await tiny('f32');
    const narrow = Object.fromEntries(
      [1, 2, 3].flatMap((i) => [
        [`blk.${i}.ffn_gate_exps.weight`, { ne: [64, 16, 6] }],
        [`blk.${i}.ffn_up_exps.weight`, { ne: [64, 16, 6] }],
        [`blk.${i}.ffn_down_exps.weight`, { ne: [16, 64, 6] }],
      ]),
    );
    expect(() => modelConfig(changed(file, keys, narrow))).toThrow(
      expect.objectContaining({
        name: 'Unsupported',
        message: expect.stringMatching(/ffn_down_exps.weight has rows of 16/) as unknown,
      }),
    );
  });
});

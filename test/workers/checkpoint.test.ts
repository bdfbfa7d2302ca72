import { describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { writeSafetensors, type WrittenTensor } from '../../tools/fixtures/safetensorsWriter.ts';
import { storedType, type Encoding } from '../../workers/checkpoint.ts';
import { importCheckpoint } from '../../workers/importModel.ts';
import type { ErrorName } from '../../workers/protocol.ts';
import { checkpointTensors, sources, type Folder } from './checkpointFiles.ts';

const about = { name: 'tiny', license: '' };
const checkpoint = tinyCheckpoint();
const tensors = checkpointTensors(checkpoint);

type Changes = Record<string, unknown>;

const decoded = (name: string) =>
  JSON.parse(new TextDecoder().decode(checkpoint.get(name))) as Changes;

const withConfig = (changes: Changes): Folder =>
  new Map([
    ...checkpoint,
    [
      'config.json',
      new TextEncoder().encode(JSON.stringify({ ...decoded('config.json'), ...changes })),
    ],
  ]);

const without = (...names: string[]): Folder =>
  new Map([...checkpoint].filter(([name]) => !names.includes(name)));

const linear = decoded('config.json').linear_attn_config as Changes;

describe('what cannot be imported is refused before weights are read', () => {
  const refusals: [why: string, files: () => Folder, ErrorName, RegExp][] = [
    ['no config', () => without('config.json'), 'Refused', /no config\.json/],
    ['no tokenizer', () => without('tiktoken.model'), 'Refused', /neither tokenizer\.json nor/],
    [
      'a shard missing',
      () => without('model-00002-of-00003.safetensors'),
      'BadModel',
      /model-00002-of-00003\.safetensors is missing: the checkpoint has 3 files/,
    ],
    [
      'another architecture',
      () => withConfig({ model_type: 'llama', architectures: ['LlamaForCausalLM'] }),
      'Unsupported',
      /of the type llama; only kimi_linear/,
    ],
    [
      'a quantised checkpoint',
      () => withConfig({ quantization_config: { quant_method: 'fp8' } }),
      'Unsupported',
      /quantised/,
    ],
    [
      'rotated keys',
      () => withConfig({ mla_use_nope: false }),
      'Unsupported',
      /mla_use_nope false/,
    ],
    ['low-rank queries', () => withConfig({ q_lora_rank: 64 }), 'Unsupported', /q_lora_rank 64/],
    [
      'a router by softmax',
      () => withConfig({ moe_router_activation_func: 'softmax' }),
      'Unsupported',
      /"softmax"; "sigmoid" runs here/,
    ],
    [
      'groups of experts',
      () => withConfig({ num_expert_group: 4 }),
      'Unsupported',
      /num_expert_group 4/,
    ],
    [
      'other heads in KDA',
      () => withConfig({ linear_attn_config: { ...linear, num_heads: 4 } }),
      'Unsupported',
      /num_heads 4; 2 runs here/,
    ],
    [
      'a layer in both lists',
      () => withConfig({ linear_attn_config: { ...linear, kda_layers: [1, 2, 3, 4] } }),
      'BadModel',
      /layer 3 of 5 in both/,
    ],
    [
      'a layer in no list',
      () => withConfig({ num_hidden_layers: 6 }),
      'BadModel',
      /layer 6 of 6 in neither/,
    ],
    [
      'layers counted from 0',
      () =>
        withConfig({
          linear_attn_config: { ...linear, kda_layers: [0, 1, 3], full_attn_layers: [2, 4] },
        }),
      'BadModel',
      /layer 5 of 5 in neither/,
    ],
    [
      'a size missing',
      () => withConfig({ kv_lora_rank: null }),
      'BadModel',
      /kv_lora_rank: it is missing/,
    ],
    [
      'a size that is none',
      () => withConfig({ hidden_size: -3 }),
      'BadModel',
      /hidden_size: it is -3/,
    ],
    [
      'endless layers',
      () => withConfig({ num_hidden_layers: 2 ** 30 }),
      'BadModel',
      /1073741824 layers/,
    ],
    [
      'endless experts',
      () => withConfig({ num_experts: 2 ** 30 }),
      'BadModel',
      /1073741824 experts/,
    ],
    ['endless tokens', () => withConfig({ vocab_size: 2 ** 30 }), 'BadModel', /1073741824 tokens/],
    [
      'a width that the tensors do not have',
      () => withConfig({ hidden_size: 96 }),
      'BadModel',
      /model\.embed_tokens\.weight should be \[512, 96\] and is \[512, 64\]/,
    ],
    [
      'more experts than there are',
      () => withConfig({ num_experts: 7 }),
      'BadModel',
      /gate\.weight should be \[7, 64\]/,
    ],
    [
      'fewer layers than there are',
      () =>
        withConfig({
          num_hidden_layers: 4,
          linear_attn_config: { ...linear, kda_layers: [1, 2, 4], full_attn_layers: [3] },
        }),
      'Unsupported',
      /model\.layers\.4\.input_layernorm\.weight, which is no part/,
    ],
  ];
  test.each(refusals)('%s', async (_, files, name, message) => {
    const given = sources(files());
    await expect(importCheckpoint(given, about, 'Q8_0')).rejects.toMatchObject({
      name,
      message: expect.stringMatching(message) as unknown,
    });
    for (const file of given.filter((source) => source.name.endsWith('.safetensors'))) {
      expect(file.readBytes).toBeLessThan(0.1 * file.byteLength);
    }
  });

  test('a matrix whose rows the engine cannot take', async () => {
    await expect(importCheckpoint(sources(narrowCheckpoint()), about, 'F32')).rejects.toMatchObject(
      {
        name: 'Unsupported',
        message: expect.stringMatching(/rows of 24 columns/) as unknown,
      },
    );
  });
});

/** Experts of 24 channels each, which no block of 32 divides. */
function narrowCheckpoint(): Folder {
  const narrowed = tensors.map(({ name, shape, numbers }): WrittenTensor => {
    const width = name.includes('shared') ? 48 : 24;
    const own = [...shape];
    if (/experts\.\d+\.w[13]|shared_experts\.(gate|up)/.test(name)) own[0] = width;
    if (/experts\.\d+\.w2|shared_experts\.down/.test(name)) own[1] = width;
    const count = own.reduce((a, b) => a * b, 1);
    return {
      name,
      dtype: 'F32',
      shape: own,
      bytes: new Uint8Array(numbers.slice(0, count).buffer),
    };
  });
  return withWeights(withConfig({ moe_intermediate_size: 24 }), narrowed);
}

/** Other weights in one file. */
function withWeights(files: Folder, others: WrittenTensor[]): Folder {
  return new Map([
    ...[...files].filter(([name]) => !name.includes('safetensors')),
    ['model.safetensors', writeSafetensors(others)],
  ]);
}

describe('numbers that cannot be stored are named', () => {
  /** The checkpoint as one F32 file with one number replaced. */
  const withNumber = (tensor: string, at: number, value: number): Folder =>
    withWeights(
      checkpoint,
      tensors.map(({ name, shape, numbers }): WrittenTensor => {
        const changed = numbers.slice();
        if (name === tensor) changed[at] = value;
        return { name, dtype: 'F32', shape, bytes: new Uint8Array(changed.buffer) };
      }),
    );
  const odd: [Encoding, number, RegExp | null][] = [
    ['F32', NaN, /holds NaN, .* Get the checkpoint again/],
    ['Q8_0', Infinity, /holds Infinity/],
    ['Q4_0', -Infinity, /holds -Infinity/],
    ['F16', 65_504, null],
    ['F16', 70_000, /holds 70000, which blk\.1\.attn_q\.weight as F16 cannot\. Choose F32 or BF16/],
    // The largest scales that load are just below 64.
    ['Q4_0', 511, null],
    ['Q4_0', 512, /holds 512/],
    ['Q8_0', 8_124, null],
    ['Q8_0', 8_125, /holds 8125/],
    ['BF16', 600_000, null],
  ];
  test.each(odd)('%s with %d', async (encoding, value, message) => {
    const files = sources(withNumber('model.layers.1.self_attn.q_proj.weight', 777, value));
    const source = await importCheckpoint(files, about, encoding);
    const read = source.read(0, source.byteLength);
    if (message === null) await expect(read).resolves.toHaveLength(source.byteLength);
    else {
      await expect(read).rejects.toMatchObject({
        name: 'BadNumbers',
        message: expect.stringMatching(message) as unknown,
      });
    }
  });
});

test('rows that are no whole number of blocks would be F16, as in llama.cpp', () => {
  const recipe = { name: 'blk.0.attn_q.weight', ne: [48, 7], encoded: true, slabs: [] };
  expect(storedType(recipe, 'Q8_0')).toBe('F16');
  expect(storedType(recipe, 'BF16')).toBe('BF16');
  expect(storedType({ ...recipe, ne: [64, 7] }, 'Q8_0')).toBe('Q8_0');
  expect(storedType({ ...recipe, encoded: false }, 'Q8_0')).toBe('F32');
});

/**
 * Files from strangers: whatever is in them, the parsers end soon, within their memory, with a sound result or one of our
 * errors. More than 20,000 damaged inputs in each run, the same ones each time; FUZZ_SEED=n gives others.
 */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { writeSafetensors } from '../../tools/fixtures/safetensorsWriter.ts';
import { tinyCheckpoint, uniform } from '../../tools/fixtures/tinyCheckpoint.ts';
import { modelConfig } from '../../workers/config.ts';
import { openGguf, type MetaValue } from '../../workers/gguf.ts';
import { tokenizerMetadata } from '../../workers/hfTokenizer.ts';
import { importCheckpoint } from '../../workers/importModel.ts';
import { readNumbers, readSafetensors } from '../../workers/safetensors.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { fixture } from '../reference/golden.ts';
import { checkpointTensors, type Folder } from './checkpointFiles.ts';
import { writeGguf, type KeyRow, type TensorRow } from './ggufWriter.ts';
import {
  below,
  byteMutator,
  damagedText,
  guardedSource,
  mutateValue,
  storm,
  type Bounds,
  type Outcomes,
  type Random,
} from './mutate.ts';

const seed = Number(process.env.FUZZ_SEED ?? 1);
const MiB = 2 ** 20;
/** Inputs here are some kilobytes. */
const small: Bounds = { ms: 1000, bufferBytes: 4 * MiB, heapBytes: 48 * MiB };

let inputs = 0;
const seen: Record<string, Outcomes> = {};
async function fuzz(
  what: string,
  runs: number,
  bounds: Bounds,
  run: (random: Random) => Promise<void> | void,
): Promise<Outcomes> {
  const outcomes = await storm(runs, seed, uniform, bounds, run);
  inputs += runs;
  seen[what] = outcomes;
  return outcomes;
}

afterAll(() => {
  console.log(`${inputs} damaged inputs: ${JSON.stringify(seen)}`);
  expect(inputs).toBeGreaterThanOrEqual(20_000);
});

/** Of all outcomes, those of this name. */
const share = (outcomes: Outcomes, name: string) =>
  (outcomes[name] ?? 0) / Object.values(outcomes).reduce((a, b) => a + b, 0);

// -------------------------------------------------------------------------------------------------- GGUF

const keys: KeyRow[] = [
  ['general.architecture', 'string', 'kimi-linear'],
  ['general.alignment', 'u32', 32],
  ['a.u8', 'u8', 200],
  ['a.i16', 'i16', -5],
  ['a.f64', 'f64', 0.1],
  ['a.u64', 'u64', 2n ** 60n],
  ['a.flag', 'bool', true],
  ['a.flags', ['bool'], [true, false, true]],
  ['a.kinds', ['i32'], [0, 0, 1, 0]],
  ['a.texts', ['string'], ['Ġthe', '漢字', '🙂', '', 'plain']],
  ['split.count', 'u16', 1],
  ['split.tensors.count', 'i32', 3],
];
const tensors: TensorRow[] = [
  { name: 'blk.0.attn_q.weight', ne: [64, 2], type: 2, bytes: new Uint8Array(72), offset: null },
  { name: 'blk.0.attn_norm.weight', ne: [16], type: 0, bytes: new Uint8Array(64), offset: null },
  { name: 'output.weight', ne: [32, 1, 2], type: 8, bytes: new Uint8Array(68), offset: null },
];

async function readGguf(bytes: Uint8Array): Promise<void> {
  const file = await openGguf([guardedSource('fuzzed.gguf', bytes, 8 * MiB)]);
  for (const entry of file.tensors.values()) await file.read(entry);
}

describe('GGUF', () => {
  test('bytes of a small file', async () => {
    const mutate = byteMutator(writeGguf(keys, tensors));
    const outcomes = await fuzz('GGUF bytes', 6000, small, (random) => readGguf(mutate(random)));
    // Most damage to so small a file matters, and some does not.
    expect(share(outcomes, 'BadModel')).toBeGreaterThan(0.5);
    expect(share(outcomes, 'sound')).toBeGreaterThan(0.02);
  });

  test('fields of a small file: types swapped, counts and extents at extremes, tensors in one place', async () => {
    const types = ['u8', 'i32', 'u64', 'f32', 'bool', 'string'] as const;
    const numbers = [0, 1, 31, 32, 33, 2 ** 31, 2 ** 32 - 1, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
    const any = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)];
    await fuzz('GGUF fields', 3000, small, async (random) => {
      const ownKeys = keys.map((row): KeyRow => {
        if (random() > 0.1) return row;
        const type = any(random, types);
        return type === 'string'
          ? [row[0], type, 'text']
          : [row[0], type, Number(any(random, numbers))];
      });
      if (random() < 0.2) ownKeys.push(any(random, ownKeys));
      const ownTensors = tensors.map((row): TensorRow => {
        if (random() > 0.3) return row;
        const ne = row.ne.map((n) => (random() < 0.3 ? any(random, numbers) : n));
        if (random() < 0.2) ne.push(any(random, numbers));
        const offset = random() < 0.4 ? any(random, [...numbers, 64, 96]) : null;
        return { ...row, ne, type: random() < 0.3 ? below(random, 48) : row.type, offset };
      });
      if (random() < 0.2) ownTensors.push({ ...any(random, ownTensors), name: 'again' });
      const lies = {
        version: random() < 0.05 ? below(random, 6) : 3,
        ...(random() < 0.1 ? { tensorCount: any(random, numbers) } : {}),
        ...(random() < 0.1 ? { keyCount: any(random, numbers) } : {}),
      };
      await readGguf(writeGguf(ownKeys, ownTensors, lies));
    });
  });

  test("metadata of the golden model, through the model's sizes and the tokenizer", async () => {
    const bytes = readFileSync(fixture('tiny-f32.gguf'));
    const golden = await openGguf([guardedSource('tiny.gguf', bytes, 8 * MiB)]);
    const names = [...golden.metadata.keys()].filter((name) => name.startsWith('kimi-linear.'));
    const odd: MetaValue[] = [
      0,
      1,
      -1,
      0.5,
      NaN,
      Infinity,
      2 ** 31,
      2n ** 63n,
      -1n,
      true,
      '',
      'x',
      [],
      ['a'],
      new Int32Array(4),
      new Float32Array([NaN, 1, 2, 3]),
      new BigUint64Array(2),
      new Uint8Array(100_000),
    ];
    await fuzz('model sizes', 3000, small, (random) => {
      const metadata = new Map(golden.metadata);
      const entries = new Map(golden.tensors);
      for (let i = 1 + below(random, 3); i > 0; i--) {
        const name = names[below(random, names.length)];
        if (random() < 0.2) metadata.delete(name);
        else metadata.set(name, odd[below(random, odd.length)]);
      }
      if (random() < 0.3) {
        const [name, entry] = [...entries][below(random, entries.size)];
        const ne = entry.ne.map((n) => (random() < 0.5 ? below(random, 200) + 1 : n));
        if (random() < 0.5) entries.delete(name);
        else entries.set(name, { ...entry, ne });
      }
      modelConfig({ ...golden, metadata, tensors: entries });
    });
  });

  test('the first shard of a real model, its vocabulary included', async () => {
    const shard = (n: number) =>
      readFileSync(
        new URL(
          `../../public/models/palimpsest-150m/palimpsest-150m.Q4_0-0000${n}-of-00008.gguf`,
          import.meta.url,
        ),
      );
    const [first, ...others] = [1, 2, 3, 4, 5, 6, 7, 8].map(shard);
    const mutate = byteMutator(first, 1);
    // Windows of up to 8 MiB, and the strings of 1.7 MB of header several times over.
    const bounds = { ms: 1000, bufferBytes: 96 * MiB, heapBytes: 192 * MiB };
    const outcomes = await fuzz('real shard', 300, bounds, async (random) => {
      const file = await openGguf([
        guardedSource('first.gguf', mutate(random), 8 * MiB),
        ...others.map((bytes, i) => guardedSource(`other${i}.gguf`, bytes, 8 * MiB)),
      ]);
      modelConfig(file);
      if (random() < 0.1) createTokenizer(file.metadata).encode('the gate', { special: true });
    });
    expect(share(outcomes, 'BadModel')).toBeGreaterThan(0.2);
    expect(share(outcomes, 'sound')).toBeGreaterThan(0.02);
  });
});

// ------------------------------------------------------------------------------------------- safetensors

const checkpoint = tinyCheckpoint();
const few = checkpointTensors(checkpoint)
  .filter(({ name }) => /layers\.0\.(self_attn\.(A_log|dt_bias|o_norm|b_proj)|input)/.test(name))
  .map(({ numbers, ...tensor }) => ({
    ...tensor,
    bytes: tensor.bytes.slice(0, numbers.length * 4),
  }));

async function readWeights(bytes: Uint8Array): Promise<void> {
  const source = guardedSource('fuzzed.safetensors', bytes, 16 * MiB);
  for (const tensor of await readSafetensors(source)) {
    await readNumbers(tensor, 0, tensor.byteLength / (tensor.dtype === 'F32' ? 4 : 2));
  }
}

describe('safetensors', () => {
  const file = writeSafetensors(few);
  const headerBytes = Number(new DataView(file.buffer).getBigUint64(0, true));

  test('bytes of the header', async () => {
    const header = byteMutator(file.slice(0, 8 + headerBytes));
    const body = file.slice(8 + headerBytes);
    const outcomes = await fuzz('safetensors bytes', 3500, small, (random) => {
      const damaged = header(random);
      const bytes = new Uint8Array(damaged.length + body.length);
      bytes.set(damaged);
      bytes.set(body, damaged.length);
      // The length in front is made true again in half of them: else nothing behind it would be reached.
      if (random() < 0.5 && damaged.length >= 8) {
        new DataView(bytes.buffer).setBigUint64(0, BigInt(damaged.length - 8), true);
      }
      return readWeights(bytes);
    });
    expect(share(outcomes, 'BadModel')).toBeGreaterThan(0.5);
    expect(share(outcomes, 'sound')).toBeGreaterThan(0.01);
  });

  test('fields of the header', async () => {
    const header: unknown = JSON.parse(new TextDecoder().decode(file.slice(8, 8 + headerBytes)));
    await fuzz('safetensors fields', 2500, small, (random) => {
      const text = new TextEncoder().encode(JSON.stringify(mutateValue(random, header)) ?? '');
      const bytes = new Uint8Array(8 + text.length + file.length - 8 - headerBytes);
      new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
      bytes.set(text, 8);
      return readWeights(bytes);
    });
  });

  test('every file of a checkpoint, up to the first numbers of the import', async () => {
    const bounds = { ms: 1000, bufferBytes: 32 * MiB, heapBytes: 96 * MiB };
    const config = JSON.parse(new TextDecoder().decode(checkpoint.get('config.json'))) as unknown;
    const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value) ?? '');
    const mutators = new Map([...checkpoint].map(([name, bytes]) => [name, headMutator(bytes)]));
    const names = [...checkpoint.keys()];
    const outcomes = await fuzz('checkpoint', 500, bounds, async (random) => {
      const files: Folder = new Map(checkpoint);
      const name = names[below(random, names.length)];
      if (random() < 0.5) files.set('config.json', json(mutateValue(random, config)));
      else files.set(name, mutators.get(name)!(random));
      const imported = await importCheckpoint(
        [...files].map(([file, bytes]) => guardedSource(file, bytes, 16 * MiB)),
        { name: 'fuzzed', license: '' },
        (['F32', 'BF16', 'Q8_0', 'Q4_0'] as const)[below(random, 4)],
      );
      await imported.read(0, Math.min(65_536, imported.byteLength));
    });
    expect(share(outcomes, 'sound')).toBeGreaterThan(0.02);
  });
});

/** Damages the first kilobytes, where headers are; the rest stays. */
function headMutator(bytes: Uint8Array): (random: Random) => Uint8Array {
  const head = byteMutator(bytes.slice(0, 6144));
  return (random) => new Uint8Array(Buffer.concat([head(random), bytes.subarray(6144)]));
}

// -------------------------------------------------------------------------------------------- tokenizers

const sample = 'The gate, héllo 漢字 12345 \n\n <|im_end|> 🙂';

describe('tokenizers', () => {
  test("a GGUF file's tables", async () => {
    const imported = await importCheckpoint(
      [...checkpoint].map(([name, bytes]) => guardedSource(name, bytes, 16 * MiB)),
      { name: 'tiny', license: '' },
      'F32',
    );
    const { metadata } = await openGguf([imported]);
    const own = [...metadata.keys()].filter((key) => key.startsWith('tokenizer.'));
    const outcomes = await fuzz('tokenizer tables', 4000, small, (random) => {
      const damaged = new Map(metadata);
      for (let i = 1 + below(random, 2); i > 0; i--) {
        const key = own[below(random, own.length)];
        damaged.set(key, damagedValue(random, damaged.get(key)));
        if (random() < 0.05) damaged.delete(key);
      }
      const tokenizer = createTokenizer(damaged);
      const ids = tokenizer.encode(sample, { special: random() < 0.5 });
      tokenizer.decode(ids);
      ids.forEach((id) => tokenizer.piece(id));
      if (tokenizer.mode === 'raw') return;
      tokenizer.encodeChat([{ role: 'user', content: sample }], { generate: true });
    });
    expect(share(outcomes, 'sound')).toBeGreaterThan(0.1);
  });

  test("a checkpoint's tokenizer files", async () => {
    const settings = JSON.parse(
      new TextDecoder().decode(checkpoint.get('tokenizer_config.json')),
    ) as unknown;
    const fast = {
      added_tokens: [{ id: 6, content: '<|im_end|>', special: true }],
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'ByteLevel' }],
      },
      post_processor: {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '<|im_end|>' } }],
      },
      model: {
        type: 'BPE',
        vocab: { a: 0, b: 1, ab: 2, Ġ: 3, Ġa: 4 },
        merges: ['a b', ['Ġ', 'a']],
      },
    };
    const ranks = byteMutator(checkpoint.get('tiktoken.model')!.slice(0, 2600));
    const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value) ?? '');
    await fuzz('tokenizer files', 2500, small, async (random) => {
      const files: Folder = new Map();
      const kind = below(random, 3);
      if (kind === 0) files.set('tokenizer.json', json(mutateValue(random, fast)));
      else
        files.set('tiktoken.model', kind === 1 ? ranks(random) : checkpoint.get('tiktoken.model')!);
      files.set(
        'tokenizer_config.json',
        json(kind === 2 ? mutateValue(random, settings) : settings),
      );
      const config = { vocabulary: kind === 0 ? 8 : 512, tokenIds: new Map([['eos', 6]]) };
      const given = [...files].map(([name, bytes]) => guardedSource(name, bytes, 16 * MiB));
      await tokenizerMetadata(given, config);
    });
  });
});

/** A value of a file's metadata, of the same kind or another. */
function damagedValue(random: Random, value: MetaValue | undefined): MetaValue {
  if (Array.isArray(value) && random() < 0.7) {
    const list = [...value];
    const at = below(random, list.length);
    const other = list[below(random, list.length)];
    const damage = below(random, 6);
    if (damage === 0) list.length = at;
    else if (damage === 1) list.splice(at, 1);
    else if (damage === 2) list.push(...list.slice(at));
    else
      list[at] = [
        '',
        ' ',
        other,
        `${other} `,
        `${other}\u0000`,
        '\ud800',
        'Ġ Ġ',
        '漢',
        'x'.repeat(9000),
      ][below(random, 9)];
    return list;
  }
  if (value instanceof Int32Array && random() < 0.7) {
    const list = value.slice(0, random() < 0.2 ? below(random, value.length) : value.length);
    for (let i = below(random, 20); i > 0; i--)
      list[below(random, list.length)] = below(random, 9) - 1;
    return list;
  }
  if (typeof value === 'string' && random() < 0.7) return damagedText(random, value);
  const odd: MetaValue[] = [
    0,
    1,
    -1,
    511,
    512,
    2 ** 32,
    0.5,
    NaN,
    2n ** 63n,
    -1n,
    true,
    false,
    '',
    'gpt2',
    'kimi-k2',
    [],
    ['a'],
    ['a', 'a b'],
    new Int32Array(0),
    new Float32Array([1, 2]),
    new Uint8Array(512).fill(1),
    new BigInt64Array(512),
  ];
  return odd[below(random, odd.length)];
}

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  metaBoolean,
  metaNumber,
  metaNumbers,
  metaString,
  metaStrings,
  openGguf,
} from '../../workers/gguf.ts';
import type { ErrorName } from '../../workers/protocol.ts';
import {
  Bytes,
  fileSource,
  memorySource,
  writeGguf,
  type GgufPlan,
  type KeyRow,
  type TensorRow,
} from './ggufWriter.ts';

const shardUrl = (n: number): URL =>
  new URL(
    `../../public/models/palimpsest-150m/palimpsest-150m.Q4_0-0000${n}-of-00008.gguf`,
    import.meta.url,
  );
const realShards = () => Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) => fileSource(shardUrl(n))));
const tiny = (type: string): URL => new URL(`../fixtures/tiny-${type}.gguf`, import.meta.url);

const tensor = (name: string, floats: number, offset: number | null = null): TensorRow => ({
  name,
  ne: [floats],
  type: 0,
  bytes: new Uint8Array(new Float32Array(floats).map((_, i) => i + floats).buffer),
  offset,
});

const openBytes = (...files: Uint8Array[]) =>
  openGguf(files.map((bytes, i) => memorySource(`part${i}.gguf`, bytes)));

/** A file that must be refused, and by what name and words. */
async function expectRefused(files: Uint8Array[], name: ErrorName, message: RegExp): Promise<void> {
  const started = performance.now();
  const sources = files.map((bytes, i) => memorySource(`part${i}.gguf`, bytes));
  await expect(openGguf(sources)).rejects.toMatchObject({
    name,
    message: expect.stringMatching(message) as unknown,
  });
  expect(performance.now() - started).toBeLessThan(1000);
  for (const source of sources) expect(source.readBytes).toBeLessThanOrEqual(source.byteLength);
}

describe('the embedded model', () => {
  test('opens in eight shards, in any order', async () => {
    const shards = await realShards();
    const file = await openGguf([...shards].reverse());
    expect(file.shards.map((s) => s.name)).toEqual(shards.map((s) => s.name));
    expect(file.tensors.size).toBe(685);
    expect(metaString(file.metadata, 'general.architecture')).toBe('kimi-linear');
    expect(metaNumbers(file.metadata, 'kimi-linear.attention.head_count_kv')).toHaveLength(30);
    expect(metaBoolean(file.metadata, 'kimi-linear.expert_weights_norm')).toBe(true);

    const tokens = metaStrings(file.metadata, 'tokenizer.ggml.tokens');
    expect(tokens).toHaveLength(49152);
    expect(tokens.slice(0, 3)).toEqual(['<|endoftext|>', '<|im_start|>', '<|im_end|>']);
    const merges = metaStrings(file.metadata, 'tokenizer.ggml.merges');
    expect(merges).toHaveLength(48900);
    expect(merges.slice(0, 2)).toEqual(['Ġ t', 'Ġ a']);
    // Every merge makes a token: decoding shifted by one unit anywhere would break this from there on.
    const known = new Set(tokens);
    expect(merges.filter((merge) => !known.has(merge.replace(' ', '')))).toEqual([]);

    const embedding = file.tensors.get('token_embd.weight')!;
    expect(embedding).toMatchObject({
      type: 'Q4_0',
      ne: [576, 49152],
      shard: 1,
      byteLength: 15925248,
    });
    const output = file.tensors.get('output.weight')!;
    expect(output.shard).toBe(7);
    const range = [18 * 1000, 18 * 500] as const; // the one is a copy of the other
    expect(await file.read(embedding, ...range)).toEqual(await file.read(output, ...range));
  });

  test('its header is read by growing ranges and little beyond', async () => {
    const shards = await realShards();
    const started = performance.now();
    await openGguf(shards);
    const tookMs = performance.now() - started;
    const [first, ...others] = shards;
    expect(first!.readBytes).toBe(first!.byteLength); // all header
    expect(first!.largestRead).toBeLessThan(first!.byteLength);
    for (const { reads, readBytes } of others) expect([reads, readBytes]).toEqual([1, 65536]);
    console.log(`header of ${first!.byteLength} bytes and 7 more shards: ${tookMs.toFixed(0)} ms`);
    expect(tookMs).toBeLessThan(1000); // far above what it takes: a guard against a slow path, not a measurement
  });
});

describe('a sound file', () => {
  test('gives every tensor of the tiny models where Python found it', async () => {
    for (const type of ['f32', 'q8_0', 'q4_0']) {
      const file = await openGguf([await fileSource(tiny(type))]);
      expect(file.tensors.size).toBe(89);
      const whole = readFileSync(tiny(type));
      const norm = file.tensors.get('output_norm.weight')!;
      expect(await file.read(norm)).toEqual(
        new Uint8Array(whole.subarray(norm.offset, norm.offset + 256)),
      );
      const last = [...file.tensors.values()].at(-1)!;
      expect(last.name).toBe('blk.3.ffn_down_shexp.weight');
      expect(file.shards[0]!.byteLength - (last.offset + last.byteLength)).toBeLessThan(32);
    }
  });

  test('gives every type of value', async () => {
    const keys: KeyRow[] = [
      ['u8', 'u8', 255],
      ['i8', 'i8', -128],
      ['u16', 'u16', 65535],
      ['i16', 'i16', -32768],
      ['u32', 'u32', 4294967295],
      ['i32', 'i32', -2147483648],
      ['f32', 'f32', 0.5],
      ['f64', 'f64', 0.1],
      ['u64', 'u64', 2n ** 64n - 1n],
      ['i64', 'i64', -(2n ** 63n)],
      ['true', 'bool', true],
      ['false', 'bool', false],
      ['text', 'string', 'naïve 🐉\uFEFF'],
      ['empty', 'string', ''],
      ['u8s', ['u8'], [1, 2]],
      ['i8s', ['i8'], [-1]],
      ['u16s', ['u16'], [1, 65535]],
      ['i16s', ['i16'], [-2]],
      ['u32s', ['u32'], [4294967295]],
      ['i32s', ['i32'], [-3, 3]],
      ['f32s', ['f32'], [1.5, -2.5]],
      ['f64s', ['f64'], [0.1]],
      ['u64s', ['u64'], [2n ** 64n - 1n]],
      ['i64s', ['i64'], [-1n]],
      ['bools', ['bool'], [true, false]],
      ['none', ['f32'], []],
      ['texts', ['string'], ['', '\uFEFF', 'é', '', '𝄞a', 'Ġ']],
    ];
    const { metadata } = await openBytes(writeGguf(keys, []));
    expect([...metadata]).toEqual([
      ...keys.slice(0, 14).map(([key, , value]) => [key, value]),
      ['u8s', new Uint8Array([1, 2])],
      ['i8s', new Int8Array([-1])],
      ['u16s', new Uint16Array([1, 65535])],
      ['i16s', new Int16Array([-2])],
      ['u32s', new Uint32Array([4294967295])],
      ['i32s', new Int32Array([-3, 3])],
      ['f32s', new Float32Array([1.5, -2.5])],
      ['f64s', new Float64Array([0.1])],
      ['u64s', new BigUint64Array([2n ** 64n - 1n])],
      ['i64s', new BigInt64Array([-1n])],
      ['bools', new Uint8Array([1, 0])],
      ['none', new Float32Array(0)],
      ['texts', ['', '\uFEFF', 'é', '', '𝄞a', 'Ġ']],
    ]);
  });

  test('may be of version 2, and aligned otherwise', async () => {
    const keys: KeyRow[] = [['general.alignment', 'u32', 256]];
    const bytes = writeGguf(keys, [tensor('a', 3), tensor('b', 5)], { version: 2, alignment: 256 });
    const file = await openBytes(bytes);
    expect([...file.tensors.values()].map((t) => t.offset % 256)).toEqual([0, 0]);
    expect(new Float32Array((await file.read(file.tensors.get('b')!)).buffer)).toEqual(
      new Float32Array([5, 6, 7, 8, 9]),
    );
    expect(new Float32Array((await file.read(file.tensors.get('b')!, 4, 8)).buffer)).toEqual(
      new Float32Array([6, 7]),
    );
  });

  test('keeps a vocabulary whole that crosses many ranges', async () => {
    const letters = ['a', 'Ġ', 'é', '中', '🐉', '\uFEFF', ''];
    const tokens = Array.from(
      { length: 163_840 },
      (_, i) =>
        Array.from({ length: i % 9 }, (_, j) => letters[(i * 7 + j * j) % letters.length]).join(
          '',
        ) + i,
    );
    const source = memorySource('big', writeGguf([['tokens', ['string'], tokens]], []));
    const { metadata } = await openGguf([source]);
    expect(metadata.get('tokens')).toEqual(tokens);
    expect(source.reads).toBeGreaterThan(4);
    expect(source.readBytes).toBe(source.byteLength);
  });

  test('may hold bytes that are no UTF-8: they become U+FFFD, their neighbours stay', async () => {
    const bytes = writeGguf([['tokens', ['string'], ['before', 'a1', '2b', 'after']]], []);
    const tokens = async (): Promise<unknown> => (await openBytes(bytes)).metadata.get('tokens');
    const digit = (text: string): number => bytes.indexOf(text.charCodeAt(0), 40);
    const [first, second] = [digit('1'), digit('2')];
    bytes[first] = 0xff;
    expect(await tokens()).toEqual(['before', 'a\uFFFD', '2b', 'after']);
    // The two bytes of é with a boundary between them: sound together, but neither is a character alone.
    [bytes[first], bytes[second]] = [0xc3, 0xa9];
    expect(await tokens()).toEqual(['before', 'a\uFFFD', '\uFFFDb', 'after']);
  });

  test('split in shards is the same as whole', async () => {
    const keys: KeyRow[] = [['general.architecture', 'string', 'x']];
    const all = [tensor('a', 3), tensor('b', 40), tensor('c', 9), tensor('d', 1)];
    const part = (no: number, tensors: TensorRow[], more: KeyRow[] = []): Uint8Array =>
      writeGguf(
        [
          ...more,
          ['split.no', 'u16', no],
          ['split.count', 'u16', 3],
          ['split.tensors.count', 'i32', 4],
        ],
        tensors,
      );
    const whole = await openBytes(writeGguf(keys, all));
    const split = await openBytes(
      part(2, all.slice(1)),
      part(0, [], keys),
      part(1, all.slice(0, 1)),
    );
    expect([...split.tensors.keys()]).toEqual([...whole.tensors.keys()]);
    expect(metaString(split.metadata, 'general.architecture')).toBe('x');
    for (const [name, entry] of whole.tensors) {
      const other = split.tensors.get(name)!;
      expect({ ...other, shard: 0, offset: 0 }).toEqual({ ...entry, offset: 0 });
      expect(await split.read(other)).toEqual(await whole.read(entry));
    }
  });
});

describe('reading a tensor', () => {
  test('outside its bytes is refused', async () => {
    const file = await openBytes(writeGguf([], [tensor('a', 3), tensor('b', 3)]));
    const a = file.tensors.get('a')!;
    for (const [from, count] of [
      [-4, 8],
      [0, 13],
      [12, 1],
      [0, -1],
      [NaN, 4],
    ] as const) {
      await expect(file.read(a, from, count)).rejects.toMatchObject({ name: 'Refused' });
    }
    expect(await file.read(a, 12, 0)).toHaveLength(0);
  });

  test('from a source that gives too little is an error', async () => {
    const source = memorySource('short', writeGguf([], [tensor('a', 3)]));
    const file = await openGguf([source]);
    source.read = () => Promise.resolve(new Uint8Array(5));
    await expect(file.read(file.tensors.get('a')!)).rejects.toMatchObject({
      name: 'BadModel',
      message: expect.stringMatching(/gave 5 bytes .* 12 were asked/) as unknown,
    });
  });
});

describe('metadata getters', () => {
  const metadata = new Map(
    Object.entries({
      n: 3,
      big: 2n ** 60n,
      small: 7n,
      text: 'x',
      list: new Uint8Array(2),
      long: new BigInt64Array([2n ** 60n]),
    }),
  );
  test.each([
    [() => metaNumber(metadata, 'gone'), /key gone is missing; a number is needed/],
    [() => metaNumber(metadata, 'text'), /key text is the string "x"; a number is needed/],
    [() => metaNumber(metadata, 'big'), /smaller number/],
    [() => metaString(metadata, 'n'), /key n is the number "3"; a text is needed/],
    [() => metaBoolean(metadata, 'n'), /true or false/],
    [() => metaStrings(metadata, 'list'), /is an array of 2 \(Uint8Array\); an array of texts/],
    [() => metaNumbers(metadata, 'n'), /an array of numbers/],
    [() => metaNumbers(metadata, 'long'), /smaller numbers/],
  ])('%# names key, found and wanted', (get, message) => {
    expect(get).toThrow(
      expect.objectContaining({
        name: 'BadModel',
        message: expect.stringMatching(message) as unknown,
      }),
    );
  });
  test('64-bit integers that fit are numbers', () => {
    expect(metaNumber(metadata, 'small')).toBe(7);
  });
});

describe('a file that is not sound', () => {
  const sound = writeGguf([['general.name', 'string', 'sound']], [tensor('a', 8), tensor('b', 8)]);

  test('is refused wherever it is cut off', async () => {
    await openBytes(sound);
    for (let length = 0; length < sound.length; length++) {
      await expect(openBytes(sound.slice(0, length))).rejects.toMatchObject({ name: 'BadModel' });
    }
  });

  test('names what it found instead of GGUF', async () => {
    const other = (head: string): Uint8Array => new TextEncoder().encode(head.padEnd(64));
    await expectRefused([other('PK..')], 'BadModel', /begins with "PK\.\."/);
    await expectRefused([other('<!doctype html>')], 'BadModel', /begins with "<!do"/);
    await expectRefused([new Uint8Array(64)], 'BadModel', /begins with bytes 00 00 00 00/);
    await expectRefused([new Uint8Array(3)], 'BadModel', /has 3 of the 24 bytes/);
    await expect(openGguf([])).rejects.toMatchObject({ name: 'Refused' });
  });

  const lying: [what: string, lies: Partial<GgufPlan>, name: ErrorName, message: RegExp][] = [
    ['version 1', { version: 1 }, 'Unsupported', /version 1/],
    ['version 4', { version: 4 }, 'Unsupported', /version 4/],
    ['version 0', { version: 0 }, 'Unsupported', /version 0/],
    ['big-endian', { version: 0x03000000 }, 'Unsupported', /big-endian/],
    ['2^63 tensors', { tensorCount: 2n ** 63n }, 'BadModel', /room for 922337203685477/],
    ['2^63 keys', { keyCount: 2n ** 63n }, 'BadModel', /room for 922337203685477/],
    ['a tensor too many', { tensorCount: 3 }, 'BadModel', /tensor 3 of 3|name of tensor 3|empty/],
    ['a key too many', { keyCount: 2 }, 'BadModel', /./],
    ['no key at all', { keyCount: 0 }, 'BadModel', /./],
  ];
  test.each(lying)('%s', async (_, lies, name, message) => {
    const bytes = writeGguf(
      [['general.name', 'string', 'x']],
      [tensor('a', 8), tensor('b', 8)],
      lies,
    );
    await expectRefused([bytes], name, message);
  });

  const broken: [what: string, rows: TensorRow[], name: ErrorName, message: RegExp][] = [
    ['the same name twice', [tensor('a', 8), tensor('a', 8)], 'BadModel', /tensor a twice/],
    ['no name', [tensor('', 8)], 'BadModel', /empty string/],
    ['an endless name', [tensor('n'.repeat(5000), 8)], 'BadModel', /5000 characters/],
    [
      'overlapping tensors',
      [tensor('a', 16), tensor('b', 8, 32)],
      'BadModel',
      /a and b in the same place/,
    ],
    ['the same place twice', [tensor('a', 16), tensor('b', 8, 0)], 'BadModel', /in the same place/],
    ['an offset not aligned', [tensor('a', 16, 4)], 'BadModel', /a at 4, no multiple of 32/],
    ['an offset past the end', [tensor('a', 16, 64)], 'BadModel', /needs 64 bytes from/],
    [
      'an offset of 2^63',
      [{ ...tensor('a', 16), offset: 2n ** 63n }],
      'BadModel',
      /needs 64 bytes from/,
    ],
    [
      'an offset that wraps',
      [{ ...tensor('a', 16), offset: 2n ** 64n - 32n }],
      'BadModel',
      /needs 64 bytes/,
    ],
    ['no extents', [{ ...tensor('a', 8), ne: [] }], 'BadModel', /a 0 dimensions/],
    ['five extents', [{ ...tensor('a', 8), ne: [8, 1, 1, 1, 1] }], 'BadModel', /a 5 dimensions/],
    [
      'an extent of zero',
      [{ ...tensor('a', 8), ne: [8, 0] }],
      'BadModel',
      /impossible shape \[8, 0\]/,
    ],
    ['an extent of 2^63', [{ ...tensor('a', 8), ne: [2n ** 63n] }], 'BadModel', /impossible shape/],
    [
      'extents that overflow',
      [{ ...tensor('a', 8), ne: [2n ** 32n, 2n ** 32n] }],
      'BadModel',
      /impossible/,
    ],
    [
      'more than the file has',
      [{ ...tensor('a', 8), ne: [2 ** 40] }],
      'BadModel',
      /needs 4398046511104 bytes/,
    ],
    [
      'half a block',
      [{ ...tensor('a', 8), ne: [16, 2], type: 2 }],
      'BadModel',
      /Q4_0: rows of 16.* 32/,
    ],
    ['IQ2_XXS', [{ ...tensor('w', 8), type: 16 }], 'Unsupported', /tensor w in ggml type IQ2_XXS/],
    ['TQ1_0', [{ ...tensor('w', 8), type: 34 }], 'Unsupported', /TQ1_0/],
    ['MXFP4', [{ ...tensor('w', 8), type: 39 }], 'Unsupported', /MXFP4/],
    ['Q8_K', [{ ...tensor('w', 8), type: 15 }], 'Unsupported', /Q8_K/],
    ['I32', [{ ...tensor('w', 8), type: 26 }], 'Unsupported', /I32/],
    [
      'no type at all',
      [{ ...tensor('w', 8), type: 4_000_000_000 }],
      'Unsupported',
      /number 4000000000/,
    ],
  ];
  test.each(broken)('tensors: %s', async (_, rows, name, message) => {
    await expectRefused([writeGguf([], rows)], name, message);
  });

  /** One key with bytes of our own behind its type. */
  const rawKey = (type: number, write: (value: Bytes) => void): Uint8Array => {
    const bytes = new Bytes();
    bytes.append(new TextEncoder().encode('GGUF'));
    bytes.number('u32', 3);
    bytes.number('u64', 0);
    bytes.number('u64', 1);
    bytes.string('key');
    bytes.number('u32', type);
    write(bytes);
    bytes.append(new Uint8Array(64));
    return bytes.all();
  };
  const array = (type: number, count: bigint, length?: bigint): Uint8Array =>
    rawKey(9, (value) => {
      value.number('u32', type);
      value.number('u64', count);
      if (length !== undefined) value.number('u64', length);
    });
  const values: [what: string, bytes: Uint8Array, name: ErrorName, message: RegExp][] = [
    ['an unknown type', rawKey(13, () => {}), 'BadModel', /unknown type 13 in key key/],
    ['a string of 2^63', rawKey(8, (v) => v.number('u64', 2n ** 63n)), 'BadModel', /ends at byte/],
    ['a string past the end', rawKey(8, (v) => v.number('u64', 65)), 'BadModel', /needs 65 bytes/],
    ['an array of 2^63 bytes', array(0, 2n ** 63n), 'BadModel', /room for/],
    ['an array past the end', array(4, 17n), 'BadModel', /room for 17/],
    ['an array of an unknown type', array(99, 1n), 'BadModel', /unknown type 99/],
    ['2^61 strings', array(8, 2n ** 61n), 'BadModel', /room for/],
    ['a string of 2^63 in an array', array(8, 2n, 2n ** 63n), 'BadModel', /a string of key key/],
    ['a string past the end in an array', array(8, 1n, 65n), 'BadModel', /a string of key key/],
    ['nested arrays', array(9, 1n), 'Unsupported', /nested arrays in key key/],
    ['a boolean of 2', rawKey(7, (v) => v.number('u8', 2)), 'BadModel', /has 2 where key key/],
  ];
  test.each(values)('values: %s', async (_, bytes, name, message) => {
    await expectRefused([bytes], name, message);
  });

  test.each([
    ['alignment 0', [['general.alignment', 'u32', 0]], /alignment of 0/],
    ['alignment 48', [['general.alignment', 'u32', 48]], /alignment of 48/],
    [
      'alignment of text',
      [['general.alignment', 'string', '32']],
      /general\.alignment is the string/,
    ],
    ['alignment beyond the file', [['general.alignment', 'u32', 2 ** 31]], /ends at byte/],
    [
      'a key twice',
      [
        ['a', 'u8', 1],
        ['a', 'u8', 1],
      ],
      /key a twice/,
    ],
    ['a key with no name', [['', 'u8', 1]], /empty string/],
  ] as [string, KeyRow[], RegExp][])('keys: %s', async (_, keys, message) => {
    await expectRefused([writeGguf(keys, [tensor('a', 8)])], 'BadModel', message);
  });

  test('a header too long for any model is refused before it is read', async () => {
    const head = array(0, 200n * 1024n * 1024n);
    const source = memorySource('huge', head);
    const huge = { ...source, byteLength: 2 ** 40 };
    let readBytes = 0;
    huge.read = (offset, byteLength) => {
      readBytes += byteLength;
      const bytes = new Uint8Array(byteLength);
      bytes.set(head.subarray(offset, offset + byteLength));
      return Promise.resolve(bytes);
    };
    await expect(openGguf([huge])).rejects.toMatchObject({
      name: 'BadModel',
      message: expect.stringMatching(/a header may have 67108864 bytes/) as unknown,
    });
    expect(readBytes).toBe(65536);
  });

  describe('in shards', () => {
    const part = (no: number, count: number, tensors: TensorRow[], total = 2): Uint8Array =>
      writeGguf(
        [
          ['split.no', 'u16', no],
          ['split.count', 'u16', count],
          ['split.tensors.count', 'i32', total],
        ],
        tensors,
      );
    const a = tensor('a', 8);
    const b = tensor('b', 8);
    test.each([
      ['one alone', [part(0, 2, [a])], /shard 1 of 2, but it came alone/],
      ['one missing', [part(0, 3, [a]), part(2, 3, [b])], /of 3, but 2 files were given/],
      ['one twice', [part(1, 2, [a]), part(1, 2, [b])], /both say they are shard 2 of 2/],
      ['a number too large', [part(0, 2, [a]), part(2, 2, [b])], /says it is shard 3 of 2/],
      ['a tensor twice', [part(0, 2, [a]), part(1, 2, [a])], /tensor a twice/],
      ['too few tensors', [part(0, 2, [a], 3), part(1, 2, [b])], /promises 3 tensors.*hold 2/],
      ['a whole model among them', [part(0, 2, [a]), writeGguf([], [b])], /a whole model.*2 files/],
    ] as [string, Uint8Array[], RegExp][])('%s', async (_, files, message) => {
      await expectRefused(files, 'BadModel', message);
    });
  });
});

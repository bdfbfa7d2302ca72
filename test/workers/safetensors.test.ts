import { describe, expect, test } from 'vitest';
import {
  joinHeader,
  writeSafetensors,
  type WrittenTensor,
} from '../../tools/fixtures/safetensorsWriter.ts';
import type { ByteSource } from '../../workers/gguf.ts';
import { parseJson } from '../../workers/json.ts';
import type { ErrorName } from '../../workers/protocol.ts';
import { openWeights, readNumbers, readSafetensors } from '../../workers/safetensors.ts';
import { memorySource } from './ggufWriter.ts';

const f32 = (name: string, shape: number[], first = 0): WrittenTensor => {
  const count = shape.reduce((a, b) => a * b, 1);
  const numbers = Float32Array.from({ length: count }, (_, i) => first + i);
  return { name, dtype: 'F32', shape, bytes: new Uint8Array(numbers.buffer) };
};
const halves = (name: string, dtype: 'F16' | 'BF16', ...bits: number[]): WrittenTensor => ({
  name,
  dtype,
  shape: [bits.length],
  bytes: new Uint8Array(Uint16Array.from(bits).buffer),
});

const three = [
  f32('a', [2, 3]),
  halves('b', 'BF16', 0x3f80, 0xc000, 0x4049),
  halves('c', 'F16', 0x3c00, 0xc000, 0x0001, 0x7bff),
];

/** A file whose header says just this. */
const stating = (header: unknown, bodyBytes: number): Uint8Array =>
  joinHeader(
    new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header)),
    [new Uint8Array(bodyBytes)],
  );

describe('one file', () => {
  test('gives its tensors, and their numbers by range', async () => {
    const source = memorySource('w.safetensors', writeSafetensors(three));
    const [a, b, c] = await readSafetensors(source);
    expect(a).toMatchObject({ name: 'a', dtype: 'F32', shape: [2, 3], byteLength: 24 });
    expect([...(await readNumbers(a, 0, 6))]).toEqual([0, 1, 2, 3, 4, 5]);
    expect([...(await readNumbers(a, 2, 3))]).toEqual([2, 3, 4]);
    expect([...(await readNumbers(b, 0, 3))]).toEqual([1, -2, 3.140625]);
    expect([...(await readNumbers(c, 1, 3))]).toEqual([-2, 2 ** -24, 65504]);
    expect(source.largestRead).toBeLessThanOrEqual(source.byteLength);
  });

  test('reads no more than the header', async () => {
    const bytes = writeSafetensors([f32('large', [1000, 100])]);
    const source = memorySource('w.safetensors', bytes);
    await readSafetensors(source);
    expect(source.readBytes).toBe(bytes.length - 400_000);
  });

  test('a scalar, and a name like that of a prototype, are tensors like others', async () => {
    const file = writeSafetensors([f32('__proto__', []), f32('constructor', [1])]);
    const found = await readSafetensors(memorySource('w.safetensors', file));
    expect(found.map(({ name }) => name)).toEqual(['__proto__', 'constructor']);
  });

  const entry = (dtype: unknown, shape: unknown, offsets: unknown) => ({
    t: { dtype, shape, data_offsets: offsets },
  });
  const refusals: [why: string, file: Uint8Array, ErrorName, RegExp][] = [
    ['nothing', new Uint8Array(0), 'BadModel', /0 bytes, too few/],
    ['too little', new Uint8Array(9), 'BadModel', /9 bytes, too few/],
    [
      'a header longer than the file',
      writeSafetensors(three).slice(0, 60),
      'BadModel',
      /header alone/,
    ],
    [
      'a header without end',
      Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255, 0, 0),
      'BadModel',
      /header alone is to have 18446744073709552000/,
    ],
    [
      'a header that is no JSON',
      stating('{"t":', 0),
      'BadModel',
      /header of w\.safetensors is not JSON/,
    ],
    ['a header that is a list', stating('[]      ', 0), 'BadModel', /not a JSON object/],
    [
      'bytes that are no text',
      joinHeader(Uint8Array.of(0x7b, 0xff, 0x7d), []),
      'BadModel',
      /is not JSON/,
    ],
    ['a tensor that is no object', stating({ t: 3 }, 0), 'BadModel', /no object/],
    ['no type', stating(entry(undefined, [1], [0, 4]), 4), 'BadModel', /no type for tensor t/],
    [
      'a type of its own',
      stating(entry('F8_E4M3', [4], [0, 4]), 4),
      'Unsupported',
      /as F8_E4M3; BF16/,
    ],
    [
      'a shape that is none',
      stating(entry('F32', [1.5], [0, 6]), 6),
      'BadModel',
      /impossible shape/,
    ],
    ['a negative extent', stating(entry('F32', [-1], [0, 4]), 4), 'BadModel', /impossible shape/],
    ['an empty tensor', stating(entry('F32', [0], [0, 0]), 0), 'BadModel', /impossible shape/],
    [
      'too many extents',
      stating(entry('F32', [1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 4]), 4),
      'BadModel',
      /impossible shape/,
    ],
    [
      'a shape beyond all numbers',
      stating(entry('F32', [2 ** 50, 2 ** 50, 2 ** 50], [0, 4]), 4),
      'BadModel',
      /need 5\.\d+e\+45/,
    ],
    ['no place', stating(entry('F32', [1], null), 4), 'BadModel', /does not say where/],
    ['a place backwards', stating(entry('F32', [1], [4, 0]), 4), 'BadModel', /does not say where/],
    [
      'too few bytes',
      stating(entry('F32', [2], [0, 4]), 4),
      'BadModel',
      /4 bytes, but 2 F32 need 8/,
    ],
    ['a place beyond the end', stating(entry('F32', [2], [0, 8]), 4), 'BadModel', /tensors end at/],
    ['bytes left over', stating(entry('F32', [1], [0, 4]), 5), 'BadModel', /its tensors end at/],
    [
      'a hole in front',
      stating(entry('F32', [1], [4, 8]), 8),
      'BadModel',
      /4 bytes in front of tensor t/,
    ],
    [
      'an overlap',
      writeSafetensors(three, { b: { dtype: 'F32', shape: [2], data_offsets: [16, 24] } }),
      'BadModel',
      /has tensor b in the place of another/,
    ],
    [
      'a tensor twice',
      stating(
        '{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        8,
      ),
      'BadModel',
      /4 bytes in front/,
    ],
    ['an empty name', writeSafetensors([f32('', [1])]), 'BadModel', /0 characters/],
    [
      'a name without end',
      writeSafetensors([f32('n'.repeat(2000), [1])]),
      'BadModel',
      /2000 characters/,
    ],
    [
      'a header of nests',
      stating('{"t":'.repeat(100_000), 0),
      'BadModel',
      /nested more than 4 deep/,
    ],
    [
      'a header of lists',
      stating(`{"t":[${'0,'.repeat(1_200_000)}0]}`, 0),
      'BadModel',
      /1200004 values; 1000000 are the most/,
    ],
  ];
  test.each(refusals)('is refused with %s', async (_, bytes, name, message) => {
    const source = memorySource('w.safetensors', bytes);
    const started = performance.now();
    await expect(readSafetensors(source)).rejects.toMatchObject({
      name,
      message: expect.stringMatching(message) as unknown,
    });
    expect(performance.now() - started).toBeLessThan(1000);
    expect(source.readBytes).toBeLessThanOrEqual(bytes.length);
  });

  test('of 20 GB with a header of 17 MB is refused unread', async () => {
    const asked: number[] = [];
    const source: ByteSource = {
      name: 'huge.safetensors',
      byteLength: 20e9,
      read: (_, count) => {
        asked.push(count);
        return Promise.resolve(new Uint8Array(new BigUint64Array([17_000_000n]).buffer));
      },
    };
    await expect(readSafetensors(source)).rejects.toMatchObject({
      name: 'BadModel',
      message: expect.stringMatching(/a header of 17000000 bytes/) as unknown,
    });
    expect(asked).toEqual([8]);
  });

  test('a source that gives too little is named', async () => {
    const bytes = writeSafetensors(three);
    const source = memorySource('w.safetensors', bytes);
    const [a] = await readSafetensors(source);
    const cut = { ...a, source: memorySource('cut.safetensors', bytes.slice(0, a.offset + 10)) };
    await expect(readNumbers(cut, 0, 6)).rejects.toMatchObject({
      name: 'BadModel',
      message: expect.stringMatching(/cut\.safetensors gave 10 bytes/) as unknown,
    });
  });
});

describe('several files', () => {
  const index = (weightMap: unknown) => ({
    name: 'model.safetensors.index.json',
    bytes: new TextEncoder().encode(JSON.stringify({ metadata: {}, weight_map: weightMap })),
  });
  const one = {
    name: 'one.safetensors',
    bytes: writeSafetensors([f32('a', [2]), f32('b', [3], 9)]),
  };
  const two = { name: 'two.safetensors', bytes: writeSafetensors([f32('c', [1])]) };
  const open = (...files: { name: string; bytes: Uint8Array }[]) =>
    openWeights(files.map(({ name, bytes }) => memorySource(name, bytes)));
  const places = { a: 'one.safetensors', b: 'one.safetensors', c: 'two.safetensors' };

  test('are put together by their index', async () => {
    const tensors = await open(two, index(places), one);
    expect([...tensors.keys()]).toEqual(['a', 'b', 'c']);
    expect(tensors.get('b')!.source.name).toBe('one.safetensors');
    expect([...(await readNumbers(tensors.get('b')!, 0, 3))]).toEqual([9, 10, 11]);
  });

  test('or by their numbers; one file alone needs neither', async () => {
    const numbered = [one, two].map(({ bytes }, i) => ({
      name: `model-0000${i + 1}-of-00002.safetensors`,
      bytes,
    }));
    expect([...(await open(...numbered)).keys()]).toEqual(['a', 'b', 'c']);
    expect([...(await open(one)).keys()]).toEqual(['a', 'b']);
  });

  const refusals: [why: string, files: { name: string; bytes: Uint8Array }[], ErrorName, RegExp][] =
    [
      ['no weights', [], 'Refused', /no \.safetensors file/],
      [
        'a file missing',
        [index(places), one],
        'BadModel',
        /two\.safetensors is missing: .* 2 files/,
      ],
      [
        'a number missing',
        [{ ...one, name: 'model-00001-of-00002.safetensors' }],
        'BadModel',
        /is one of 2, and 1 were given/,
      ],
      ['files of two checkpoints', [one, two], 'BadModel', /is one of 1, and 2 were given/],
      ['an index without a map', [index(undefined), one], 'BadModel', /has no weight_map/],
      ['an empty index', [index({}), one], 'BadModel', /lists 0 tensors/],
      ['an index of numbers', [index({ a: 1 }), one], 'BadModel', /names no file for tensor a/],
      [
        'a tensor elsewhere than promised',
        [index({ ...places, c: 'one.safetensors', b: 'two.safetensors' }), one, two],
        'BadModel',
        /has tensor b, unlike the index/,
      ],
      [
        'a tensor that is not there',
        [index({ ...places, d: 'two.safetensors' }), one, two],
        'BadModel',
        /promises tensor d in two\.safetensors/,
      ],
      [
        'a tensor in two files',
        [1, 2].map((n) => ({ ...one, name: `model-0000${n}-of-00002.safetensors` })),
        'BadModel',
        /has tensor a, which another file has/,
      ],
    ];
  test.each(refusals)('are refused with %s', async (_, files, name, message) => {
    await expect(open(...files)).rejects.toMatchObject({
      name,
      message: expect.stringMatching(message) as unknown,
    });
  });
});

describe('JSON within limits', () => {
  const limits = { bytes: 100, depth: 3, values: 10 };
  const parse = (text: string) => parseJson(new TextEncoder().encode(text), 'x.json', limits);
  test('what stands in texts is no structure', () => {
    expect(parse('{"a":"[[[[{{{{,,,,,,,,,,,,\\"::::"}')).toEqual({
      a: '[[[[{{{{,,,,,,,,,,,,"::::',
    });
    expect(parse('{"\\\\":[1]}')).toEqual({ '\\': [1] });
  });
  test('each limit is held', () => {
    expect(parse('{"a":[[1]]}')).toEqual({ a: [[1]] });
    expect(() => parse('{"a":[[[1]]]}')).toThrow(/nested more than 3 deep/);
    expect(() => parse('{"a":[1,2,3,4,5,6,7,8,9]}')).toThrow(/12 values; 10 are the most/);
    expect(() => parse(`{"a":"${'x'.repeat(100)}"}`)).toThrow(/108 bytes; 100 are the most/);
  });
});

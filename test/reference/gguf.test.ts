import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { dequantise, openGguf, type TensorType } from './gguf.ts';
import { fixture, loadGolden } from './golden.ts';
import { openModel } from './model.ts';
import { roundToHalf, roundToInt8 } from './rounding.ts';

const folder = mkdtempSync(join(tmpdir(), 'oracle-gguf-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('dequantise', () => {
  const golden = loadGolden('quant');

  it.each(['F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q8_0'] as TensorType[])(
    '%s, bit for bit',
    (type) => {
      const bytes = golden.array(`${type}.bytes`).values as Uint8Array;
      expect(dequantise(type, bytes)).toEqual(golden.array(`${type}.decoded`).values);
    },
  );

  it('Q5_1: (nibble + 16 bit) d + m', () => {
    const block = new Uint8Array(24);
    block.set([0x00, 0x38, 0x00, 0xc0]); // d = 0.5, m = -2
    block.set([0x01, 0x00, 0x02, 0x00], 4); // fifth bits of numbers 0 and 17
    block[8] = 0x73; // number 0: 3, number 16: 7
    block[9] = 0x40; // number 1: 0, number 17: 4
    const values = dequantise('Q5_1', block);
    expect([values[0], values[1], values[16], values[17]]).toEqual([7.5, -2, 1.5, 8]);
  });
});

describe('rounding of activations', () => {
  const golden = loadGolden('quant');
  const values = golden.array('values').values as Float32Array;

  it('roundToInt8 = stored as Q8_0 and read again', () => {
    expect(Float32Array.from(roundToInt8(values))).toEqual(golden.array('Q8_0.decoded').values);
  });

  it('roundToHalf = stored as F16 and read again', () => {
    expect(values.map(roundToHalf)).toEqual(golden.array('F16.decoded').values);
    expect([0, 2 ** -24, 2 ** -25, 65504, 65519, 65520, -1e9].map(roundToHalf)).toEqual([
      0,
      2 ** -24,
      0,
      65504,
      65504,
      Infinity,
      -Infinity,
    ]);
  });
});

describe('openGguf', () => {
  it('reads part of a tensor as the whole has it', () => {
    const { tensors } = openGguf(fixture('tiny-q4_0.gguf'));
    const tensor = tensors.get('blk.1.ffn_down_exps.weight')!;
    expect(tensor).toMatchObject({ type: 'Q4_0', shape: [6, 64, 32] });
    const all = tensor.read(0, 6 * 64 * 32);
    expect(tensor.read(64 * 32, 32)).toEqual(all.slice(64 * 32, 64 * 32 + 32));
  });

  it('reads metadata of every type', () => {
    const path = join(folder, 'metadata.gguf');
    writeFileSync(
      path,
      gguf([
        ['u8', 0, u8(200)],
        ['i8', 1, u8(200)],
        ['u16', 2, u8(0xff, 0xff)],
        ['i16', 3, u8(0xfe, 0xff)],
        ['u32', 4, u8(0, 0, 0, 0x80)],
        ['i32', 5, u8(0, 0, 0, 0x80)],
        ['f32', 6, u8(0, 0, 0xc0, 0x3f)],
        ['yes', 7, u8(1)],
        ['string', 8, text('Tinte – 墨')],
        [
          'array',
          9,
          [...u8(9, 0, 0, 0), ...u64(2), ...list(2, u8(7, 0), u8(8, 0)), ...list(8, text(''))],
        ],
        ['u64', 10, u64(2 ** 40)],
        ['i64', 11, new Array<number>(8).fill(0xff)],
        ['f64', 12, u8(0, 0, 0, 0, 0, 0, 0xf8, 0x3f)],
      ]),
    );
    expect(Object.fromEntries(openGguf(path).metadata)).toEqual({
      u8: 200,
      i8: -56,
      u16: 65535,
      i16: -2,
      u32: 2 ** 31,
      i32: -(2 ** 31),
      f32: 1.5,
      yes: true,
      string: 'Tinte – 墨',
      array: [[7, 8], ['']],
      u64: 2n ** 40n,
      i64: -1n,
      f64: 1.5,
    });
  });

  it('says what it cannot read', () => {
    const path = (name: string, bytes: Uint8Array) => {
      writeFileSync(join(folder, name), bytes);
      return join(folder, name);
    };
    const sound = gguf([['general.architecture', 8, text('llama')]]);
    expect(() => openModel(path('llama.gguf', sound))).toThrow(
      'architecture llama, not kimi-linear',
    );
    expect(() =>
      openGguf(
        path(
          'no.gguf',
          Uint8Array.from(sound, (b, i) => (i ? b : 0)),
        ),
      ),
    ).toThrow('not a GGUF v3 file');
    const lost = path('x-00001-of-00002.gguf', sound);
    expect(() => openGguf(lost)).toThrow('shard 2 of 2 is missing');
    expect(() => openGguf(folder)).toThrow('shard 2 of 2 is missing');
    path('y-00001-of-00001.gguf', sound);
    expect(() => openGguf(folder)).toThrow('2 split GGUF files, not one');
    const unknown = readFileSync(fixture('tiny-f32.gguf'));
    expect(() => openGguf(path('type.gguf', withTensorType(unknown, 99)))).toThrow(
      'tensor type 99',
    );
  });
});

// ------------------------------------------------------------------------------------ bytes of a file

type Entry = [key: string, type: number, value: number[]];

/** A GGUF v3 file of metadata only. */
function gguf(metadata: Entry[]): Uint8Array {
  const entries = metadata.flatMap(([key, type, value]) => [
    ...text(key),
    ...u8(type, 0, 0, 0),
    ...value,
  ]);
  const magic = [...new TextEncoder().encode('GGUF')];
  return Uint8Array.from([
    ...magic,
    ...u8(3, 0, 0, 0),
    ...u64(0),
    ...u64(metadata.length),
    ...entries,
  ]);
}

/** The same file with its first tensor's type changed. */
function withTensorType(file: Uint8Array, type: number): Uint8Array {
  const changed = Uint8Array.from(file);
  const name = [...openGguf(fixture('tiny-f32.gguf')).tensors.keys()][0];
  const { shape } = openGguf(fixture('tiny-f32.gguf')).tensors.get(name)!;
  const at = Buffer.from(file).lastIndexOf(Buffer.from(text(name))) + text(name).length;
  changed[at + 4 + 8 * shape.length] = type;
  return changed;
}

function u8(...bytes: number[]): number[] {
  return bytes;
}

function u64(value: number): number[] {
  return [...new Uint8Array(BigUint64Array.of(BigInt(value)).buffer)];
}

function text(value: string): number[] {
  const bytes = new TextEncoder().encode(value);
  return [...u64(bytes.length), ...bytes];
}

/** An array value: item type, count, items. */
function list(type: number, ...items: number[][]): number[] {
  return [...u8(type, 0, 0, 0), ...u64(items.length), ...items.flat()];
}

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { kernel, type Library } from '../../workers/link.ts';
import {
  blockBytes,
  blockColumns,
  dequantize,
  isTensorType,
  packedRow,
  quantize,
  repack,
  rowBytes,
  rowUnit,
  type TensorType,
} from '../../workers/quant.ts';
import { dispatch, random } from '../gpu.ts';

const sources: Record<string, string> = import.meta.glob('../../shaders/lib/matrix_*.wgsl', {
  query: '?raw',
  import: 'default',
  eager: true,
});
const library = (type: TensorType): Library => {
  const name = `matrix_${type.toLowerCase()}`;
  return { name, source: sources[`../../shaders/lib/${name}.wgsl`]! };
};

const TYPES: TensorType[] = [
  'F32',
  'F16',
  'BF16',
  'Q4_0',
  'Q4_1',
  'Q5_0',
  'Q5_1',
  'Q8_0',
  'Q2_K',
  'Q3_K',
  'Q4_K',
  'Q5_K',
  'Q6_K',
  'IQ4_NL',
  'IQ4_XS',
];

const golden = bundle('quant'); // encoded by ggml's reference quantisers
const rows = bundle('quant-k'); // written by tools/fixtures/quant_k.py
const ROWS = 3;
const COLS = 1024;

interface Bundle {
  has: (key: string) => boolean;
  bytes: (key: string) => Uint8Array;
  floats: (key: string) => Float32Array<ArrayBuffer>;
}

function bundle(name: string): Bundle {
  const folder = new URL('../fixtures/', import.meta.url);
  const index = JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8')) as {
    arrays: Record<string, { dtype: string; shape: number[]; offset: number }>;
  };
  const file = readFileSync(new URL(`${name}.bin`, folder));
  const bytes = (key: string): Uint8Array => {
    const { dtype, shape, offset } = index.arrays[key]!;
    const elements = shape.reduce((a, b) => a * b, 1);
    return file.subarray(offset, offset + elements * (dtype === 'float32' ? 4 : 1));
  };
  return {
    has: (key) => key in index.arrays,
    bytes,
    floats: (key) => new Float32Array(new Uint8Array(bytes(key)).buffer),
  };
}

/** Equal to the last bit: +0 is not -0. */
function expectBits(actual: Float32Array, expected: Float32Array): void {
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length);
  const e = new Uint32Array(expected.buffer, expected.byteOffset, expected.length);
  expect(a.length).toBe(e.length);
  const at = a.findIndex((bits, i) => bits !== e[i]);
  expect(at < 0 || `element ${at}: ${actual[at]} against ${expected[at]}`).toBe(true);
}

/** Rows of random bytes with usual f16 scales: what no fixture holds, for shapes of our own choice. */
function randomRows(type: TensorType, count: number, cols: number, seed: number): Uint8Array {
  const next = random(seed);
  const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => next());
  if (type === 'F32') return new Uint8Array(values(count * cols).buffer);
  if (type === 'F16' || type === 'BF16') return quantize(type, values(count * cols));
  const bytes = Uint8Array.from({ length: count * rowBytes(type, cols) }, () => (next() + 1) * 128);
  const scaleBytes: Partial<Record<TensorType, number[]>> = {
    Q4_1: [0, 2],
    Q5_1: [0, 2],
    Q2_K: [80, 82],
    Q3_K: [108],
    Q4_K: [0, 2],
    Q5_K: [0, 2],
    Q6_K: [208],
  };
  for (let block = 0; block < bytes.length; block += blockBytes(type)) {
    for (const at of scaleBytes[type] ?? [0]) {
      bytes.set(quantize('F16', values(1)), block + at);
    }
  }
  return bytes;
}

describe('decoding', () => {
  test.each(TYPES)('%s gives the floats of ggml', (type) => {
    expectBits(
      dequantize(type, rows.bytes(`${type}.bytes`), ROWS * COLS),
      rows.floats(`${type}.decoded`),
    );
    if (golden.has(`${type}.bytes`)) {
      expectBits(
        dequantize(type, golden.bytes(`${type}.bytes`), 512),
        golden.floats(`${type}.decoded`),
      );
    }
  });

  test('the fixture holds subnormal, negative and largest scales', () => {
    const scales = (type: TensorType, at: number): number[] => {
      const bytes = rows.bytes(`${type}.bytes`);
      const blocks = Array.from(
        { length: bytes.length / blockBytes(type) },
        (_, i) => i * blockBytes(type),
      );
      return blocks.map((block) => bytes[block + at]! | (bytes[block + at + 1]! << 8));
    };
    const all = [
      ...scales('Q4_0', 0),
      ...scales('Q6_K', 208),
      ...scales('Q2_K', 82),
      ...scales('Q8_0', 0),
    ];
    expect(all.some((h) => (h & 0x7c00) === 0 && (h & 0x3ff) !== 0)).toBe(true);
    expect(all.some((h) => h & 0x8000)).toBe(true);
    expect(all).toContain(0x7bff);
  });

  test('bytes and count that disagree are refused', () => {
    expect(() => dequantize('Q4_0', new Uint8Array(17), 32)).toThrow(/18 bytes, not 17/);
    expect(() => dequantize('Q4_0', new Uint8Array(18), 31)).toThrow(/31 columns/);
  });
});

describe('encoding', () => {
  test.each(['F16', 'BF16', 'Q8_0', 'Q4_0'] as const)('%s writes the bytes of ggml', (type) => {
    expect(quantize(type, golden.floats('values'))).toEqual(
      new Uint8Array(golden.bytes(`${type}.bytes`)),
    );
    expect(quantize(type, rows.floats('edges'))).toEqual(
      new Uint8Array(rows.bytes(`edges.${type}`)),
    );
  });

  test('every f16 survives decoding and encoding', () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i).filter(
      (h) => (h & 0x7fff) <= 0x7c00,
    );
    const bytes = new Uint8Array(bits.buffer);
    expect(quantize('F16', dequantize('F16', bytes, bits.length))).toEqual(bytes);
  });

  test('NaN stays NaN', () => {
    for (const type of ['F16', 'BF16'] as const) {
      expect(dequantize(type, quantize(type, new Float32Array([NaN, -NaN])), 2)).toEqual(
        new Float32Array([NaN, NaN]),
      );
    }
  });
});

describe('the GPU layout', () => {
  const reading = kernel(
    'reading',
    /* wgsl */ `
const ROWS = 3u;
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@compute @workgroup_size(32)
fn reading(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= COLS / BLOCK || id.y >= ROWS) { return; }
  let w = block(id.y, id.x);
  y[id.y * (COLS / 4u) + quad(id.x, 0u)] = w[0];
  y[id.y * (COLS / 4u) + quad(id.x, 1u)] = w[1];
}`,
    {
      binds: ['y'],
      consts: ['ROWS'],
      grid: (c, cols) => [Math.ceil(cols / 256), c.ROWS, 1],
    },
  );

  async function readOnGpu(
    type: TensorType,
    bytes: Uint8Array,
    count: number,
    cols: number,
  ): Promise<Float32Array<ArrayBuffer>> {
    const { codes, scales } = repack(type, bytes, count, cols);
    const { y } = await dispatch({
      kernel: reading,
      libraries: [library(type)],
      consts: { ROWS: count },
      libraryConsts: { COLS: cols },
      inputs: scales ? { codes, scales } : { codes },
      outputs: { y: count * cols },
      tokens: cols,
    });
    return y!;
  }

  test('there is a library for every type and no other', () => {
    const names = Object.keys(sources).map((path) =>
      /matrix_(\w+)\.wgsl/.exec(path)![1]!.toUpperCase(),
    );
    expect(names.sort()).toEqual([...TYPES].sort());
    expect(names.every(isTensorType)).toBe(true);
  });

  const others = TYPES.filter((type) => rowUnit(type) === 1);
  test.each(others)('%s on the GPU gives the floats of ggml', async (type) => {
    const y = await readOnGpu(type, rows.bytes(`${type}.bytes`), ROWS, COLS);
    expectBits(y, rows.floats(`${type}.decoded`));
  });

  const inFours = TYPES.filter((type) => rowUnit(type) === 4);
  test.each(inFours)(
    '%s on the GPU gives the floats of ggml; groups that are scaled by 64 or more are refused',
    async (type) => {
      const stored = rows.bytes(`${type}.bytes`);
      const decoded = rows.floats(`${type}.decoded`);
      const groupBytes = blockBytes(type);
      const taken: number[] = [];
      for (let g = 0; g < stored.length / groupBytes; g++) {
        const own = stored.subarray(g * groupBytes, (g + 1) * groupBytes);
        const magnitude = (own[0]! | (own[1]! << 8)) & 0x7fff;
        if (magnitude < 0x5400 || magnitude >= 0x7c00) taken.push(g);
        else {
          expect(() => repack(type, own, 1, 32)).toThrow(
            expect.objectContaining({
              name: 'Unsupported',
              message: expect.stringMatching(`${type} weights is scaled by`),
            }),
          );
        }
      }
      expect(taken.length).toBeGreaterThan(0);
      expect(taken.length).toBeLessThan(stored.length / groupBytes);
      const bytes = new Uint8Array(taken.length * groupBytes);
      const floats = new Float32Array(taken.length * 32);
      taken.forEach((g, i) => {
        bytes.set(stored.subarray(g * groupBytes, (g + 1) * groupBytes), i * groupBytes);
        floats.set(decoded.subarray(g * 32, (g + 1) * 32), i * 32);
      });
      expectBits(await readOnGpu(type, bytes, taken.length, 32), floats);
    },
  );

  test.each(inFours)('%s on the GPU, scaled by every f16 that is not refused', async (type) => {
    const all = Array.from({ length: 65536 }, (_, bits) => bits).filter(
      (bits) => (bits & 0x7fff) < 0x5400, // subnormals and both zeros too: a group each
    );
    const groupBytes = blockBytes(type);
    const bytes = new Uint8Array(all.length * groupBytes);
    all.forEach((bits, g) => {
      const own = bytes.subarray(g * groupBytes, (g + 1) * groupBytes);
      own.set([bits & 255, bits >> 8]);
      for (let i = 2; i < groupBytes; i++) own[i] = 31 * g + 77 * i;
    });
    const [count, cols] = [all.length / 64, 2048];
    expectBits(await readOnGpu(type, bytes, count, cols), dequantize(type, bytes, count * cols));
  });

  // 32 and 96: an odd number of 16-bit scales in a row. 576 and 2304: the widths of real models.
  test.each(TYPES)('%s in rows of other lengths', async (type) => {
    for (const cols of [32, 96, 256, 576, 768, 2304].filter((n) => n % blockColumns(type) === 0)) {
      const bytes = randomRows(type, 5, cols, cols);
      expectBits(await readOnGpu(type, bytes, 5, cols), dequantize(type, bytes, 5 * cols));
    }
  });

  test.each(TYPES)('%s repacked in ranges of rows is the tensor repacked at once', (type) => {
    const cols = Math.max(96, blockColumns(type));
    const bytes = randomRows(type, 7, cols, 5);
    const { codeWords, scaleWords } = packedRow(type, cols);
    const whole = repack(type, bytes, 7, cols);
    const codes = new Uint32Array(whole.codes.length);
    const scales = new Uint32Array(7 * scaleWords);
    for (const [first, count] of [
      [0, 4],
      [4, 3],
    ] as const) {
      const perRow = rowBytes(type, cols);
      const part = repack(
        type,
        bytes.subarray(first * perRow, (first + count) * perRow),
        count,
        cols,
      );
      codes.set(part.codes, first * codeWords);
      if (part.scales) scales.set(part.scales, first * scaleWords);
    }
    expect(codes).toEqual(whole.codes);
    expect(scales).toEqual(whole.scales ?? new Uint32Array(0));
  });

  test.each(TYPES)('%s may lie at any byte of a buffer', (type) => {
    const cols = Math.max(32, blockColumns(type));
    const bytes = randomRows(type, 2, cols, 6);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expect(repack(type, shifted.subarray(1), 2, cols)).toEqual(repack(type, bytes, 2, cols));
  });

  test('rows that cannot be are refused', () => {
    expect(() => repack('Q4_K', new Uint8Array(144), 1, 128)).toThrow(
      expect.objectContaining({
        name: 'BadModel',
        message: expect.stringMatching(/128 columns.*256/),
      }),
    );
    expect(() => repack('F32', new Uint8Array(160), 1, 40)).toThrow(
      expect.objectContaining({
        name: 'Unsupported',
        message: expect.stringMatching(/40 columns/),
      }),
    );
    expect(() => repack('Q8_0', new Uint8Array(33), 1, 32)).toThrow(/34 bytes, not 33/);
  });

  test('functions that several libraries carry read the same in each', () => {
    const ownOfEach = [
      'block',
      'quad',
      'four',
      'fours',
      'ask_four',
      'asked_four',
      'bits_of',
      'kept_back',
    ];
    const bodies = new Map<string, string>();
    for (const source of Object.values(sources)) {
      for (const [text, name] of source.matchAll(/^fn (\w+)\([\s\S]*?^}/gm)) {
        if (ownOfEach.includes(name!)) continue;
        expect(bodies.get(name!) ?? text).toBe(text);
        bodies.set(name!, text);
      }
    }
    expect(bodies.size).toBeGreaterThan(3);
  });
});

/** Weight matrices in the GPU's formats, and the numbers they stand for. */
import { readFileSync } from 'node:fs';
import type { Library } from '../../workers/link.ts';
import { matrixOf } from '../../workers/kernels.ts';
import { blockBytes, dequantize, quantize, repack, type TensorType } from '../../workers/quant.ts';
import { randomValues, type Inputs } from '../gpu.ts';

export interface Matrix {
  library: Library;
  /** codes, and scales where the format has them */
  inputs: Inputs;
  /** [rows, cols], exactly what the codes mean */
  values: Float32Array;
}

/** The formats that every case runs in: one without scales, two with. */
export const FORMATS = ['F32', 'Q4_0', 'Q8_0'] as const satisfies TensorType[];

/** All others, whose rows are a multiple of 256 columns; a case or two each. */
export const OTHER_FORMATS = [
  'F16',
  'BF16',
  'Q4_1',
  'Q5_0',
  'Q5_1',
  'Q2_K',
  'Q3_K',
  'Q4_K',
  'Q5_K',
  'Q6_K',
  'IQ4_NL',
  'IQ4_XS',
] as const satisfies TensorType[];

/** A [rows, cols] matrix, of size cols^-1/2 where it can be chosen, so that products stay near 1. */
export function randomMatrix(format: TensorType, seed: number, rows: number, cols: number): Matrix {
  const bytes = bytesOf(format, seed, rows * cols, cols ** -0.5);
  const { codes, scales } = repack(format, bytes, rows, cols);
  return {
    library: matrixOf(format),
    inputs: scales ? { codes, scales } : { codes },
    values: dequantize(format, bytes, rows * cols),
  };
}

function bytesOf(format: TensorType, seed: number, count: number, size: number): Uint8Array {
  const wished = randomValues(seed, count, size);
  switch (format) {
    case 'F32':
      return new Uint8Array(wished.buffer);
    case 'F16':
    case 'BF16':
    case 'Q4_0':
    case 'Q8_0':
      return quantize(format, wished);
    default:
      return storedBlocks(format, seed, count);
  }
}

/** Blocks of a type that nothing here encodes: those of the fixture, in an order of the seed's. */
function storedBlocks(format: TensorType, seed: number, count: number): Uint8Array {
  const index = JSON.parse(readFileSync(fixture('quant-k.json'), 'utf8')) as {
    arrays: Record<string, { shape: number[]; offset: number }>;
  };
  const { shape, offset } = index.arrays[`${format}.bytes`]!;
  const stored = readFileSync(fixture('quant-k.bin')).subarray(
    offset,
    offset + shape[0]! * shape[1]!,
  );
  const bytes = blockBytes(format);
  const blocks = stored.length / bytes;
  const columns = (index.arrays[`${format}.decoded`]!.shape[1]! * shape[0]!) / blocks;
  const out = new Uint8Array((count / columns) * bytes);
  for (let i = 0; i < out.length / bytes; i++) {
    const from = ((i * 7 + seed) % blocks) * bytes;
    out.set(stored.subarray(from, from + bytes), i * bytes);
  }
  return out;
}

function fixture(name: string): URL {
  return new URL(`../fixtures/${name}`, import.meta.url);
}

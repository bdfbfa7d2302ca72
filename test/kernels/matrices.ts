/** Random weight matrices in the GPU's formats, and the numbers they stand for. */
import type { Library } from '../../workers/gpu.ts';
import { matrixOf } from '../../workers/kernels.ts';
import { dequantize, quantize, repack } from '../../workers/quant.ts';
import { randomValues, type Inputs } from '../gpu.ts';

export interface Matrix {
  library: Library;
  /** codes, and scales where the format has them */
  inputs: Inputs;
  /** [rows, cols], exactly what the codes mean */
  values: Float32Array;
}

/** The formats that kernel tests run: one without scales, two with. All others are tested where they are decoded. */
export const FORMATS = ['F32', 'Q4_0', 'Q8_0'] as const;
export type TestFormat = (typeof FORMATS)[number];

/** A [rows, cols] matrix of random numbers, of size cols^-1/2 so that products stay near 1. */
export function randomMatrix(format: TestFormat, seed: number, rows: number, cols: number): Matrix {
  const wished = randomValues(seed, rows * cols, cols ** -0.5);
  const bytes = format === 'F32' ? new Uint8Array(wished.buffer) : quantize(format, wished);
  const { codes, scales } = repack(format, bytes, rows, cols);
  return {
    library: matrixOf(format),
    inputs: scales ? { codes, scales } : { codes },
    values: dequantize(format, bytes, rows * cols),
  };
}

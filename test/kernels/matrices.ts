/** Random weight matrices in the GPU's formats, and the numbers they stand for. */
import matrixF32 from '../../shaders/lib/matrix_f32.wgsl?raw';
import matrixQ4 from '../../shaders/lib/matrix_q4_0.wgsl?raw';
import matrixQ8 from '../../shaders/lib/matrix_q8_0.wgsl?raw';
import type { Library } from '../../workers/gpu.ts';
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

const LIBRARIES: Record<TestFormat, Library> = {
  F32: { name: 'matrix_f32', source: matrixF32 },
  Q4_0: { name: 'matrix_q4_0', source: matrixQ4 },
  Q8_0: { name: 'matrix_q8_0', source: matrixQ8 },
};

/** A [rows, cols] matrix of random numbers, of size cols^-1/2 so that products stay near 1. */
export function randomMatrix(format: TestFormat, seed: number, rows: number, cols: number): Matrix {
  const wished = randomValues(seed, rows * cols, cols ** -0.5);
  const bytes = format === 'F32' ? new Uint8Array(wished.buffer) : quantize(format, wished);
  const { codes, scales } = repack(format, bytes, rows, cols);
  return {
    library: LIBRARIES[format],
    inputs: scales ? { codes, scales } : { codes },
    values: dequantize(format, bytes, rows * cols),
  };
}

/** The chunk form of Kimi Delta Attention: the calls that take a piece of tokens through the memory of a layer. */
import type { Gpu, Tensor } from './gpu.ts';
import { SUBGROUP_MATRIX } from './subgroupMatrix.ts';
import * as K from './kernels.ts';
import type { Plan } from './plan.ts';

/** Heads, key channels and values of a head. */
export interface HeadSizes {
  H: number;
  K: number;
  V: number;
}

/** What the calls read, use and leave; shapes as in the shaders kda_chunk_*. */
export interface ChunkTensors {
  mixed: Tensor;
  g: Tensor;
  beta: Tensor;
  /** The memory before the piece, and after it. */
  S: Tensor;
  o: Tensor;
  chunk: Record<keyof ReturnType<typeof K.chunkScratch>, Tensor>;
}

/**
 * Value columns of one workgroup of the scan: with 16 factors are read the fewest times, where that leaves enough workgroups for
 * a GPU and a memory that fits them.
 */
function scanColumns({ H, K: keys, V }: HeadSizes): number {
  return (H * V) / 16 < ENOUGH_WORKGROUPS || keys > 192 ? 8 : 16;
}
const ENOUGH_WORKGROUPS = 128;

/** Whether the chunk form goes by subgroup matrices: the device was opened with them, and they take heads of these sizes. */
export function takesMatrices(gpu: Gpu, { K: keys, V }: HeadSizes): boolean {
  return gpu.has(SUBGROUP_MATRIX) && (keys === 64 || keys === 128) && V % 16 === 0;
}

/**
 * From mixed, g and beta to o, and S as it is after the last row. By matrices, what products multiply is rounded to f16; their
 * sums are f32, as is the memory.
 */
export function kdaChunks(
  p: Plan,
  gpu: Gpu,
  { H, K: keys, V }: HeadSizes,
  tensors: ChunkTensors,
): void {
  const sizes = { H, K: keys, V };
  const { mixed, g, beta, S, o } = tensors;
  const { L, Aqk, M, from_start, to_end, whole } = tensors.chunk;
  const matrices = takesMatrices(gpu, sizes);
  const factor = matrices ? K.factorF16 : K.factorF32;
  const pairs = { mixed, g, L, Aqk, from_start, to_end, whole };
  p.run(K.kdaChunkPairs, sizes, pairs, [factor, K.outer, K.step]);
  p.run(K.kdaChunkSolve, { H }, { beta, L, M }, [factor, K.step]);
  const scan = { mixed, from_start, M, Aqk, to_end, whole, S, o };
  if (matrices) p.run(K.kdaChunkScanMatrix, sizes, scan, [factor, K.step]);
  else {
    const COLUMNS = scanColumns(sizes);
    p.run(K.kdaChunkScan, { ...sizes, COLUMNS }, scan, [K.outer, K.step]);
  }
}

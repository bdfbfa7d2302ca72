/** The chunk form of Kimi Delta Attention: the calls that take a piece of tokens through the memory of a layer. */
import type { Tensor } from './gpu.ts';
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

/** Value columns of one workgroup of the scan: few, so that there are many. */
const COLUMNS = 16;

/** From mixed, g and beta to o, and S as it is after the last row. */
export function kdaChunks(p: Plan, { H, K: keys, V }: HeadSizes, tensors: ChunkTensors): void {
  const { mixed, g, beta, S, o } = tensors;
  const { L, Aqk, M, from_start, to_end, whole } = tensors.chunk;
  const sizes = { H, K: keys, V };
  p.run(K.kdaChunkPairs, sizes, { mixed, g, L, Aqk, from_start, to_end, whole }, [K.outer, K.step]);
  p.run(K.kdaChunkSolve, { H }, { beta, L, M }, [K.step]);
  const scan = { mixed, from_start, M, Aqk, to_end, whole, S, o };
  p.run(K.kdaChunkScan, { ...sizes, COLUMNS }, scan, [K.outer, K.step]);
}

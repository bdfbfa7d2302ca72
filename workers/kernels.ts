/**
 * The table of shaders: for each its source, what it binds, which constants a caller sets, and its grid.
 * One row per file of shaders/; libraries of shaders/lib/ fill slots (see each kernel's "Links").
 */
import addNormSource from '../shaders/add_norm.wgsl?raw';
import argmaxSource from '../shaders/argmax.wgsl?raw';
import argmaxMergeSource from '../shaders/argmax_merge.wgsl?raw';
import embedSource from '../shaders/embed.wgsl?raw';
import expertGroupSource from '../shaders/expert_group.wgsl?raw';
import expertMatmulSource from '../shaders/expert_matmul.wgsl?raw';
import expertMatvecSource from '../shaders/expert_matvec.wgsl?raw';
import expertSumSource from '../shaders/expert_sum.wgsl?raw';
import kdaChunkPairsSource from '../shaders/kda_chunk_pairs.wgsl?raw';
import kdaChunkScanSource from '../shaders/kda_chunk_scan.wgsl?raw';
import kdaChunkSolveSource from '../shaders/kda_chunk_solve.wgsl?raw';
import kdaGateSource from '../shaders/kda_gate.wgsl?raw';
import kdaOutSource from '../shaders/kda_out.wgsl?raw';
import kdaStepSource from '../shaders/kda_step.wgsl?raw';
import activationSource from '../shaders/lib/activation.wgsl?raw';
import bestSource from '../shaders/lib/best.wgsl?raw';
import cacheF16Source from '../shaders/lib/cache_f16.wgsl?raw';
import cacheF32Source from '../shaders/lib/cache_f32.wgsl?raw';
import outerSource from '../shaders/lib/outer.wgsl?raw';
import stepSource from '../shaders/lib/step.wgsl?raw';
import sumSubgroupSource from '../shaders/lib/sum_subgroup.wgsl?raw';
import sumTreeSource from '../shaders/lib/sum_tree.wgsl?raw';
import tileSource from '../shaders/lib/tile.wgsl?raw';
import matmulSource from '../shaders/matmul.wgsl?raw';
import matvecSource from '../shaders/matvec.wgsl?raw';
import mlaAppendSource from '../shaders/mla_append.wgsl?raw';
import mlaAttendSource from '../shaders/mla_attend.wgsl?raw';
import mlaMergeSource from '../shaders/mla_merge.wgsl?raw';
import normSource from '../shaders/norm.wgsl?raw';
import routeSource from '../shaders/route.wgsl?raw';
import shortConvSource from '../shaders/short_conv.wgsl?raw';
import swigluSource from '../shaders/swiglu.wgsl?raw';
import topLogitsSource from '../shaders/top_logits.wgsl?raw';
import { kernel, type Library } from './gpu.ts';
import type { TensorType } from './quant.ts';

// ------------------------------------------------------------------------------------------- libraries

export const activation: Library = { name: 'activation', source: activationSource };
export const step: Library = { name: 'step', source: stepSource };
export const sumTree: Library = { name: 'sum_tree', source: sumTreeSource };
export const sumSubgroup: Library = { name: 'sum_subgroup', source: sumSubgroupSource };
/** Adds products into 4x4 registers. */
export const outer: Library = { name: 'outer', source: outerSource };
/** A tile of a product of matrices; its constants TILE_ROWS and TILE_TOKENS are 32 or 64 each. */
export const tile: Library = { name: 'tile', source: tileSource };
/** How the latent cache holds numbers: f32, or f16 at half the memory. */
export const cacheF32: Library = { name: 'cache_f32', source: cacheF32Source };
export const cacheF16: Library = { name: 'cache_f16', source: cacheF16Source };
export const best: Library = { name: 'best', source: bestSource };

const matrixSources = import.meta.glob<string>('../shaders/lib/matrix_*.wgsl', {
  query: '?raw',
  import: 'default',
  eager: true,
});

/** The library that reads a matrix of this tensor type: shaders/lib/matrix_<type>.wgsl. */
export function matrixOf(type: TensorType): Library {
  const name = `matrix_${type.toLowerCase()}`;
  return { name, source: matrixSources[`../shaders/lib/${name}.wgsl`]! };
}

// ---------------------------------------------------------------------------------------- dense layers

export const embed = kernel('embed', embedSource, {
  binds: ['tokens', 'x', 'seen'],
  consts: ['FIRST', 'COUNT', 'STRIDE'],
  grid: (_, tokens) => [tokens, 1, 1],
});

export const norm = kernel('norm', normSource, {
  binds: ['x', 'w', 'h'],
  consts: ['D', 'EPS'],
  grid: (_, tokens) => [tokens, 1, 1],
});

/** `LAST` = 1: only the last token of the call, into row 0 of h. */
export const addNorm = kernel('add_norm', addNormSource, {
  binds: ['x', 'y', 'w', 'h'],
  consts: ['D', 'EPS', 'LAST'],
  grid: (c, tokens) => [c.LAST === 1 ? 1 : tokens, 1, 1],
});

export const matvec = kernel('matvec', matvecSource, {
  binds: ['x', 'y'],
  consts: ['ROWS', 'BATCH', 'X_FIRST', 'X_TOKEN', 'X_BATCH', 'Y_FIRST', 'Y_TOKEN', 'Y_BATCH'],
  grid: (c, tokens) => [Math.ceil(c.ROWS / 4), c.BATCH, tokens],
});

/** As matvec, for many tokens at a time. TILE_ROWS and TILE_TOKENS are 32 or 64. */
export const matmul = kernel('matmul', matmulSource, {
  binds: ['x', 'y'],
  consts: [
    'ROWS',
    'BATCH',
    'X_FIRST',
    'X_TOKEN',
    'X_BATCH',
    'Y_FIRST',
    'Y_TOKEN',
    'Y_BATCH',
    'TILE_ROWS',
    'TILE_TOKENS',
  ],
  grid: (c, tokens) => [
    Math.ceil(c.ROWS / c.TILE_ROWS),
    Math.ceil(tokens / c.TILE_TOKENS),
    c.BATCH,
  ],
});

export const swiglu = kernel('swiglu', swigluSource, {
  binds: ['gate', 'up', 'act'],
  consts: ['WIDTH', 'SLOTS', 'GATE_FIRST', 'UP_FIRST', 'STRIDE'],
  grid: (c, tokens) => [Math.ceil(c.WIDTH / 256), c.SLOTS, tokens],
});

// -------------------------------------------------------------------------------- Kimi Delta Attention

export const shortConv = kernel('short_conv', shortConvSource, {
  binds: ['qkv', 'w', 'tails', 'mixed'],
  consts: ['C', 'TAPS'],
  grid: (c, tokens) => [Math.ceil(c.C / 64), Math.ceil(tokens / 16), 1],
});

export const kdaGate = kernel('kda_gate', kdaGateSource, {
  binds: ['mixed', 'g', 'beta', 'dt', 'a'],
  consts: ['H', 'K', 'C', 'EPS'],
  grid: (c, tokens) => [c.H, tokens, 1],
});

/** PARTS lanes share a value column: 8 on a GPU, 1 on a processor. */
export const kdaStep = kernel('kda_step', kdaStepSource, {
  binds: ['mixed', 'g', 'beta', 'S', 'o'],
  consts: ['H', 'K', 'V', 'PARTS'],
  grid: (c) => [Math.ceil(c.V / 32), c.H, 1],
});

/** Rows of a chunk. A prompt goes through kdaChunkPairs, kdaChunkSolve and kdaChunkScan instead of kdaStep. */
export const CHUNK = 64;

/** f32 elements of what the three chunk kernels hand on, for calls of up to so many tokens; named as they are bound. */
export function chunkScratch(
  tokens: number,
  { H, K }: { H: number; K: number },
): Record<'L' | 'Aqk' | 'from_start' | 'to_end' | 'whole', number> {
  const heads = Math.ceil(tokens / CHUNK) * H; // chunks of heads
  return {
    L: heads * CHUNK * CHUNK,
    Aqk: heads * CHUNK * CHUNK,
    from_start: heads * K * 2 * CHUNK,
    to_end: heads * CHUNK * K,
    whole: heads * K,
  };
}

export const kdaChunkPairs = kernel('kda_chunk_pairs', kdaChunkPairsSource, {
  binds: ['mixed', 'g', 'L', 'Aqk', 'from_start', 'to_end', 'whole'],
  consts: ['H', 'K', 'V'],
  grid: (c, tokens) => [c.H, Math.ceil(tokens / CHUNK), 1],
});

/** Turns L, in place, into what kdaChunkScan binds as M. */
export const kdaChunkSolve = kernel('kda_chunk_solve', kdaChunkSolveSource, {
  binds: ['beta', 'L'],
  consts: ['H'],
  grid: (c, tokens) => [c.H, Math.ceil(tokens / CHUNK), 1],
});

/** COLUMNS is 8, 16 or 32: fewer make more, smaller workgroups. K and V are multiples of 4. */
export const kdaChunkScan = kernel('kda_chunk_scan', kdaChunkScanSource, {
  binds: ['mixed', 'M', 'Aqk', 'from_start', 'to_end', 'whole', 'S', 'o'],
  consts: ['H', 'K', 'V', 'COLUMNS'],
  grid: (c) => [Math.ceil(c.V / c.COLUMNS), c.H, 1],
});

export const kdaOut = kernel('kda_out', kdaOutSource, {
  binds: ['o', 'gate', 'w', 'y'],
  consts: ['H', 'V', 'EPS'],
  grid: (c, tokens) => [c.H, tokens, 1],
});

// ------------------------------------------------------------------------------------- latent attention

export const mlaAppend = kernel('mla_append', mlaAppendSource, {
  binds: ['c', 'w', 'cache'],
  consts: ['LATENT', 'SHARED', 'EPS', 'FIRST', 'SEGMENT'],
  grid: (_, tokens) => [tokens, 1, 1],
});

/** Segments in order of FIRST, all with the same stats and parts; then one mlaMerge. QUERIES is 16, 32 or 64. */
export const mlaAttend = kernel('mla_attend', mlaAttendSource, {
  binds: ['qa', 'q', 'cache', 'stats', 'parts'],
  consts: ['HEADS', 'LATENT', 'SHARED', 'NOPE', 'SCALE', 'FIRST', 'SEGMENT', 'SLICES', 'QUERIES'],
  grid: (c, tokens) => [c.SLICES, Math.ceil((tokens * c.HEADS) / c.QUERIES), 1],
});

export const mlaMerge = kernel('mla_merge', mlaMergeSource, {
  binds: ['stats', 'parts', 'context'],
  consts: ['HEADS', 'LATENT', 'SLICES'],
  grid: (c, tokens) => [c.HEADS, tokens, 1],
});

// -------------------------------------------------------------------------------------- mixture of experts

export const route = kernel('route', routeSource, {
  binds: ['logits', 'bias', 'ids', 'weights'],
  consts: ['EXPERTS', 'TOP', 'SCALE', 'NORM'],
  grid: (_, tokens) => [tokens, 1, 1],
});

export const expertMatvec = kernel('expert_matvec', expertMatvecSource, {
  binds: ['ids', 'x', 'y'],
  consts: [
    'ROWS',
    'TOP',
    'FIRST',
    'COUNT',
    'X_FIRST',
    'X_TOKEN',
    'X_BATCH',
    'Y_FIRST',
    'Y_TOKEN',
    'Y_BATCH',
  ],
  grid: (c, tokens) => [Math.ceil(c.ROWS / 4), c.TOP, tokens],
});

/** Tiles that a chunk can need at most, whatever the router chose: each of vec4u. */
export function expertTiles(experts: number, top: number, tileTokens: number, tokens: number) {
  return Math.min(experts, tokens * top) + Math.floor((tokens * top) / tileTokens);
}

/** list is [EXPERTS, T] u32, tiles [expertTiles(..), 4] u32. */
export const expertGroup = kernel('expert_group', expertGroupSource, {
  binds: ['ids', 'list', 'tiles'],
  consts: ['EXPERTS', 'TOP', 'TILE_TOKENS'],
  grid: () => [1, 1, 1],
});

/** As expertMatvec, for many tokens: after expertGroup with the same EXPERTS, TOP and TILE_TOKENS. */
export const expertMatmul = kernel('expert_matmul', expertMatmulSource, {
  binds: ['list', 'tiles', 'x', 'y'],
  consts: [
    'ROWS',
    'TOP',
    'FIRST',
    'COUNT',
    'X_FIRST',
    'X_TOKEN',
    'X_BATCH',
    'Y_FIRST',
    'Y_TOKEN',
    'Y_BATCH',
    'EXPERTS',
    'TILE_ROWS',
    'TILE_TOKENS',
  ],
  grid: (c, tokens) => [
    Math.ceil(c.ROWS / c.TILE_ROWS),
    expertTiles(c.EXPERTS, c.TOP, c.TILE_TOKENS, tokens),
    1,
  ],
});

export const expertSum = kernel('expert_sum', expertSumSource, {
  binds: ['weights', 'down', 'always', 'y'],
  consts: ['D', 'TOP'],
  grid: (c, tokens) => [Math.ceil(c.D / 256), tokens, 1],
});

// ---------------------------------------------------------------------------------------------- output

export const argmax = kernel('argmax', argmaxSource, {
  binds: ['logits', 'slices'],
  consts: ['VOCABULARY', 'SLICES'],
  grid: (c, tokens) => [c.SLICES, tokens, 1],
});

export const argmaxMerge = kernel('argmax_merge', argmaxMergeSource, {
  binds: ['slices', 'best'],
  consts: ['SLICES'],
  grid: (_, tokens) => [tokens, 1, 1],
});

/** u32 words before the candidates of a slice of top_logits, and words of a candidate. */
export const TOP_LOGITS_HEADER = 4;
export const TOP_LOGITS_WORDS = 3;

/** `penalty` is (f32 factor, u32 window). VOCABULARY / SLICES is at most 3072; 128 lanes serve best. */
export const topLogits = kernel('top_logits', topLogitsSource, {
  binds: ['penalty', 'logits', 'seen', 'slices'],
  consts: ['VOCABULARY', 'SLICES', 'BEST'],
  grid: (c) => [c.SLICES, 1, 1],
});

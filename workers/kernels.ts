/**
 * The table of shaders: for each its source, what it binds, which constants a caller sets, and its grid.
 * One row per file of shaders/; libraries of shaders/lib/ fill slots (see each kernel's "Links").
 */
import addNormSource from '../shaders/add_norm.wgsl?raw';
import argmaxSource from '../shaders/argmax.wgsl?raw';
import argmaxMergeSource from '../shaders/argmax_merge.wgsl?raw';
import embedSource from '../shaders/embed.wgsl?raw';
import expertDownSource from '../shaders/expert_down.wgsl?raw';
import expertGroupSource from '../shaders/expert_group.wgsl?raw';
import expertMatmulSource from '../shaders/expert_matmul.wgsl?raw';
import expertMatvecSource from '../shaders/expert_matvec.wgsl?raw';
import expertSumSource from '../shaders/expert_sum.wgsl?raw';
import expertSwigluSource from '../shaders/expert_swiglu.wgsl?raw';
import interveneSource from '../shaders/intervene.wgsl?raw';
import kdaChunkPairsSource from '../shaders/kda_chunk_pairs.wgsl?raw';
import kdaChunkScanSource from '../shaders/kda_chunk_scan.wgsl?raw';
import kdaChunkScanMatrixSource from '../shaders/kda_chunk_scan_matrix.wgsl?raw';
import kdaChunkSolveSource from '../shaders/kda_chunk_solve.wgsl?raw';
import kdaGateSource from '../shaders/kda_gate.wgsl?raw';
import kdaLayerSource from '../shaders/kda_layer.wgsl?raw';
import kdaOutSource from '../shaders/kda_out.wgsl?raw';
import kdaStepSource from '../shaders/kda_step.wgsl?raw';
import kdaTokenSource from '../shaders/kda_token.wgsl?raw';
import activationSource from '../shaders/lib/activation.wgsl?raw';
import aheadSource from '../shaders/lib/ahead.wgsl?raw';
import attendWholeSource from '../shaders/lib/attend_whole.wgsl?raw';
import bestSource from '../shaders/lib/best.wgsl?raw';
import cacheF16Source from '../shaders/lib/cache_f16.wgsl?raw';
import cacheF32Source from '../shaders/lib/cache_f32.wgsl?raw';
import eightsSource from '../shaders/lib/eights.wgsl?raw';
import factorF16Source from '../shaders/lib/factor_f16.wgsl?raw';
import factorF32Source from '../shaders/lib/factor_f32.wgsl?raw';
import kdaHeadSource from '../shaders/lib/kda_head.wgsl?raw';
import kdaHeadEarlySource from '../shaders/lib/kda_head_early.wgsl?raw';
import kdaPlacesSource from '../shaders/lib/kda_places.wgsl?raw';
import kdaUnwatchedSource from '../shaders/lib/kda_unwatched.wgsl?raw';
import kdaWatchedSource from '../shaders/lib/kda_watched.wgsl?raw';
import latentRowSource from '../shaders/lib/latent_row.wgsl?raw';
import outerSource from '../shaders/lib/outer.wgsl?raw';
import residualSource from '../shaders/lib/residual.wgsl?raw';
import routerEarlySource from '../shaders/lib/router_early.wgsl?raw';
import routerGivenSource from '../shaders/lib/router_given.wgsl?raw';
import routerLogitsSource from '../shaders/lib/router_logits.wgsl?raw';
import routerNoneSource from '../shaders/lib/router_none.wgsl?raw';
import routerOwnSource from '../shaders/lib/router_own.wgsl?raw';
import rowsSource from '../shaders/lib/rows.wgsl?raw';
import sharesSource from '../shaders/lib/shares.wgsl?raw';
import slicesSource from '../shaders/lib/slices.wgsl?raw';
import stepSource from '../shaders/lib/step.wgsl?raw';
import sumSubgroupSource from '../shaders/lib/sum_subgroup.wgsl?raw';
import sumTreeSource from '../shaders/lib/sum_tree.wgsl?raw';
import tileSource from '../shaders/lib/tile.wgsl?raw';
import matmulSource from '../shaders/matmul.wgsl?raw';
import matvecSource from '../shaders/matvec.wgsl?raw';
import mlaAppendSource from '../shaders/mla_append.wgsl?raw';
import mlaAttendSource from '../shaders/mla_attend.wgsl?raw';
import mlaAttendTokenSource from '../shaders/mla_attend_token.wgsl?raw';
import mlaMergeSource from '../shaders/mla_merge.wgsl?raw';
import mlaOutSource from '../shaders/mla_out.wgsl?raw';
import mlaQuerySource from '../shaders/mla_query.wgsl?raw';
import mlaTokenSource from '../shaders/mla_token.wgsl?raw';
import mlaValueSource from '../shaders/mla_value.wgsl?raw';
import moeLayerSource from '../shaders/moe_layer.wgsl?raw';
import normSource from '../shaders/norm.wgsl?raw';
import probeAppendSource from '../shaders/probe_append.wgsl?raw';
import probeChoiceSource from '../shaders/probe_choice.wgsl?raw';
import probeKeepSource from '../shaders/probe_keep.wgsl?raw';
import probeLogitsSource from '../shaders/probe_logits.wgsl?raw';
import probeOverwriteSource from '../shaders/probe_overwrite.wgsl?raw';
import probeRecallSource from '../shaders/probe_recall.wgsl?raw';
import probeRowSource from '../shaders/probe_row.wgsl?raw';
import probeStateSource from '../shaders/probe_state.wgsl?raw';
import probeTokenSource from '../shaders/probe_token.wgsl?raw';
import probeTraceSource from '../shaders/probe_trace.wgsl?raw';
import projectSource from '../shaders/project.wgsl?raw';
import routeSource from '../shaders/route.wgsl?raw';
import settleSource from '../shaders/settle.wgsl?raw';
import shortConvSource from '../shaders/short_conv.wgsl?raw';
import streamSource from '../shaders/stream.wgsl?raw';
import swigluSource from '../shaders/swiglu.wgsl?raw';
import topLogitsSource from '../shaders/top_logits.wgsl?raw';
import { kernel, type Library } from './link.ts';
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
/** One token's row of the latent cache. */
export const latentRow: Library = { name: 'latent_row', source: latentRowSource };
/** What one head of one token reads of that cache: of all of it, from what mlaAttend left; or of few rows, by itself. */
export const slices: Library = { name: 'slices', source: slicesSource };
export const attendWhole: Library = { name: 'attend_whole', source: attendWholeSource };
/** How a prompt's chunks hand factors on: f32 for kdaChunkScan, f16 for kdaChunkScanMatrix. */
export const factorF32: Library = { name: 'factor_f32', source: factorF32Source };
export const factorF16: Library = { name: 'factor_f16', source: factorF16Source };
/** Whether kda_token tells what it does and lets its gates be changed. */
export const kdaUnwatched: Library = { name: 'kda_unwatched', source: kdaUnwatchedSource };
export const kdaWatched: Library = { name: 'kda_watched', source: kdaWatchedSource };
/** How expert_swiglu chooses experts: by itself, FEW_EXPERTS at most; from logits that are there; or they are chosen already. */
export const routerOwn: Library = { name: 'router_own', source: routerOwnSource };
export const routerLogits: Library = { name: 'router_logits', source: routerLogitsSource };
export const routerGiven: Library = { name: 'router_given', source: routerGivenSource };
export const FEW_EXPERTS = 16;
/** Who chooses those of moe_layer: FEW_EXPERTS at most, or none, which makes it a dense layer. */
export const ahead: Library = { name: 'ahead', source: aheadSource };
export const routerEarly: Library = { name: 'router_early', source: routerEarlySource };
export const routerNone: Library = { name: 'router_none', source: routerNoneSource };
export const best: Library = { name: 'best', source: bestSource };
/** The residual row of one token with the parts that heads and experts left beside it. */
export const residual: Library = { name: 'residual', source: residualSource };
/** Lanes that share the columns of four rows. */
export const shares: Library = { name: 'shares', source: sharesSource };

const matrixSources = import.meta.glob<string>('../shaders/lib/matrix_*.wgsl', {
  query: '?raw',
  import: 'default',
  eager: true,
});

/**
 * The library that reads a matrix of this tensor type: shaders/lib/matrix_<type>.wgsl, with rows.wgsl where it has no own way
 * with four rows, and eights.wgsl.
 */
export function matrixOf(type: TensorType): Library {
  const name = `matrix_${type.toLowerCase()}`;
  const source = matrixSources[`../shaders/lib/${name}.wgsl`]!;
  const four = /^fn four\b/m.test(source) ? source : `${source}\n${rowsSource}`;
  return { name, source: `${four}\n${eightsSource}` };
}

/** Columns among which a type's `quad` lays out a block: a run of so many, at a multiple of as many, has blocks of its own. */
export function blockSpan(type: TensorType): number {
  if (type === 'Q2_K' || type === 'Q3_K') return 256;
  if (type === 'Q6_K') return 128;
  return type === 'Q4_K' || type === 'Q5_K' ? 64 : 32;
}

/** A matrix library once more, for a kernel that reads several: every name it declares ends in _b, its group is 3. */
export function second(library: Library): Library {
  return again(library, '_b', 3);
}

/** And for a third matrix, with _c and group 6. */
export function third(library: Library): Library {
  return again(library, '_c', 6);
}

/** And for a fourth and a fifth. */
export function fourth(library: Library): Library {
  return again(library, '_d', 7);
}
export function fifth(library: Library): Library {
  return again(library, '_e', 8);
}

function again({ name, source }: Library, ending: string, group: number): Library {
  const declared = [...source.matchAll(/^(?:const|fn|struct|@group.*?>)\s+(\w+)/gm)].map(
    (m) => m[1]!,
  );
  const names = new RegExp(`\\b(${declared.join('|')})\\b`, 'g');
  return {
    name: name + ending,
    source: source.replace(/@group\(1\)/g, `@group(${group})`).replace(names, `$1${ending}`),
  };
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

/** Where the rows of a product's inputs and outputs lie. */
const PLACE = ['X_FIRST', 'X_TOKEN', 'X_BATCH', 'Y_FIRST', 'Y_TOKEN', 'Y_BATCH'] as const;

export const matvec = kernel('matvec', matvecSource, {
  binds: ['x', 'y'],
  consts: ['ROWS', 'BATCH', 'W_FIRST', ...PLACE, 'ADD', 'EACH'],
  grid: (c, tokens) => [Math.ceil(c.ROWS / c.EACH), c.BATCH, tokens],
});

/** As matvec, for many tokens at a time. TILE_ROWS and TILE_TOKENS are 32 or 64. */
export const matmul = kernel('matmul', matmulSource, {
  binds: ['x', 'y'],
  consts: ['ROWS', 'BATCH', 'W_FIRST', ...PLACE, 'TILE_ROWS', 'TILE_TOKENS'],
  grid: (c, tokens) => [
    Math.ceil(c.ROWS / c.TILE_ROWS),
    Math.ceil(tokens / c.TILE_TOKENS),
    c.BATCH,
  ],
});

/** Two matrices of one input: the second may have no rows. Links `matrixOf(a)`, `second(matrixOf(b))`, a sum. */
export const project = kernel('project', projectSource, {
  binds: ['x', 'w', 'y'],
  consts: ['A_ROWS', 'B_ROWS', 'A_FIRST', 'B_FIRST', 'A_AT', 'B_AT', 'EPS', 'EACH'],
  grid: ({ A_ROWS, B_ROWS, EACH }) => [Math.ceil(A_ROWS / EACH) + Math.ceil(B_ROWS / EACH), 1, 1],
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

/** f32 elements of what the chunk kernels hand on, for calls of up to so many tokens; named as they are bound. */
export function chunkScratch(
  tokens: number,
  { H, K }: { H: number; K: number },
): Record<'L' | 'Aqk' | 'M' | 'from_start' | 'to_end' | 'whole', number> {
  const heads = Math.ceil(tokens / CHUNK) * H; // chunks of heads
  return {
    L: heads * CHUNK * CHUNK,
    Aqk: heads * CHUNK * CHUNK,
    M: heads * CHUNK * CHUNK,
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

export const kdaChunkSolve = kernel('kda_chunk_solve', kdaChunkSolveSource, {
  binds: ['beta', 'L', 'M'],
  consts: ['H'],
  grid: (c, tokens) => [c.H, Math.ceil(tokens / CHUNK), 1],
});

/** COLUMNS is 4, 8 or 16: fewer make more workgroups, with less to do. K and V are multiples of 4. */
export const kdaChunkScan = kernel('kda_chunk_scan', kdaChunkScanSource, {
  binds: ['mixed', 'from_start', 'M', 'Aqk', 'to_end', 'whole', 'S', 'o'],
  consts: ['H', 'K', 'V', 'COLUMNS'],
  grid: (c) => [Math.ceil(c.V / c.COLUMNS), c.H, 1],
});

/** The same by subgroup matrices, with factors in f16. K is 64 or 128, V a multiple of 16. */
export const kdaChunkScanMatrix = kernel('kda_chunk_scan_matrix', kdaChunkScanMatrixSource, {
  binds: ['mixed', 'from_start', 'M', 'Aqk', 'to_end', 'whole', 'S', 'o'],
  consts: ['H', 'K', 'V'],
  grid: (c) => [c.V / 16, c.H, 1],
});

/** SUM_LANES of (K + V) / 4 or more, a multiple of V / 4. Links `matrixOf(F)`, `second(matrixOf(G))`, activation, kdaUnwatched or kdaWatched, a sum. */
export const kdaToken = kernel(
  'kda_token',
  `${kdaPlacesSource}\n${kdaHeadSource}\n${kdaTokenSource}`,
  {
    binds: ['inputs', 'constants', 'tails', 'S', 'y'],
    consts: ['H', 'K', 'V', 'TAPS', 'BEFORE', 'F_FIRST', 'G_FIRST', 'EPS'],
    grid: (c) => [c.H, 1, 1],
  },
);

/** The same with the projections before and after it. Links residual, and after F and G q | k | v, the low ranks and the output matrix. */
export const kdaLayer = kernel(
  'kda_layer',
  `${kdaPlacesSource}\n${kdaHeadEarlySource}\n${kdaLayerSource}`,
  {
    binds: ['rows', 'constants', 'tails', 'S'],
    // prettier-ignore
    consts: ['H', 'K', 'V', 'TAPS', 'BEFORE', 'F_FIRST', 'G_FIRST', 'EPS', 'Q_FIRST', 'LOW_FIRST', 'PART_TO'],
    grid: (c) => [c.H, 1, 1],
  },
);

/** Bytes of workgroup memory that kda_layer takes, sums included. */
export function kdaLayerBytes(c: { D: number; K: number; V: number; RANK: number; lanes: number }) {
  return residualBytes(c) + 4 * (2 * c.K + c.V + 2 * c.RANK + c.K + c.V) + 32 * c.lanes;
}

export const kdaOut = kernel('kda_out', kdaOutSource, {
  binds: ['o', 'gate', 'w', 'y'],
  consts: ['H', 'V', 'EPS'],
  grid: (c, tokens) => [c.H, tokens, 1],
});

/** The residual row with its parts added, where a call reads it as a whole. Links residual, a sum. */
export const settle = kernel('settle', settleSource, {
  binds: ['rows'],
  consts: [],
  grid: () => [1, 1, 1],
});

/** Bytes of workgroup memory that residual takes, sums included. */
export function residualBytes(c: { D: number; lanes: number }) {
  const adders = Math.min(8, Math.max(1, Math.floor((4 * c.lanes) / c.D)));
  return 4 * c.D * adders + 16 + 8 * c.lanes;
}

// ------------------------------------------------------------------------------------- latent attention

export const mlaAppend = kernel('mla_append', mlaAppendSource, {
  binds: ['c', 'w', 'cache'],
  consts: ['LATENT', 'SHARED', 'EPS', 'FIRST', 'SEGMENT'],
  grid: (_, tokens) => [tokens, 1, 1],
});

/** Segments in order of FIRST, all with the same stats and parts; then one mlaMerge. LATENT is 512 at most. Links a cache, outer, step. */
export const mlaAttend = kernel('mla_attend', mlaAttendSource, {
  binds: ['qa', 'q', 'cache', 'stats', 'parts'],
  consts: ['HEADS', 'LATENT', 'SHARED', 'NOPE', 'SCALE', 'FIRST', 'SEGMENT', 'SLICES'],
  grid: (c, tokens) => [c.SLICES, Math.ceil((tokens * c.HEADS) / 32), 1],
});

/** The same for one token. Links a cache, step. */
export const mlaAttendToken = kernel('mla_attend_token', mlaAttendTokenSource, {
  binds: ['qa', 'q', 'cache', 'stats', 'parts'],
  consts: ['HEADS', 'LATENT', 'SHARED', 'NOPE', 'SCALE', 'FIRST', 'SEGMENT', 'SLICES'],
  grid: (c) => [Math.ceil(c.HEADS / 4), c.SLICES, 1],
});

/** Vec4s of the latent that a workgroup of mlaMerge takes: few where slices are many, so that these are shared out. */
export function mergeColumns(slices: number): number {
  let columns = 128;
  while (columns > 4 && 256 / columns < slices) columns /= 2;
  return columns;
}

/** COLUMNS as `mergeColumns` says. */
export const mlaMerge = kernel('mla_merge', mlaMergeSource, {
  binds: ['stats', 'parts', 'context'],
  consts: ['HEADS', 'LATENT', 'SLICES', 'COLUMNS'],
  grid: (c, tokens) => [c.HEADS, tokens, Math.ceil(c.LATENT / 4 / c.COLUMNS)],
});

/** One token: keyUp and append in one call; later segments have mlaAppend. GROUP is a multiple of 4, 4 SUM_LANES at most. Links `matrixOf(keyUp)`, shares, latentRow, a cache, step, a sum. */
export const mlaToken = kernel('mla_token', mlaTokenSource, {
  binds: ['inputs', 'w', 'qa', 'cache'],
  consts: ['HEADS', 'LATENT', 'SHARED', 'LATENT_AT', 'EPS', 'FIRST', 'SEGMENT', 'GROUP'],
  grid: (c) => [Math.ceil(c.LATENT / c.GROUP) * c.HEADS + 1, 1, 1],
});

/** One token: as mlaMerge, then the product with valueUp. GROUP as of mlaToken. Links `matrixOf(valueUp)`, slices, shares, a sum. */
export const mlaValue = kernel('mla_value', mlaValueSource, {
  binds: ['o'],
  consts: ['HEADS', 'VALUES', 'GROUP'],
  grid: (c) => [Math.ceil(c.VALUES / c.GROUP), c.HEADS, 1],
});

/**
 * One token, from the residual row to its queries: norm, q, latent row, keyUp and append in one call. Segments but the first have
 * mlaAppend. Links `matrixOf(q)`, `second(matrixOf(latent))`, `third(matrixOf(keyUp))`, residual, shares, latentRow, a cache,
 * step, a sum; D of residual is COLS and COLS_b.
 */
export const mlaQuery = kernel('mla_query', mlaQuerySource, {
  binds: ['rows', 'constants', 'inputs', 'qa', 'cache'],
  consts: ['HEADS', 'LATENT', 'SHARED', 'LATENT_AT', 'EPS', 'FIRST', 'SEGMENT'],
  grid: (c) => [c.HEADS + 1, 1, 1],
});

/** Bytes of workgroup memory that mla_query takes, sums included. */
export function mlaQueryBytes(c: {
  D: number;
  LATENT: number;
  SHARED: number;
  NOPE: number;
  lanes: number;
}) {
  const made = c.SHARED + Math.max(c.LATENT, c.NOPE);
  return residualBytes(c) + 4 * made + 16 * Math.max(c.lanes, c.LATENT, made);
}

/**
 * One token, from what its heads read to what each adds to the residual row: mlaMerge, valueUp and output in one call, and with
 * attendWhole the attention as well. VALUES is a multiple of 32 and of `blockSpan(output)`. Links `matrixOf(valueUp)`,
 * `second(matrixOf(output))`, slices, or attendWhole with a cache and step, shares, a sum.
 */
export const mlaOut = kernel('mla_out', mlaOutSource, {
  binds: ['o', 'rows'],
  consts: ['HEADS', 'VALUES', 'D', 'PART_TO'],
  grid: (c) => [c.HEADS, 1, 1],
});

/** Bytes of workgroup memory that mla_out takes, with `context` of them by slices or attendWhole. */
export function mlaOutBytes(c: { D: number; VALUES: number; lanes: number; context: number }) {
  return c.context + 4 * c.VALUES + 16 * Math.max(c.lanes, c.VALUES, c.D / 4);
}

/** Bytes of workgroup memory that slices takes at most. */
export function slicesBytes({ LATENT }: { LATENT: number }) {
  return 20 * LATENT + 64;
}

/** Bytes of workgroup memory that attendWhole takes: `lanes` is a multiple of 16, and LATENT / 4 at least. */
export function attendWholeBytes({ LATENT, lanes }: { LATENT: number; lanes: number }) {
  const readers = Math.min(8, Math.floor(Math.min((4 * lanes) / LATENT, lanes / 16)));
  const own = 8 * Math.ceil(lanes / 2 / readers / 8);
  return 18 * lanes + readers * (8 * (own + 1) + 12) + 4 * LATENT * (readers + 1) + 64;
}

// -------------------------------------------------------------------------------------- mixture of experts

/** Where, in the row of words that a token's choice in a layer has, the bits of weights and of logits begin. */
export const CHOSEN = { weights: 64, logits: 128 };

export const route = kernel('route', routeSource, {
  binds: ['logits', 'bias', 'ids', 'weights'],
  consts: ['EXPERTS', 'TOP', 'SCALE', 'NORM'],
  grid: (_, tokens) => [tokens, 1, 1],
});

export const expertMatvec = kernel('expert_matvec', expertMatvecSource, {
  binds: ['ids', 'x', 'y'],
  consts: ['ROWS', 'TOP', 'FIRST', 'COUNT', ...PLACE],
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
  grid: (c) => [c.EXPERTS, 1, 1],
});

/** As expertMatvec, for many tokens: after expertGroup with the same EXPERTS, TOP and TILE_TOKENS. */
export const expertMatmul = kernel('expert_matmul', expertMatmulSource, {
  binds: ['list', 'tiles', 'x', 'y'],
  consts: ['ROWS', 'TOP', 'FIRST', 'COUNT', ...PLACE, 'EXPERTS', 'TILE_ROWS', 'TILE_TOKENS'],
  grid: (c, tokens) => [
    Math.ceil(c.ROWS / c.TILE_ROWS),
    expertTiles(c.EXPERTS, c.TOP, c.TILE_TOKENS, tokens),
    1,
  ],
});

/** TOP is 64 at most. Links matrices of gate, up (`second`) and shared gate | up (`third`), activation, routerOwn, -Logits or -Given, a sum. */
export const expertSwiglu = kernel('expert_swiglu', expertSwigluSource, {
  binds: ['x', 'constants', 'act'],
  consts: ['WIDTH', 'SHARED', 'FIRST', 'COUNT', 'TOP', 'EPS', 'EACH'],
  grid: (c) => [(c.TOP * c.WIDTH + (c.FIRST === 0 ? c.SHARED : 0)) / c.EACH, 1, 1],
});

/** Links `matrixOf(down)`, `second(matrixOf(shared down))`, a sum. */
export const expertDown = kernel('expert_down', expertDownSource, {
  binds: ['chosen', 'act', 'x'],
  consts: ['ROWS', 'FIRST', 'COUNT', 'TOP', 'SHARED'],
  grid: (c) => [c.ROWS / 4, 1, 1],
});

/**
 * One token: all of a layer of experts. SUM_LANES is 64 or more; header and router_early say what else must hold, and bindings are
 * limited. Links matrices of gate, up (`second`), shared gate | up (`third`), down (`fourth`) and shared down (`fifth`), activation,
 * residual, routerEarly, ahead, a sum. Library constants are those of residual and EXPERTS, TOP, SCALE, NORM. With routerNone, which has no
 * constants, the first two and the fourth matrix are not read, and constants are the norm's alone.
 */
export const moeLayer = kernel('moe_layer', moeLayerSource, {
  binds: ['rows', 'constants', 'chosen', 'ahead'],
  consts: ['SLICES', 'PART_TO', 'WARMERS'],
  grid: (c) => [c.SLICES + c.WARMERS, 1, 1],
});

/** Bytes of workgroup memory that moe_layer takes, sums included. */
export function moeLayerBytes(c: { D: number; EXPERTS: number; units: number; lanes: number }) {
  const sharers = Math.floor((2 * c.lanes) / c.units);
  const choice = 4 * (c.lanes + 4 * (c.EXPERTS + 3));
  return residualBytes(c) + choice + 8 * c.units * (sharers + 1) + 4 * c.units;
}

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

// ------------------------------------------------------------------------------------- memory laid open

/** Between kdaGate and the recurrence. changes is [CHANGES, H] of (f32 factor, f32 strength, u32 from, 0). */
export const intervene = kernel('intervene', interveneSource, {
  binds: ['changes', 'g', 'beta'],
  consts: ['H', 'K', 'CHANGES'],
  grid: (c, tokens) => [c.H, tokens, 1],
});

/** f32 words that probeTrace leaves of a head: sums by block of 32 value columns, then beta and two middle g. */
export const PROBE_SUMS = 5;
export function probeWords(values: number): number {
  return PROBE_SUMS * Math.ceil(values / 32) + 3;
}

/** Before the recurrence. PARTS as in kdaStep; u is [T, H, V]; records are [RING, ROW]. */
export const probeTrace = kernel('probe_trace', probeTraceSource, {
  binds: ['mixed', 'g', 'beta', 'S', 'u', 'records'],
  consts: ['H', 'K', 'V', 'PARTS', 'RING', 'ROW', 'FIRST'],
  grid: (c) => [Math.ceil(c.V / 32), c.H, 1],
});

/** f32 words of a row of history. */
export function historyWords({ H, K, V }: { H: number; K: number; V: number }): number {
  return 3 * H * K + 2 * H * V + H;
}

/** f32 words that kdaWatched leaves of a token: a row of history, then the sums of each head. */
export function watchedWords(sizes: { H: number; K: number; V: number }): number {
  return historyWords(sizes) + PROBE_SUMS * sizes.H;
}

/** After all layers of one token. watched is [LAYERS, WATCHED], watchedWords or more each, chosen [ROUTERS, CHOSEN]. */
export const probeToken = kernel('probe_token', probeTokenSource, {
  binds: ['watched', 'chosen', 'records'],
  consts: [
    'LAYERS',
    'H',
    'K',
    'V',
    'WATCHED',
    'BLOCKS',
    'RING',
    'ROW',
    'ROUTERS',
    'CHOSEN',
    'TOP',
    'CHOICES',
  ],
  grid: (c) => [c.H, c.LAYERS + 1, 1],
});

/** ROW is historyWords. */
export const probeAppend = kernel('probe_append', probeAppendSource, {
  binds: ['watched', 'history'],
  consts: ['ROW', 'FIRST', 'SEGMENT'],
  grid: (c) => [Math.ceil(c.ROW / 256), 1, 1],
});

export const probeKeep = kernel('probe_keep', probeKeepSource, {
  binds: ['mixed', 'g', 'u', 'beta', 'history'],
  consts: ['H', 'K', 'V', 'FIRST', 'SEGMENT'],
  grid: (c, tokens) => [Math.ceil(historyWords(c) / 256), tokens, 1],
});

/** `tokens` counts all positions: a segment past them is not looked at. */
export const probeRecall = kernel('probe_recall', probeRecallSource, {
  binds: ['history', 'S', 'recall'],
  consts: ['H', 'K', 'V', 'FIRST', 'SEGMENT'],
  grid: (c, tokens) => [Math.ceil(Math.min(Math.max(0, tokens - c.FIRST), c.SEGMENT) / 8), c.H, 1],
});

/** asked is (positions, first head, heads, 0) u32; found is [SEGMENT, 2] u32. `tokens` counts all positions. */
export const probeOverwrite = kernel('probe_overwrite', probeOverwriteSource, {
  binds: ['asked', 'kept', 'later', 'found'],
  consts: ['H', 'K', 'V', 'FIRST', 'SEGMENT', 'LATER_FIRST', 'LATER_SEGMENT'],
  grid: (c, tokens) => [Math.min(Math.max(0, tokens - c.FIRST), c.SEGMENT), 1, 1],
});

/** cells are [.., H, 8, 8], the layer's from FIRST. */
export const probeState = kernel('probe_state', probeStateSource, {
  binds: ['S', 'cells'],
  consts: ['H', 'K', 'V', 'FIRST'],
  grid: (c) => [64, c.H, 1],
});

export const probeChoice = kernel('probe_choice', probeChoiceSource, {
  binds: ['ids', 'weights', 'records'],
  consts: ['TOP', 'RING', 'ROW', 'FIRST'],
  grid: (_, tokens) => [Math.ceil(tokens / 64), 1, 1],
});

export const probeLogits = kernel('probe_logits', probeLogitsSource, {
  binds: ['logits', 'records'],
  consts: ['VOCABULARY', 'SLICES', 'BEST', 'RING', 'ROW', 'FIRST'],
  grid: (c, tokens) => [c.SLICES, tokens, 1],
});

export const probeRow = kernel('probe_row', probeRowSource, {
  binds: ['x', 'row'],
  consts: ['WIDTH', 'FIRST'],
  grid: (c) => [Math.ceil(c.WIDTH / 64), 1, 1],
});

/** words are [WORDS] u32, read as vec4; sink is [LANES] u32. LANES is a multiple of 256 and at most WORDS / 4. */
export const stream = kernel('stream', streamSource, {
  binds: ['words', 'sink'],
  consts: ['WORDS', 'LANES'],
  grid: (c) => [c.LANES / 256, 1, 1],
});

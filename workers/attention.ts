/** Multi-head latent attention between its projections, for any number of tokens. */
import type { ModelConfig } from './config.ts';
import type { Gpu, Tensor } from './gpu.ts';
import type { Library } from './link.ts';
import * as K from './kernels.ts';
import type { Plan } from './plan.ts';
import { latentAt, type Scratch, SLICES } from './scratch.ts';
import type { MlaState, Segment } from './state.ts';
import type { MlaWeights } from './weights.ts';

/** Rows that a slice of one token's attention has at least, where there are more slices than the least number. */
const SLICE_ROWS = 64;

/** So many slices are joined in the call that makes the values; more have a call of their own. */
const FEW_SLICES = 32;

/** Rows of a head that one workgroup makes of one token's queries and values, and its lanes: as few as hide what each waits for. */
const ROWS_OF_QUERIES = { rows: 64, lanes: 128 };
const ROWS_OF_VALUES = { rows: 32, lanes: 256 };

/** From queries and latent rows to what the heads have read, `scratch.o`; the cache gets a row per token. */
export function mlaAttention(
  p: Plan,
  gpu: Gpu,
  c: ModelConfig,
  w: MlaWeights,
  cache: MlaState,
  rows: readonly Segment[],
  s: Scratch,
): void {
  const HEADS = c.heads;
  const { query } = c.mla;
  p.linear(w.keyUp, s.query, s.latentQuery, { xToken: HEADS * query, xBatch: query });
  cache.segments.forEach((segment, i) => append(p, c, w, cache, segment, rows[i]!, s.latentRow));
  const slices = slicesFor(p, gpu, cache, rows);
  attend(p, c, cache, rows, s.query, s, slices);
  merge(p, c, s, slices);
  p.linear(w.valueUp, s.context, s.o);
}

/** The same for one token, whose queries and latent row are in `scratch.inputs`, in three or four calls where the cache has one segment. */
export function mlaToken(
  p: Plan,
  gpu: Gpu,
  c: ModelConfig,
  w: MlaWeights,
  cache: MlaState,
  rows: readonly Segment[],
  s: Scratch,
): void {
  const HEADS = c.heads;
  const { sharedKey: SHARED, latent: LATENT, values: VALUES } = c.mla;
  const LATENT_AT = latentAt(c);
  const { first: FIRST, rows: SEGMENT } = rows[0]!;
  const queries = groupsOf(p, gpu, ROWS_OF_QUERIES);
  const consts = { HEADS, LATENT, SHARED, LATENT_AT, EPS: c.eps, FIRST, SEGMENT, ...queries.rows };
  const inputs = {
    inputs: s.inputs,
    w: w.latentNorm,
    qa: s.latentQuery,
    cache: cache.segments[0]!,
  };
  const libraries = [p.sum, K.shares, K.step, K.latentRow, numbersOf(cache)];
  p.runMatrix(K.mlaToken, consts, inputs, w.keyUp, w.keyUp.parts[0]!, libraries, queries.lanes);
  const slices = attendOne(p, gpu, c, w, cache, rows, s);
  if (slices > FEW_SLICES) {
    merge(p, c, s, slices);
    p.linear(w.valueUp, s.context, s.o);
    return;
  }
  const values = groupsOf(p, gpu, ROWS_OF_VALUES);
  const heads = { HEADS, VALUES, ...values.rows };
  const read = { stats: s.stats, parts: s.parts, o: s.o };
  p.runMatrix(
    K.mlaValue,
    heads,
    read,
    w.valueUp,
    w.valueUp.parts[0]!,
    [p.sum, K.slices, K.shares],
    {
      SLICES: slices,
      ...values.lanes,
    },
  );
}

/** GROUP and SUM_LANES of mlaToken and mlaValue: a processor has few lanes, and four rows for each of them. */
function groupsOf(p: Plan, gpu: Gpu, wanted: { rows: number; lanes: number }) {
  const lanes = gpu.report.software ? p.lanes(wanted.lanes) : { SUM_LANES: wanted.lanes };
  return { rows: { GROUP: Math.min(wanted.rows, 4 * lanes.SUM_LANES) }, lanes };
}

/**
 * What one token's queries in `scratch.inputs` and `scratch.latentQuery` find in the cache, into `scratch.stats` and
 * `scratch.parts`; its row is in the first segment already and is appended to the others. Returns the number of slices.
 */
export function attendOne(
  p: Plan,
  gpu: Gpu,
  c: ModelConfig,
  w: MlaWeights,
  cache: MlaState,
  rows: readonly Segment[],
  s: Scratch,
): number {
  const { query, latent, sharedKey } = c.mla;
  const queries = gpu.part(s.inputs, 'query of one token', 0, [c.heads, query]);
  const row = gpu.part(s.inputs, 'latent row of one token', latentAt(c), [latent + sharedKey]);
  cache.segments.forEach((segment, i) => {
    if (i > 0) append(p, c, w, cache, segment, rows[i]!, row);
  });
  const slices = slicesFor(p, gpu, cache, rows);
  attend(p, c, cache, rows, queries, s, slices);
  return slices;
}

/** As many for one token as there is room for rows, so that a long conversation fills a GPU. */
function slicesFor(p: Plan, gpu: Gpu, cache: MlaState, rows: readonly Segment[]): number {
  if (gpu.report.software) return 1;
  if (!p.single) return SLICES.piece;
  const room = rows.slice(0, cache.segments.length).reduce((sum, segment) => sum + segment.rows, 0);
  return Math.max(SLICES.least, Math.min(SLICES.most, Math.ceil(room / SLICE_ROWS)));
}

export function numbersOf(cache: MlaState): Library {
  return cache.numbers === 'f16' ? K.cacheF16 : K.cacheF32;
}

function append(
  p: Plan,
  c: ModelConfig,
  w: MlaWeights,
  cache: MlaState,
  segment: Tensor,
  { first: FIRST, rows: SEGMENT }: Segment,
  latentRow: Tensor,
): void {
  const { latent: LATENT, sharedKey: SHARED } = c.mla;
  const consts = { LATENT, SHARED, EPS: c.eps, FIRST, SEGMENT };
  const tensors = { c: latentRow, w: w.latentNorm, cache: segment };
  const libraries = [p.sum, K.step, K.latentRow, numbersOf(cache)];
  p.run(K.mlaAppend, consts, tensors, libraries, p.lanes(LATENT / 4));
}

/** Join the slices: `scratch.context`. */
function merge(p: Plan, c: ModelConfig, s: Scratch, slices: number): void {
  const { heads: HEADS, mla } = c;
  const consts = { HEADS, LATENT: mla.latent, SLICES: slices, COLUMNS: K.mergeColumns(slices) };
  p.run(K.mlaMerge, consts, { stats: s.stats, parts: s.parts, context: s.context });
}

/** All segments in turn, into `scratch.stats` and `scratch.parts`. */
function attend(
  p: Plan,
  c: ModelConfig,
  cache: MlaState,
  rows: readonly Segment[],
  q: Tensor,
  s: Scratch,
  slices: number,
): void {
  const { ownKey: NOPE, sharedKey: SHARED, query, latent: LATENT } = c.mla;
  const sizes = { HEADS: c.heads, LATENT, SHARED, NOPE, SCALE: query ** -0.5 };
  cache.segments.forEach((segment, i) => {
    const { first: FIRST, rows: SEGMENT } = rows[i]!;
    const consts = { ...sizes, FIRST, SEGMENT, SLICES: slices };
    const tensors = { qa: s.latentQuery, q, cache: segment, stats: s.stats, parts: s.parts };
    if (p.single) p.run(K.mlaAttendToken, consts, tensors, [numbersOf(cache), K.step]);
    else p.run(K.mlaAttend, consts, tensors, [numbersOf(cache), K.outer, K.step]);
  });
}

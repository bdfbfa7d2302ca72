/** Multi-head latent attention between its projections, for any number of tokens. */
import type { ModelConfig } from './config.ts';
import type { Gpu } from './gpu.ts';
import * as K from './kernels.ts';
import type { Plan } from './plan.ts';
import { QUERIES, type Scratch, SLICES } from './scratch.ts';
import type { MlaState, Segment } from './state.ts';
import type { MlaWeights } from './weights.ts';

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
  const { ownKey: NOPE, sharedKey: SHARED, query, latent: LATENT } = c.mla;
  const SCALE = query ** -0.5;
  const slices = gpu.report.software ? 1 : p.single ? SLICES.single : SLICES.piece;
  p.linear(w.keyUp, s.query, s.latentQuery, { xToken: HEADS * query, xBatch: query });
  const numbers = cache.numbers === 'f16' ? K.cacheF16 : K.cacheF32;
  const segments = cache.segments.map((tensor, i) => ({
    tensor,
    FIRST: rows[i]!.first,
    SEGMENT: rows[i]!.rows,
  }));
  for (const { tensor, FIRST, SEGMENT } of segments) {
    const consts = { LATENT, SHARED, EPS: c.eps, FIRST, SEGMENT };
    const tensors = { c: s.latentRow, w: w.latentNorm, cache: tensor };
    p.run(K.mlaAppend, consts, tensors, [p.sum, K.step, numbers], p.lanes(LATENT / 4));
  }
  for (const { tensor, FIRST, SEGMENT } of segments) {
    const consts = {
      HEADS,
      LATENT,
      SHARED,
      NOPE,
      SCALE,
      FIRST,
      SEGMENT,
      SLICES: slices,
      QUERIES,
    };
    const tensors = {
      qa: s.latentQuery,
      q: s.query,
      cache: tensor,
      stats: s.stats,
      parts: s.parts,
    };
    p.run(K.mlaAttend, consts, tensors, [numbers, K.outer, K.step]);
  }
  p.run(
    K.mlaMerge,
    { HEADS, LATENT, SLICES: slices },
    { stats: s.stats, parts: s.parts, context: s.context },
  );
  p.linear(w.valueUp, s.context, s.o);
}

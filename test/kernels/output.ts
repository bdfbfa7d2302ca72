/** How the kernels that read the logits are checked; see layers.ts. */
import { argmaxMerge, best } from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import { dispatch, randomValues } from '../gpu.ts';
import { argmax as reference } from '../reference/compare.ts';
import { same } from './layers.ts';

/** The bits of numbers, as u32. */
export const bitsOf = (x: Float32Array): Uint32Array =>
  new Uint32Array(x.buffer, x.byteOffset, x.length);

// ---------------------------------------------------------------------------------------------- argmax

export interface ArgmaxCase {
  vocabulary: number;
  T: number;
  slices: number;
  /** Values put into the row of every token: `[id, logit]`. */
  set: [number, number][];
  /** Round logits to multiples of this, for ties; 0 leaves them. */
  grain: number;
}

/**
 * 0 if id, logit and count of bad numbers are exactly right for all tokens, and the sum of e^(logit - best) to 1e-5, else
 * Infinity. `logits` are in [-8, 8).
 */
export async function checkArgmax(
  kernel: typeof kernels.argmax,
  c: ArgmaxCase,
  merge: typeof kernels.argmaxMerge = argmaxMerge,
): Promise<number> {
  const logits = randomValues(1, c.T * c.vocabulary, 8).map((x) =>
    c.grain ? Math.round(x / c.grain) * c.grain : x,
  );
  for (let t = 0; t < c.T; t++) {
    for (const [id, logit] of c.set) logits[t * c.vocabulary + id] = logit;
  }
  const { slices } = await dispatch({
    kernel,
    libraries: [best],
    consts: { VOCABULARY: c.vocabulary, SLICES: c.slices },
    inputs: { logits },
    outputs: { slices: c.T * c.slices * 4 },
    tokens: c.T,
  });
  const { best: found } = await dispatch({
    kernel: merge,
    libraries: [best],
    consts: { SLICES: c.slices },
    inputs: { slices: slices! },
    outputs: { best: c.T * 4 },
    tokens: c.T,
  });
  const records = bitsOf(found!);
  const expected = new Uint32Array(c.T * 4);
  for (let t = 0; t < c.T; t++) {
    const row = logits.subarray(t * c.vocabulary, (t + 1) * c.vocabulary);
    const finite = row.map((x) => (Number.isFinite(x) ? x : -Infinity));
    const id = reference(finite);
    const none = finite[id] === -Infinity;
    const bad = row.filter((x) => !Number.isFinite(x)).length;
    const sum = none ? 0 : finite.reduce((total, x) => total + Math.exp(x - finite[id]!), 0);
    if (!(Math.abs(found![4 * t + 3]! - sum) <= 1e-5 * sum)) return Infinity;
    const [top] = bitsOf(finite.subarray(id, id + 1).slice());
    expected.set(none ? [0xffffffff, 0xff7fffff, bad] : [id, top!, bad], 4 * t);
    expected[4 * t + 3] = records[4 * t + 3]!;
  }
  return same(records, expected);
}

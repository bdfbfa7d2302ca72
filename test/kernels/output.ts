/** How the kernels that read the logits are checked; see layers.ts. */
import { argmaxMerge, best, step } from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import { dispatch, randomValues } from '../gpu.ts';
import { argmax as reference } from '../reference/compare.ts';
import { rms, same, type Sum } from './layers.ts';

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

// ------------------------------------------------------------------------------------------ top_logits

export interface TopCase {
  vocabulary: number;
  slices: number;
  best: number;
  /** Position of the last token. */
  position: number;
  factor: number;
  window: number;
  /** Where tokens last stood: every `spread`-th token at a position of its own; 0 = none was seen. */
  spread: number;
  grain: number;
  set: [number, number][];
  sum: Sum;
}

interface Candidate {
  id: number;
  penalised: number;
  logit: number;
}

/**
 * Relative RMS of the softmax sums and penalised logits; Infinity if ids, logits, tops or counts of bad numbers are not
 * exactly those of sorting every slice.
 */
export async function checkTopLogits(
  kernel: typeof kernels.topLogits,
  c: TopCase,
): Promise<number> {
  const logits = randomValues(1, c.vocabulary, 12).map((x) =>
    c.grain ? Math.round(x / c.grain) * c.grain : x,
  );
  for (const [id, logit] of c.set) logits[id] = logit;
  const seen = Uint32Array.from({ length: c.vocabulary }, (_, id) =>
    c.spread && id % c.spread === 0 ? (id * 7919) % (c.position + 2) : 0,
  );
  const factor = Math.fround(c.factor);
  const { slices } = await dispatch({
    kernel,
    libraries: [c.sum.library, step],
    consts: { VOCABULARY: c.vocabulary, SLICES: c.slices, BEST: c.best },
    libraryConsts: { SUM_LANES: c.sum.lanes },
    inputs: {
      penalty: Uint32Array.of(bitsOf(Float32Array.of(factor))[0]!, c.window),
      logits,
      seen,
    },
    outputs: { slices: c.slices * (4 + 3 * c.best) },
    tokens: 1,
    position: c.position,
  });

  const all = [...logits].map((logit, id): Candidate => {
    const inWindow = seen[id]! > 0 && c.position + 1 - seen[id]! < c.window;
    const penalised = !inWindow ? logit : logit > 0 ? logit / factor : logit * factor;
    return { id, logit, penalised: Math.fround(penalised) };
  });
  const perSlice = Math.ceil(c.vocabulary / c.slices);
  const words = bitsOf(slices!);
  const [figures, expectedFigures]: [number[], number[]] = [[], []];
  for (let s = 0; s < c.slices; s++) {
    const at = s * (4 + 3 * c.best);
    const part = all.slice(s * perSlice, (s + 1) * perSlice);
    const finite = part.filter((x) => Number.isFinite(x.logit));
    finite.sort((a, b) => b.penalised - a.penalised || a.id - b.id);
    const kept = finite.slice(0, c.best);
    const top = Math.fround(Math.max(-3.4e38, ...finite.map((x) => x.logit)));
    if (slices![at] !== top || words[at + 3] !== part.length - finite.length) return Infinity;
    figures.push(slices![at + 1]!, slices![at + 2]!);
    expectedFigures.push(
      finite.reduce((sum, x) => sum + Math.exp(x.logit - top), 0),
      finite.reduce((sum, x) => sum + Math.exp(x.penalised - kept[0]!.penalised), 0),
    );
    for (let i = 0; i < c.best; i++) {
      const from = at + 4 + 3 * i;
      if (words[from] !== (kept[i]?.id ?? 0xffffffff)) return Infinity;
      if (slices![from + 2] !== (kept[i]?.logit ?? Math.fround(-3.4e38))) return Infinity;
      if (!kept[i]) continue;
      figures.push(slices![from + 1]!);
      expectedFigures.push(kept[i]!.penalised);
    }
  }
  return rms(figures, expectedFigures);
}

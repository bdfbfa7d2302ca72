/** What top_logits.wgsl leaves on the GPU -> the best tokens of the whole vocabulary. Pure. */
import { TOP_LOGITS_HEADER, TOP_LOGITS_WORDS } from './kernels.ts';
import type { Candidates } from './sampler.ts';

/**
 * Merge the slices of the vocabulary, each with its own best tokens in order: the `best` first of all, exactly, with the
 * log-sum-exp over all. `bad` counts logits that are no numbers.
 */
export function mergeCandidates(
  record: ArrayBuffer,
  slices: number,
  best: number,
  vocabulary: number,
): { candidates: Candidates; bad: number } {
  const words = new Uint32Array(record);
  const floats = new Float32Array(record);
  const stride = TOP_LOGITS_HEADER + TOP_LOGITS_WORDS * best;
  const count = Math.min(best, vocabulary);
  const ids = new Uint32Array(count);
  const logits = new Float32Array(count);
  const raw = new Float32Array(count);

  let bad = 0;
  let top = -Infinity;
  for (let s = 0; s < slices; s++) top = Math.max(top, floats[s * stride]!);
  let sum = 0;
  for (let s = 0; s < slices; s++) {
    sum += Math.exp(floats[s * stride]! - top) * floats[s * stride + 1]!;
    bad += words[s * stride + 3]!;
  }

  const taken = new Uint32Array(slices); // of each slice, so far
  for (let i = 0; i < count; i++) {
    let from = -1;
    let largest = -Infinity;
    for (let s = 0; s < slices; s++) {
      if (taken[s] === best) continue;
      const logit = floats[s * stride + TOP_LOGITS_HEADER + TOP_LOGITS_WORDS * taken[s]! + 1]!;
      // Slices go up through the vocabulary, so among equals the earlier slice has the lower id.
      if (logit > largest) [from, largest] = [s, logit];
    }
    const at = from * stride + TOP_LOGITS_HEADER + TOP_LOGITS_WORDS * taken[from]!++;
    ids[i] = words[at]!;
    logits[i] = floats[at + 1]!;
    raw[i] = floats[at + 2]!;
  }
  return {
    candidates: {
      ids,
      logits,
      raw,
      logSumExp: top + Math.log(sum),
      complete: count === vocabulary,
    },
    bad,
  };
}

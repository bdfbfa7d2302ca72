/** Two branches' expectations, compared: from the best tokens that each was seen to report. Pure. */

/** One of the best next tokens, as a record has it. */
export interface Candidate {
  id: number;
  text: string;
  /** Natural log of its probability. */
  logprob: number;
}

/** The first place at which two rows of ids differ; the shorter one's length if they do not. */
export function firstDifference(a: readonly number[], b: readonly number[]): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) if (a[i] !== b[i]) return i;
  return shared;
}

/**
 * Total variation distance of two distributions, 0 to 1, from the tokens listed by each: where one does not list a token
 * its probability counts as 0, and what neither lists as one token of its own. NaN where either lists nothing.
 */
export function apart(a: readonly Candidate[], b: readonly Candidate[]): number {
  if (a.length === 0 || b.length === 0) return NaN;
  const [p, q] = [sharesOf(a), sharesOf(b)];
  const rest = (shares: Map<number, number>) =>
    Math.max(0, 1 - [...shares.values()].reduce((sum, share) => sum + share, 0));
  let sum = Math.abs(rest(p) - rest(q));
  for (const id of new Set([...p.keys(), ...q.keys()])) {
    sum += Math.abs((p.get(id) ?? 0) - (q.get(id) ?? 0));
  }
  return Math.min(1, sum / 2);
}

/** The likeliest tokens of either, at most `count`, with their probabilities in both; null where it is not listed. */
export function outlook(
  a: readonly Candidate[],
  b: readonly Candidate[],
  count: number,
): { id: number; text: string; shares: [number | null, number | null] }[] {
  const [p, q] = [sharesOf(a), sharesOf(b)];
  const texts = new Map([...a, ...b].map(({ id, text }) => [id, text]));
  return [...texts]
    .map(([id, text]) => ({
      id,
      text,
      shares: [p.get(id) ?? null, q.get(id) ?? null] as [number | null, number | null],
    }))
    .sort((x, y) => most(y.shares) - most(x.shares))
    .slice(0, count);
}

const most = ([one, other]: [number | null, number | null]) => Math.max(one ?? 0, other ?? 0);

const sharesOf = (candidates: readonly Candidate[]) =>
  new Map(candidates.map(({ id, logprob }) => [id, Math.exp(logprob)]));

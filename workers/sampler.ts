/**
 * From logits to a token. Pure: the same settings, logits and position always give the same token, and two engines that
 * hold to the definitions here give the same one too, up to the rounding of a draw that is all but tied.
 *
 * In this order, which is llama.cpp's default: repetition penalty, top-k, top-p, min-p, temperature, draw. So the
 * filters look at the distribution the model gave, not at the one the temperature has flattened, and a high temperature
 * does not let the tail back in. (Programs that put temperature first keep more tokens.)
 *
 *   penalty   l <- l / r if l > 0, else l r, once for every token among the last w of the sequence
 *   top-k     the k largest logits; of equals, the lower id
 *   top-p     of those, the fewest, best first, whose probabilities (among those) add up to p or more
 *   min-p     of those, the ones at least m times as probable as the best
 *   draw      argmax of l / temperature + gumbel(seed, position, id), which picks i with probability
 *             softmax(l / temperature)_i; temperature 0: the largest logit, of equals the lower id
 *
 * The draw needs no sum and no order, so a GPU can make it in one reduction, and a token's chance number does not
 * depend on which others are in the race.
 */
import { PalimpsestError, type Sampling } from './protocol.ts';

/** Tokens in the running, best first; of equal logits, the lower id first. */
export interface Candidates {
  ids: Uint32Array;
  /** After the repetition penalty: what the choice is made from. */
  logits: Float32Array;
  /** Before it: what is reported. Of the same tokens. */
  raw: Float32Array;
  /** ln of the sum of exp over the raw logits of the whole vocabulary: raw - logSumExp is a log-probability. */
  logSumExp: number;
  /** Whether this is the whole vocabulary. */
  complete: boolean;
}

/** The most candidates that are reported with a token. */
const mostReported = 64;

/** The settings as they came. Fails: Refused, naming the field and what it may be. */
export function checkSampling(s: Sampling): Sampling {
  const integer = (n: number, from: number, to: number) =>
    Number.isInteger(n) && n >= from && n <= to;
  const number = (n: number, from: number, to: number) =>
    Number.isFinite(n) && n >= from && n <= to; // isFinite: a text is no number
  const tokens = 0x7fffffff;
  const rules: [field: keyof Sampling, ok: boolean, range: string][] = [
    ['temperature', number(s.temperature, 0, 100), '0 (the best token) to 100'],
    ['topK', integer(s.topK, 0, tokens), 'a whole number from 0 (off)'],
    ['topP', number(s.topP, 0, 1), '0 to 1 (off)'],
    ['minP', number(s.minP, 0, 1), '0 (off) to 1'],
    [
      'repetitionPenalty',
      number(s.repetitionPenalty, Number.MIN_VALUE, 100),
      'a number above 0 and up to 100; 1 is off',
    ],
    ['repetitionWindow', integer(s.repetitionWindow, 0, tokens), 'a whole number from 0 (off)'],
    ['seed', integer(s.seed, 0, 0xffffffff), `a whole number from 0 to ${0xffffffff}`],
    ['maxTokens', integer(s.maxTokens, 1, tokens), 'a whole number from 1'],
    [
      'stop',
      Array.isArray(s.stop) && s.stop.every((text) => typeof text === 'string' && text !== ''),
      'a list of texts that are not empty',
    ],
    [
      'candidates',
      integer(s.candidates, 0, mostReported),
      `a whole number from 0 to ${mostReported}`,
    ],
  ];
  for (const [field, ok, range] of rules) {
    if (ok) continue;
    throw new PalimpsestError('Refused', `Sampling: ${field} is ${show(s[field])}; use ${range}.`);
  }
  return s;
}

/**
 * Whether the choice reaches beyond these candidates, so that all logits are to be read (`wholeVocabulary`). False for
 * the whole vocabulary.
 */
export function needsAllLogits(s: Sampling, candidates: Candidates): boolean {
  return s.temperature !== 0 && keptBy(candidates, s) === null;
}

/**
 * The index of the candidate drawn at `position`. Fails: BadNumbers (a logit is not a number), Refused (candidates that
 * do not settle the choice, see `needsAllLogits`).
 */
export function sampleFrom(candidates: Candidates, s: Sampling, position: number): number {
  const { ids, logits, logSumExp } = candidates;
  checkNumbers(logits, ids);
  if (!Number.isFinite(logSumExp)) throw badNumber('The sum over all logits', logSumExp);
  if (s.temperature === 0) return firstOfTheBest(candidates);
  const kept = keptBy(candidates, s);
  if (kept === null) {
    throw new PalimpsestError(
      'Refused',
      `${ids.length} candidates do not settle what these settings choose. Hand over all logits.`,
    );
  }
  return draw(candidates, kept, s, position);
}

/**
 * All tokens as candidates, from their raw logits. `sequence` is every token so far, for the penalty. In order as far
 * as the settings look, and at least as many as may be reported; the rest by id. Fails: BadNumbers.
 */
export function wholeVocabulary(
  raw: Float32Array,
  sequence: ArrayLike<number>,
  s: Sampling,
): Candidates {
  checkNumbers(raw, null);
  const logits = penalise(raw, sequence, s);
  const filtered = s.topP < 1 || s.minP > 0;
  const ids = rank(logits, filtered ? logits.length : Math.max(s.topK, mostReported));
  return {
    ids,
    logits: pick(logits, ids),
    raw: pick(raw, ids),
    logSumExp: logSumExpOf(raw),
    complete: true,
  };
}

/** Logits after the repetition penalty; a copy. Tokens of the last `repetitionWindow` of `sequence` count, once each. */
export function penalise(
  raw: Float32Array,
  sequence: ArrayLike<number>,
  s: Sampling,
): Float32Array {
  const logits = raw.slice();
  for (let i = Math.max(0, sequence.length - s.repetitionWindow); i < sequence.length; i++) {
    const id = sequence[i];
    logits[id] = raw[id] > 0 ? raw[id] / s.repetitionPenalty : raw[id] * s.repetitionPenalty;
  }
  return logits;
}

/**
 * The chance number of a token: standard Gumbel, -ln(-ln u), u from the hash of (seed, position, id). All three are
 * taken as unsigned 32 bits. u = (h + 1/2) / 2^32 lies strictly between 0 and 1; in float32, near 1, use 1 - u.
 */
export function gumbel(seed: number, position: number, id: number): number {
  return gumbelOf(hashIn(hashOf(seed, position), id));
}

// --------------------------------------------------------------------------------------------------- choice

/** How many candidates, from the first, pass the filters; null where that is not settled by these. */
function keptBy({ logits, logSumExp, complete }: Candidates, s: Sampling): number | null {
  const best = logits[0];
  const topK = s.topK > 0 && s.topK <= logits.length;
  let kept = topK ? s.topK : logits.length;
  let settled = topK || complete;

  if (s.topP < 1) {
    // Of the whole, unless top-k comes first. The sum at hand is that of raw logits.
    let total = Math.exp(logSumExp - best);
    if (settled) {
      total = 0;
      for (let i = 0; i < kept; i++) total += Math.exp(logits[i] - best);
    } else if (s.topK > 0 || penalises(s)) return null;
    let sum = 0;
    for (let i = 0; i < kept; i++) {
      sum += Math.exp(logits[i] - best);
      if (sum < s.topP * total) continue;
      kept = i + 1;
      settled = true;
    }
  }

  if (s.minP > 0) {
    const floor = best + Math.log(s.minP);
    for (let i = 1; i < kept; i++) {
      if (logits[i] >= floor) continue;
      kept = i;
      settled = true;
    }
  }
  return settled ? kept : null;
}

function penalises(s: Sampling): boolean {
  return s.repetitionPenalty !== 1 && s.repetitionWindow > 0;
}

function firstOfTheBest({ ids, logits }: Candidates): number {
  let first = 0;
  for (let i = 1; i < ids.length && logits[i] === logits[0]; i++) {
    if (ids[i] < ids[first]) first = i;
  }
  return first;
}

function draw({ ids, logits }: Candidates, kept: number, s: Sampling, position: number): number {
  const key = hashOf(s.seed, position);
  let chosen = 0;
  let best = -Infinity;
  for (let i = 0; i < kept; i++) {
    const scaled = (logits[i] - logits[0]) / s.temperature;
    const hash = hashIn(key, ids[i]);
    // -ln(-ln u) < -ln(1 - u), and 1 - u > 2^-(1 + leading ones of the hash): most tokens are out without a logarithm.
    if (scaled + (1 + Math.clz32(~hash)) * Math.LN2 < best) continue;
    const score = scaled + gumbelOf(hash);
    if (score > best || (score === best && ids[i] < ids[chosen])) {
      chosen = i;
      best = score;
    }
  }
  return chosen;
}

// A chain of one mixing step per number, each turning every input bit into a fair coin for every output bit. The step
// is xor-shift-multiply with the constants that Wellons' search (hash-prospector) found best for 32 bits. PCG3D, usual
// in shaders, was not taken: it lets the high bits of its inputs through unmixed, so seeds 2^31 apart would be alike.
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
  return x ^ (x >>> 15);
}

function hashOf(seed: number, position: number): number {
  return mix(mix(seed + 0x9e3779b9) + position);
}

function hashIn(key: number, id: number): number {
  return mix(key ^ Math.imul(id, 0x9e3779b1)) >>> 0;
}

function gumbelOf(hash: number): number {
  return -Math.log(-Math.log((hash + 0.5) / 2 ** 32));
}

// -------------------------------------------------------------------------------------------------- ranking
// Plain loops: this runs over the whole vocabulary for a token, and callbacks cost ten times as much.

/** All ids, the first `sorted` of them by logit, best first, of equals the lower id first; the others by id. */
function rank(logits: Float32Array, sorted: number): Uint32Array {
  const count = logits.length;
  const orders = ordersOf(logits);
  const floor = sorted < count ? floorOf(orders, sorted) : 0;
  // Order and id in one number, exact below 2^53, that sorts as wanted: 32 bits of order, reversed, then the id.
  const keys = new Float64Array(count);
  const ids = new Uint32Array(count);
  let above = 0;
  for (let id = 0; id < count; id++) {
    if (orders[id] >= floor) keys[above++] = (0xffffffff - orders[id]) * 2 ** 21 + id;
  }
  const best = keys.subarray(0, above).sort();
  for (let i = 0; i < above; i++) ids[i] = best[i] % 2 ** 21;
  for (let id = 0, i = above; i < count; id++) if (orders[id] < floor) ids[i++] = id;
  return ids;
}

/** Unsigned integers in the order of the floats. -0 counts as 0. */
function ordersOf(logits: Float32Array): Uint32Array {
  const bits = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
  const orders = new Uint32Array(logits.length);
  for (let id = 0; id < bits.length; id++) {
    const positive = bits[id] <= 0x80000000;
    orders[id] = positive ? bits[id] | 0x80000000 : ~bits[id];
  }
  return orders;
}

/** A bound that at least `count` of the numbers reach, and few more: from a count of their upper 16 bits. */
function floorOf(orders: Uint32Array, count: number): number {
  const having = new Uint32Array(65_536);
  for (let id = 0; id < orders.length; id++) having[orders[id] >>> 16]++;
  let bin = having.length;
  for (let reached = 0; reached < count;) reached += having[--bin];
  return bin * 65_536;
}

function pick(values: Float32Array, ids: Uint32Array): Float32Array {
  const picked = new Float32Array(ids.length);
  for (let i = 0; i < ids.length; i++) picked[i] = values[ids[i]];
  return picked;
}

function logSumExpOf(logits: Float32Array): number {
  let most = -Infinity;
  for (let id = 0; id < logits.length; id++) most = Math.max(most, logits[id]);
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - most);
  return most + Math.log(sum);
}

/** Fails where a logit is not finite. `ids` names the tokens; null where the index is the id. */
function checkNumbers(logits: Float32Array, ids: Uint32Array | null): void {
  for (let i = 0; i < logits.length; i++) {
    if (Number.isFinite(logits[i])) continue;
    throw badNumber(`The logit of token ${ids ? ids[i] : i}`, logits[i]);
  }
}

function badNumber(what: string, value: number): PalimpsestError {
  return new PalimpsestError(
    'BadNumbers',
    `${what} is ${value}. The answer is void: load the model again; if it happens again, its file or this GPU is at fault.`,
  );
}

function show(value: unknown): string {
  return typeof value === 'string' ? `"${value}"` : Array.isArray(value) ? 'a list' : String(value);
}

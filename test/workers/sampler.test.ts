import { describe, expect, test } from 'vitest';
import type { Sampling } from '../../workers/protocol.ts';
import {
  checkSampling,
  gumbel,
  needsAllLogits,
  penalise,
  sampleFrom,
  wholeVocabulary,
  type Candidates,
} from '../../workers/sampler.ts';
import { random } from '../reference/random.ts';

const neutral: Sampling = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 0,
  seed: 1,
  maxTokens: 16,
  stop: [],
  candidates: 0,
};
const settings = (changes: Partial<Sampling>): Sampling => ({ ...neutral, ...changes });

/** Logits of a vocabulary, nearly normal, some of them equal. */
function randomLogits(seed: number, count: number, spread = 3): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => {
    const normal = Array.from({ length: 12 }, next).reduce((a, b) => a + b) - 6;
    return Math.round(normal * spread * 8) / 8;
  });
}

/** The first candidates of a vocabulary, as a GPU hands them over. */
function bestOf(logits: Float32Array, count: number, history: number[] = [], s = neutral) {
  const all = wholeVocabulary(logits, history, { ...s, topP: 0.5 });
  const first = {
    ids: all.ids.slice(0, count),
    logits: all.logits.slice(0, count),
    raw: all.raw.slice(0, count),
    logSumExp: all.logSumExp,
    complete: count >= logits.length,
  };
  return first satisfies Candidates;
}

/** Ids that pass the filters, from the definition alone, in float64. */
function allowedIds(logits: Float32Array, s: Sampling): number[] {
  const all = Array.from(logits, (logit, id) => ({ id, logit }));
  const byRank = (a: (typeof all)[0], b: (typeof all)[0]) => b.logit - a.logit || a.id - b.id;
  let left = all.sort(byRank);
  if (s.topK > 0) left = left.slice(0, s.topK);
  if (s.topP < 1) {
    const weights = left.map(({ logit }) => Math.exp(logit));
    const total = weights.reduce((a, b) => a + b);
    let sum = 0;
    const needed = weights.findIndex((weight) => (sum += weight) >= s.topP * total);
    left = left.slice(0, needed + 1);
  }
  if (s.minP > 0) {
    const best = Math.exp(left[0].logit);
    left = left.filter(({ logit }) => Math.exp(logit) >= s.minP * best);
  }
  return left.map(({ id }) => id);
}

/** The token the definitions choose, by looking at every allowed one. */
function chosen(logits: Float32Array, s: Sampling, position: number): number {
  const scores = allowedIds(logits, s).map(
    (id) => [logits[id] / s.temperature + gumbel(s.seed, position, id), id] as const,
  );
  return scores.reduce((a, b) => (b[0] > a[0] ? b : a))[1];
}

describe('chance numbers', () => {
  test('are the standard Gumbel distribution, in every coordinate', () => {
    const count = 50_000;
    const runs: [name: string, at: (i: number) => number][] = [
      ['ids', (i) => gumbel(7, 100, i)],
      ['positions', (i) => gumbel(7, i, 100)],
      ['seeds', (i) => gumbel(i, 7, 100)],
      ['high seeds', (i) => gumbel((0xffffffff - i) >>> 0, 0, 0)],
      ['all at once', (i) => gumbel(i, i, i)],
    ];
    for (const [name, at] of runs) {
      // exp(-exp(-g)) is uniform again: 64 bins, whose chi-square has mean 63 and deviation sqrt(126) = 11.2.
      const bins = new Float64Array(64);
      let neighbours = 0;
      let before = 0;
      for (let i = 0; i < count; i++) {
        const uniform = Math.exp(-Math.exp(-at(i)));
        expect(uniform > 0 && uniform < 1).toBe(true);
        bins[Math.floor(uniform * 64)]++;
        neighbours += (uniform - 0.5) * before;
        before = uniform - 0.5;
      }
      const each = count / 64;
      const chiSquare = bins.reduce((sum, n) => sum + (n - each) ** 2 / each, 0);
      expect(chiSquare, name).toBeLessThan(63 + 5 * 11.2);
      expect(chiSquare, name).toBeGreaterThan(63 - 4 * 11.2);
      // Neighbours are independent: a correlation of 0 within five deviations of 1 / sqrt(count).
      expect(Math.abs(neighbours / count) * 12, name).toBeLessThan(5 / Math.sqrt(count));
    }
  });

  test('every bit of seed, position and id counts', () => {
    const usual = gumbel(5, 6, 7);
    for (let bit = 0; bit < 32; bit++) {
      const flip = (n: number) => (n ^ (1 << bit)) >>> 0;
      expect(gumbel(flip(5), 6, 7)).not.toBeCloseTo(usual, 3);
      expect(gumbel(5, flip(6), 7)).not.toBeCloseTo(usual, 3);
      expect(gumbel(5, 6, flip(7))).not.toBeCloseTo(usual, 3);
    }
  });

  test('stay what they are', () => {
    // Worked out by hand from the definition: three rounds of the mixing step in BigInt arithmetic.
    const mask = (1n << 32n) - 1n;
    const mix = (x: bigint) => {
      x = ((x ^ (x >> 16n)) * 0x21f0aaadn) & mask;
      x = ((x ^ (x >> 15n)) * 0xd35a2d97n) & mask;
      return x ^ (x >> 15n);
    };
    for (const [seed, position, id] of [
      [0, 0, 0],
      [1, 2, 3],
      [0xffffffff, 1_000_000, 163_839],
    ]) {
      const key = mix((mix((BigInt(seed) + 0x9e3779b9n) & mask) + BigInt(position)) & mask);
      const h = mix(key ^ ((BigInt(id) * 0x9e3779b1n) & mask));
      expect(gumbel(seed, position, id)).toBe(-Math.log(-Math.log((Number(h) + 0.5) / 2 ** 32)));
    }
  });
});

describe('the draw', () => {
  test.each([
    ['as the model says', settings({})],
    ['hot', settings({ temperature: 2.5, seed: 99 })],
    ['cold', settings({ temperature: 0.4, seed: 0xffffffff })],
    ['filtered', settings({ topK: 20, topP: 0.9, minP: 0.02, temperature: 0.8, seed: 3 })],
  ])('%s, picks tokens as often as softmax says', (_, s) => {
    const positions = 20_000;
    const logits = randomLogits(1, 40, 1);
    const candidates = wholeVocabulary(logits, [], s);
    const drawn = new Float64Array(logits.length);
    for (let position = 0; position < positions; position++) {
      drawn[candidates.ids[sampleFrom(candidates, s, position)]]++;
    }
    const allowed = allowedIds(logits, s);
    const weights = allowed.map((id) => Math.exp(logits[id] / s.temperature));
    const total = weights.reduce((a, b) => a + b);
    // Chi-square over tokens expected at least 5 times, the others taken together. With d degrees of freedom its
    // mean is d and its deviation sqrt(2 d): five deviations pass a true sampler but for one in some ten thousand.
    let chiSquare = 0;
    let degrees = -1;
    let rare = { seen: 0, expected: 0 };
    allowed.forEach((id, i) => {
      const expected = (positions * weights[i]) / total;
      if (expected < 5) rare = { seen: rare.seen + drawn[id], expected: rare.expected + expected };
      else {
        chiSquare += (drawn[id] - expected) ** 2 / expected;
        degrees++;
      }
      drawn[id] = 0;
    });
    if (rare.expected > 0) {
      chiSquare += (rare.seen - rare.expected) ** 2 / Math.max(rare.expected, 1);
      degrees++;
    }
    expect(degrees).toBeGreaterThan(4);
    expect(chiSquare).toBeLessThan(degrees + 5 * Math.sqrt(2 * degrees));
    expect(drawn.every((n) => n === 0)).toBe(true); // nothing that the filters keep out
  });

  test('follows the definition, token by token', () => {
    const next = random(2);
    for (let round = 0; round < 300; round++) {
      const logits = randomLogits(round + 1, 200);
      const s = settings({
        temperature: [0.1, 0.7, 1, 3][round % 4],
        topK: [0, 1, 5, 64, 150, 1000][round % 6],
        topP: [1, 0.95, 0.5, 0, 0.999][round % 5],
        minP: [0, 0.05, 1, 0.001][Math.floor(next() * 4)],
        seed: round,
      });
      const all = wholeVocabulary(logits, [], s);
      expect(all.ids[sampleFrom(all, s, round)]).toBe(chosen(logits, s, round));
    }
  });

  test('is the same from few candidates as from all, or says that it needs all', () => {
    let settled = 0;
    for (let round = 0; round < 400; round++) {
      const logits = randomLogits(round + 1, 500, 1 + (round % 4));
      const s = settings({
        topK: [0, 0, 10, 32, 33, 400][round % 6],
        topP: [1, 0.9, 0.999][round % 3],
        minP: [0, 0.1, 0, 0.001][round % 4],
        repetitionPenalty: round % 5 === 0 ? 1.3 : 1,
        repetitionWindow: 8,
        seed: round,
      });
      const history = Array.from({ length: 20 }, (_, i) => (i * 37 + round) % 500);
      const few = bestOf(logits, 32, history, s);
      const all = wholeVocabulary(logits, history, s);
      expect(needsAllLogits(s, all)).toBe(false);
      const penalised = penalise(logits, history, s);
      expect(all.ids[sampleFrom(all, s, round)]).toBe(chosen(penalised, s, round));

      const kept = allowedIds(penalised, s).length;
      const sumIsKnown = s.topP === 1 || s.repetitionPenalty === 1;
      if (needsAllLogits(s, few)) {
        // Never in vain, but where top-p needs a sum that the candidates do not carry.
        const topKBeyond = s.topK > 32 && s.topP < 1;
        expect(kept >= 32 || !sumIsKnown || topKBeyond, JSON.stringify(s)).toBe(true);
        expect(() => sampleFrom(few, s, round)).toThrow(
          expect.objectContaining({ name: 'Refused' }),
        );
      } else {
        settled++;
        expect(kept).toBeLessThanOrEqual(32);
        expect(few.ids[sampleFrom(few, s, round)]).toBe(all.ids[sampleFrom(all, s, round)]);
      }
    }
    expect(settled).toBeGreaterThan(100);
    expect(settled).toBeLessThan(400);
  });

  test('is a function of seed and position', () => {
    const candidates = wholeVocabulary(randomLogits(4, 300, 1), [], neutral);
    const tokens = (seed: number) =>
      Array.from({ length: 60 }, (_, p) => sampleFrom(candidates, settings({ seed }), p));
    expect(tokens(1)).toEqual(tokens(1));
    expect(tokens(1)).not.toEqual(tokens(2));
    expect(tokens(0)).not.toEqual(tokens(2 ** 31));
    expect(new Set(tokens(1)).size).toBeGreaterThan(10);
  });

  test('at temperature 0, or next to it, is the best token; of equals the lowest id', () => {
    const logits = Float32Array.of(1, 5, -2, 5, 5, 0);
    for (const count of [4, 6]) {
      const s = settings({ temperature: 0 });
      const candidates = bestOf(logits, count);
      expect(needsAllLogits(s, candidates)).toBe(false);
      expect(candidates.ids[sampleFrom(candidates, s, 3)]).toBe(1);
    }
    // However a GPU orders equals.
    const mixed = { ...bestOf(logits, 3), ids: Uint32Array.of(4, 1, 3) };
    expect(mixed.ids[sampleFrom(mixed, settings({ temperature: 0 }), 0)]).toBe(1);
    const sharp = randomLogits(9, 50);
    sharp[17] = 40;
    const all = wholeVocabulary(sharp, [], neutral);
    for (const temperature of [1e-300, 1e-6]) {
      expect(all.ids[sampleFrom(all, settings({ temperature }), 5)]).toBe(17);
    }
  });
});

describe('filters', () => {
  const drawnBy = (logits: Float32Array, s: Sampling) => {
    const all = wholeVocabulary(logits, [], s);
    return new Set(Array.from({ length: 2_000 }, (_, p) => all.ids[sampleFrom(all, s, p)]));
  };
  const logits = Float32Array.from([0.5, 0.25, 0.125, 0.0625, 0.0625], Math.log);

  test('keep exactly what they should', () => {
    const cases: [Partial<Sampling>, number[]][] = [
      [{}, [0, 1, 2, 3, 4]],
      [{ topK: 2 }, [0, 1]],
      [{ topK: 4 }, [0, 1, 2, 3]], // 3 and 4 are equal: the lower id
      [{ topP: 0 }, [0]],
      [{ topP: 0.49 }, [0]],
      [{ topP: 0.51 }, [0, 1]],
      [{ topP: 0.74 }, [0, 1]],
      [{ topP: 0.76 }, [0, 1, 2]],
      [{ topK: 2, topP: 0.6 }, [0]], // of the two, the first has 2/3
      [{ minP: 0.49 }, [0, 1]],
      [{ minP: 0.51 }, [0]],
      [{ minP: 1 }, [0]],
      [{ minP: 0.12 }, [0, 1, 2, 3, 4]],
      [{ minP: 0.3, temperature: 100 }, [0, 1]], // heat lets nothing back in
      [{ topP: 0.6, temperature: 100 }, [0, 1]],
    ];
    for (const [changes, ids] of cases) {
      const set = drawnBy(logits, settings(changes));
      expect([...set].sort(), JSON.stringify(changes)).toEqual(ids);
    }
  });
});

describe('the repetition penalty', () => {
  const s = settings({ repetitionPenalty: 2, repetitionWindow: 3 });

  test('divides what is positive, multiplies what is negative, once per token of the window', () => {
    const logits = Float32Array.of(4, -4, 0, 6, 8);
    expect(penalise(logits, [4, 0, 1, 0], s)).toEqual(Float32Array.of(2, -8, 0, 6, 8));
    expect(penalise(logits, [3], s)).toEqual(Float32Array.of(4, -4, 0, 3, 8));
    expect(penalise(logits, [], s)).toEqual(logits);
    expect(logits).toEqual(Float32Array.of(4, -4, 0, 6, 8));
  });

  test('is off at 1 and without a window', () => {
    const logits = Float32Array.of(1, 2);
    expect(penalise(logits, [0, 1], { ...s, repetitionPenalty: 1 })).toEqual(logits);
    expect(penalise(logits, [0, 1], { ...s, repetitionWindow: 0 })).toEqual(logits);
  });

  test('changes the choice, not the probabilities that are reported', () => {
    const logits = Float32Array.of(3, 2, 1);
    const all = wholeVocabulary(logits, [0], { ...s, temperature: 0 });
    expect(Array.from(all.ids)).toEqual([1, 0, 2]);
    expect(Array.from(all.logits)).toEqual([2, 1.5, 1]);
    expect(Array.from(all.raw)).toEqual([2, 3, 1]);
    expect(all.logSumExp).toBeCloseTo(Math.log(Math.exp(3) + Math.exp(2) + Math.exp(1)), 12);
    expect(all.ids[sampleFrom(all, { ...s, temperature: 0 }, 0)]).toBe(1);
  });
});

describe('the whole vocabulary', () => {
  test('is in order as far as it is looked at', () => {
    for (const [count, changes, ordered] of [
      [1000, {}, 64],
      [1000, { topK: 200 }, 200],
      [1000, { topP: 0.9 }, 1000],
      [1000, { minP: 0.1 }, 1000],
      [10, {}, 10],
    ] as const) {
      const logits = randomLogits(count, count);
      const all = wholeVocabulary(logits, [], settings(changes));
      const byRank = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
      expect(Array.from(all.ids.slice(0, ordered))).toEqual(byRank.slice(0, ordered));
      expect(Array.from(all.ids).sort((a, b) => a - b)).toEqual([...logits.keys()]);
      expect(all.complete).toBe(true);
      expect(Array.from(all.logits)).toEqual(Array.from(all.ids, (id) => logits[id]));
    }
  });

  test('knows no difference between 0 and -0', () => {
    const all = wholeVocabulary(Float32Array.of(-1, -0, 0, -0, 1), [], neutral);
    expect(Array.from(all.ids)).toEqual([4, 1, 2, 3, 0]);
  });

  test('of 163,840 tokens, to the last bit', () => {
    const logits = randomLogits(12, 163_840);
    const s = settings({ topP: 0.99, seed: 5 });
    const all = wholeVocabulary(logits, [], s);
    expect(all.ids[sampleFrom(all, s, 1)]).toBe(chosen(logits, s, 1));
  });
});

describe('numbers that are none', () => {
  test('are an error, never a token', () => {
    for (const broken of [NaN, Infinity, -Infinity]) {
      const logits = randomLogits(1, 100);
      logits[42] = broken;
      const bad = expect.objectContaining({
        name: 'BadNumbers',
        message: expect.stringContaining('token 42'),
      });
      expect(() => wholeVocabulary(logits, [], neutral)).toThrow(bad);
      const few = bestOf(randomLogits(1, 100), 8);
      few.ids[3] = 42;
      few.logits[3] = broken;
      for (const s of [neutral, settings({ temperature: 0 }), settings({ topK: 2 })]) {
        expect(() => sampleFrom(few, s, 0)).toThrow(bad);
      }
    }
    const few = { ...bestOf(randomLogits(1, 100), 8), logSumExp: NaN };
    expect(() => sampleFrom(few, settings({ topP: 0.5 }), 0)).toThrow(
      expect.objectContaining({ name: 'BadNumbers' }),
    );
  });
});

describe('settings', () => {
  test('that make sense pass as they are', () => {
    const s = settings({ temperature: 0, topK: 40, topP: 0.95, minP: 0.05, stop: ['\n'] });
    expect(checkSampling(s)).toBe(s);
    expect(() => checkSampling(settings({ seed: 0xffffffff, candidates: 64 }))).not.toThrow();
  });

  test.each<[keyof Sampling, unknown[]]>([
    ['temperature', [-1, NaN, Infinity, '1', undefined, 101]],
    ['topK', [-1, 1.5, NaN, Infinity, '40']],
    ['topP', [-0.1, 1.1, NaN, undefined]],
    ['minP', [-0.1, 1.1, NaN]],
    ['repetitionPenalty', [0, -1, NaN, Infinity]],
    ['repetitionWindow', [-1, 0.5]],
    ['seed', [-1, 2 ** 32, 0.5, NaN]],
    ['maxTokens', [0, -5, 1.5]],
    ['stop', ['text', [''], [1], null]],
    ['candidates', [-1, 65, 0.5]],
  ])('%s outside its range is refused, by name', (field, values) => {
    for (const value of values) {
      expect(() => checkSampling({ ...neutral, [field]: value }), String(value)).toThrow(
        expect.objectContaining({ name: 'Refused', message: expect.stringContaining(field) }),
      );
    }
  });
});

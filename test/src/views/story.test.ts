import { describe, expect, test } from 'vitest';
import { halfLifeShare, halfLifeWords, medianOver } from '../../../src/views/halfLife.ts';
import { interventionWords } from '../../../src/views/interventions.ts';
import { storyOf, writtenShares } from '../../../src/views/story.ts';
import type { TokenRecord } from '../../../workers/protocol.ts';

const record = (position: number, text: string, written: number[]): TokenRecord => ({
  position,
  id: position,
  text,
  written: Float32Array.from(written),
  writeStrength: new Float32Array(written.length),
  known: new Float32Array(written.length),
  halfLife: new Float32Array(written.length),
  energy: new Float32Array(written.length),
  experts: new Uint32Array(),
  expertWeights: new Float32Array(),
  candidates: [],
  entropy: NaN,
});
const records = [
  record(0, ' 7421', [3, 4, 0]),
  record(1, ' is', [0, 1, 9]),
  record(2, '1180', [6, 8, 0]),
];

describe('a token’s story', () => {
  test('what was written, over some heads, against the most of the text', () => {
    expect([...writtenShares(records, 0, 2)]).toEqual([0.5, Math.fround(0.1), 1]);
    expect(writtenShares(records, 2, 1)[1]).toBe(1);
  });

  test('a mark of the chat template is no word', () => {
    const marked = [...records, record(3, '<|im_end|>', [0, 0, 0])];
    const story = { records: marked, share: 0.5, recall: NaN, overwrittenBy: null };
    expect(storyOf({ ...story, position: 3, overwrote: { position: 0, loss: 0.1 } })).toBe(
      'The mark between two messages was written moderately; it overwrote 10 % of “7421”.',
    );
  });

  test('names what it overwrote and what took it, each with its share', () => {
    const story = {
      position: 2,
      records,
      share: 1,
      recall: 0.64,
      overwrittenBy: null,
      overwrote: { position: 0, loss: 0.31 },
    };
    expect(storyOf(story)).toBe(
      '“1180” was written strongly; it overwrote 31 % of “7421”; the memory returns 64 % of it.',
    );
    const taken = { position: 1, loss: 0.2 };
    expect(
      storyOf({ ...story, share: 0.1, recall: NaN, overwrote: null, overwrittenBy: taken }),
    ).toBe('“1180” was written weakly; “is” took 20 %.');
  });

  test('is silent about losses too small to tell', () => {
    const overwrote = { position: 0, loss: 0.01 };
    const story = { position: 2, records, share: 0.5, recall: 1, overwrittenBy: null, overwrote };
    expect(storyOf(story)).toBe('“1180” was written moderately; the memory returns 100 % of it.');
  });
});

test('half-lives lie on a log axis from 1 to 100,000 tokens', () => {
  expect([0.2, 1, 100_000, Infinity].map(halfLifeShare)).toEqual([0, 0, 1, 1]);
  expect(halfLifeShare(Math.sqrt(100_000))).toBeCloseTo(0.5, 12);
  expect(halfLifeWords(214.4)).toBe('half-life 214 tokens');
  expect(halfLifeWords(0.42)).toBe('half-life 0.4 tokens');
  expect(halfLifeWords(Infinity)).toBe('does not forget');
});

test('the median of a column: the middle, or the mean of the middle two', () => {
  const values = Float32Array.from([5, 0, 1, 0, 9, 0, 2, 0]);
  expect(medianOver(values, 3, 2, 0)).toBe(5);
  expect(medianOver(values, 4, 2, 0)).toBe(3.5);
});

test('interventions are told with place and time', () => {
  const scope = { layers: [3], heads: [1], from: 12 };
  expect(interventionWords({ ...scope, kind: 'forgetting', factor: 0 }, [])).toBe(
    'forgetting × 0 from token 12 on, in layer 3, head 1',
  );
  const all = { layers: [0, 1], heads: [0, 1], from: 3 };
  expect(interventionWords({ ...all, kind: 'forget', token: 0 }, ['Mira'])).toBe(
    '“Mira” (token 0) forgotten at token 3, in 2 layers',
  );
});

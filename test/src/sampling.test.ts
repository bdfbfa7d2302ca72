import { expect, test } from 'vitest';
import {
  clamp,
  clampSeed,
  describe as inWords,
  describeBriefly,
  drawSeed,
  greedy,
  ranges,
  readSampling,
  sameDraw,
  varied,
  type NumberSetting,
} from '../../src/sampling.ts';

const settings = Object.keys(ranges) as NumberSetting[];

test('defaults and presets lie in their ranges', () => {
  for (const setting of settings) {
    expect(clamp(setting, greedy[setting])).toBe(greedy[setting]);
    const { neutral } = ranges[setting];
    if (neutral !== null) expect(greedy[setting]).toBe(neutral);
  }
  for (const [setting, value] of Object.entries(varied)) {
    expect(clamp(setting as NumberSetting, value)).toBe(value);
  }
});

test('values are held within their range, and counts are whole', () => {
  expect(clamp('temperature', -1)).toBe(0);
  expect(clamp('temperature', 99)).toBe(2);
  expect(clamp('topK', 3.6)).toBe(4);
  expect(clamp('topP', 0)).toBe(0.05);
  expect(clamp('maxTokens', NaN)).toBe(greedy.maxTokens);
});

test('a seed is an unsigned 32-bit number', () => {
  expect([-1, 1.4, 2 ** 33, NaN].map(clampSeed)).toEqual([0, 1, 2 ** 32 - 1, 1]);
  const drawn = Array.from({ length: 8 }, drawSeed);
  expect(drawn.map(clampSeed)).toEqual(drawn);
  expect(new Set(drawn).size).toBeGreaterThan(1);
});

test('stored settings are checked part by part', () => {
  expect(readSampling(undefined)).toEqual(greedy);
  expect(readSampling(null)).toEqual(greedy);
  expect(readSampling('no')).toEqual(greedy);
  const stored = { temperature: 9, topK: '5', minP: 0.1, seed: -4, stop: ['###', 7, ''], extra: 1 };
  expect(readSampling(stored)).toEqual({
    ...greedy,
    temperature: 2,
    minP: 0.1,
    seed: 0,
    stop: ['###'],
  });
});

test('the words say whether anything is drawn', () => {
  expect(inWords(greedy)).toBe(
    'Greedy: the most probable token each time. The same prompt gives the same answer.',
  );
  expect(inWords({ ...greedy, repetitionPenalty: 1.2 })).toContain(
    'recent tokens made less probable',
  );
  expect(inWords({ ...greedy, repetitionPenalty: 1.2, repetitionWindow: 0 })).toBe(inWords(greedy));
  const drawn = { ...greedy, temperature: 0.8, topK: 40, topP: 0.9 };
  expect(inWords(drawn)).toBe(
    'Drawn at temperature 0.8 from the 40 best, of the best 90 % of probability. The same seed gives the same answer.',
  );
  expect([greedy, drawn].map(describeBriefly)).toEqual(['Greedy', 'Temperature 0.8']);
});

test('greedy choice takes no notice of the seed and the filters, drawing does', () => {
  expect(sameDraw(greedy, { ...greedy, seed: 2, topK: 5 })).toBe(true);
  expect(sameDraw(greedy, { ...greedy, maxTokens: 5 })).toBe(false);
  expect(sameDraw(greedy, { ...greedy, stop: ['x'] })).toBe(false);
  const drawn = { ...greedy, temperature: 1 };
  expect(sameDraw(drawn, { ...drawn })).toBe(true);
  expect(sameDraw(drawn, { ...drawn, seed: 2 })).toBe(false);
  expect(sameDraw(greedy, drawn)).toBe(false);
});

import { describe, expect, test } from 'vitest';
import { apart, firstDifference, outlook } from '../../../src/views/sides.ts';

const listed = (shares: Record<number, number>) =>
  Object.entries(shares).map(([id, share]) => ({
    id: Number(id),
    text: `t${id}`,
    logprob: Math.log(share),
  }));

test('two rows part at the first id that differs, or where the shorter ends', () => {
  expect(firstDifference([1, 2, 3], [1, 2, 4])).toBe(2);
  expect(firstDifference([1, 2], [1, 2, 4])).toBe(2);
  expect(firstDifference([], [1])).toBe(0);
});

describe('how far two expectations lie apart', () => {
  test('0 where they are the same, 1 where they share nothing, the sum of what moved between', () => {
    expect(apart(listed({ 1: 0.5, 2: 0.5 }), listed({ 2: 0.5, 1: 0.5 }))).toBeCloseTo(0);
    expect(apart(listed({ 1: 1 }), listed({ 2: 1 }))).toBeCloseTo(1);
    expect(apart(listed({ 1: 0.75, 2: 0.25 }), listed({ 1: 0.5, 2: 0.5 }))).toBeCloseTo(0.25);
  });

  test('what is not listed counts as one token', () => {
    expect(apart(listed({ 1: 0.6 }), listed({ 1: 0.4 }))).toBeCloseTo(0.2);
  });

  test('nothing is said where nothing is known', () => {
    expect(apart([], listed({ 1: 1 }))).toBeNaN();
  });
});

test('the likeliest of either come first, with both probabilities', () => {
  const rows = outlook(listed({ 1: 0.6, 2: 0.3 }), listed({ 3: 0.9, 1: 0.05 }), 2);
  expect(rows.map(({ id }) => id)).toEqual([3, 1]);
  expect(rows[0]!.shares[0]).toBeNull();
  expect(rows[0]!.shares[1]).toBeCloseTo(0.9);
  expect(rows[1]!.shares[1]).toBeCloseTo(0.05);
});

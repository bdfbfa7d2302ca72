import { describe, expect, it } from 'vitest';
import { argmax, compare, relativeRms } from './compare.ts';

describe('compare', () => {
  it('divides the difference by the size of what was expected', () => {
    expect(relativeRms([3, 4, 1], [3, 4, 0])).toBeCloseTo(1 / 5, 15);
    expect(compare([1, 5, 3], [1, 2, 4])).toMatchObject({ worst: 1, actual: 5, expected: 2 });
  });

  it('is zero only for equal arrays, zeros included', () => {
    expect(relativeRms([0, 0], [0, 0])).toBe(0);
    expect(relativeRms([0, 1e-100], [0, 0])).toBe(Infinity);
  });

  it('does not call a difference none because its square is too small to hold', () => {
    expect(relativeRms([0, 1e-300], [0, 0])).not.toBe(0);
  });

  it('lets no NaN and no infinity pass', () => {
    expect(compare([1, NaN, 9], [1, 1, 1])).toMatchObject({ relativeRms: NaN, worst: 1 });
    expect(relativeRms([Infinity], [1])).toBe(Infinity);
    expect(relativeRms([Infinity], [Infinity])).toBeNaN();
  });

  it('refuses to compare nothing, or two lengths', () => {
    expect(() => compare([], [])).toThrow('cannot compare 0 numbers with 0');
    expect(() => compare([1], [1, 2])).toThrow('cannot compare 1 numbers with 2');
  });
});

it('argmax takes the first of equals', () => {
  expect(argmax([1, 3, 3, 2])).toBe(1);
});

import { describe, expect, test } from 'vitest';

const reference = [3, 0, -4, 12];
const failureOf = (assert: () => void): string => {
  try {
    assert();
  } catch (error) {
    return (error as Error).message;
  }
  return 'passed';
};

describe('toAgreeWith', () => {
  test('measures the difference relative to the reference', () => {
    expect([3, 0, -4, 12.13]).toAgreeWith(reference, { rms: 0.0101 });
    expect([3, 0, -4, 12.13]).not.toAgreeWith(reference, { rms: 0.0099 });
    expect(new Float32Array(reference)).toAgreeWith(reference, { rms: 0 });
  });

  test('fails on anything that is not a finite number, on either side', () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      expect([3, 0, -4, bad]).not.toAgreeWith(reference, { rms: 1e9 });
      expect(reference).not.toAgreeWith([3, 0, -4, bad], { rms: 1e9 });
      expect([bad]).not.toAgreeWith([bad], { rms: 1e9 });
    }
  });

  test('accepts only zeros where the reference is zero throughout', () => {
    expect([0, 0]).toAgreeWith([0, 0], { rms: 0 });
    expect([0, 1e-30]).not.toAgreeWith([0, 0], { rms: 1 });
  });

  test('refuses to pass where nothing, or not everything, is compared', () => {
    const compared = (actual: number[], shape?: number[]) =>
      failureOf(() => expect(actual).toAgreeWith(reference, { rms: 1, shape }));
    expect(compared([3, 0, -4])).toMatch(/3/);
    expect(compared(reference, [2, 3])).toMatch('shape [2,3] has 6 elements, the reference 4');
    expect(failureOf(() => expect([]).toAgreeWith([], { rms: 1 }))).not.toBe('passed');
    // Both ways round: an assertion that cannot compare must not pass by being negated.
    expect(failureOf(() => expect([1]).not.toAgreeWith(reference, { rms: 1 }))).not.toBe('passed');
  });

  test('names the worst element by its place, with both values', () => {
    const message = failureOf(() =>
      expect([3, 0, 4, 12]).toAgreeWith(reference, { rms: 1e-5, shape: [2, 2], what: 'y' }),
    );
    expect(message).toBe(
      'y [2,2]: relative RMS 6.15e-1, allowed 1.00e-5; worst at [1,0]: 4 against -4',
    );
  });
});

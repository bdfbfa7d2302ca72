import { describe, expect, it } from 'vitest';
import { add, dot, linear, rmsNorm, sigmoid, silu, softplus, unit } from './layers.ts';
import { gaussian, random } from './random.ts';

describe('linear', () => {
  it.each([
    [1, 1, 1],
    [3, 4, 5],
    [2, 6, 7],
    [5, 9, 33],
  ])('T = %i, W [%i, %i]: every sum as written out', (T, rows, cols) => {
    const next = random(rows);
    const W = Float32Array.from(gaussian(next, rows * cols));
    const x = gaussian(next, T * cols);
    const y = linear(W, x, rows, cols);
    expect(y.length).toBe(T * rows);
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < rows; r++) {
        expect(y[t * rows + r]).toBe(dot(W, r * cols, x, t * cols, cols));
      }
    }
  });

  it('gives a token the same bits alone and in company', () => {
    const next = random(2);
    const [W, x] = [gaussian(next, 10 * 24), gaussian(next, 3 * 24)];
    expect(linear(W, x, 10, 24).slice(10, 20)).toEqual(linear(W, x.slice(24, 48), 10, 24));
  });

  it('refuses a matrix of another size, and a broken row', () => {
    expect(() => linear(new Float64Array(5), new Float64Array(2), 3, 2)).toThrow('linear: W has 5');
    expect(() => linear(new Float64Array(6), new Float64Array(3), 3, 2)).toThrow('linear: x has 3');
  });
});

describe('norms', () => {
  it('rmsNorm takes each row by itself', () => {
    const y = rmsNorm(Float64Array.of(3, 4, 0, 0), Float64Array.of(1, 10), 0.5);
    const r = Math.sqrt(12.5 + 0.5);
    expect([...y]).toEqual([3 / r, 40 / r, 0, 0].map((x) => expect.closeTo(x, 14)));
  });

  it('unit adds eps to the sum of squares, inside the root', () => {
    const y = unit(Float64Array.of(3e-4, 4e-4), 2, 1e-6, 2);
    expect(y[0]).toBeCloseTo((2 * 3e-4) / Math.sqrt(25e-8 + 1e-6), 15);
    expect(y[1] / y[0]).toBeCloseTo(4 / 3, 14);
  });

  it('unit leaves zeros alone', () => {
    expect([...unit(new Float64Array(3), 3, 1e-6, 1)]).toEqual([0, 0, 0]);
  });
});

describe('activations', () => {
  it.each([-745, -40, -17, -1, 0, 1, 17, 40, 745])('at %d', (x) => {
    expect(sigmoid(x)).toBeCloseTo(0.5 * (1 + Math.tanh(x / 2)), 15);
    expect(silu(x)).toBe(x * sigmoid(x));
    expect(softplus(x) - softplus(-x)).toBeCloseTo(x, 12); // log(1 + e^x) = x + log(1 + e^-x)
  });

  it('softplus keeps its digits where it is tiny: e^x - e^2x / 2', () => {
    for (const x of [-12, -17, -30]) {
      expect(softplus(x) / (Math.exp(x) - Math.exp(2 * x) / 2)).toBeCloseTo(1, 10);
    }
  });
});

it('add refuses arrays of two lengths', () => {
  expect([...add(Float64Array.of(1, 2), Float32Array.of(3, 4))]).toEqual([4, 6]);
  expect(() => add(new Float64Array(2), new Float64Array(3))).toThrow('add: b has 3');
});

import { describe, expect, it } from 'vitest';
import { matrix, silu } from './layers.ts';
import { moe, routedSum, route, smallestMargin, swiglu } from './moe.ts';
import { gaussian, random } from './random.ts';

const logit = (p: number) => Math.log(p / (1 - p));

describe('route', () => {
  it('lets the bias steer the choice and keeps it out of the weights', () => {
    const logits = Float64Array.of(0.9, 0.5, 0.2, 0.6).map(logit);
    const { scores, experts, weights } = route(logits, Float64Array.of(-1, 0, 0.5, 0), 2, 3);
    expect([...scores]).toEqual([0.9, 0.5, 0.2, 0.6].map((s) => expect.closeTo(s, 14)));
    expect([...experts]).toEqual([2, 3]); // 0.7 and 0.6; without the bias 0 would lead
    expect([...weights]).toEqual(
      [(3 * 0.2) / 0.8, (3 * 0.6) / 0.8].map((w) => expect.closeTo(w, 13)),
    );
  });

  it('takes the lower index of equals', () => {
    const { experts } = route(Float64Array.of(1, 2, 2, 1, 2), new Float64Array(5), 4, 1);
    expect([...experts]).toEqual([1, 2, 4, 0]);
  });

  it('weights of every token add up to the scale', () => {
    const [T, E, top] = [20, 16, 5];
    const routing = route(gaussian(random(1), T * E), gaussian(random(2), E), top, 2.446);
    for (let t = 0; t < T; t++) {
      const sum = routing.weights.slice(t * top, (t + 1) * top).reduce((a, b) => a + b);
      expect(sum).toBeCloseTo(2.446, 13);
      expect(new Set(routing.experts.slice(t * top, (t + 1) * top)).size).toBe(top);
    }
  });

  it('smallestMargin is the least distance at the edge of the choice', () => {
    const logits = Float64Array.of(0.9, 0.5, 0.2, 0.3, 0.35, 0.8).map(logit);
    const bias = Float64Array.of(0, 0, 0.1);
    expect(smallestMargin(route(logits, bias, 1, 1), bias)).toBeCloseTo(0.4, 14);
    expect(smallestMargin(route(logits, bias, 2, 1), bias)).toBeCloseTo(0.05, 14);
  });
});

describe('experts', () => {
  const [T, D, F, E, top] = [7, 6, 5, 4, 2];
  const next = random(9);
  const weights = Array.from({ length: E + 1 }, () => ({
    gate: gaussian(next, F * D),
    up: gaussian(next, F * D),
    down: gaussian(next, D * F),
  }));
  const networks = weights.map(({ gate, up, down }) => ({
    gate: matrix(gate, F, D),
    up: matrix(up, F, D),
    down: matrix(down, D, F),
  }));
  const [shared, experts] = [networks[E], networks.slice(0, E)];
  const x = gaussian(next, T * D);

  it('swiglu is down( silu(gate x) * up x )', () => {
    const { gate, up, down } = weights[0];
    const row = (W: Float64Array, r: number, y: Float64Array) =>
      y.reduce((sum, value, c) => sum + W[r * y.length + c] * value, 0);
    const one = x.slice(0, D);
    const h = Float64Array.from({ length: F }, (_, f) => silu(row(gate, f, one)) * row(up, f, one));
    const wanted = Float64Array.from({ length: D }, (_, d) => row(down, d, h));
    expect(swiglu(networks[0], one)).toAgreeWith(wanted, { rms: 1e-15 });
  });

  it('a token takes its own experts by their weights, and the shared one whole', () => {
    const bias = Float64Array.of(0, 0, -9, 0); // expert 2 is never chosen
    const routing = route(gaussian(next, T * E), bias, top, 1.75);
    expect(routing.experts).not.toContain(2);
    const y = moe(experts, shared, routing, x);
    for (let t = 0; t < T; t++) {
      const one = x.slice(t * D, (t + 1) * D);
      const wanted = swiglu(shared, one);
      for (let slot = t * top; slot < (t + 1) * top; slot++) {
        const out = swiglu(experts[routing.experts[slot]], one);
        out.forEach((value, d) => (wanted[d] += routing.weights[slot] * value));
      }
      expect(y.slice(t * D, (t + 1) * D)).toAgreeWith(wanted, { rms: 1e-14 });
    }
    expect(routedSum(experts, routing, x)).not.toEqual(y);
  });
});

import { describe, expect, it } from 'vitest';
import {
  chunk,
  chunkInverse,
  chunkPairs,
  emptyMemory,
  gates,
  outNorm,
  shortConv,
  step,
} from './kda.ts';
import { headRows, type KdaInputs, type KdaSizes } from './kda.ts';
import { each, silu, softplus, unit } from './layers.ts';
import { gaussian, random, uniform } from './random.ts';

/** Inputs as the model makes them: unit q and k (q scaled), beta in (0, 1), g by `logDecay(d)` per element. */
function kdaInputs({ T, H, K, V }: KdaSizes, seed: number, logDecay: (d: number) => number) {
  const next = random(seed);
  return {
    q: unit(gaussian(next, T * H * K), K, 1e-6, K ** -0.5),
    k: unit(gaussian(next, T * H * K), K, 1e-6, 1),
    v: gaussian(next, T * H * V),
    g: Float64Array.from({ length: T * H * K }, () => logDecay(next())),
    beta: uniform(next, T * H, 0, 1),
  };
}

/** From gentle to violent. Each takes a uniform number in [0, 1). */
const decays: Record<string, (x: number) => number> = {
  gentle: (x) => -0.1 * x,
  strong: (x) => -16 * softplus(8 * x - 6), // exp(A_log) = 16, pre-activations to 2: g from -0.04 to -34
  none: () => 0,
  'half none': (x) => (x < 0.5 ? 0 : -4 * x),
  violent: (x) => -300 * x,
};

describe('chunk form = step form', () => {
  const shapes = [
    { H: 2, K: 16, V: 16 },
    { H: 2, K: 24, V: 10 },
    { H: 1, K: 8, V: 40 },
  ];
  for (const [name, logDecay] of Object.entries(decays)) {
    it.each([1, 15, 16, 17, 63, 64, 65, 200])(`${name} decay, T = %i`, (T) => {
      for (const shape of shapes) {
        const sizes = { T, ...shape };
        const inputs = kdaInputs(sizes, T, logDecay);
        const memory = gaussian(random(7), shape.H * shape.K * shape.V);
        const wanted = step(sizes, inputs, memory);
        for (const C of [16, 64]) {
          const got = chunk(sizes, inputs, memory, C);
          for (const what of ['o', 'u', 'S'] as const) {
            expect(got[what]).toAgreeWith(wanted[what], { rms: 1e-12, what: `${what}, C = ${C}` });
          }
        }
      }
    });
  }

  it('reaches decays that would overflow if a chunk were factored at its start', () => {
    const sizes = { T: 64, H: 1, K: 16, V: 8 };
    const g = kdaInputs(sizes, 64, decays.strong).g;
    expect(Math.min(...g)).toBeLessThan(-30);
  });
});

describe('step', () => {
  const sizes = { T: 20, H: 3, K: 12, V: 20 };
  const inputs = kdaInputs(sizes, 1, decays.gentle);
  const whole = step(sizes, inputs, emptyMemory(sizes));

  it('continues from a carried memory as if it had never stopped', () => {
    const { H, K, V } = sizes;
    const part = (from: number, to: number): KdaInputs => ({
      q: inputs.q.slice(from * H * K, to * H * K),
      k: inputs.k.slice(from * H * K, to * H * K),
      v: inputs.v.slice(from * H * V, to * H * V),
      g: inputs.g.slice(from * H * K, to * H * K),
      beta: inputs.beta.slice(from * H, to * H),
    });
    const first = step({ ...sizes, T: 7 }, part(0, 7), emptyMemory(sizes));
    const second = step({ ...sizes, T: 13 }, part(7, 20), first.S);
    expect([...first.o, ...second.o]).toEqual([...whole.o]);
    expect(second.S).toEqual(whole.S);
  });

  it('is the report’s matrix equation: S = (I - beta k k^T) Diag(exp g) S + beta k v^T, o = S^T q', () => {
    const { T, H, K, V } = sizes;
    const h = 1;
    const rows = (x: Float64Array, width: number, t: number) => headRows(x, H, width, h, t, 1);
    let S = new Float64Array(K * V);
    for (let t = 0; t < T; t++) {
      const [q, k, g] = [inputs.q, inputs.k, inputs.g].map((x) => rows(x, K, t));
      const v = rows(inputs.v, V, t);
      const beta = inputs.beta[t * H + h];
      const next = new Float64Array(K * V);
      for (let d = 0; d < K; d++) {
        for (let e = 0; e < V; e++) {
          let sum = beta * k[d] * v[e];
          for (let m = 0; m < K; m++) {
            sum += ((m === d ? 1 : 0) - beta * k[d] * k[m]) * Math.exp(g[m]) * S[m * V + e];
          }
          next[d * V + e] = sum;
        }
      }
      S = next;
      const o = Float64Array.from({ length: V }, (_, e) =>
        q.reduce((sum, value, d) => sum + value * S[d * V + e], 0),
      );
      expect(rows(whole.o, V, t)).toAgreeWith(o, { rms: 1e-13 });
    }
    expect(whole.S.subarray(h * K * V, (h + 1) * K * V)).toAgreeWith(S, { rms: 1e-13 });
  });

  it('a token with beta = 0 only lets the memory decay', () => {
    const one = { T: 1, H: 1, K: 2, V: 2 };
    const { S, u } = step(
      one,
      { q: zeros(2), k: real(1, 0), v: real(5, 6), g: real(Math.log(0.5), 0), beta: real(0) },
      real(1, 2, 3, 4),
    );
    expect([...S]).toEqual([0.5, 1, 3, 4]);
    expect([...u]).toEqual([0, 0]);
  });

  it('refuses arrays that contradict the sizes', () => {
    const wrong = { ...inputs, beta: zeros(1) };
    expect(() => step(sizes, wrong, emptyMemory(sizes))).toThrow('kda: beta has 1 numbers');
  });
});

describe('chunkPairs', () => {
  it('a row sees the rows before it, and by q itself, each through the decays between', () => {
    const gc = real(-1, -2, -4, -2); // two channels, two rows: decays -3 and 0 from the first row to the second
    const { L, Aqk } = chunkPairs({ q: real(1, 2, 3, 4), k: real(5, 6, 7, 8), gc }, 2);
    expect([...L]).toEqual([0, 0, expect.closeTo(35 * Math.exp(-3) + 48, 12), 0]);
    expect([...Aqk]).toEqual([17, 0, expect.closeTo(15 * Math.exp(-3) + 24, 12), 53]);
  });
});

describe('chunkInverse', () => {
  it('times I + Diag(beta) L is the identity', () => {
    const n = 9;
    const next = random(3);
    const L = Float64Array.from({ length: n * n }, (_, i) =>
      i % n < Math.floor(i / n) ? next() : 0,
    );
    const beta = uniform(next, n, 0, 1);
    const inverse = chunkInverse(L, beta);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        let sum = inverse[i * n + j];
        for (let m = 0; m < n; m++) sum += inverse[i * n + m] * beta[m] * L[m * n + j];
        expect(sum).toBeCloseTo(i === j ? 1 : 0, 13);
      }
    }
  });
});

describe('gates', () => {
  it('g = a softplus(raw + dtBias), accurate where softplus is tiny', () => {
    const raw = real(-20, 0, 3, -17);
    const g = gates(raw, real(0, 1, -1, -0.5), real(-2, -16));
    const z = [-20, 1, 2, -17.5];
    const wanted = z.map(
      (x, i) => (i < 2 ? -2 : -16) * (x < -15 ? series(x) : Math.log(1 + Math.exp(x))),
    );
    g.forEach((value, i) => expect(value / wanted[i]).toBeCloseTo(1, 14));
  });

  /** log(1 + e) = e - e^2/2 + e^3/3 for a small e = exp(x). */
  const series = (x: number) => Math.exp(x) - Math.exp(2 * x) / 2 + Math.exp(3 * x) / 3;
});

describe('shortConv', () => {
  const [taps, C, T] = [4, 3, 10];
  const next = random(5);
  const x = gaussian(next, T * C);
  const w = gaussian(next, C * taps);
  const silence = zeros((taps - 1) * C);

  it('meets the current token with its last tap', () => {
    const { y, tail } = shortConv(real(1, 0, 0, 0, 0), real(1, 2, 3, 4), zeros(3), 4);
    expect([...y]).toEqual([4, 3, 2, 1, 0].map(silu));
    expect([...tail]).toEqual([0, 0, 0]);
  });

  it.each([1, 2, 3, 9])('cut after %i tokens = uncut', (cut) => {
    const whole = shortConv(x, w, silence, taps);
    const first = shortConv(x.slice(0, cut * C), w, silence, taps);
    const second = shortConv(x.slice(cut * C), w, first.tail, taps);
    expect([...first.y, ...second.y]).toEqual([...whole.y]);
    expect(second.tail).toEqual(whole.tail);
    expect(whole.tail).toEqual(x.slice((T - 3) * C));
  });
});

describe('outNorm', () => {
  it('norms each head by itself, and gates by a sigmoid', () => {
    const y = outNorm(real(3, 4, 30, 40), real(1, 2), real(0, 0, Math.log(3), 0), 0);
    const r = Math.sqrt(12.5);
    const wanted = [3 / r / 2, 4 / r, (3 / r) * 0.75, 4 / r];
    y.forEach((value, i) => expect(value).toBeCloseTo(wanted[i], 14));
  });
});

describe('unit', () => {
  it('adds eps to the sum of squares, inside the root', () => {
    expect([...unit(real(3, 4), 2, 0, 1)]).toEqual([0.6000000000000001, 0.8]);
    const short = unit(
      each(real(3, 4), (a) => a * 1e-4),
      2,
      1e-6,
      1,
    );
    expect(short[0]).toBeCloseTo(3e-4 / Math.sqrt(25e-8 + 1e-6), 15);
  });
});

function real(...values: number[]): Float64Array {
  return Float64Array.from(values);
}

function zeros(length: number): Float64Array {
  return new Float64Array(length);
}

import { describe, expect, it } from 'vitest';
import { emptyMemory, headRows, step, type KdaSizes } from './kda.ts';
import { unit } from './layers.ts';
import { gaussian, random, uniform } from './random.ts';
import { halfLife, ink, overwrittenBy, reach, recall, recallChange } from './views.ts';

const sizes: KdaSizes = { T: 30, H: 2, K: 12, V: 20 };
const { T, H, K, V } = sizes;

/** A text of random tokens whose channels forget at very different rates, some not at all. */
const text = (() => {
  const next = random(11);
  return {
    q: unit(gaussian(next, T * H * K), K, 0, K ** -0.5),
    k: unit(gaussian(next, T * H * K), K, 0, 1),
    v: gaussian(next, T * H * V),
    g: Float64Array.from({ length: T * H * K }, () => (next() < 0.3 ? 0 : -0.5 * next() ** 4)),
    beta: uniform(next, T * H, 0, 1),
  };
})();

/** The run over the first `tokens` tokens, from an empty memory. */
function runOver(tokens: number) {
  const { q, k, v, g, beta } = text;
  return step(
    { ...sizes, T: tokens },
    {
      q: q.slice(0, tokens * H * K),
      k: k.slice(0, tokens * H * K),
      v: v.slice(0, tokens * H * V),
      g: g.slice(0, tokens * H * K),
      beta: beta.slice(0, tokens * H),
    },
    emptyMemory(sizes),
  );
}

const whole = runOver(T);

/** exp(G_t - G_i) of head h, [K]. */
function faded(t: number, i: number, h: number): Float64Array {
  const sum = new Float64Array(K);
  for (let s = i + 1; s <= t; s++) headRows(text.g, H, K, h, s, 1).forEach((g, d) => (sum[d] += g));
  return sum.map(Math.exp);
}

it('the memory is the sum of its writes, each faded since', () => {
  const sum = emptyMemory(sizes);
  for (let h = 0; h < H; h++) {
    for (let i = 0; i < T; i++) {
      const left = faded(T - 1, i, h);
      const k = headRows(text.k, H, K, h, i, 1);
      const u = headRows(whole.u, H, V, h, i, 1);
      for (let d = 0; d < K; d++) {
        for (let e = 0; e < V; e++) sum[(h * K + d) * V + e] += left[d] * k[d] * u[e];
      }
    }
  }
  expect(sum).toAgreeWith(whole.S, { rms: 1e-13 });
});

describe('reach', () => {
  it.each([0, 1, 13, 29])('weights times values are the output of token %i', (t) => {
    const weights = reach(sizes, text, t);
    expect(weights.length).toBe((t + 1) * H);
    const o = new Float64Array(H * V);
    weights.forEach((w, i) => {
      for (let e = 0; e < V; e++) o[(i % H) * V + e] += w * text.v[i * V + e];
    });
    expect(o).toAgreeWith(whole.o.slice(t * H * V, (t + 1) * H * V), { rms: 1e-13 });
  });

  it('is what o answers when one value is changed', () => {
    const weights = reach(sizes, text, T - 1);
    const v = Float64Array.from(text.v);
    v[(7 * H + 1) * V + 3] += 1; // token 7, head 1, channel 3
    const { o } = step(sizes, { ...text, v }, emptyMemory(sizes));
    const at = ((T - 1) * H + 1) * V + 3;
    expect(o[at] - whole.o[at]).toBeCloseTo(weights[7 * H + 1], 14);
  });
});

describe('ink', () => {
  it('is the length of a key after the decays since', () => {
    const t = 22;
    const values = ink(sizes, text, t);
    expect(values.length).toBe((t + 1) * H);
    for (const [i, h] of [
      [0, 0],
      [3, 1],
      [21, 0],
    ]) {
      const k = headRows(text.k, H, K, h, i, 1);
      const left = faded(t, i, h);
      expect(values[i * H + h]).toBeCloseTo(Math.hypot(...k.map((x, d) => x * left[d])), 13);
    }
  });

  it('is 1 when fresh, and halves in a half-life', () => {
    const g = new Float64Array(6 * 2).fill(-Math.LN2 / 5); // half-life 5 tokens
    const k = Float64Array.from({ length: 12 }, (_, i) => (i % 2 ? 0.8 : 0.6));
    const values = ink({ H: 1, K: 2 }, { k, g }, 5);
    expect(values[5]).toBeCloseTo(1, 14);
    expect(values[0]).toBeCloseTo(0.5, 14);
    expect(halfLife(g)[0]).toBeCloseTo(5, 13);
    expect(halfLife(new Float64Array(1))[0]).toBe(Infinity);
  });
});

describe('recall', () => {
  const one = { T: 1, H: 1, K: 2, V: 3 };
  const token = {
    q: Float64Array.of(0, 0),
    k: Float64Array.of(0.6, 0.8),
    v: Float64Array.of(1, -2, 4),
    g: Float64Array.of(-0.25, -3),
    beta: Float64Array.of(1),
  };

  it('is exactly 1 right after a write with beta = 1 on an empty memory', () => {
    expect(recall(one, token, step(one, token, emptyMemory(one)).S)[0]).toBe(1);
  });

  it('is 1 after such a write on a full memory, too: what was held is taken back first', () => {
    const { S } = step(one, token, gaussian(random(8), 6));
    expect(recall(one, token, S)[0]).toBeCloseTo(1, 14);
  });

  it('is beta after a weaker write, and -1 when the opposite lies under the key', () => {
    const weak = { ...token, beta: Float64Array.of(0.25) };
    expect(recall(one, token, step(one, weak, emptyMemory(one)).S)[0]).toBeCloseTo(0.25, 15);
    const opposite = { ...token, v: token.v.map((x) => -x) };
    expect(recall(one, token, step(one, opposite, emptyMemory(one)).S)[0]).toBeCloseTo(-1, 15);
  });

  it('changes at a write by what recallChange says, decay apart', () => {
    const [i, s] = [4, 9];
    const before = runOver(s).S;
    const after = runOver(s + 1).S;
    for (let h = 0; h < H; h++) {
      const decay = headRows(text.g, H, K, h, s, 1).map(Math.exp);
      for (let d = 0; d < K; d++) {
        for (let e = 0; e < V; e++) before[(h * K + d) * V + e] *= decay[d];
      }
    }
    const tokens = { k: text.k.slice(0, s * H * K), v: text.v.slice(0, s * H * V) };
    const recallOf = (S: Float64Array) => recall({ ...sizes, T: s }, tokens, S);
    const [a, b] = [recallOf(before), recallOf(after)];
    for (let h = 0; h < H; h++) {
      const change = recallChange(sizes, { ...text, u: whole.u }, i, s, h);
      expect(b[i * H + h] - a[i * H + h]).toBeCloseTo(change, 13);
    }
  });
});

describe('overwrittenBy', () => {
  it('names the token that wrote something else under the same key', () => {
    const sizes = { T: 4, H: 1, K: 2, V: 2 };
    const tokens = {
      q: new Float64Array(8),
      k: Float64Array.of(1, 0, 0, 1, 1, 0, 0, 1), // keys a, b, a, b
      v: Float64Array.of(1, 2, 3, 4, 2, -1, 3, 4), // a gets another value, b the same again
      g: new Float64Array(8),
      beta: new Float64Array(4).fill(1),
    };
    const { u } = step(sizes, tokens, emptyMemory(sizes));
    const { by, change } = overwrittenBy(sizes, { ...tokens, u });
    expect([...by]).toEqual([2, -1, -1, -1]);
    expect(change[0]).toBeCloseTo(-1, 14); // (2, -1) is at right angles to (1, 2): nothing is left
    expect([...change.slice(1)]).toEqual([0, 0, 0]);
  });

  it('finds the largest loss of all later tokens', () => {
    const { by, change } = overwrittenBy(sizes, { ...text, u: whole.u });
    for (let i = 0; i < T; i++) {
      for (let h = 0; h < H; h++) {
        const losses = Array.from({ length: T - 1 - i }, (_, n) =>
          recallChange(sizes, { ...text, u: whole.u }, i, i + 1 + n, h),
        );
        expect(change[i * H + h]).toBe(Math.min(0, ...losses));
        expect(by[i * H + h]).toBe(
          change[i * H + h] < 0 ? i + 1 + losses.indexOf(change[i * H + h]) : -1,
        );
      }
    }
  });
});

import { describe, expect, it } from 'vitest';
import { dot, rmsNorm } from './layers.ts';
import { absorbed, attendSlice, expanded, latentRows, mergeSlices, type MlaInputs } from './mla.ts';
import { gaussian, random } from './random.ts';

const heads = { H: 3, K: 6, R: 4, L: 10, V: 8 }; // all different, so that a swapped axis shows

/** `sharpness` scales the queries: at 1 attention is broad, at 300 one row takes nearly everything. */
function mlaInputs(T: number, past: number, sharpness: number): MlaInputs {
  const { H, K, R, L, V } = heads;
  const next = random(T + past + 1);
  return {
    q: gaussian(next, T * H * (K + R)).map((x) => x * sharpness),
    cache: gaussian(next, (past + T) * (L + R)),
    Wk: gaussian(next, H * L * K),
    Wv: gaussian(next, H * V * L),
  };
}

describe('absorbed form = expanded form', () => {
  it.each([
    [1, 0],
    [1, 130],
    [5, 0],
    [5, 3],
    [65, 64],
  ])('%i tokens after %i', (T, past) => {
    for (const sharpness of [0, 1, 300]) {
      const sizes = { T, ...heads };
      const inputs = mlaInputs(T, past, sharpness);
      const o = expanded(sizes, inputs);
      for (const sliceRows of [1, 7, 64, 1000]) {
        expect(absorbed(sizes, inputs, sliceRows)).toAgreeWith(o, { rms: 1e-12 });
      }
    }
  });
});

describe('expanded', () => {
  it('gives a first token its own value, whatever the score', () => {
    const { H, L, R, V } = heads;
    const inputs = mlaInputs(1, 0, 1);
    const o = expanded({ T: 1, ...heads }, inputs);
    expect(inputs.cache.length).toBe(L + R);
    for (let e = 0; e < H * V; e++) {
      expect(o[e]).toBeCloseTo(dot(inputs.Wv, e * L, inputs.cache, 0, L), 13);
    }
  });

  it('scores by (K+R)^-1/2 and weighs by softmax', () => {
    const sizes = { T: 1, H: 1, K: 1, R: 3, L: 1, V: 1 };
    const o = expanded(sizes, {
      q: Float64Array.of(2, 0, 0, 6), // scores (2 * 0 + 6 * 1) / 2 = 3 and (2 * 5 + 0) / 2 = 5
      cache: Float64Array.of(0, 0, 0, 1, 5, 0, 0, 0),
      Wk: Float64Array.of(1),
      Wv: Float64Array.of(1),
    });
    expect(o[0]).toBeCloseTo((5 * Math.exp(5)) / (Math.exp(3) + Math.exp(5)), 14);
  });

  it('lets no token see a later one', () => {
    const sizes = { T: 6, ...heads };
    const inputs = mlaInputs(6, 2, 1);
    const o = expanded(sizes, inputs);
    const cache = Float64Array.from(inputs.cache);
    cache.fill(9, 7 * (heads.L + heads.R)); // the row of token 5, the last
    const changed = expanded(sizes, { ...inputs, cache });
    const row = heads.H * heads.V;
    expect(changed.slice(0, 5 * row)).toEqual(o.slice(0, 5 * row));
    expect(changed.slice(5 * row)).not.toEqual(o.slice(5 * row));
  });
});

describe('slices', () => {
  it('a slice that a token cannot see weighs nothing in the merge', () => {
    const sizes = { T: 2, ...heads };
    const { cache } = mlaInputs(2, 0, 1);
    const qa = gaussian(random(4), 2 * heads.H * (heads.L + heads.R));
    const [first, second] = [
      attendSlice(sizes, qa, cache, 0, 1),
      attendSlice(sizes, qa, cache, 1, 2),
    ];
    expect([...second.top.slice(0, heads.H)]).toEqual(Array(heads.H).fill(-Infinity));
    expect([...second.sum.slice(0, heads.H)]).toEqual(Array(heads.H).fill(0));
    const rows = heads.H * heads.L;
    const merged = mergeSlices(sizes, [first, second]);
    expect(merged.slice(0, rows)).toEqual(first.context.slice(0, rows));
    expect(mergeSlices(sizes, [second, first])).toAgreeWith(merged, { rms: 1e-15 });
  });
});

it('latentRows normalises the latent and leaves the shared key alone', () => {
  const c = gaussian(random(1), 2 * 5);
  const w = Float64Array.of(1, 2, 3);
  const rows = latentRows(c, w, 2, 1e-5);
  for (const row of [0, 5]) {
    expect(rows.slice(row, row + 3)).toEqual(rmsNorm(c.slice(row, row + 3), w, 1e-5));
    expect(rows.slice(row + 3, row + 5)).toEqual(c.slice(row + 3, row + 5));
  }
});

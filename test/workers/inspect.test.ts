/** Every inquiry about the tiny golden model against float64, at tokens of the prompt and of the answer. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../workers/engine.ts';
import type { Pass } from '../../test/reference/model.ts';
import { linear, rmsNorm } from '../reference/layers.ts';
import { openModel } from '../reference/model.ts';
import { halfLife, ink, overwrittenBy, reach, recall } from '../reference/views.ts';
import { fixture } from '../reference/golden.ts';
import { greedy, openLaid, prompt, reference, say, watch } from './laid.ts';

const [H, K, V] = [2, 64, 64];
const sizes = { H, K, V };
const rms = 1e-4;
const ids = [...prompt, ...greedy.slice(0, 15)];
/** In the first chunk, at its end, in the second, in the answer, the last. */
const POSITIONS = [9, 63, 70, 85, 94];

/** Goes on after the answer; what it says must not depend on what was asked before. */
const more = [...prompt, ...greedy, ...prompt.slice(20, 40)];

let engine: Engine;
let unasked: number[];
/** The float64 pass up to and with a token. */
const upTo = (position: number): Pass => reference(ids.slice(0, position + 1));
const trace = (position: number, name: string) => upTo(position).trace.get(name) as Float64Array;

beforeAll(async () => {
  ({ engine } = await openLaid('cpu'));
  await engine.watch(watch, () => {});
  await say(engine, prompt);
  unasked = (await say(engine, more, 6)).ids;
  await engine.reset();
  await say(engine, prompt);
});
afterAll(() => engine.destroy());

test('gates: the watched layer’s and another’s', async () => {
  for (const layer of [1, 3]) {
    const { halfLife: seen, tokens } = await engine.inspect({
      kind: 'gates',
      layer,
      from: 60,
      to: 90,
    });
    expect(tokens).toBe(30);
    const g = trace(94, `layer${layer}.g`).subarray(60 * H * K, 90 * H * K);
    expect(seen).toAgreeWith(halfLife(g), { rms, what: `half-lives of layer ${layer}` });
  }
});

describe.each(POSITIONS)('after token %i', (position) => {
  test('memory: cells, what the token changed, energy, rank and singular values', async () => {
    const [layer, head] = [3, 1];
    const one = (at: number) =>
      trace(at, `layer${layer}.state`).subarray(head * K * V, (head + 1) * K * V);
    const answer = await engine.inspect({ kind: 'memory', layer, head, position });
    expect(answer.cells).toAgreeWith(one(position), { rms, what: 'cells' });
    const change = one(position).map((x, i) => x - one(position - 1)[i]!);
    expect(answer.change).toAgreeWith(change, { rms, what: 'change' });
    const squares = one(position).reduce((sum, x) => sum + x * x, 0);
    expect(answer.energy).toBeCloseTo(Math.sqrt(squares), 4);
    const singular = [...answer.singularValues];
    expect(singular.toSorted((a, b) => b - a)).toEqual(singular);
    expect(singular.reduce((sum, s) => sum + s * s, 0) / squares).toBeCloseTo(1, 5);
    expect(answer.effectiveRank).toBeGreaterThan(1);
    expect(answer.effectiveRank).toBeLessThanOrEqual(Math.min(position + 1, 64));
  });

  test('thumbnails: root mean squares of blocks', async () => {
    const { cells } = await engine.inspect({ kind: 'thumbnails', position });
    const wanted = [0, 1, 3].flatMap((layer) => {
      const S = trace(position, `layer${layer}.state`);
      return Array.from({ length: H * 64 }, (_, i) => {
        const [h, a, b] = [i >> 6, (i >> 3) & 7, i & 7];
        let squares = 0;
        for (let d = 0; d < 8; d++) {
          for (let e = 0; e < 8; e++) squares += S[(h * K + 8 * a + d) * V + 8 * b + e]! ** 2;
        }
        return Math.sqrt(squares / 64);
      });
    });
    expect(cells).toAgreeWith(wanted, { rms, what: 'thumbnails' });
  });

  test('recall, ink, and who overwrote', async () => {
    const T = position + 1;
    for (const [layer, head] of [
      [1, 0],
      [0, 1],
    ] as const) {
      const of = (name: string) => trace(position, `layer${layer}.${name}`);
      const mine = (values: ArrayLike<number>) =>
        Array.from({ length: T }, (_, i) => values[2 * i + head]!);
      const kv = { k: of('k'), v: of('v') };
      const answer = await engine.inspect({ kind: 'recall', layer, head, position });
      expect(answer.recall).toAgreeWith(mine(recall({ T, ...sizes }, kv, of('state'))), {
        rms,
        what: 'recall',
      });
      expect(answer.ink).toAgreeWith(mine(ink(sizes, { k: kv.k, g: of('g') }, position)), {
        rms,
        what: 'ink',
      });
      const { by, change } = overwrittenBy({ T, ...sizes }, { ...kv, u: of('u') });
      expect(answer.loss).toAgreeWith(
        mine(change).map((x) => -x),
        { rms, what: 'loss' },
      );
      expect([...answer.overwrittenBy]).toEqual(mine(by));
    }
  });

  test('reach: a KDA layer’s row times the values is its output; an MLA layer’s is its softmax', async () => {
    const [layer, head] = [3, 0];
    const of = (name: string) => trace(position, `layer${layer}.${name}`);
    const { weights } = await engine.inspect({ kind: 'reach', layer, head, position });
    const gates = { q: of('q'), k: of('k'), g: of('g'), beta: of('beta') };
    const wanted = reach(sizes, gates, position).filter((_, i) => i % H === head);
    expect(weights).toAgreeWith(wanted, { rms, what: 'reach' });
    const o = Array.from({ length: V }, (_, e) =>
      weights.reduce((sum, w, i) => sum + w * of('v')[(i * H + head) * V + e]!, 0),
    );
    const exact = of('o').subarray((position * H + head) * V, (position * H + head + 1) * V);
    expect(o).toAgreeWith(exact, { rms, what: 'reach times values' });

    const attended = await engine.inspect({ kind: 'reach', layer: 2, head: 1, position });
    expect(attended.weights.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    const { weight } = openModel(fixture('tiny-f32.gguf'));
    const [L, R] = [96, 16];
    const values = weight('blk.2.attn_v_b.weight'); // [head, value, latent]
    const latents = trace(position, 'layer2.latent');
    const read = Array.from({ length: V }, (_, e) => {
      let sum = 0;
      attended.weights.forEach((w, i) => {
        for (let c = 0; c < L; c++) sum += w * latents[i * (L + R) + c]! * values[(V + e) * L + c]!;
      });
      return sum;
    });
    const said = trace(position, 'layer2.o').subarray(
      (position * H + 1) * V,
      (position * H + 2) * V,
    );
    expect(read).toAgreeWith(said, { rms, what: 'softmax times values' });
  });

  test('router: scores, bias and choice', async () => {
    const answer = await engine.inspect({ kind: 'router', layer: 2, position });
    const router = trace(position, 'layer2.router').subarray(6 * position, 6 * position + 6);
    expect(answer.scores).toAgreeWith(router, { rms, what: 'scores' });
    const { weight } = openModel(fixture('tiny-f32.gguf'));
    expect([...answer.bias]).toEqual([...weight('blk.2.exp_probs_b.bias')]);
    const chosen = trace(position, 'layer2.experts').subarray(3 * position, 3 * position + 3);
    expect([...answer.chosen]).toEqual([...chosen]);
  });

  test('lens: what each layer’s stream would say', async () => {
    const { layers } = await engine.inspect({ kind: 'lens', position });
    expect(layers).toHaveLength(4);
    const { weight, config } = openModel(fixture('tiny-f32.gguf'));
    layers.forEach((best, layer) => {
      const x =
        layer === 3
          ? trace(position, 'final').subarray(64 * position, 64 * position + 64)
          : rmsNorm(
              trace(position, `layer${layer + 1}.input`).subarray(
                64 * position,
                64 * position + 64,
              ),
              weight('output_norm.weight'),
              config.eps,
            );
      const logits = linear(weight('output.weight'), x, 512, 64);
      const top = Math.max(...logits);
      const total = logits.reduce((sum, l) => sum + Math.exp(l - top), 0);
      const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 3);
      expect(best.map((b) => b.id)).toEqual(order);
      best.forEach((b) => {
        expect(b.probability).toBeCloseTo(Math.exp(logits[b.id]! - top) / total, 4);
        expect(b.text).toBeTypeOf('string');
      });
    });
  });
});

test('what is asked leaves the conversation as it was', async () => {
  const asked = await say(engine, more, 6);
  expect(asked.ids).toEqual(unasked);
});

test('what cannot be asked is refused', async () => {
  const ask = engine.inspect.bind(engine);
  await expect(ask({ kind: 'memory', layer: 2, head: 0, position: 3 })).rejects.toThrow(
    /no recurrent memory/,
  );
  await expect(ask({ kind: 'memory', layer: 1, head: 2, position: 3 })).rejects.toThrow(
    /no head 2/,
  );
  await expect(ask({ kind: 'thumbnails', position: 4000 })).rejects.toMatchObject({
    name: 'Refused',
  });
  await expect(ask({ kind: 'router', layer: 0, position: 3 })).rejects.toThrow(/no experts/);
  await engine.watch(null, () => {});
  await expect(ask({ kind: 'thumbnails', position: 3 })).rejects.toThrow(/Begin to watch/);
});

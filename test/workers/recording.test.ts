/** A recording of the tiny golden model against float64: what every token did, for prompts and for answers. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../workers/engine.ts';
import type { Gpu } from '../../workers/gpu.ts';
import { dot } from '../reference/layers.ts';
import type { Pass } from '../reference/model.ts';
import { halfLife, recall } from '../reference/views.ts';
import { greedy, openLaid, plain, prompt, reference, say, watch, Watcher } from './laid.ts';

const H = 2;
const K = 64;
const V = 64;
const KDA = [0, 1, 3];
const MOE = [1, 2, 3];
const rms = 1e-4;

let gpu: Gpu;
let engine: Engine;
let exact: Pass;
const ids = [...prompt, ...greedy.slice(0, 15)]; // what the state takes in
beforeAll(async () => {
  ({ gpu, engine } = await openLaid('cpu'));
  exact = reference(ids);
});
afterAll(() => engine.destroy());

const row = (name: string, t: number, width: number) =>
  (exact.trace.get(name) as Float64Array).subarray(t * width, (t + 1) * width);

/** Middle of an even number of values. */
const middle = (values: Float64Array) => {
  const sorted = values.slice().sort();
  return (sorted[sorted.length / 2 - 1]! + sorted[sorted.length / 2]!) / 2;
};

/** Every record against float64. */
function checkRecords(watcher: Watcher): void {
  expect(
    watcher.records.filter(() => true),
    'no gaps',
  ).toHaveLength(ids.length);
  const seen = { written: [], strength: [], known: [], halfLife: [] } as Record<string, number[]>;
  const wanted = { written: [], strength: [], known: [], halfLife: [] } as Record<string, number[]>;
  watcher.records.forEach((record, t) => {
    expect(record).toMatchObject({ position: t, id: ids[t] });
    expect(record.text).toBeTypeOf('string');
    seen.written!.push(...record.written);
    seen.strength!.push(...record.writeStrength);
    seen.known!.push(...record.known);
    seen.halfLife!.push(...record.halfLife);
    for (const layer of KDA) {
      const beta = row(`layer${layer}.beta`, t, H);
      const part = (name: string, h: number) => row(`layer${layer}.${name}`, t * H + h, V);
      for (let h = 0; h < H; h++) {
        const [u, held, v] = [part('u', h), part('held', h), part('v', h)];
        const length = (x: Float64Array) => Math.sqrt(dot(x, 0, x, 0, V));
        wanted.written!.push(length(u));
        wanted.strength!.push(beta[h]!);
        wanted.known!.push(t === 0 ? 0 : dot(held, 0, v, 0, V) / length(held) / length(v));
        wanted.halfLife!.push(middle(halfLife(row(`layer${layer}.g`, t * H + h, K))));
      }
    }
    MOE.forEach((layer, m) => {
      expect([...record.experts.slice(3 * m, 3 * m + 3)]).toEqual([
        ...row(`layer${layer}.experts`, t, 3),
      ]);
      expect(record.expertWeights.slice(3 * m, 3 * m + 3)).toAgreeWith(
        row(`layer${layer}.weights`, t, 3),
        { rms },
      );
    });
    const logits = exact.logits.subarray(t * 512, (t + 1) * 512);
    const top = Math.max(...logits);
    const total = logits.reduce((sum, l) => sum + Math.exp(l - top), 0);
    const logprobs = logits.map((l) => l - top - Math.log(total));
    const order = [...logprobs.keys()].sort((a, b) => logprobs[b]! - logprobs[a]!);
    expect(record.candidates.map((c) => c.id)).toEqual(order.slice(0, 5));
    record.candidates.forEach((c) => expect(c.logprob).toBeCloseTo(logprobs[c.id]!, 3));
    expect(record.entropy).toBeCloseTo(-logprobs.reduce((sum, l) => sum + Math.exp(l) * l, 0), 3);
  });
  for (const name of Object.keys(seen)) {
    expect(seen[name]!).toAgreeWith(wanted[name]!, { rms, what: name });
  }
  const last = watcher.records.at(-1)!.energy;
  const norms = KDA.flatMap((layer) => {
    const S = exact.trace.get(`layer${layer}.state`) as Float64Array;
    return [0, 1].map((h) => Math.hypot(...S.subarray(h * K * V, (h + 1) * K * V)));
  });
  expect(last).toAgreeWith(norms, { rms, what: 'energy after the last token' });
}

/** The last recall frame against float64. */
function checkRecall(watcher: Watcher): void {
  const { frame } = watcher.frame('recall');
  expect(frame).toMatchObject({ layer: watch.layer, head: 'median', position: ids.length - 1 });
  const trace = (name: string) => exact.trace.get(`layer${watch.layer}.${name}`) as Float64Array;
  const sizes = { T: ids.length, H, K, V };
  const all = recall(sizes, { k: trace('k'), v: trace('v') }, trace('state'));
  const medians = Array.from(ids, (_, i) => (all[2 * i]! + all[2 * i + 1]!) / 2);
  expect(frame.recall).toAgreeWith(medians, { rms, what: 'recall' });
}

describe('a recording', () => {
  test('tells what every token of prompt and answer did, and what is still recalled', async () => {
    const watcher = new Watcher();
    await engine.watch(watch, watcher.take);
    const stop = await say(engine, prompt);
    expect(stop.ids).toEqual(greedy);
    await engine.settled();
    checkRecords(watcher);
    checkRecall(watcher);
    expect(watcher.frame('thumbnails').cells).toHaveLength(KDA.length * H * 64);
    expect(watcher.frame('budget').bytes).toBeGreaterThan(0);
    expect(watcher.counts.get('forgotten')).toBeUndefined();
  });

  test('that begins in mid-conversation tells the past by replay, and the answer goes on unchanged', async () => {
    await engine.watch(null, () => {});
    const before = gpu.bytes.scratch;
    await engine.reset();
    await say(engine, prompt, 8);
    const watcher = new Watcher();
    await engine.watch(watch, watcher.take);
    await say(engine, [...prompt, ...greedy.slice(0, 8)], 8);
    await engine.settled();
    checkRecords(watcher);
    checkRecall(watcher);
    await engine.watch(null, () => {});
    expect(gpu.bytes.scratch).toBe(before);
  });

  test('begun while an answer is being written tells all of it', async () => {
    await engine.reset();
    const watcher = new Watcher();
    const begun: Promise<void>[] = [];
    const stop = await engine.generate({ kind: 'ids', ids: prompt }, plain, () => {
      if (begun.length === 0) begun.push(engine.watch(watch, watcher.take));
    });
    await Promise.all(begun);
    expect(stop.ids).toEqual(greedy);
    await engine.settled();
    checkRecords(watcher);
  });

  test('looked at anew with every token tells all of it', async () => {
    await engine.reset();
    const watcher = new Watcher();
    const looks = [engine.watch(watch, watcher.take)];
    await engine.generate({ kind: 'ids', ids: prompt }, plain, () => {
      const head = looks.length % 2 === 0 ? ('median' as const) : 0;
      looks.push(engine.watch({ ...watch, head }, watcher.take));
    });
    await Promise.all(looks);
    await engine.settled();
    checkRecords(watcher);
  });

  test('of an answer that is broken off shows what stays, and nothing of a step that is taken back', async () => {
    await engine.reset();
    const watcher = new Watcher();
    let recalled: number[] = [];
    await engine.watch(watch, (frame) => {
      watcher.take(frame);
      if (frame.kind === 'recall') recalled.push(frame.frame.position);
      if (frame.kind === 'forgotten') recalled = recalled.filter((at) => at < frame.from);
    });
    for (const count of [3, 6, 9]) {
      const writing = engine.begin({ kind: 'ids', ids: prompt }, plain);
      await engine.write(writing, () => (writing.stopped = writing.answer.length + 1 === count));
      await engine.settled();
      const last = prompt.length + count - 1;
      expect(watcher.records).toHaveLength(last + 1);
      expect(watcher.frame('recall').frame.position).toBe(last);
      expect(watcher.frame('thumbnails').position).toBe(last);
      expect(Math.max(...recalled)).toBe(last);
    }
  });

  test('says what no longer holds when the conversation goes back', async () => {
    await engine.reset();
    const watcher = new Watcher();
    await engine.watch(watch, watcher.take);
    const first = await say(engine, prompt.slice(0, 30), 4);
    await engine.settled();
    expect(first.contextUsed).toBeGreaterThanOrEqual(30);
    expect(watcher.records).toHaveLength(first.contextUsed);
    await say(engine, [...prompt.slice(0, 30), ...prompt.slice(60, 70)], 2);
    await engine.settled();
    expect(watcher.counts.get('forgotten')).toBe(1);
    expect(watcher.records.map((r) => r.id).slice(0, 40)).toEqual([
      ...prompt.slice(0, 30),
      ...prompt.slice(60, 70),
    ]);
  });

  test('never takes what was read before the conversation went back for what stands there now', async () => {
    const record = async (before: () => Promise<() => void>) => {
      await engine.reset();
      const watcher = new Watcher();
      await engine.watch(watch, watcher.take);
      const goOn = await before();
      await say(engine, prompt.slice(40, 70), 4);
      goOn();
      await engine.settled();
      await engine.watch(null, () => {});
      return watcher.records;
    };
    const wanted = await record(() => Promise.resolve(() => {}));
    const read = gpu.read.bind(gpu);
    const told = await record(async () => {
      let goOn = null as (() => void) | null;
      gpu.read = async (tensor, ...range) => {
        const bytes = await read(tensor, ...range);
        if (tensor.name === 'token records' && !goOn)
          await new Promise<void>((resolve) => (goOn = resolve));
        return bytes;
      };
      await say(engine, prompt.slice(0, 20), 1);
      await expect.poll(() => goOn).not.toBeNull();
      gpu.read = read;
      return goOn!;
    });
    expect(told).toEqual(wanted);
  });

  test('that ends has told all by then, however slow its watcher is', async () => {
    await engine.reset();
    const watcher = new Watcher();
    await engine.watch(watch, (frame) => {
      watcher.take(frame);
      return new Promise(() => {}); // it never says that it has taken one
    });
    await say(engine, prompt.slice(0, 30), 4);
    await engine.beginBranch();
    await engine.watch(null, () => {});
    expect(watcher.records).toEqual([]);
  });
});

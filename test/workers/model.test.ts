/**
 * The whole forward pass on the tiny golden models, in every encoding and by both paths, against float64: logits at every
 * position, and what passes through each layer on the way.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { modelConfig, type ModelConfig } from '../../workers/config.ts';
import { openGguf } from '../../workers/gguf.ts';
import type { Copy, Gpu, Tensor } from '../../workers/gpu.ts';
import { Model, type Plans } from '../../workers/model.ts';
import type { Site, Tap, Tuning } from '../../workers/plan.ts';
import { History, Probe } from '../../workers/probe.ts';
import { type CacheNumbers, type Snapshot, State } from '../../workers/state.ts';
import { openTestGpu } from '../gpu.ts';
import { fixture, loadGolden } from '../reference/golden.ts';
import { modelSources } from '../../tools/nodeEngine.ts';

const T = 80;
/** Room for more than the rows of a short context, which a narrow model's heads go through themselves. */
const ROOM = 600;
const tokens = loadGolden('tiny-f32').index.tokens as number[];

interface Opened {
  gpu: Gpu;
  config: ModelConfig;
  model: Model;
  state: State;
}

async function open(file: string, tuning: Tuning, numbers: CacheNumbers): Promise<Opened> {
  const gpu = await openTestGpu();
  const gguf = await openGguf(modelSources(fixture(file)));
  const config = modelConfig(gguf);
  const model = await Model.load(gpu, gguf, config, tuning);
  const state = new State(gpu, config, ROOM, numbers);
  state.reserve(T);
  await model.attach(state, { tap: null, changes: null });
  return { gpu, config, model, state };
}

describe.each<[string, Tuning]>([
  ['f32', 'gpu'],
  ['q8_0', 'gpu'],
  ['q4_0', 'gpu'],
  ['q4_0', 'cpu'],
])('tiny-%s, plans for a %s', (encoding, tuning) => {
  const golden = loadGolden(`tiny-${encoding}`);
  const exact = golden.array('logits').values;
  let opened: Opened;
  beforeAll(async () => (opened = await open(`tiny-${encoding}.gguf`, tuning, 'f32')));
  afterAll(() => opened.gpu.destroy());

  /** Logits of all tokens, taken in by pieces of these lengths; a piece of 1 goes through the decode step. */
  async function logits(pieces: number[]): Promise<Float32Array> {
    const { model, state, config } = opened;
    state.clear();
    const all = new Float32Array(T * config.vocabulary);
    let at = 0;
    for (const length of pieces) {
      const ids = tokens.slice(at, at + length);
      const rows = length === 1 ? model.scoreStep(ids[0]!, at) : model.score(ids, at);
      all.set(await rows, at * config.vocabulary);
      at += length;
    }
    expect(at).toBe(T);
    return all;
  }

  test('logits, chunkwise and step by step, whole and in ragged pieces', async () => {
    const shape = [T, opened.config.vocabulary];
    const whole = await logits([64, 16]);
    expect(whole).toAgreeWith(exact, { rms: 1e-4, shape, what: 'logits by chunks' });
    const steps = await logits(Array<number>(T).fill(1));
    expect(steps).toAgreeWith(exact, { rms: 1e-4, shape, what: 'logits by steps' });
    expect(steps).toAgreeWith(whole, { rms: 1e-5, shape, what: 'steps against chunks' });
    const ragged = await logits([15, 2, 47, 1, 13, 2]);
    expect(ragged).toAgreeWith(whole, { rms: 1e-5, shape, what: 'pieces against chunks' });
  });

  test('a token watched, and changed by nothing, gives the same bits', async () => {
    const { gpu, config, model, state } = opened;
    const { heads: H, kda } = config;
    const run = async () => {
      state.clear();
      await model.score(tokens.slice(0, 16), 0);
      const rows: number[][] = [];
      for (let at = 16; at < 22; at++) rows.push([...(await model.scoreStep(tokens[at]!, at))]);
      return rows;
    };
    const unwatched = await run();
    const probe = new Probe(gpu, config, state);
    const sizes = { H, K: kda.keys, V: kda.values };
    const history = new History(gpu, sizes, 1, state.contextLimit);
    history.reserve(22);
    // Twice nothing, and something that is yet to come.
    const table = Float32Array.from({ length: 3 * H * 4 }, (_, i) => (i % 4 < 2 ? 1 : 0));
    for (let h = 0; h < H; h++) {
      table.set([0.5, 0], (2 * H + h) * 4);
      new Uint32Array(table.buffer)[(2 * H + h) * 4 + 2] = 22;
    }
    const neutral = gpu.upload('scratch', 'neutral', [3, H, 4], table);
    for (const tap of [probe.recordTap(history), null]) {
      for (const changes of [null, () => neutral]) {
        await model.attach(state, { tap, changes });
        expect(await run()).toEqual(unwatched);
      }
    }
    await model.attach(state, { tap: null, changes: null });
    probe.destroy();
    history.destroy();
    gpu.release(neutral);
  });

  test('what passes through every layer, and the memory after the last token', async () => {
    const { gpu, config, model, state } = opened;
    const { heads: H, mla } = config;
    const { keys: K, values: V } = config.kda;
    const C = H * (2 * K + V);
    const seen = new Map<string, { to: Tensor; width: number }>();
    const widths: Partial<Record<Site, (layer: number) => number>> = {
      input: () => config.width,
      mixed: () => C,
      g: () => H * K,
      beta: () => H,
      o: (layer) => (config.layers[layer]!.kind === 'kda' ? H * V : H * mla.values),
      ids: () => config.moe.expertsUsed,
      routed: () => config.moe.expertsUsed,
      final: () => config.width,
    };
    const tap: Tap = (site, layer, from, plan) => {
      const width = widths[site]?.(layer);
      if (width === undefined || plan.phase !== 'prefill') return;
      const to = gpu.tensor('scratch', `seen ${site} ${layer}`, [T, width]);
      seen.set(`${site} ${layer}`, { to, width });
      const copy: Copy = { from, to, toElement: 0, perToken: width };
      plan.calls.push(copy);
    };
    await model.attach(state, { tap, changes: null });
    state.clear();
    model.prefill(tokens, 0);

    const check = async (site: Site, layer: number, name: string, first = 0, width?: number) => {
      const { to, width: row } = seen.get(`${site} ${layer}`)!;
      const wanted = golden.array(name);
      const integers = wanted.dtype === 'int32';
      const read = await gpu.read(to);
      const values = integers ? new Int32Array(read) : new Float32Array(read);
      const taken = width ?? row;
      const columns = values.filter(
        (_, i) => i < T * row && i % row >= first && i % row < first + taken,
      );
      const shape = wanted.shape;
      if (integers) expect([...columns]).toEqual([...wanted.values]);
      else expect(columns).toAgreeWith(wanted.values, { rms: 1e-5, shape, what: name });
    };
    const reached = async (tensor: Tensor, name: string, count: number) => {
      const { values, shape } = golden.array(name);
      const now = new Float32Array(await gpu.read(tensor, 0, count));
      expect(now).toAgreeWith(values, { rms: 1e-5, shape, what: name });
    };
    for (const [i, layer] of config.layers.entries()) {
      await check('input', i, `layer${i}.input`);
      await check('o', i, `layer${i}.o`);
      const memory = state.layers[i]!;
      if (memory.kind === 'kda') {
        await check('mixed', i, `layer${i}.q`, 0, H * K);
        await check('mixed', i, `layer${i}.k`, H * K, H * K);
        await check('mixed', i, `layer${i}.v`, 2 * H * K, H * V);
        await check('g', i, `layer${i}.g`);
        await check('beta', i, `layer${i}.beta`);
        await reached(memory.memory, `layer${i}.state`, H * K * V);
      } else {
        await reached(memory.segments[0]!, `layer${i}.latent`, T * (mla.latent + mla.sharedKey));
      }
      if (layer.ffn === 'moe') {
        await check('ids', i, `layer${i}.experts`);
        await check('routed', i, `layer${i}.weights`);
      }
    }
    await check('final', config.layers.length, 'final');
    await model.attach(state, { tap: null, changes: null });
  });

  if (encoding === 'q8_0') testTheBorder(() => opened);
});

/** Tokens on both sides of the last short context, by the plans as they are and by the long way alone. */
function testTheBorder(opened: () => Opened): void {
  const border = 512;
  const start = border - 2;
  const steps = [450, 239, 27, 141];
  let plans: Plans;
  let long: Plans;
  let before: Snapshot;
  beforeAll(async () => {
    const { model, state } = opened();
    state.clear();
    plans = await model.plan(state, { tap: null, changes: null });
    long = { ...plans, shortRows: 0 };
    model.use(plans);
    const ids = Array.from({ length: start }, (_, i) => tokens[(7 * i) % T]!);
    model.prefill(ids, 0);
    state.position = start;
    before = state.snapshot();
  });
  afterAll(() => opened().state.drop(before));

  const go = (by: Plans) => {
    opened().model.use(by);
    opened().state.restore(before);
    return opened().model;
  };
  async function logits(by: Plans): Promise<Float32Array[]> {
    const model = go(by);
    const all: Float32Array[] = [];
    for (const [i, id] of steps.entries()) all.push(await model.scoreStep(id, start + i));
    return all;
  }

  test('a short context has plans of its own, with fewer calls', () => {
    expect(plans.shortRows).toBe(border);
    const names = (phase: 'decode' | 'shortDecode') =>
      plans[phase].calls.map((call) => ('program' in call ? call.program.name : 'copy'));
    expect(names('decode')).toContain('mla_attend_token');
    expect(names('shortDecode')).toEqual(
      names('decode').filter((name) => name !== 'mla_attend_token'),
    );
    expect(opened().model.calls('decode')).toEqual(names('shortDecode'));
  });

  test('logits on both sides of the border are those of the long way', async () => {
    const wanted = await logits(long);
    const own = await logits(plans);
    own.forEach((row, i) => expect(row).toAgreeWith(wanted[i]!, { rms: 1e-5, what: `step ${i}` }));
    expect(own[0]).not.toEqual(wanted[0]); // sums in another order: it was another way
  });

  test('tokens across the border, their steps recorded ahead, are those of the long way', async () => {
    const run = async (by: Plans) => {
      const model = go(by);
      model.setToken(steps[0]!);
      const best: number[] = [];
      for (let at = start; at < start + steps.length; at += 2) {
        const two = [model.decodeBest(at), model.decodeBest(at + 1)];
        best.push(...(await Promise.all(two)).map(({ id }) => id));
      }
      model.setToken(steps[0]!);
      return [...best, ...(await model.decodeCandidates(start)).ids.subarray(0, 8)];
    };
    const wanted = await run(long);
    expect(new Set(wanted).size).toBeGreaterThan(4);
    expect(await run(plans)).toEqual(wanted);
  });

  test('a step taken back at the border is taken again as it was', async () => {
    const { state } = opened();
    const model = go(plans);
    state.position = border - 1;
    model.setToken(450);
    const once = await model.decodeBest(state.position++); // the long way is recorded ahead
    state.stepBack();
    model.setToken(450);
    expect(await model.decodeBest(state.position++)).toEqual(once);
  });

  test('watched on both sides of the border, tokens give the same bits', async () => {
    const { gpu, config, state, model } = opened();
    const unwatched = await logits(plans);
    const probe = new Probe(gpu, config, state);
    const history = new History(gpu, probe.sizes, 1, state.contextLimit);
    history.reserve(start + steps.length);
    const watched = await model.plan(state, { tap: probe.recordTap(history), changes: null });
    expect(watched.shortRows).toBe(border);
    expect(await logits(watched)).toEqual(unwatched);
    expect(await probe.records(start, start + steps.length)).toHaveLength(steps.length);
    probe.destroy();
    history.destroy();
  });
}

test('a latent cache in f16 moves the logits by no more than its rounding', async () => {
  const { gpu, config, model, state } = await open('tiny-q8_0.gguf', 'gpu', 'f16');
  const exact = loadGolden('tiny-q8_0').array('logits').values;
  const shape = [T, config.vocabulary];
  const all = new Float32Array(T * config.vocabulary);
  for (let at = 0; at < T; at += 64) {
    all.set(await model.score(tokens.slice(at, at + 64), at), at * config.vocabulary);
  }
  expect(all).toAgreeWith(exact, { rms: 5e-4, shape, what: 'logits by chunks' });
  const rows = await state.readRows(2, T);
  const { values } = loadGolden('tiny-q8_0').array('layer2.latent');
  expect(rows).toAgreeWith(values, { rms: 1e-3, what: 'rows read back' });
  gpu.destroy();
});

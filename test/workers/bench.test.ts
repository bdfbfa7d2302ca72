/** The measuring itself, on a tiny model: every figure is there, it can be stopped, and what cannot be is refused. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { nodeGpu } from '../../tools/nodeGpu.ts';
import { aboveStream, Bench, spreadOf } from '../../workers/bench.ts';
import { Engine } from '../../workers/engine.ts';
import { Gpu } from '../../workers/gpu.ts';
import type { BenchProgress, BenchWish } from '../../workers/protocol.ts';
import { fixture } from '../reference/golden.ts';

const clock = () => performance.now();
const open = async () =>
  Gpu.open(await nodeGpu({ toggles: ['disable_workgroup_init'] }), {
    floor: true,
    features: ['subgroups', 'timestamp-query'],
  });

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.load({
    gpu: await open(),
    shards: modelSources(fixture('tiny-q4_0.gguf')),
    contextTokens: 128,
    report: () => {},
    clock,
  });
});
afterAll(() => engine.destroy());

const wish: BenchWish = {
  runs: 3,
  tokens: 6,
  products: [[64, 256]],
  prompts: [8, 4096],
  contexts: [64, 4096],
  watch: { layer: 0, head: 'median', budgetBytes: 1e6 },
  profiledTokens: 16,
  streamBytes: 2 ** 20,
};
const place = () => ({ engine, open, clock });

test('a spread is of all runs', () => {
  expect(spreadOf([3, 1, 9, 2, 4])).toEqual({ median: 3, least: 1, most: 9, runs: 5 });
});

test('a rate may be what memory gives, and no more than a twentieth above', () => {
  expect(aboveStream('x', 100, 100)).toBe('');
  expect(aboveStream('x', 104, 100)).toBe('');
  expect(aboveStream('A product', 106, 100)).toMatch(/^A product came to 106 GB\/s.* 100:/);
});

test('everything that has room is measured, and told as it comes', async () => {
  const told: BenchProgress[] = [];
  const unwatched = engine.calls('decode');
  const result = await new Bench(place(), wish, (p) => told.push(structuredClone(p))).run();
  expect(result).toMatchObject({ stopped: false, model: engine.loaded.model.name });
  expect(result.stream!.runs).toBe(3);
  expect(result.stream!.least).toBeGreaterThan(0);
  const [product] = result.products;
  expect(product).toMatchObject({ rows: 64, cols: 256 });
  const { stream } = result;
  expect(product!.share).toBeCloseTo(product!.gbps.median / stream!.median);
  expect(product!.togetherShare).toBeCloseTo(product!.together.median / stream!.median);
  expect(product!.together.runs).toBe(3);
  // 4,096 tokens have no room.
  expect(result.decode.map((d) => d.contextTokens)).toEqual([32, 64]);
  expect(result.prompts.map((p) => p.tokens)).toEqual([8]);
  for (const { tokensPerSec, betweenMs, tokens } of result.decode) {
    expect(tokensPerSec.least).toBeGreaterThan(0);
    expect(tokensPerSec.most).toBeGreaterThanOrEqual(tokensPerSec.median);
    expect(betweenMs.p95).toBeGreaterThanOrEqual(betweenMs.p50);
    expect(tokens).toBe(6);
  }
  const { off, on, share, callsOff, callsOn } = result.watched!;
  expect(share).toBeCloseTo(on.median / off.median);
  expect(callsOff).toBe(unwatched.length);
  expect(callsOn).toBeGreaterThan(callsOff);
  const [token, prompt] = result.kernels;
  expect(token).toMatchObject({ phase: 'decode', tokens: 1 });
  expect(token!.rows.reduce((sum, row) => sum + row.calls, 0)).toBe(callsOff);
  expect(token!.rows.reduce((sum, row) => sum + row.bytes, 0)).toBe(result.tokenBytes);
  expect(prompt).toMatchObject({ phase: 'prefill', tokens: 16 });
  expect(result.refused).toEqual([]);

  expect(told.at(-1)).toMatchObject({ doneSteps: 8, totalSteps: 8 });
  const steps = told.map(({ doneSteps, doneRuns }) => 100 * doneSteps + doneRuns);
  expect(steps).toEqual(steps.toSorted((a, b) => a - b));
  expect(told[1]!.result.stream).toBeNull();
});

test('what is no longer watched makes the same calls as what never was', async () => {
  const before = engine.calls('decode');
  await engine.watch(wish.watch, () => {});
  const watched = engine.calls('decode');
  await engine.watch(null, () => {});
  expect(watched).not.toEqual(before);
  expect(engine.calls('decode')).toEqual(before);
});

test('stopped, it ends after the run at hand with what there is', async () => {
  let runs = 0;
  const bench = new Bench(place(), { ...wish, watch: null }, ({ step, doneRuns }) => {
    if (step.startsWith('decoding') && doneRuns > 0 && runs++ === 0) bench.stop();
  });
  const result = await bench.run();
  expect(result.stopped).toBe(true);
  expect(result.stream).not.toBeNull();
  expect(result.decode).toEqual([]);
  expect(result.prompts).toEqual([]);
  expect(runs).toBeLessThanOrEqual(2);
});

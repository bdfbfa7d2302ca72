/**
 * A decode step whose router has a call of its own, as models with many experts have it: here the tiny golden
 * model, with the line between few and many drawn below it. Against float64, and watched bit for bit as unwatched.
 */
import { expect, test, vi } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { modelConfig } from '../../workers/config.ts';
import { openGguf } from '../../workers/gguf.ts';
import type * as Kernels from '../../workers/kernels.ts';
import { Model } from '../../workers/model.ts';
import { History, Probe } from '../../workers/probe.ts';
import { State } from '../../workers/state.ts';
import { openTestGpu } from '../gpu.ts';
import { fixture, loadGolden } from '../reference/golden.ts';

vi.mock('../../workers/kernels.ts', async (original) => ({
  ...(await original<typeof Kernels>()),
  FEW_EXPERTS: 2,
}));

const TOKENS = 20;

test('logits of decode steps with a router of its own call', async () => {
  const golden = loadGolden('tiny-q4_0');
  const tokens = golden.index.tokens as number[];
  const gpu = await openTestGpu();
  const gguf = await openGguf(modelSources(fixture('tiny-q4_0.gguf')));
  const config = modelConfig(gguf);
  const model = await Model.load(gpu, gguf, config, 'gpu');
  const state = new State(gpu, config, 256, 'f32');
  state.reserve(TOKENS);
  const run = async () => {
    state.clear();
    const rows: number[] = [];
    for (let at = 0; at < TOKENS; at++) rows.push(...(await model.scoreStep(tokens[at]!, at)));
    return rows;
  };
  await model.attach(state, { tap: null, changes: null });
  const calls = model.calls('decode');
  const routers = config.layers.filter((l) => l.ffn === 'moe').length;
  expect(calls.filter((name) => name === 'expert_swiglu')).toHaveLength(routers);
  expect(calls).not.toContain('route'); // every workgroup chooses
  const logits = await run();
  const shape = [TOKENS, config.vocabulary];
  const exact = golden.array('logits').values.subarray(0, TOKENS * config.vocabulary);
  expect(logits).toAgreeWith(exact, { rms: 1e-4, shape, what: 'logits by steps' });

  const probe = new Probe(gpu, config, state);
  const history = new History(gpu, probe.sizes, 0, 256);
  history.reserve(TOKENS);
  await model.attach(state, { tap: probe.recordTap(history), changes: null });
  expect(await run()).toEqual(logits);
  const records = await probe.records(0, TOKENS);
  const moe = config.layers.flatMap((l, i) => (l.ffn === 'moe' ? [i] : []));
  const { expertsUsed: top } = config.moe;
  moe.forEach((layer, m) => {
    const wanted = golden.array(`layer${layer}.experts`).values.subarray(0, TOKENS * top);
    const seen = records.flatMap((r) => [...r.experts.subarray(m * top, (m + 1) * top)]);
    expect(seen).toEqual([...wanted]);
  });
  gpu.destroy();
});

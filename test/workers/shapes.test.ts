/**
 * All programs of whole models compile, and all their calls are legal, on a device with exactly the floor's limits: of the
 * embedded model and of the 48B, as a GPU and as a processor runs them, with and without subgroups. Shapes alone: no
 * weights, nothing is computed.
 */
import { expect, test, vi } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { modelConfig } from '../../workers/config.ts';
import { openGguf, type ByteSource } from '../../workers/gguf.ts';
import { type Call, Gpu } from '../../workers/gpu.ts';
import { FLOOR } from '../../workers/limits.ts';
import * as K from '../../workers/kernels.ts';
import { Model } from '../../workers/model.ts';
import { History, Probe } from '../../workers/probe.ts';
import type * as Quant from '../../workers/quant.ts';
import { State } from '../../workers/state.ts';
import { shapesOnlyGpu } from '../shapesOnly.ts';
import { kimiLinear48B } from './kimiLinear48B.ts';

vi.mock('../../workers/quant.ts', async (original) => {
  const quant = await original<typeof Quant>();
  /** Repacked zeros, without the work. */
  const repack = (type: Quant.TensorType, _: Uint8Array, rows: number, cols: number) => {
    const { codeWords, scaleWords } = quant.packedRow(type, cols);
    const scales = scaleWords > 0 ? new Uint32Array(rows * scaleWords) : null;
    return { codes: new Uint32Array(rows * codeWords), scales };
  };
  return { ...quant, repack };
});

const models: [name: string, shards: () => ByteSource[], contextTokens: number][] = [
  ['the embedded model', () => modelSources('palimpsest-150m'), 8192],
  ['the 48B model, four layers', () => [kimiLinear48B(4)], 1_048_576],
];
const tunings = ['gpu', 'cpu'] as const;
const features = [['subgroups', 'shader-f16'], []] satisfies GPUFeatureName[][];
const variants = models.flatMap(([name, shards, contextTokens]) =>
  tunings.flatMap((tuning) =>
    features.map((features) => ({ name, shards, contextTokens, tuning, features })),
  ),
);

/** The name of what is called, and its code. */
function textOf({ program }: Call): string {
  return `${program.name}\n${program.code}`;
}

test.each(variants)(
  '$name as a $tuning, with [$features]',
  async ({ shards, contextTokens, tuning, features }) => {
    const programs: string[] = [];
    const gpu = await Gpu.open(shapesOnlyGpu(programs), { floor: true, features });
    expect(gpu.report).toMatchObject({ features, maxBindingBytes: FLOOR.bindingBytes });
    const file = await openGguf(shards());
    const config = modelConfig(file);
    const model = await Model.load(gpu, file, config, tuning);
    const state = new State(gpu, config, contextTokens, features.length > 0 ? 'f16' : 'f32');
    expect(state.contextLimit).toBe(contextTokens);
    await gpu.guard('all of the context', async () => {
      state.reserve(contextTokens);
      const probe = new Probe(gpu, config, state);
      const { heads: H, kda } = config;
      const layer = config.layers.findIndex((l) => l.kind === 'kda');
      const history = new History(gpu, { H, K: kda.keys, V: kda.values }, layer, contextTokens);
      history.reserve(1);
      const changes = gpu.tensor('scratch', 'changes', [2, H, 4]);
      for (const visitors of [
        { tap: probe.recordTap(history), changes: () => changes },
        { tap: null, changes: null },
      ]) {
        await model.attach(state, visitors);
        model.repeatStep(0, contextTokens - 1);
        // Who does not look pays nothing: no call and no binding is there for it.
        const { decode, draw, shortDecode, shortDraw, prefill } = await model.plan(state, visitors);
        const looked = { decode, draw, shortDecode, shortDraw, prefill };
        for (const [phase, plan] of Object.entries(looked)) {
          const looks = plan.calls.filter(
            (call) => !('program' in call) || /^probe_|> (watched|changes):/m.test(textOf(call)),
          );
          if (visitors.tap) expect(looks.length, phase).toBeGreaterThan(0);
          else expect(looks, phase).toEqual([]);
        }
      }
    });
    expect(programs.length).toBeGreaterThan(25);

    // A narrow model's token has a way of its own as long as its context is short and in one segment.
    const small = new State(gpu, config, 256, 'f32');
    small.reserve(256);
    const unwatched = { tap: null, changes: null };
    const rows = [state, small].map(async (s) => (await model.plan(s, unwatched)).shortRows);
    const narrow = tuning === 'gpu' && config.width < 1024;
    expect(await Promise.all(rows)).toEqual(narrow ? [512, 256] : [0, 0]);

    const ids = (count: number) => Array<number>(count).fill(0);
    await gpu.guard('the calls of every phase', async () => {
      model.prefill(ids(model.prefillTokens), contextTokens - model.prefillTokens);
      model.study(ids(model.scoreTokens), 0);
      model.repeatStep(0, contextTokens - 1);
      model.repeatStep(0, 511);
      await gpu.idle();
    });
    expect(new Set(programs)).toContain('mla_attend');
    // What is too large for a dispatch would have been refused.
    const program = gpu.program(K.norm, [K.sumTree], { D: config.width, EPS: 1e-5 });
    await gpu.ready();
    const tensor = gpu.tensor('scratch', 'x', [1]);
    const call = gpu.bind(program, { x: tensor, w: tensor, h: gpu.tensor('scratch', 'h', [1]) });
    const tooLarge = () => gpu.submit(gpu.record([call], 65_536));
    await expect(gpu.guard('a dispatch', tooLarge)).rejects.toThrow(/65535/);
    gpu.destroy();
  },
  60_000,
);

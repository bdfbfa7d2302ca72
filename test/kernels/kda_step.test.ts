import { expect, test } from 'vitest';
import { kdaStep } from '../../workers/kernels.ts';
import {
  checkKdaStep,
  cutBuffers,
  DECAYS,
  recurrence,
  runKdaStep,
  type RecurrenceCase,
  type StepSizes,
} from './kda.ts';

const CASE: RecurrenceCase & StepSizes = {
  ...{ T: 20, H: 3, K: 64, V: 32, parts: 8 },
  ...{ decay: 'gentle', beta: 'open', keys: 'random' },
};

test('kda_step: every kind of decay, write strengths 0 and 1, one key for all', async () => {
  for (const decay of Object.keys(DECAYS) as (keyof typeof DECAYS)[]) {
    for (const beta of ['open', 'extreme'] as const) {
      for (const keys of ['random', 'same'] as const) {
        const c = { ...CASE, decay, beta, keys };
        expect(await checkKdaStep(kdaStep, c), `${decay} ${beta} ${keys}`).toBeLessThan(2e-6);
      }
    }
  }
});

test('kda_step: any number of tokens', async () => {
  for (const T of [1, 63, 64, 65, 200]) {
    expect(await checkKdaStep(kdaStep, { ...CASE, T }), `${T} tokens`).toBeLessThan(2e-6);
  }
});

test('kda_step: head sizes that differ, that fill no workgroup, and those of a large model, however many share a column', async () => {
  const sizes = [
    { H: 3, K: 16, V: 64 },
    { H: 2, K: 60, V: 20 },
    { H: 1, K: 100, V: 36 },
    { H: 2, K: 128, V: 128 },
    { H: 32, K: 128, V: 128, T: 1 },
  ];
  for (const size of sizes) {
    for (const parts of [1, 2, 8]) {
      const c = { ...CASE, ...size, parts };
      const figure = await checkKdaStep(kdaStep, c);
      expect(figure, `${c.K} x ${c.V}, ${parts}`).toBeLessThan(2e-6);
    }
  }
});

test('kda_step: tokens cut over two calls, bit for bit as in one', async () => {
  const c = { ...CASE, T: 40, decay: 'strong' as const };
  const { buffers } = recurrence(c);
  const whole = await runKdaStep(kdaStep, c, buffers);
  for (const cut of [1, 17, 39]) {
    const [first, rest] = cutBuffers(c, buffers, cut);
    const { o: before, S } = await runKdaStep(kdaStep, { ...c, T: cut }, first);
    const after = await runKdaStep(kdaStep, { ...c, T: c.T - cut }, { ...rest, S });
    expect([...before, ...after.o]).toEqual([...whole.o]);
    expect(after.S).toEqual(whole.S);
  }
});

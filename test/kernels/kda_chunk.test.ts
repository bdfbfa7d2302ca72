import { expect, test } from 'vitest';
import { kdaChunkPairs, kdaChunkScan, kdaChunkSolve, kdaStep } from '../../workers/kernels.ts';
import { apart, cutBuffers, DECAYS, recurrence, runKdaStep, type RecurrenceCase } from './kda.ts';
import {
  checkChain,
  checkKdaChunkPairs,
  checkKdaChunkScan,
  checkKdaChunkSolve,
  runChain,
  type ChunkCase,
} from './kda_chunk.ts';

const chain = { pairs: kdaChunkPairs, solve: kdaChunkSolve, scan: kdaChunkScan };

const CASE: ChunkCase = {
  ...{ T: 80, H: 3, K: 64, V: 32, columns: 16 },
  ...{ decay: 'gentle', beta: 'open', keys: 'random' },
};

/** Every kind of decay, of write strengths and of keys. */
const KINDS = (Object.keys(DECAYS) as (keyof typeof DECAYS)[]).flatMap((decay) =>
  (['open', 'extreme'] as const).flatMap((beta) =>
    (['random', 'same'] as const).map((keys): Pick<RecurrenceCase, 'decay' | 'beta' | 'keys'> => ({
      decay,
      beta,
      keys,
    })),
  ),
);

test.each(KINDS)('kda_chunk_pairs: $decay decay, $beta strengths, $keys keys', async (kind) => {
  expect(await checkKdaChunkPairs(kdaChunkPairs, { ...CASE, ...kind })).toBeLessThan(2e-6);
});

test.each(KINDS)('kda_chunk_solve: $decay decay, $beta strengths, $keys keys', async (kind) => {
  expect(await checkKdaChunkSolve(kdaChunkSolve, { ...CASE, ...kind })).toBeLessThan(2e-6);
});

test.each(KINDS)('kda_chunk_scan: $decay decay, $beta, $keys keys', async (kind) => {
  expect(await checkKdaChunkScan(kdaChunkScan, { ...CASE, ...kind })).toBeLessThan(2e-6);
});

test.each(KINDS)('chunk form = recurrence: $decay decay, $beta, $keys keys', async (kind) => {
  expect(await checkChain(chain, { ...CASE, ...kind })).toBeLessThan(1e-5);
});

test.each([1, 15, 16, 17, 63, 64, 65, 200])('chunk form = recurrence: %i tokens', async (T) => {
  for (const decay of ['gentle', 'uneven'] as const) {
    expect(await checkChain(chain, { ...CASE, T, decay }), decay).toBeLessThan(1e-5);
  }
});

test('chunk form = recurrence: head sizes that differ, that fill no tile, every width of the scan', async () => {
  const sizes = [
    { H: 3, K: 16, V: 64, columns: 4 },
    { H: 2, K: 60, V: 20, columns: 8 },
    { H: 1, K: 100, V: 36, columns: 16 },
    { H: 1, K: 192, V: 36, columns: 8 },
  ];
  for (const size of sizes) {
    const c = { ...CASE, ...size };
    expect(await checkChain(chain, c), `${c.K} x ${c.V} by ${c.columns}`).toBeLessThan(1e-5);
  }
});

test('chunk form: the heads of a large model', async () => {
  const c = { ...CASE, T: 70, H: 32, K: 128, V: 128, columns: 16 };
  expect(await checkChain(chain, c)).toBeLessThan(1e-5);
});

test('a prompt in pieces = at once = step by step', async () => {
  const c: ChunkCase = { ...CASE, T: 150, decay: 'strong' };
  const { buffers } = recurrence(c);
  const whole = await runChain(chain, c, buffers);
  const steps = await runKdaStep(kdaStep, { ...c, parts: 8 }, buffers);
  expect(apart(whole, steps), 'at once and step by step').toBeLessThan(1e-5);
  for (const cut of [1, 63, 64, 65, 149]) {
    const [first, rest] = cutBuffers(c, buffers, cut);
    const { o: before, S } = await runChain(chain, { ...c, T: cut }, first);
    const after = await runChain(chain, { ...c, T: c.T - cut }, { ...rest, S });
    const pieces = { o: [...before, ...after.o], S: after.S };
    expect(apart(pieces, whole), `cut at ${cut}`).toBeLessThan(1e-5);
    const { o, S: Sn } = await runKdaStep(
      kdaStep,
      { ...c, T: c.T - cut, parts: 8 },
      { ...rest, S },
    );
    expect(apart({ o: [...before, ...o], S: Sn }, whole), `steps from ${cut}`).toBeLessThan(1e-5);
  }
});

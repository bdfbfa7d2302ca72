import { expect, test } from 'vitest';
import {
  intervene,
  probeAppend,
  probeChoice,
  probeKeep,
  probeLogits,
  probeOverwrite,
  probeRecall,
  probeRow,
  probeState,
  probeToken,
  probeTrace,
} from '../../workers/kernels.ts';
import {
  checkIntervene,
  checkProbeAppend,
  checkProbeChoice,
  checkProbeKeep,
  checkProbeLogits,
  checkProbeOverwrite,
  checkProbeRecall,
  checkProbeRow,
  checkProbeState,
  checkProbeToken,
  checkProbeTrace,
} from './probes.ts';

/** Small, of a large model's heads, and odd ones. */
const HEADS = [
  { H: 3, K: 64, V: 64 },
  { H: 2, K: 128, V: 128 },
  { H: 2, K: 60, V: 20 },
];

test.each(HEADS)(
  'probe_trace: sums, strengths and middle decays, heads of $K by $V',
  async (heads) => {
    for (const T of [1, 10]) {
      for (const parts of [1, 8]) {
        expect(await checkProbeTrace(probeTrace, { T, ...heads, parts })).toBeLessThan(1e-5);
      }
    }
    if (heads.K === 64)
      expect(await checkProbeTrace(probeTrace, { T: 65, ...heads, H: 1, parts: 8 })).toBeLessThan(
        1e-5,
      );
  },
);

test.each(HEADS)(
  'probe_keep: rows of one segment and of the next, heads of $K by $V',
  async (heads) => {
    for (const T of [2, 65]) expect(await checkProbeKeep(probeKeep, { T, ...heads })).toBe(0);
  },
);

test.each(HEADS)('probe_token: of several layers, heads of $K by $V', async (heads) => {
  expect(await checkProbeToken(probeToken, { layers: 3, ...heads })).toBe(0);
});

test('probe_append: before, in and after its segment', async () => {
  for (const position of [4, 5, 7, 8]) {
    expect(await checkProbeAppend(probeAppend, { words: 300, position })).toBe(0);
  }
});

test.each(HEADS)('probe_recall: any number of positions, heads of $K by $V', async (heads) => {
  for (const T of [1, 8, 65]) {
    expect(await checkProbeRecall(probeRecall, { T, ...heads, first: 0 })).toBeLessThan(1e-5);
  }
  expect(await checkProbeRecall(probeRecall, { T: 9, ...heads, first: 30 })).toBeLessThan(1e-5);
});

test.each(HEADS)('probe_overwrite: over two segments, heads of $K by $V', async (heads) => {
  for (const T of [3, 70]) {
    for (const head of [1, 'mean'] as const) {
      expect(await checkProbeOverwrite(probeOverwrite, { T, ...heads, head })).toBeLessThan(1e-5);
    }
  }
});

test('probe_overwrite: more later tokens than one sweep takes', async () => {
  const c = { T: 700, H: 1, K: 8, V: 8, head: 0 };
  expect(await checkProbeOverwrite(probeOverwrite, c)).toBeLessThan(1e-5);
});

test.each(HEADS)('probe_state: heads of $K by $V', async (heads) => {
  expect(await checkProbeState(probeState, heads)).toBeLessThan(1e-5);
});

test('probe_choice: any number of tokens', async () => {
  for (const T of [1, 64, 65]) expect(await checkProbeChoice(probeChoice, { T, top: 3 })).toBe(0);
});

test('probe_logits: slices that fill and that do not, more slices than logits of the last', async () => {
  for (const c of [
    { T: 1, vocabulary: 512, slices: 1 },
    { T: 10, vocabulary: 1000, slices: 7 },
    { T: 2, vocabulary: 30, slices: 8 },
    { T: 1, vocabulary: 20000, slices: 20 },
  ]) {
    expect(await checkProbeLogits(probeLogits, c)).toBeLessThan(1e-5);
  }
});

test('probe_row: of one token and of many', async () => {
  for (const T of [1, 64]) expect(await checkProbeRow(probeRow, { T, width: 100 })).toBe(0);
});

test('intervene: from a position on, in its heads, and nothing else', async () => {
  for (const T of [1, 20]) expect(await checkIntervene(intervene, { T, K: 70 })).toBe(0);
});

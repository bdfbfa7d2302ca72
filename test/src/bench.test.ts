/** What the bench page makes of figures: digits that mean something, and what limits a machine. */
import { describe, expect, test } from 'vitest';
import { formatFigure, formatShare, limitOf, rowsOf, watchingOf } from '../../src/bench/account.ts';
import { wishFor } from '../../src/bench/wish.ts';
import type { BenchResult, Spread } from '../../workers/protocol.ts';
import { loaded, memory } from './scriptedClient.ts';

const around = (median: number): Spread => ({
  median,
  least: 0.9 * median,
  most: 1.2 * median,
  runs: 10,
});

const result = (own: Partial<BenchResult>): BenchResult => ({
  device: { ...loaded.device, software: false, name: 'a gpu' },
  model: 'a model',
  stream: around(1000),
  products: [
    {
      ...{ rows: 16384, cols: 2304, matrices: 4, gbps: around(600), share: 0.6 },
      ...{ together: around(800), togetherShare: 0.8 },
    },
  ],
  decode: [
    { contextTokens: 32, tokens: 128, tokensPerSec: around(500), betweenMs: { p50: 2, p95: 2.5 } },
    { contextTokens: 1024, tokens: 128, tokensPerSec: around(400), betweenMs: { p50: 3, p95: 4 } },
  ],
  tokenBytes: 95e6,
  tokenShare: 0.0475,
  prompts: [{ tokens: 512, tokensPerSec: around(12345), firstTokenMs: around(41.23) }],
  watched: { off: around(500), on: around(425), share: 0.85, callsOff: 169, callsOn: 171 },
  kernels: [
    {
      phase: 'decode',
      tokens: 1,
      rows: [{ name: 'matvec', calls: 150, us: around(1800), bytes: 95e6, share: 0.05 }],
    },
  ],
  memory,
  refused: [],
  stopped: false,
  ...own,
});

test('figures have three digits that mean something', () => {
  expect([3013.8, 99.96, 35.42, 1.404, 0.0213, 0].map(formatFigure)).toEqual([
    '3,014',
    '100.0',
    '35.4',
    '1.40',
    '0.0213',
    '0',
  ]);
  expect([0.0475, 0.6, 1.02].map(formatShare)).toEqual(['4.8 %', '60 %', '102 %']);
});

test('the table has every figure with its spread, and the share where one means something', () => {
  const rows = rowsOf(result({}));
  expect(rows[0]).toEqual({
    what: 'Reading memory',
    median: '1,000',
    spread: '900 to 1,200',
    unit: 'GB/s',
    share: '',
  });
  expect(rows.map(({ what, median, share }) => [what, median, share])).toEqual([
    ['Reading memory', '1,000', ''],
    ['4-bit product, 16,384 × 2,304, one after another', '600', '60 %'],
    ['4-bit product, 16,384 × 2,304, many in one call', '800', '80 %'],
    ['Writing, after 32 tokens', '500', '4.8 %'],
    ['From one token to the next', '2.00', ''],
    ['Writing, after 1,024 tokens', '400', ''],
    ['Reading 512 tokens', '12,345', ''],
    ['First token after 512', '41.2', ''],
    ['Writing, while the memory is watched', '425', ''],
  ]);
  const none = { stream: null, products: [], decode: [], prompts: [], watched: null, kernels: [] };
  expect(rowsOf(result(none))).toEqual([]);
});

describe('what limits', () => {
  test('memory, where weights are read at half its rate or more', () => {
    expect(limitOf(result({ tokenShare: 0.62 }))).toMatch(/95 MB.* 62 % .*memory is the limit/);
  });

  test('the GPU, where it computes nearly all the time', () => {
    expect(limitOf(result({}))).toMatch(
      /The GPU is the limit.* 150 calls.* 4\.8 %.*2\.00 ms .* 1\.80/,
    );
  });

  test('whoever hands it work, where it waits', () => {
    const rows = [{ name: 'matvec', calls: 150, us: around(700), bytes: 95e6, share: 0.1 }];
    const kernels = [{ phase: 'decode' as const, tokens: 1, rows }];
    expect(limitOf(result({ kernels }))).toMatch(/^Of the 2\.00 ms .* 0\.700: .*150 calls a token/);
  });

  test('the processor, and nothing where nothing is known', () => {
    expect(limitOf(result({ device: { ...loaded.device, software: true } }))).toMatch(/processor/);
    expect(limitOf(result({ kernels: [] }))).toMatch(/4\.8 %.*something else/);
    expect(limitOf(result({ decode: [] }))).toBe('');
  });

  test('watching costs what it costs', () => {
    expect(watchingOf(result({}))).toMatch(/at 85 % of the 500 tok\/s.* 169 calls/);
    expect(watchingOf(result({ watched: null }))).toBe('');
  });
});

test('the page watches for the bench what it watches itself, and asks less of a processor', () => {
  const { watch, runs, contexts } = wishFor(loaded);
  expect(watch).toMatchObject({ layer: 0, head: 'median' });
  expect(contexts).toEqual([]);
  const fast = wishFor({ ...loaded, device: { ...loaded.device, software: false } });
  expect(fast.runs).toBeGreaterThan(runs);
  expect(fast.tokens).toBe(128);
});

/** The goals' file: every key, a number or null with its reason. What needs a GPU is told so, not measured, on a processor. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { gatherGoals } from '../../tools/goals.ts';
import type { BenchResult, Spread } from '../../workers/protocol.ts';
import { loaded, memory } from '../src/scriptedClient.ts';

const keys = [
  'stream_read_gbps',
  'gemv_q4_0_large_share',
  'gemv_q4_0_2304x4096_share',
  'gemv_q4_0_large_in_turn_share',
  'gemv_q4_0_2304x4096_in_turn_share',
  'moe48b_decode_1k_ms',
  'moe48b_bandwidth_share',
  'million_speedup_over_mla',
  'million_cache_share',
  'default_decode_tps',
  'default_decode_chromium_tps',
  'default_prefill_2048_tps',
  'kda_chunk_share_of_fla',
  'kda_chunk_matrix_share_of_fla',
  'ttft_32_ms',
  'cold_start_chromium_s',
];

const around = (median: number): Spread => ({ median, least: median, most: median, runs: 10 });
const product = (rows: number, cols: number, share: number, togetherShare: number) => ({
  ...{ rows, cols, matrices: 1, share, togetherShare },
  ...{ gbps: around(1000 * share), together: around(1000 * togetherShare) },
});
const bench: BenchResult = {
  device: loaded.device,
  model: 'a model',
  stream: around(1000),
  products: [
    product(163840, 2304, 0.75, 0.85),
    product(12544, 2304, 0.4, 0.8),
    product(2304, 4096, 0.25, 0.7),
  ],
  decode: [
    { contextTokens: 32, tokens: 128, tokensPerSec: around(900), betweenMs: { p50: 1, p95: 2 } },
  ],
  tokenBytes: 95e6,
  tokenShare: 0.0475,
  prompts: [{ tokens: 32, tokensPerSec: around(1000), firstTokenMs: around(31) }],
  watched: null,
  kernels: [],
  memory,
  refused: [],
  stopped: false,
};
const none = () => Promise.reject(new Error('no device is opened'));
const gather = (own: BenchResult, chromium?: string) =>
  gatherGoals({ open: none, bench: own, chromium, fla: undefined, runs: 1, say: () => {} });

test('each key is a number, or null with the reason', async () => {
  const { figures, notes } = await gather(bench);
  expect(Object.keys(figures)).toEqual(keys);
  expect(figures).toMatchObject({
    stream_read_gbps: 1000,
    gemv_q4_0_large_share: 0.8, // the least of the large ones
    gemv_q4_0_2304x4096_share: 0.7,
    gemv_q4_0_large_in_turn_share: 0.4,
    gemv_q4_0_2304x4096_in_turn_share: 0.25,
    default_decode_tps: 900,
    ttft_32_ms: 31,
  });
  const missing = Object.keys(figures).filter((key) => figures[key] === null);
  expect(missing).toHaveLength(9);
  expect(Object.keys(notes)).toEqual(missing);
  expect(notes.moe48b_decode_1k_ms).toBe('measured on GPUs only');
});

test('a browser’s figures come from its file; a share that was refused and a short answer are no figures', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  const file = join(folder, 'chromium.json');
  writeFileSync(file, JSON.stringify({ coldStartSec: around(1.9), bench }));
  const refusal = 'The product came to 2 GB/s.';
  const short = bench.decode.map((own) => ({ ...own, tokens: 127 }));
  const { figures, notes } = await gather(
    { ...bench, products: bench.products.slice(1), refused: [refusal], decode: short },
    file,
  );
  expect(figures).toMatchObject({
    default_decode_chromium_tps: 900,
    cold_start_chromium_s: 1.9,
    gemv_q4_0_large_share: null,
    default_decode_tps: null,
  });
  expect(notes.gemv_q4_0_large_share).toBe(refusal);
  rmSync(folder, { recursive: true });
});

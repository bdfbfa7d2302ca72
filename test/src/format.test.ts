import { expect, test } from 'vitest';
import {
  formatBytes,
  formatCount,
  formatParameters,
  formatRate,
  formatTokens,
  formatWait,
  formatAgo,
} from '../../src/format.ts';
import { decodeRate, prefillRate } from '../../src/pace.ts';

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [9949, '9.9 kB'],
  [9950, '10 kB'],
  [999_499, '999 kB'],
  [999_500, '1.0 MB'],
  [110_701_024, '111 MB'],
  [28_300_000_000, '28 GB'],
  [5e15, '5000 TB'],
])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

test.each([
  [0, '0 ms'],
  [999.4, '999 ms'],
  [999.6, '1.0 s'],
  [9949, '9.9 s'],
  [9960, '10 s'],
  [60_000, '1 min'],
  [75_000, '1 min 15 s'],
  [3_600_000, '1 h 0 min'],
])('%d ms are %s', (ms, text) => expect(formatWait(ms)).toBe(text));

test('rates, counts and parameters', () => {
  expect([0.421, 5.12, 52.4, 1204].map(formatRate)).toEqual(['0.42', '5.1', '52', '1,204']);
  expect(formatCount(8192)).toBe('8,192');
  expect([999, 150_573_687, 48_100_000_000].map(formatParameters)).toEqual([
    '999',
    '150.6 M',
    '48.1 B',
  ]);
  expect([1, 2].map(formatTokens)).toEqual(['1 token', '2 tokens']);
});

test('the first token is not a step of writing, and what was in memory was not read', () => {
  expect(decodeRate({ tokens: 11, decodeMs: 500 })).toBe(20);
  expect(decodeRate({ tokens: 1, decodeMs: 500 })).toBeNull();
  expect(decodeRate({ tokens: 5, decodeMs: 0 })).toBeNull();
  expect(prefillRate({ promptTokens: 110, reusedTokens: 10, prefillMs: 200 })).toBe(500);
  expect(prefillRate({ promptTokens: 10, reusedTokens: 10, prefillMs: 200 })).toBeNull();
});

test('how long ago', () => {
  const now = Date.UTC(2000, 5, 15, 12);
  const ago = (seconds: number) => formatAgo(now - seconds * 1000, now);
  expect([-5, 59, 60, 3599, 3600, 86_399, 86_400, 172_800].map(ago)).toEqual([
    'just now',
    'just now',
    '1 minute ago',
    '59 minutes ago',
    '1 hour ago',
    '23 hours ago',
    'yesterday',
    '2 days ago',
  ]);
  expect([14, 62, 70, 800].map((days) => ago(days * 86_400))).toEqual([
    '2 weeks ago',
    '8 weeks ago',
    '2 months ago',
    '2 years ago',
  ]);
});

import { afterEach, expect, test, vi } from 'vitest';
import { recall, remember } from '../../src/settings.ts';

afterEach(() => vi.unstubAllGlobals());

const asIs = (stored: unknown) => stored;

test('what is remembered is recalled', () => {
  const kept = new Map<string, string>();
  vi.stubGlobal('localStorage', {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
  });
  expect(recall('theme', asIs)).toBeUndefined();
  remember('theme', { a: [1] });
  expect(recall('theme', asIs)).toEqual({ a: [1] });
  expect([...kept.keys()]).toEqual(['palimpsest.theme']);
  kept.set('palimpsest.theme', '{broken');
  expect(recall('theme', asIs)).toBeUndefined();
});

test('blocked storage remembers nothing and does no harm', () => {
  vi.stubGlobal('localStorage', {
    getItem() {
      throw new DOMException('blocked', 'SecurityError');
    },
    setItem() {
      throw new DOMException('full', 'QuotaExceededError');
    },
  });
  remember('theme', 'dark');
  expect(recall('theme', (stored) => stored ?? 'auto')).toBe('auto');
});

import { expect, test } from 'vitest';
import { measured, putDown } from '../../workers/measured.ts';

const kept = (step: string) => performance.getEntriesByName(step, 'measure');

test('a step is put down with its times, whether or not it succeeds', async () => {
  expect(await measured('one', () => 7)).toBe(7);
  await expect(measured('one', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  putDown('other', performance.now(), 3);
  expect(kept('one')).toHaveLength(2);
  expect((kept('other')[0] as PerformanceMeasure).detail).toEqual({ busyMs: 3 });
});

test('what comes with every answer does not pile up; the last is there', async () => {
  for (let answer = 0; answer < 2000; answer++) {
    await measured('prompt', () => answer);
    expect(kept('prompt').length).toBeLessThanOrEqual(300);
    expect(kept('prompt').length).toBeGreaterThan(0);
  }
});

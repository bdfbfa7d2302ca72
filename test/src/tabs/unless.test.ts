import { expect, test, vi } from 'vitest';
import { unless } from '../../../src/tabs/unless.ts';

test('unless: what work gives or why it ended, and nothing left at a signal that lasts', async () => {
  const end = new AbortController();
  const listens = vi.spyOn(end.signal, 'addEventListener');
  const left = () =>
    listens.mock.calls.filter(
      ([, , options]) => !(options as { signal: AbortSignal }).signal.aborted,
    );
  const failure = new Error('at work');
  expect(await unless([end.signal], Promise.resolve(3))).toBe(3);
  await expect(unless([end.signal], Promise.reject(failure))).rejects.toBe(failure);
  await Promise.resolve();
  expect(listens).toHaveBeenCalledTimes(2);
  expect(left()).toEqual([]);

  const reason = new Error('gone');
  const waits = unless([new AbortController().signal, end.signal], new Promise(() => {}));
  expect(left()).toHaveLength(1);
  end.abort(reason);
  await expect(waits).rejects.toBe(reason);
  await expect(unless([end.signal], Promise.resolve(3))).rejects.toBe(reason);
});

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Gpu } from '../../workers/gpu.ts';
import { SpareGpu } from '../../workers/spareGpu.ts';

/** As much of a device as is asked for here. */
class Device {
  ended = false;
  lose: (reason: string) => void = () => {};
  readonly lost = new Promise<string>((resolve) => (this.lose = resolve));

  destroy(): void {
    this.ended = true;
  }
}

let opened: Device[];
let refusal: Error | null;
let spare: SpareGpu;
beforeEach(() => {
  vi.useFakeTimers();
  opened = [];
  refusal = null;
  spare = new SpareGpu(async () => {
    if (refusal) throw refusal;
    opened.push(new Device());
    return opened.at(-1) as unknown as Gpu;
  });
});
afterEach(() => {
  vi.useRealTimers();
});

describe('a device that was looked at', () => {
  test('is the load’s that follows, once', async () => {
    const seen = await spare.look();
    expect(await spare.take()).toBe(seen);
    expect(await spare.take()).not.toBe(seen);
    vi.runAllTimers();
    expect(opened.map(({ ended }) => ended)).toEqual([false, false]);
  });

  test('is the load’s that came while it was opened', async () => {
    const [seen, taken] = await Promise.all([spare.look(), spare.take()]);
    expect(taken).toBe(seen);
    vi.runAllTimers();
    expect(opened.map(({ ended }) => ended)).toEqual([false]);
  });

  test('is given back where none follows, and looked at again anew', async () => {
    await spare.look();
    vi.runAllTimers();
    expect(opened[0]!.ended).toBe(true);
    expect(await spare.take()).toBe(opened[1]);
  });

  test('and was lost is not taken', async () => {
    await spare.look();
    opened[0]!.lose('gone');
    await Promise.resolve();
    expect(await spare.take()).toBe(opened[1]);
  });

  test('but refused is asked for again', async () => {
    refusal = new Error('no adapter');
    await expect(spare.look()).rejects.toBe(refusal);
    refusal = null;
    expect(await spare.look()).toBe(opened[0]);
  });
});

/** A conversation set aside while its engine does something else: afterwards it goes on as if nothing had been. */
import { expect, test } from 'vitest';
import { alreadyRunning } from '../../workers/engine.ts';
import type { Frame } from '../../workers/protocol.ts';
import { FragileGpu, openLasting } from '../fragile.ts';
import { greedy, plain, prompt, watch } from './laid.ts';

const four = { ...plain, maxTokens: 4 };

test('it stands as it did, is watched as it was, and is what a reload would find; whatever fails meanwhile', async () => {
  const gpu = new FragileGpu();
  const engine = await openLasting(gpu);
  const records = new Map<number, number>();
  const take = (frame: Frame) => {
    if (frame.kind !== 'tokens') return;
    for (const { position, id } of frame.records) records.set(position, id);
  };
  await engine.watch(watch, take);
  const begun = await engine.generate({ kind: 'ids', ids: prompt }, four, () => {});
  expect(begun.ids).toEqual(greedy.slice(0, 4));
  const [branch] = engine.branches();
  const other = await engine.aside(async (own) => {
    expect(engine.standing.outline.lines.map(({ history }) => history.length)).toEqual([
      prompt.length + 3,
    ]);
    await expect(engine.reset()).rejects.toMatchObject(alreadyRunning());
    const stop = await own.generate({ kind: 'ids', ids: [5, 6, 7] }, four, () => {});
    return stop.promptIds;
  });
  expect(other).toEqual([5, 6, 7]);
  expect(engine.branches()).toEqual([branch]);

  const ids = [...prompt, ...begun.ids];
  const rest = await engine.generate({ kind: 'ids', ids }, four, () => {});
  expect(rest.reusedTokens).toBe(ids.length - 1);
  expect(rest.ids).toEqual(greedy.slice(4, 8));
  await engine.settled();
  expect([...records.keys()].sort((a, b) => a - b)).toEqual(
    Array.from({ length: prompt.length + 7 }, (_, i) => i),
  );
  expect(records.get(prompt.length + 5)).toBe(greedy[5]);

  // What fails meanwhile leaves it as it was, too.
  const failing = engine.aside(() => Promise.reject(new Error('no use')));
  await expect(failing).rejects.toThrow('no use');
  const losing = engine.aside(async (own) => {
    await own.generate({ kind: 'ids', ids: [5, 6, 7] }, four, () => gpu.lose());
    await own.generate({ kind: 'ids', ids: [5, 6, 7] }, four, () => {});
  });
  await expect(losing).rejects.toThrow(/went away meanwhile/);
  ids.push(...rest.ids);
  const last = await engine.generate({ kind: 'ids', ids }, four, () => {});
  expect(last.ids).toEqual(greedy.slice(8, 12));
  engine.destroy();
}, 120_000);

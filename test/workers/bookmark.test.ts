/** A conversation over a reload: stored, taken up by an engine that knows nothing of it, and gone on with as it would have been. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Bookmark, type Fit, stateBytes } from '../../workers/bookmark.ts';
import type { Standing } from '../../workers/keep.ts';
import type { LastingEngine } from '../../workers/lasting.ts';
import type { Intervention } from '../../workers/protocol.ts';
import { memoryShelf } from '../../workers/store.ts';
import { FragileGpu, openLasting } from '../fragile.ts';
import { plain, prompt } from './laid.ts';

let engine: LastingEngine;
let fit: Fit;
beforeAll(async () => {
  engine = await openLasting(new FragileGpu());
  fit = { model: 'tiny', ...engine.fit };
}, 60_000);
afterAll(() => engine.destroy());

const say = (ids: number[], maxTokens: number) =>
  engine.generate({ kind: 'ids', ids }, { ...plain, maxTokens }, () => {});

/** Stored and read back, through a shelf that copies as IndexedDB does. */
async function throughStore(standing: Standing, change: (state: Standing) => unknown = () => {}) {
  const shelf = memoryShelf(1e9);
  const bookmark = new Bookmark(() => Promise.resolve(shelf));
  const state = structuredClone({ ...standing, model: 'tiny' });
  change(state);
  expect(await bookmark.store('words', state)).toBe('');
  expect(await new Bookmark(() => Promise.resolve(shelf)).account()).toBe('words');
  return bookmark.state(fit);
}

test('what was said goes on as it would have, nothing of it read again; earlier prompts and branches are there', async () => {
  const heads: Intervention = { kind: 'deaf', layers: [1], heads: [1], from: 30 };
  const first = await say(prompt, 8);
  const answered = [...prompt, ...first.ids];
  await engine.fork(85, 9, [heads]);
  const aside = await engine.proceed({ ...plain, maxTokens: 3 }, () => {});
  await engine.select(0);
  await engine.keep();
  const { standing } = engine;
  const after = await say([...answered, 5, 6, 7], 8);
  const again = await say(prompt, 8);
  await engine.select(1);
  const further = await engine.proceed({ ...plain, maxTokens: 3 }, () => {});

  await engine.reset();
  const stored = await throughStore(standing);
  if (typeof stored === 'string') throw new Error(stored);
  await engine.resume(stored);
  const on = await say([...answered, 5, 6, 7], 8);
  expect(on.ids).toEqual(after.ids);
  expect(on.reusedTokens).toBe(answered.length - 1); // the last was said and not yet taken in
  const back = await say(prompt, 8);
  expect([back.ids, back.reusedTokens]).toEqual([again.ids, prompt.length - 1]);
  await engine.select(1);
  const branch = await engine.proceed({ ...plain, maxTokens: 3 }, () => {});
  expect(branch.ids).toEqual(further.ids);
  expect(branch.promptIds.slice(-3)).toEqual(aside.ids);
});

test('what does not fit is not taken up, and why is said', async () => {
  await engine.reset();
  await say(prompt, 2);
  await engine.keep();
  const { standing } = engine;
  expect(stateBytes(standing)).toBeGreaterThan(100_000);
  const damaged = (change: (state: Standing) => void) => throughStore(standing, change);
  const reads = 'Its text is read again with your next message.';
  const broken = `The stored memory is damaged. ${reads}`;
  expect(await damaged((s) => Object.assign(s, { model: 'other' }))).toBe(
    `The stored memory is of another model or version of it. ${reads}`,
  );
  expect(await damaged((s) => Object.assign(s.kept!, { rowWords: 20 }))).toMatch(/otherwise/);
  expect(await damaged((s) => Object.assign(s.kept!, { blocks: [] }))).toBe(broken);
  expect(await damaged((s) => Object.assign(s.kept!, { position: 500 }))).toBe(broken);
  expect(await damaged((s) => Object.assign(s.outline, { present: 7 }))).toBe(broken);
  expect(await damaged((s) => Object.assign(s.outline.lines[0]!, { history: [600] }))).toBe(broken);
  expect(await damaged((s) => Object.assign(s, { kept: null }))).toMatch(/No memory/);
});

test('an account alone leaves the stored state; a record of another version is none', async () => {
  const shelf = memoryShelf(1e9);
  const bookmark = new Bookmark(() => Promise.resolve(shelf));
  expect(await bookmark.account()).toBeNull();
  expect(await bookmark.state(fit)).toBe('');
  await bookmark.store('one', { ...engine.standing, model: 'tiny' });
  await bookmark.store('two', null);
  expect(await bookmark.account()).toBe('two');
  expect(typeof (await bookmark.state(fit))).toBe('object');
  await shelf.transact('readwrite', async (on) => on.put(['conversation'], { version: 0 }));
  expect(await bookmark.account()).toBeNull();
  const broken = new Bookmark(() => Promise.reject(new Error('blocked')));
  expect(await broken.account()).toBeNull();
  await expect(broken.store('one', null)).rejects.toThrow('blocked');
});

/** Two tabs at one real engine: neither knows of the other, and nothing is taken in twice. */
import { beforeAll, expect, test } from 'vitest';
import { Seats } from '../../../src/tabs/seats.ts';
import type { Frame } from '../../../workers/protocol.ts';
import type { LastingEngine } from '../../../workers/lasting.ts';
import { FragileGpu, openLasting } from '../../fragile.ts';
import { greedy, plain, prompt, watch } from '../../workers/laid.ts';
import { shareable } from './sharedEngine.ts';

let engine: LastingEngine;
let seats: Seats;
beforeAll(async () => {
  engine = await openLasting(new FragileGpu());
  seats = new Seats(shareable(engine), engine.loaded);
});

const other = prompt.slice(20, 50);
const short = (maxTokens: number) => ({ ...plain, maxTokens });

test('conversations take turns, each goes on from its own memory, and those who leave leave nothing', async () => {
  const [one, two] = [seats.sit(), seats.sit()];
  const told: Record<'one' | 'two', number[]> = { one: [], two: [] };
  const say = (name: 'one' | 'two', ids: number[], tokens: number) =>
    ({ one, two })[name].generate({ kind: 'ids', ids }, short(tokens), ({ id }) =>
      told[name].push(id),
    );

  // Asked at once: one after the other.
  const [first, second] = await Promise.all([say('one', prompt, 4), say('two', other, 4)]);
  expect(first.ids).toEqual(greedy.slice(0, 4));
  expect(told).toEqual({ one: first.ids, two: second.ids });
  expect(engine.branches()).toHaveLength(2);

  // On and on by turns: what was said stands, so that a prompt's last token is all there is to take in.
  const third = await say('one', [...prompt, ...first.ids], 4);
  expect(third.ids).toEqual(greedy.slice(4, 8));
  expect(third.reusedTokens).toBeGreaterThanOrEqual(prompt.length + 3);
  const fourth = await say('two', [...other, ...second.ids], 2);
  expect(fourth.reusedTokens).toBeGreaterThanOrEqual(other.length + 3);

  // Each sees its own branches alone, and its own are all that it can choose.
  const [ofOne] = await one.memory.branches();
  expect(ofOne!.ids).toEqual([...prompt, ...greedy.slice(0, 8)]);
  expect(await one.memory.branches()).toHaveLength(1);
  const [ofTwo] = await two.memory.branches();
  await expect(one.memory.select(ofTwo!.id)).rejects.toMatchObject({ name: 'Refused' });
  await expect(one.memory.compare(ofOne!.id, ofTwo!.id)).rejects.toThrow(/no branch/);

  // A watch is its owner's, whoever else has a turn meanwhile.
  const frames: Frame[] = [];
  await one.memory.watch(watch, (frame) => frames.push(frame));
  await say('two', [...other, ...second.ids, ...fourth.ids], 1);
  const ninth = await say('one', [...prompt, ...greedy.slice(0, 8)], 1);
  expect(ninth.ids).toEqual(greedy.slice(8, 9));
  await engine.settled();
  const positions = new Set(
    frames.flatMap((f) => (f.kind === 'tokens' ? f.records.map((r) => r.position) : [])),
  );
  expect(positions.size).toBe(prompt.length + 8); // the last is left to take in
  const ids = new Set(
    frames.flatMap((f) => (f.kind === 'tokens' ? f.records : [])).map((r) => r.id),
  );
  expect([...ids].every((id) => [...prompt, ...greedy].includes(id))).toBe(true);

  await one.reset();
  expect(engine.branches().filter(({ ids }) => ids.length > 0)).toHaveLength(1);
  // The empty branch that it left goes with the next turn of another.
  await say('two', [...other, ...second.ids, ...fourth.ids], 1);
  expect(engine.branches()).toHaveLength(1);
  await two.rise();
  expect(seats.count).toBe(1);
  expect(engine.branches().flatMap(({ ids }) => ids)).toEqual([]);
  const again = await say('one', prompt, 2);
  expect([again.ids, again.reusedTokens]).toEqual([greedy.slice(0, 2), 0]);
  await one.memory.watch(null, () => {});
  await one.rise();
}, 60_000);

test('what is said right after a reset stands in a branch of its own, whatever is still looked at', async () => {
  const shared = shareable(engine);
  let goOn = null as (() => void) | null;
  shared.memory.branches = async () => {
    await new Promise<void>((resolve) => (goOn = resolve));
    return engine.branches();
  };
  const others = new Seats(shared, engine.loaded);
  const [one, two] = [others.sit(), others.sit()];
  await one.generate({ kind: 'ids', ids: prompt }, short(2), () => {});
  const looking = one.memory.branches();
  await expect.poll(() => goOn).not.toBeNull();
  await one.reset();
  const answering = one.generate({ kind: 'ids', ids: prompt }, short(2), () => {});
  shared.memory.branches = () => Promise.resolve(engine.branches());
  goOn!();
  await looking;
  const { ids } = await answering;
  const more = await one.generate({ kind: 'ids', ids: [...prompt, ...ids] }, short(1), () => {});
  expect(more.reusedTokens).toBeGreaterThan(prompt.length);

  // Where its branches went without its doing, a tab is told so before it begins another one.
  const frames: Frame[] = [];
  await one.memory.watch(watch, (frame) => frames.push(frame));
  await two.generate({ kind: 'ids', ids: other }, short(1), () => {});
  one.forget();
  frames.length = 0;
  await one.memory.branches();
  expect(frames).toEqual([{ kind: 'forgotten', from: 0 }]);
  await one.rise();
  await two.rise();
}, 60_000);

test('a stop ends what its own tab writes or waits to write, and nothing else', async () => {
  const [one, two] = [seats.sit(), seats.sit()];
  let written = 0;
  const writing = one.generate({ kind: 'ids', ids: prompt }, short(6), () => {
    // The other tab's stop is heard while this one writes, and is not meant for it.
    if (++written === 2) two.stop();
  });
  const waiting = two.generate({ kind: 'ids', ids: other }, short(6), () => written++);
  expect((await writing).ids).toEqual(greedy.slice(0, 6));
  expect(await waiting).toMatchObject({ reason: 'stopped', ids: [], text: '' });
  expect(written).toBe(6);
  const stopped = two.generate({ kind: 'ids', ids: other }, short(50), () => two.stop());
  expect((await stopped).reason).toBe('stopped');
}, 60_000);

/** What a long recording takes, in bytes, and that it takes no more the longer it goes on. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Engine } from '../../workers/engine.ts';
import type { Gpu } from '../../workers/gpu.ts';
import { openLaid, plain, prompt, Watcher } from './laid.ts';

const BUDGET = 24e6;
const TOKENS = 2000;

let gpu: Gpu;
let engine: Engine;
beforeAll(async () => ({ gpu, engine } = await openLaid('cpu', 4096)));
afterAll(() => engine.destroy());

const total = () => Object.values(gpu.bytes).reduce((a, b) => a + b, 0);
const ids = Array.from({ length: TOKENS - 3 }, (_, i) => prompt[(i * 7) % prompt.length]!);

test('a recording of 2,000 tokens keeps its budget, and what is asked of it leaves nothing behind', async () => {
  await engine.generate(
    { kind: 'ids', ids: ids.slice(0, 10) },
    { ...plain, maxTokens: 1 },
    () => {},
  );
  const before = total();
  const watcher = new Watcher();
  const told: number[] = [];
  await engine.watch({ layer: 1, head: 0, budgetBytes: BUDGET }, (frame) => {
    watcher.take(frame);
    if (frame.kind === 'budget') told.push(frame.bytes);
  });
  await engine.generate({ kind: 'ids', ids }, { ...plain, maxTokens: 4 }, () => {});
  await engine.settled();
  expect(watcher.records.length).toBeGreaterThanOrEqual(TOKENS - 3);
  expect(watcher.frame('recall').frame.recall).toHaveLength(watcher.records.length);
  const recorded = told.at(-1)!;
  expect(recorded).toBeGreaterThan(0);
  expect(Math.max(...told)).toBeLessThanOrEqual(BUDGET);
  // What is told is what the GPU holds: beside it only the checkpoint of the longer prompt and its cache rows.
  const checkpoint = 3 * 4 * (2 * 64 * 64 + 3 * 384);
  expect(total() - before).toBeLessThanOrEqual(recorded + 2 * checkpoint);

  const position = 1100;
  const held = total();
  for (let again = 0; again < 3; again++) {
    const answer = await engine.inspect({ kind: 'memory', layer: 1, head: 0, position });
    expect(answer.energy).toBeGreaterThan(0);
    expect(total()).toBe(held);
  }
  await engine.watch(null, () => {});
  expect(total()).toBeLessThanOrEqual(before + 2 * checkpoint);
}, 400_000); // a processor takes its time for 2,000 tokens

test('a small budget keeps fewer snapshots, and the same answers', async () => {
  await engine.reset();
  await engine.generate(
    { kind: 'ids', ids: ids.slice(0, 400) },
    { ...plain, maxTokens: 1 },
    () => {},
  );
  const answers: number[][] = [];
  const held: number[] = [];
  for (const budgetBytes of [1e9, 1]) {
    await engine.watch({ layer: 1, head: 0, budgetBytes }, () => {});
    const answer = await engine.inspect({ kind: 'memory', layer: 1, head: 0, position: 300 });
    answers.push([...answer.cells]);
    held.push(total());
    // Another layer's history is kept for the next question where there is room, and let go where there is none.
    await engine.inspect({ kind: 'reach', layer: 0, head: 0, position: 300 });
    if (budgetBytes === 1) expect(total()).toBe(held.at(-1));
    else expect(total()).toBeGreaterThan(held.at(-1)!);
    await engine.watch(null, () => {});
  }
  expect(answers[0]).toEqual(answers[1]);
  expect(held[1]! - held[0]!).toBeLessThan(-3 * 3 * 4 * 2 * 64 * 64);
});

/** Branches of a conversation with the tiny golden model: bit for bit what running straight through gives, and apart. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../workers/engine.ts';
import type { Gpu } from '../../workers/gpu.ts';
import type { Intervention, Stop, Token, TokenRecord } from '../../workers/protocol.ts';
import { halfLife } from '../reference/views.ts';
import { greedy, openLaid, plain, prompt, reference, say, watch, Watcher } from './laid.ts';

/** Tokens with all that is known of them, so that equal means equal to the bit. */
interface Said {
  tokens: Token[];
  stop: Stop;
}
const told = { ...plain, candidates: 64 };
const run = async (engine: Engine, ids: number[], maxTokens = 8): Promise<Said> => {
  const tokens: Token[] = [];
  const sampling = { ...told, maxTokens };
  const stop = await engine.generate({ kind: 'ids', ids }, sampling, (t) => tokens.push(t));
  return { tokens, stop };
};
const goOn = async (engine: Engine, maxTokens: number): Promise<Said> => {
  const tokens: Token[] = [];
  const stop = await engine.proceed({ ...told, maxTokens }, (t) => tokens.push(t));
  return { tokens, stop };
};

let gpu: Gpu;
let engine: Engine;
beforeAll(async () => ({ gpu, engine } = await openLaid('gpu')));
afterAll(() => engine.destroy());

describe.each([
  ['unwatched', false],
  ['watched', true],
])('%s', (_, watched) => {
  let whole: Said;
  let fresh: Said;
  const other = [...prompt.slice(0, 70), 7];
  beforeAll(async () => {
    await engine.reset();
    await engine.watch(watched ? watch : null, () => {});
    fresh = await run(engine, other, 3);
    await engine.reset();
    whole = await run(engine, prompt);
  });

  test('going on from a token of the answer says what was said, to the bit', async () => {
    for (const [parent, position] of [85, 82].entries()) {
      const branch = await engine.fork(position, null, []);
      expect(branch).toMatchObject({ parent, forkedAt: position });
      expect(branch.ids).toEqual([...prompt, ...greedy].slice(0, position + 1));
      const again = await goOn(engine, 87 - position);
      expect(again.stop.reusedTokens).toBe(position);
      expect(again.tokens).toEqual(whole.tokens.filter((t) => t.position > position));
    }
  });

  test('another token in the midst of the prompt goes on as a prompt of that kind does, to the bit', async () => {
    await engine.select(0);
    await engine.fork(70, 7, []);
    const forked = await goOn(engine, 3);
    expect(forked.tokens).toEqual(fresh.tokens);
  });

  test('branches do not disturb each other', async () => {
    await engine.reset();
    const first = await run(engine, prompt, 4);
    await engine.fork(20, 3, []);
    const aside = await goOn(engine, 2);
    await engine.select(0);
    const on = await goOn(engine, 4);
    expect(on.tokens).toEqual(whole.tokens.slice(4));
    expect([...first.tokens, ...on.tokens]).toEqual(whole.tokens);
    await engine.select(1);
    const further = await goOn(engine, 2);
    await engine.reset();
    const straight = await run(engine, [...prompt.slice(0, 20), 3], 4);
    expect([...aside.tokens, ...further.tokens]).toEqual(straight.tokens);
  });

  test('memories compare: a branch with itself, with one that is the same, with one that is not', async () => {
    await engine.reset();
    await run(engine, prompt, 4);
    await engine.fork(82, null, []);
    await goOn(engine, 1);
    await engine.fork(60, 5, []);
    await goOn(engine, 1);
    expect(engine.branches().map((b) => [b.id, b.parent, b.forkedAt])).toEqual([
      [0, null, 0],
      [1, 0, 82],
      [2, 1, 60],
    ]);
    expect([...(await engine.compare(0, 0))]).toEqual(Array(6).fill(0));
    expect([...(await engine.compare(0, 1))]).toEqual(Array(6).fill(0));
    const norms = await engine.compare(0, 2);
    for (const d of norms) expect(d).toBeGreaterThan(0);

    // Cell by cell the same difference, with its sign: [keys, values] of one head.
    const cells = await engine.difference(0, 2, 1, 1);
    expect(cells).toHaveLength(64 * 64);
    expect(Math.hypot(...cells) / norms[2 + 1]! - 1).toBeCloseTo(0, 5);
    const back = await engine.difference(2, 0, 1, 1);
    expect(cells.every((value, i) => value === -back[i]!)).toBe(true);
    expect((await engine.difference(0, 1, 1, 1)).every((value) => value === 0)).toBe(true);
    await expect(engine.difference(0, 2, 2, 0)).rejects.toMatchObject({ name: 'Refused' });
    await expect(engine.difference(0, 9, 1, 0)).rejects.toMatchObject({ name: 'Refused' });
  });
});

test('a watcher follows from branch to branch', async () => {
  await engine.reset();
  const watcher = new Watcher();
  await engine.watch(watch, watcher.take);
  await say(engine, prompt, 4);
  await engine.settled();
  const before = structuredClone(watcher.records);
  for (const record of before.slice(prompt.length)) checkToken(record);
  await engine.fork(40, 9, []);
  await goOn(engine, 3);
  await engine.settled();
  const ids = engine.branches()[1]!.ids;
  expect(watcher.records.map((r) => r.id)).toEqual(ids.slice(0, watcher.records.length));
  expect(watcher.records.length).toBeGreaterThanOrEqual(43);
  expect(watcher.records.slice(0, 40)).toEqual(before.slice(0, 40));
  await engine.select(0);
  await engine.settled();
  expect(watcher.records).toEqual(before);
  await engine.watch(null, () => {});
});

/** What a decode step of few calls told of a token, against float64. */
function checkToken(record: TokenRecord): void {
  const [H, K, V] = [2, 64, 64];
  const t = record.position;
  const { trace } = reference([...prompt, ...greedy].slice(0, t + 1));
  const wanted = { written: [], writeStrength: [], known: [], energy: [], halfLife: [] } as Record<
    'written' | 'writeStrength' | 'known' | 'energy' | 'halfLife',
    number[]
  >;
  for (const layer of [0, 1, 3]) {
    const of = (name: string) => trace.get(`layer${layer}.${name}`) as Float64Array;
    for (let h = 0; h < H; h++) {
      const part = (name: string, n: number) =>
        of(name).subarray((t * H + h) * n, (t * H + h + 1) * n);
      const [u, held, v, g] = [part('u', V), part('held', V), part('v', V), part('g', K)];
      const S = of('state').subarray(h * K * V, (h + 1) * K * V);
      const along = held.reduce((sum, x, e) => sum + x * v[e]!, 0);
      const lives = [...halfLife(g)].sort((a, b) => a - b);
      wanted.written.push(Math.hypot(...u));
      wanted.writeStrength.push(part('beta', 1)[0]!);
      wanted.known.push(along / Math.hypot(...held) / Math.hypot(...v));
      wanted.energy.push(Math.hypot(...S));
      wanted.halfLife.push((lives[K / 2 - 1]! + lives[K / 2]!) / 2);
    }
  }
  for (const [name, values] of Object.entries(wanted)) {
    const seen = record[name as keyof typeof wanted];
    expect(seen).toAgreeWith(values, { rms: 1e-4, what: `${name} of token ${t}` });
  }
  const chosen = [1, 2, 3].flatMap((layer) => [
    ...trace.get(`layer${layer}.experts`)!.subarray(3 * t, 3 * t + 3),
  ]);
  expect([...record.experts]).toEqual(chosen);
}

test('nothing is left of branches after a reset', async () => {
  await engine.reset();
  const before = { ...gpu.bytes };
  await say(engine, prompt, 4);
  await engine.fork(60, 5, [{ kind: 'zero', layers: [0, 1], heads: [0], from: 30 }]);
  await goOn(engine, 2);
  await engine.fork(30, 5, []);
  await engine.reset();
  expect(gpu.bytes).toEqual(before);
  expect(engine.branches()).toHaveLength(1);
});

test('what makes no branch is refused', async () => {
  await engine.reset();
  await expect(goOn(engine, 1)).rejects.toThrow(/nothing to go on from/);
  await say(engine, prompt, 2);
  await expect(engine.fork(0, null, [])).rejects.toMatchObject({ name: 'Refused' });
  await expect(engine.fork(500, null, [])).rejects.toThrow(/tokens 0 to 81/);
  await expect(engine.fork(5, 512, [])).rejects.toThrow(/no token id/);
  await expect(engine.select(7)).rejects.toThrow(/no branch 7/);
  const hold: Intervention = { kind: 'hold', layers: [0], heads: [0], from: 3 };
  await expect(engine.fork(5, null, [{ ...hold, layers: [2] }])).rejects.toThrow(/layer 2/);
  await expect(engine.fork(5, null, [{ ...hold, heads: [2] }])).rejects.toThrow(/head 2/);
  expect(engine.branches()).toHaveLength(1);
});

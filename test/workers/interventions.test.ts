/**
 * Interventions on the tiny golden model. In the first layer, whose inputs depend on the tokens alone, the memory right
 * after the first changed token is what float64 makes of the definition; and what is neutral changes no bit.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../workers/engine.ts';
import type { Intervention, Token } from '../../workers/protocol.ts';
import { step } from '../reference/kda.ts';
import { greedy, openLaid, plain, prompt, reference, say, watch, Watcher } from './laid.ts';

const [H, K, V] = [2, 64, 64];
const ids = [...prompt, ...greedy.slice(0, 15)];
const other = [...prompt.slice(0, 40), 11, 12, 13];

let engine: Engine;
beforeAll(async () => {
  ({ engine } = await openLaid('cpu'));
  await engine.watch(watch, () => {});
});
afterAll(() => engine.destroy());

/** What the recurrence of layer 0 reads at a token, and its memory before: from float64. */
function before(from: number) {
  const { trace } = reference(ids.slice(0, from + 1));
  const row = (name: string, width: number) =>
    (trace.get(`layer0.${name}`) as Float64Array).slice(from * width, (from + 1) * width);
  const past = reference(ids.slice(0, from)).trace;
  return {
    inputs: {
      q: row('q', H * K),
      k: row('k', H * K),
      v: row('v', H * V),
      g: row('g', H * K),
      beta: row('beta', H),
    },
    S: past.get('layer0.state') as Float64Array,
    keyOf: (token: number) =>
      (past.get('layer0.k') as Float64Array).slice(token * H * K, (token + 1) * H * K),
  };
}

/** The memory [K, V] of layer 0, head 1 after token `from`, by the definition. */
function defined(change: Intervention): Float64Array {
  const { from } = change;
  const { inputs, S, keyOf } = before(from);
  const scaled = (x: Float64Array, c: number) => x.map((value) => c * value);
  const still = new Float64Array(H * K);
  const none = new Float64Array(H * V);
  let memory: Float64Array = S;
  let { g, beta } = inputs;
  switch (change.kind) {
    case 'hold':
      [g, beta] = [scaled(g, 0), scaled(beta, 0)];
      break;
    case 'deaf':
      beta = scaled(beta, 0);
      break;
    case 'forgetting':
      g = scaled(g, change.factor);
      break;
    case 'zero':
      memory = new Float64Array(S.length);
      break;
    case 'forget': {
      const forgetting = {
        q: still,
        k: keyOf(change.token),
        v: none,
        g: still,
        beta: Float64Array.of(1, 1),
      };
      memory = step({ T: 1, H, K, V }, forgetting, S).S;
      break;
    }
    case 'swap':
      memory = reference(other).trace.get('layer0.state') as Float64Array;
      break;
  }
  return step({ T: 1, H, K, V }, { ...inputs, g, beta }, memory).S.subarray(K * V);
}

const place = (from: number) => ({ layers: [0], heads: [1], from });
const KINDS: ((from: number) => Intervention)[] = [
  (from) => ({ kind: 'hold', ...place(from) }),
  (from) => ({ kind: 'zero', ...place(from) }),
  (from) => ({ kind: 'deaf', ...place(from) }),
  (from) => ({ kind: 'forgetting', factor: 0, ...place(from) }),
  (from) => ({ kind: 'forgetting', factor: 3, ...place(from) }),
  (from) => ({ kind: 'forget', token: 30, ...place(from) }),
  (from) => ({ kind: 'swap', branch: 2, ...place(from) }),
];

describe.each([
  ['in a chunk of the prompt', 50, 60],
  ['in the answer', 81, 84],
])('%s', (_, from, position) => {
  const cells = async (head: number, at: number) =>
    (await engine.inspect({ kind: 'memory', layer: 0, head, position: at })).cells;
  let untouched: { otherHead: Float32Array; before: Float32Array };
  beforeAll(async () => {
    await engine.reset();
    await say(engine, prompt);
    untouched = { otherHead: await cells(0, from), before: await cells(1, from - 1) };
    await engine.fork(40, 11, []);
    const ids = [...other, 1];
    await engine.generate({ kind: 'ids', ids }, { ...plain, maxTokens: 1 }, () => {});
    await engine.fork(43, 1, []); // branch 2 ends with exactly the tokens of `other` taken in
  });

  test.each(KINDS)('the memory after the first changed token', async (kind) => {
    const change = kind(from);
    await engine.select(0);
    await engine.fork(position, null, [change]);
    const exact = { rms: 1e-4, what: change.kind };
    expect(await cells(1, from)).toAgreeWith(defined(change), exact);
    // The other head goes on as it was, and so does all that came before.
    const { otherHead, before } = untouched;
    expect(await cells(0, from)).toAgreeWith(otherHead, { rms: 1e-5, what: 'the other head' });
    expect(await cells(1, from - 1)).toAgreeWith(before, { rms: 1e-5, what: 'the token before' });
  });
});

/** Go on with all that is known of each token. */
async function goOn(maxTokens: number): Promise<Token[]> {
  const tokens: Token[] = [];
  await engine.proceed({ ...plain, candidates: 64, maxTokens }, (t) => tokens.push(t));
  return tokens;
}

test('what is neutral changes no bit, watched or not', async () => {
  for (const watched of [true, false]) {
    await engine.reset();
    await engine.watch(watched ? watch : null, () => {});
    await say(engine, prompt, 8);
    await engine.fork(84, null, []);
    const untouched = await goOn(3);
    const all = { layers: [0, 1, 3], heads: [0, 1] };
    for (const neutral of [
      { kind: 'forgetting', factor: 1, ...all, from: 10 },
      { kind: 'hold', ...all, heads: [], from: 10 },
      { kind: 'deaf', layers: [], heads: [0], from: 10 },
    ] satisfies Intervention[]) {
      await engine.select(0);
      await engine.fork(84, null, [neutral]);
      expect(await goOn(3)).toEqual(untouched);
    }
    if (!watched) continue;
    // A change that is yet to come, so that its kernel runs at every token.
    await engine.select(0);
    await engine.fork(84, null, [{ kind: 'deaf', ...all, from: 200 }]);
    expect(await goOn(3)).toEqual(untouched);
  }
  await engine.watch(watch, () => {});
});

test('held heads stay as they are to the bit, while the text goes on', async () => {
  await engine.reset();
  await say(engine, prompt, 4);
  const before = await engine.inspect({ kind: 'memory', layer: 1, head: 0, position: 79 });
  await engine.fork(80, null, [{ kind: 'hold', layers: [1], heads: [0], from: 80 }]);
  await goOn(6);
  const after = await engine.inspect({ kind: 'memory', layer: 1, head: 0, position: 85 });
  expect([...after.cells]).toEqual([...before.cells]);
  const moved = await engine.inspect({ kind: 'memory', layer: 1, head: 1, position: 85 });
  expect(moved.change.some((x) => x !== 0)).toBe(true);
});

test('an intervention is seen in the records, changes what follows, and leaves the other branch alone', async () => {
  await engine.reset();
  const watcher = new Watcher();
  await engine.watch(watch, watcher.take);
  await say(engine, prompt, 4);
  await engine.settled();
  const untouched = structuredClone(watcher.records);
  const layers = [0, 1, 3];
  await engine.fork(82, null, [
    { kind: 'deaf', layers, heads: [0, 1], from: 70 },
    { kind: 'forgetting', factor: 0, layers, heads: [0, 1], from: 70 },
  ]);
  await goOn(2);
  await engine.settled();
  expect(watcher.records.slice(0, 70)).toEqual(untouched.slice(0, 70));
  for (const record of watcher.records.slice(70)) {
    expect([...record.writeStrength, ...record.written]).toEqual(Array(12).fill(0));
    expect([...record.halfLife]).toEqual(Array(6).fill(Infinity));
  }
  expect(watcher.records[81]!.candidates).not.toEqual(untouched[81]!.candidates);
  for (const d of await engine.compare(0, 1)) expect(d).toBeGreaterThan(0);
  await engine.select(0);
  await engine.settled();
  expect(watcher.records).toEqual(untouched);
});

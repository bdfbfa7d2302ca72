/** A conversation with the tiny golden model: greedy text, going on, going back, drawing, stopping, refusing. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { Engine } from '../../workers/engine.ts';
import type { Gpu } from '../../workers/gpu.ts';
import type { Prompt, Sampling, Token } from '../../workers/protocol.ts';
import { openTestGpu } from '../gpu.ts';
import { fixture, loadGolden } from '../reference/golden.ts';

const golden = loadGolden('tiny-f32');
const prompt = golden.index.tokens as number[];
const greedy = golden.index.greedy as number[];

const plain: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 0,
  maxTokens: 16,
  stop: [],
  candidates: 0,
};
const drawn: Sampling = { ...plain, temperature: 1, seed: 7 };

let gpu: Gpu;
let engine: Engine;
beforeAll(async () => {
  gpu = await openTestGpu();
  const shards = modelSources(fixture('tiny-f32.gguf'));
  engine = await Engine.load({
    gpu,
    shards,
    contextTokens: 128,
    report: () => {},
    clock: () => performance.now(),
  });
});
afterAll(() => engine.destroy());

const say = async (ids: number[], sampling: Sampling, onToken: (t: Token) => void = () => {}) =>
  engine.generate({ kind: 'ids', ids }, sampling, onToken);

describe('greedy', () => {
  test('continues as float64 does, chosen on the GPU and chosen here', async () => {
    const onGpu = await say(prompt, plain);
    expect(onGpu.ids).toEqual(greedy);
    expect(onGpu).toMatchObject({ reason: 'length', reusedTokens: 0, promptIds: prompt });
    const tokens: Token[] = [];
    const here = await say(prompt, { ...plain, candidates: 4 }, (t) => tokens.push(t));
    expect(here.ids).toEqual(greedy);
    expect(here.reusedTokens).toBe(prompt.length - 1);
    for (const [i, token] of tokens.entries()) {
      expect(token).toMatchObject({ id: greedy[i], position: prompt.length + i });
      expect(token.candidates).toHaveLength(4);
      expect(token.candidates[0]!.id).toBe(token.id);
      expect(token.candidates[0]!.logprob).toBe(token.logprob);
    }
  });

  test('reports the log-probability of float64', async () => {
    const logits = [...golden.array('logits').values].slice((prompt.length - 1) * 512);
    const top = Math.max(...logits);
    const sum = logits.reduce((s, l) => s + Math.exp(l - top), 0);
    for (const candidates of [0, 1]) {
      const tokens: Token[] = [];
      await say(prompt, { ...plain, maxTokens: 1, candidates }, (t) => tokens.push(t));
      expect(tokens[0]!.logprob).toBeCloseTo(-Math.log(sum), 4);
    }
  });
});

describe('memory', () => {
  test('going on from what was said gives what one prompt gives', async () => {
    await engine.reset();
    const first = await say(prompt, plain);
    expect(first.reason).toBe('length');
    const longer = [...prompt, ...first.ids, ...prompt.slice(50, 60)];
    const on = await say(longer, plain);
    expect(on.reusedTokens).toBe(80 + 15); // the last token was said and not yet taken in
    await engine.reset();
    const fresh = await say(longer, plain);
    expect(fresh.reusedTokens).toBe(0);
    expect(fresh.ids).toEqual(on.ids);
  });

  test('going back to an earlier prompt restores its memory', async () => {
    await engine.reset();
    const short = await say(prompt.slice(0, 30), plain);
    await say([...prompt.slice(0, 30), ...prompt.slice(60, 80)], plain);
    const again = await say(prompt.slice(0, 30), plain);
    expect(again.reusedTokens).toBe(29);
    expect(again.ids).toEqual(short.ids);
  });
});

describe('drawing', () => {
  test('the same seed gives the same tokens, another seed others', async () => {
    const one = await say(prompt, drawn);
    await engine.reset();
    expect((await say(prompt, drawn)).ids).toEqual(one.ids);
    expect((await say(prompt, { ...drawn, seed: 8 })).ids).not.toEqual(one.ids);
  });

  test('top-k 1 is greedy whatever the temperature; a heavy penalty is not', async () => {
    expect((await say(prompt, { ...drawn, topK: 1, temperature: 5 })).ids).toEqual(greedy);
    const penalised = await say(prompt, {
      ...plain,
      repetitionPenalty: 50,
      repetitionWindow: 1000,
    });
    const seen = new Set(prompt);
    for (const id of penalised.ids) {
      expect(seen.has(id)).toBe(false);
      seen.add(id);
    }
  });
});

describe('ends', () => {
  test('at the limit of the context, and says so', async () => {
    const long = [...prompt, ...prompt.slice(0, 38)];
    const stop = await say(long, { ...plain, maxTokens: 1000 });
    expect(stop.reason).toBe('context');
    expect(long.length + stop.ids.length).toBe(128);
  });

  test('when stopped, with what was said so far', async () => {
    const running = say(prompt, plain, (t) => t.position === prompt.length + 2 && engine.stop());
    const stop = await running;
    expect(stop).toMatchObject({ reason: 'stopped', ids: greedy.slice(0, 3) });
    expect((await say(prompt, plain)).ids).toEqual(greedy);
  });

  test('at a stop text, which is not part of the answer', async () => {
    const whole = await say(prompt, plain);
    const end = whole.text.slice(5, 8);
    const stop = await say(prompt, { ...plain, stop: [end] });
    expect(stop.reason).toBe('stop');
    expect(stop.text).toBe(whole.text.slice(0, whole.text.indexOf(end)));
  });
});

describe('broken off', () => {
  /** The recurrent state and where it stands, once it is read back. */
  const standing = async () => {
    await engine.keep();
    const { position, recurrent } = engine.kept(Infinity)!;
    return { position, recurrent };
  };
  test.each([1, 2, 5])(
    'after %i tokens, the state is that of these and no other',
    async (count) => {
      await say(prompt, { ...plain, maxTokens: count + 1 });
      const expected = await standing();
      expect(expected.position).toBe(prompt.length + count);

      const writing = engine.begin({ kind: 'ids', ids: prompt }, plain);
      await engine.write(writing, () => (writing.stopped = writing.answer.length + 1 === count));
      expect(writing.answer).toEqual(greedy.slice(0, count));
      expect(await standing()).toEqual(expected);
      const on = await say([...prompt, ...greedy.slice(0, count + 1)], { ...plain, maxTokens: 3 });
      expect(on).toMatchObject({ reusedTokens: prompt.length + count });
      expect(on.ids).toEqual(greedy.slice(count + 1, count + 4));
    },
  );
});

describe('refuses', () => {
  const failing = (prompt: Prompt, sampling = plain) => engine.generate(prompt, sampling, () => {});
  test('what cannot be answered, and works on', async () => {
    await expect(failing({ kind: 'ids', ids: [] })).rejects.toMatchObject({ name: 'Refused' });
    await expect(failing({ kind: 'ids', ids: [512] })).rejects.toThrow(
      /512 is no token id: they go from 0 to 511/,
    );
    await expect(failing({ kind: 'ids', ids: Array<number>(129).fill(1) })).rejects.toMatchObject({
      name: 'ContextFull',
    });
    await expect(
      failing({ kind: 'chat', turns: [{ role: 'user', content: 'Hi' }] }),
    ).rejects.toThrow(/no chat template/);
    await expect(failing({ kind: 'ids', ids: prompt }, { ...plain, topP: 2 })).rejects.toThrow(
      /topP/,
    );
    expect((await say(prompt, plain)).ids).toEqual(greedy);
  });

  test('a second generation while one runs', async () => {
    const running = say(prompt, plain);
    await expect(say(prompt, plain)).rejects.toMatchObject({ name: 'Refused' });
    expect((await running).ids).toEqual(greedy);
  });
});

test('destroying frees every byte', async () => {
  const own = await openTestGpu();
  const shards = modelSources(fixture('tiny-f32.gguf'));
  const other = await Engine.load({
    gpu: own,
    shards,
    contextTokens: 128,
    report: () => {},
    clock: () => 0,
  });
  await other.generate(
    { kind: 'ids', ids: prompt.slice(0, 5) },
    { ...plain, maxTokens: 1 },
    () => {},
  );
  expect(own.bytes.weights).toBeGreaterThan(0);
  other.destroy();
  expect(own.bytes).toEqual({ weights: 0, recurrent: 0, latent: 0, snapshots: 0, scratch: 0 });
});

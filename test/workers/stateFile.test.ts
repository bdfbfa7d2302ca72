/** A conversation's state as bytes: another engine goes on from it, and what is no state is refused by name. */
import { expect, test } from 'vitest';
import { engineOf } from '../../src/api.ts';
import { readState, writeState } from '../../workers/stateFile.ts';
import { FragileGpu, openLasting } from '../fragile.ts';
import { random } from '../reference/random.ts';
import { shareable } from '../src/tabs/sharedEngine.ts';
import { greedy, plain, prompt } from './laid.ts';

const model = 'tiny';

test('exported after eight tokens, the ninth to the sixteenth come of another engine, which takes in nothing anew', async () => {
  const gpu = new FragileGpu();
  const engine = await openLasting(gpu);
  const say = (from: typeof engine, ids: number[], maxTokens: number) =>
    from.generate({ kind: 'ids', ids }, { ...plain, maxTokens }, () => {});
  await say(engine, prompt, 8);
  const first = engineOf(shareable(engine), engine.loaded, () => {});
  const exported = await first.state.export();
  expect(exported.ids).toEqual([...prompt, ...greedy.slice(0, 8)]);
  expect(exported.state!.byteLength).toBeGreaterThan(100_000);
  expect(exported.state!.byteLength).toBeLessThan(1_000_000);

  const other = await openLasting(gpu);
  const second = engineOf(shareable(other), other.loaded, () => {});
  await second.state.restore(exported);
  const went = await say(other, exported.ids, 8);
  expect(went.ids).toEqual(greedy.slice(8));
  expect(went.reusedTokens).toBe(exported.ids.length - 1);

  // Without the bytes the tokens are read anew, to the same end; what stood before, which nobody kept, is let go.
  const { state, ...tokens } = exported;
  await second.state.restore(tokens);
  expect((await say(other, exported.ids, 8)).ids).toEqual(greedy.slice(8));
  expect(other.branches()).toHaveLength(1);

  // Bytes that are no state.
  const fit = { model, ...other.fit };
  const refusal = (bytes: ArrayBuffer, as = fit) => {
    try {
      readState(bytes, as);
      return 'taken';
    } catch (thrown) {
      return (thrown as Error).name;
    }
  };
  expect(refusal(state!)).toBe('taken');
  expect(refusal(state!, { ...fit, model: 'another' })).toBe('Refused');
  expect(refusal(state!, { ...fit, model: '' })).toBe('Refused');
  expect(refusal(state!, { ...fit, rowWords: fit.rowWords / 2 })).toBe('Unsupported');
  expect(refusal(state!, { ...fit, contextLimit: 80 })).toBe('Unsupported');
  expect(refusal(state!, { ...fit, vocabulary: 10 })).toBe('Refused');
  expect(refusal(state!.slice(0, -4))).toBe('Refused');
  expect(refusal(new ArrayBuffer(0))).toBe('Refused');
  expect(refusal('state' as never)).toBe('Refused');
  const headerBytes = new DataView(state!).getUint32(12, true);
  const notNumbers = state!.slice(0);
  new Uint8Array(notNumbers, 16 + 4 * Math.ceil(headerBytes / 4), 4).fill(0xff);
  expect(refusal(notNumbers)).toBe('Refused');
  const draw = random(7);
  for (let i = 0; i < 300; i++) {
    // Any byte of the header changed: refused by name, or a number that nothing contradicts.
    const bytes = state!.slice(0);
    new Uint8Array(bytes)[Math.floor(draw() * (16 + headerBytes))]! ^= 1 << Math.floor(draw() * 8);
    expect(['taken', 'Refused', 'Unsupported']).toContain(refusal(bytes));
  }
  const wrong = { ...exported, state: notNumbers };
  await expect(second.state.restore(wrong)).rejects.toMatchObject({ name: 'Refused' });
  const others = { ...exported, ids: exported.ids.slice(1) };
  await expect(second.state.restore(others)).rejects.toThrow(/other tokens/);
  expect((await say(other, prompt, 2)).ids).toEqual(greedy.slice(0, 2));

  // Interventions make a state that its tokens do not tell of.
  await other.fork(40, null, [{ kind: 'deaf', layers: [0], heads: [0], from: 20 }]);
  await other.keep();
  expect(writeState(other.standing, fit)).toBeNull();
}, 60_000);

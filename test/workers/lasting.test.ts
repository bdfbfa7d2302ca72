/** A conversation through losses of its device: the tokens it would have had, to the bit; and the end of patience. */
import { expect, test } from 'vitest';
import { PalimpsestError } from '../../workers/protocol.ts';
import { FragileGpu, openLasting } from '../fragile.ts';
import { runLosses } from '../losses.ts';
import { greedy, plain, prompt, watch } from './laid.ts';

test('five conversations go on as they would have, whenever their device goes away', async () => {
  const report = await runLosses(5, 1, 'cpu'); // the soak loses as many with a GPU's kernels
  expect(report).toMatchObject({ conversations: 5, losses: 5, wrong: [] });
  expect(report.tokens).toBeGreaterThan(100);
}, 240_000);

test('devices that go away at once are borne as long as no three do within a minute', async () => {
  const gpu = new FragileGpu();
  const opened: number[] = [];
  const load = (stepMs: number) => {
    const place = opened.push(0) - 1;
    let nowMs = 0;
    return openLasting(gpu, {
      clock: () => (nowMs += stepMs),
      open: async () => {
        if (opened[place]!++ === 9) throw new PalimpsestError('NoWebGPU', 'no other device');
        const dead = await gpu.open();
        gpu.lose();
        return dead;
      },
    });
  };
  await expect(load(29_000)).rejects.toThrow(/went away 3 times within a minute/);
  await expect(load(30_000)).rejects.toThrow('no other device');
  expect(opened).toEqual([3, 10]);
});

test('no allocation is unseen, a refused one is told, and the third loss within a minute is the last', async () => {
  const allocations = new Allocations();
  const gpu = new FragileGpu(allocations.watch);
  let dying = false;
  const engine = await openLasting(gpu, {
    open: async () => {
      const opened = await gpu.open();
      if (dying) gpu.lose();
      return opened;
    },
  });
  const say = (ids: number[]) =>
    engine.generate({ kind: 'ids', ids }, { ...plain, maxTokens: 6 }, (t) => said.push(t.id));
  const said: number[] = [];
  const first = greedy.slice(0, 6);

  await engine.watch(watch, () => {});
  await say(prompt);
  await engine.fork(60, 5, [{ kind: 'forget', token: 3, layers: [0], heads: [0], from: 30 }]);
  await engine.inspect({ kind: 'lens', position: 20 });
  await engine.inspect({ kind: 'reach', layer: 0, head: 0, position: 20 });
  await engine.compare(0, 1);
  await engine.reset();
  await engine.watch(null, () => {});
  expect(allocations.unseen).toEqual([]);
  expect(allocations.count).toBeGreaterThan(80);

  allocations.refuse = 'memories and tails at 79'; // a checkpoint
  await expect(say(prompt)).rejects.toMatchObject({ name: 'OutOfMemory' });
  allocations.refuse = null;
  said.length = 0;
  expect((await say(prompt)).ids).toEqual(first);
  expect(said).toEqual(first);

  dying = true;
  said.length = 0;
  const failing = engine.generate({ kind: 'ids', ids: prompt }, plain, (t) => {
    if (said.push(t.id) === 3) gpu.lose();
  });
  await expect(failing).rejects.toThrow(/went away 3 times within a minute/);
  expect(await engine.lost).toMatch(/load the model again/);
  expect(said).toEqual(greedy.slice(0, said.length));
  await expect(say(prompt)).rejects.toMatchObject({ name: 'DeviceLost' });
}, 120_000);

/** Sees every allocation of a device, and has the scope around one say that there is no room for it. */
class Allocations {
  /** Part of the name of buffers to refuse. */
  refuse: string | null = null;
  /** Those made where no scope would tell of a refusal. */
  readonly unseen: string[] = [];
  count = 0;

  watch = (device: GPUDevice): void => {
    const real = {
      push: device.pushErrorScope.bind(device),
      pop: device.popErrorScope.bind(device),
      create: device.createBuffer.bind(device),
    };
    const scopes: { filter: string; refused: boolean }[] = [];
    device.pushErrorScope = (filter) => {
      scopes.push({ filter, refused: false });
      real.push(filter);
    };
    device.popErrorScope = () => {
      const answer = real.pop();
      const told = { message: 'simulated' } as GPUError;
      return scopes.pop()!.refused ? answer.then(() => told) : answer;
    };
    device.createBuffer = (descriptor) => {
      const scope = scopes.findLast(({ filter }) => filter === 'out-of-memory');
      const { label = '' } = descriptor;
      this.count++;
      if (!scope) this.unseen.push(label);
      if (scope && this.refuse !== null && label.includes(this.refuse)) scope.refused = true;
      return real.create(descriptor);
    };
  };
}

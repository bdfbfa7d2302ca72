/** Tabs and the engine they have together, in one process: who has it, who else it serves, and what comes of its end. */
import { beforeEach, describe, expect, test, vi } from 'vitest';
import {
  joinTabs,
  type Place,
  type Surroundings,
  type TabsChoice,
  type WholeEngine,
} from '../../../src/tabs/joint.ts';
import { PalimpsestError, type Sampling, type TabsMessage } from '../../../workers/protocol.ts';
import { FakeLocks } from '../../fault/locks.ts';
import { plain } from '../../workers/laid.ts';
import { loaded, ScriptedClient } from '../scriptedClient.ts';

type Desk = Parameters<Surroundings['serve']>[0];
type Said = (event: { data: TabsMessage; ports: unknown[] }) => void;

/** A tab that can end as by a crash: nothing more is heard from it or answered. */
interface Tab {
  engine: WholeEngine;
  places: (string | null)[];
  /** Its own engine, as the test scripts it. */
  own: ScriptedClient;
  die: () => void;
}

let locks: FakeLocks;
let desks: Map<unknown, Desk>;
let lines: Set<{ onmessage: Said | null; dead: () => boolean }>;
let serving: { onmessage: Said | null; dead: () => boolean } | null;

beforeEach(() => {
  locks = new FakeLocks();
  desks = new Map();
  lines = new Set();
  serving = null;
});

/** As workers/tabs.worker.ts. */
function broker(dead: () => boolean): MessagePort {
  const line = {
    onmessage: null as Said | null,
    dead,
    close: () => lines.delete(line),
    postMessage(message: TabsMessage, ports: unknown[]) {
      if (dead()) return;
      const say = (to: typeof serving, message: TabsMessage, ports: unknown[] = []) =>
        to && !to.dead() && to.onmessage?.({ data: message, ports });
      if (message === 'serve') {
        serving = line;
        for (const other of lines) if (other !== line) say(other, 'serve');
      } else if (message === 'guest') say(serving, 'guest', ports);
      else if (serving === line) serving = null;
    },
  };
  lines.add(line);
  return line as unknown as MessagePort;
}

function openTab(choice: TabsChoice = 'share', shares = true): Tab {
  let dead = false;
  const own = new ScriptedClient();
  own.memory = memoryOf();
  const places: (string | null)[] = [];
  const tabLocks = locks.tab();
  const never = new Promise<never>(() => {});
  const onPlace = (place: Place | null) =>
    places.push(place && place.kind + (place.kind === 'serving' ? place.guests : ''));
  const engine = joinTabs(
    { choice: () => choice, onPlace },
    {
      start: () => own,
      locks: tabLocks as unknown as LockManager,
      broker: shares ? () => broker(() => dead) : null,
      serve: (desk, port) => desks.set(port, desk),
      reach: () => {
        const port = {} as MessagePort;
        const asked = <T>(work: (desk: Desk) => Promise<T>): Promise<T> => {
          const desk = desks.get(port);
          return desk ? work(desk) : never;
        };
        return {
          port,
          desk: {
            join: (...how) => asked((desk) => desk.join(...how)),
            generate: (...how) => asked((desk) => desk.generate(...how)),
            stop: () => desks.get(port)?.stop(),
            reset: () => asked((desk) => desk.reset()),
            tokenize: (prompt) => asked((desk) => desk.tokenize(prompt)),
            memory: new Proxy({} as WholeEngine['memory'], {
              get:
                (_, name: keyof WholeEngine['memory']) =>
                (...how: never[]) =>
                  asked((desk) => (desk[name] as (...how: never[]) => Promise<never>)(...how)),
            }),
          },
        };
      },
    },
  );
  const die = () => {
    dead = true;
    own.generate = own.load = () => never;
    for (const generation of own.generations) generation.write = () => {};
    tabLocks.die();
  };
  return { engine, places, own, die };
}

/** Branches that only count. */
function memoryOf(): ScriptedClient['memory'] {
  const made: number[] = [0];
  const branch = (id: number, ids: number[] = [1, 2]) => ({
    ...{ id, ids, parent: null, forkedAt: 0, interventions: [] },
  });
  return {
    ...new ScriptedClient().memory,
    select: () => Promise.resolve(),
    branches: () => Promise.resolve(made.map((id) => branch(id))),
    beginBranch: () => Promise.resolve(branch(made.push(made.length) - 1, [])),
    fork: () => Promise.resolve(branch(made.push(made.length) - 1)),
    dropBranches: () => Promise.resolve(),
  };
}

const sampling: Sampling = { ...plain, maxTokens: 8 };
const prompt = { kind: 'raw' as const, text: 'On a page' };

/** Load as the first does: its own engine answers. */
async function loadOwn(tab: Tab, model = 'm') {
  const loading = tab.engine.load(model, () => {});
  await vi.waitFor(() => expect(tab.own.loads).toHaveLength(1));
  tab.own.loads[0]!.resolve(loaded);
  return loading;
}

describe('a tab whose site has an engine already', () => {
  test('uses it, in turn, and lets go when it ends', async () => {
    const [one, two] = [openTab(), openTab()];
    await loadOwn(one);
    expect(await two.engine.load('m', () => {})).toEqual(loaded);
    expect(two.own.loads).toEqual([]);
    expect([one.places.at(-1), two.places.at(-1)]).toEqual(['serving1', 'guest']);

    const texts: string[] = [];
    const first = one.engine.generate(prompt, sampling, () => {});
    const second = two.engine.generate(prompt, sampling, ({ text }) => texts.push(text));
    const { generations } = one.own;
    await vi.waitFor(() => expect(generations).toHaveLength(1));
    generations[0]!.end();
    await first;
    await vi.waitFor(() => expect(generations).toHaveLength(2));
    generations[1]!.write('you ', 'see');
    generations[1]!.end();
    expect((await second).text).toBe('you see');
    expect(texts).toEqual(['you ', 'see']);

    two.die();
    await vi.waitFor(() => expect(one.places.at(-1)).toBe('serving0'));
  });

  test('has it when the other one ends, and goes on with what it was asked', async () => {
    const [one, two, three] = [openTab(), openTab(), openTab()];
    await loadOwn(one);
    const reports: string[] = [];
    await two.engine.load('m', ({ phase, doneBytes }) => reports.push(`${phase} ${doneBytes}`));
    await three.engine.load('m', () => {});
    const texts: string[] = [];
    const answer = three.engine.generate(prompt, sampling, ({ text }) => texts.push(text));
    await vi.waitFor(() => expect(one.own.generations).toHaveLength(1));
    one.own.generations[0]!.write('you ', 'see');
    await vi.waitFor(() => expect(texts).toHaveLength(2));

    one.die();
    await vi.waitFor(() => expect(two.own.loads).toHaveLength(1));
    expect(two.places.at(-1)).toBe('moving');
    two.own.loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(two.own.generations).toHaveLength(1));
    two.own.generations[0]!.write('you ', 'see ', 'more');
    two.own.generations[0]!.end();
    expect((await answer).text).toBe('you see more');
    expect(texts).toEqual(['you ', 'see', 'more']);
    expect(two.places.at(-1)).toBe('serving1');
    expect(reports).toEqual(['restore 0', 'restore 1']);
    expect(three.own.loads).toEqual([]);

    // The last one left has it to itself, and what was said is taken in again before it is looked into.
    two.engine.destroy(new Error('closed'));
    await vi.waitFor(() => expect(three.own.loads).toHaveLength(1));
    three.own.loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(three.places.at(-1)).toBe('serving0'));
    const branches = three.engine.memory.branches();
    await vi.waitFor(() => expect(three.own.generations).toHaveLength(1));
    expect(three.own.generations[0]!.prompt).toEqual({ kind: 'ids', ids: [1, 2, 100, 101, 102] });
    three.own.generations[0]!.end();
    for (const { id } of await branches) {
      expect(id).toBeGreaterThan(1000); // none is taken for a branch of an engine that is gone
    }
    await expect(three.engine.memory.select(0)).rejects.toThrow(/another tab's engine/);
  });

  test('is told when that has another model, and does not wait in its way', async () => {
    const [one, two] = [openTab(), openTab()];
    await loadOwn(one, 'm');
    await expect(two.engine.load('other', () => {})).rejects.toMatchObject({
      name: 'EngineTaken',
      message: expect.stringContaining('with scripted'),
    });
    two.engine.destroy(new Error('restarted'));
    one.die();
    const three = openTab();
    await loadOwn(three, 'third');
    expect(two.own.loads).toEqual([]);
  });

  test('leaves nothing behind, whenever it ends while it looks for a place', async () => {
    await loadOwn(openTab());
    for (let steps = 0; steps < 30; steps++) {
      const two = openTab();
      const joining = two.engine.load('m', () => {});
      joining.catch(() => {});
      for (let i = 0; i < steps; i++) await Promise.resolve();
      two.engine.destroy(new Error('was not wanted'));
      await vi.waitFor(() => expect(locks.names, `${steps} steps`).toEqual(['palimpsest-engine']));
    }
  });

  test.each([['wait', true] as const, ['share', false] as const])(
    'waits for its end: %s, shared workers %s',
    async (choice, shares) => {
      const [one, two] = [openTab('share', shares), openTab(choice, shares)];
      await loadOwn(one);
      const loading = loadOwn(two);
      await vi.waitFor(() => expect(two.places).toEqual(['waiting']));
      expect(two.own.loads).toEqual([]);
      one.engine.destroy(new Error('closed'));
      await loading;
      expect(two.places.at(-1)).toBe('serving0');
    },
  );

  test('fails, or has one of its own besides, as it is told', async () => {
    await loadOwn(openTab());
    await expect(openTab('refuse').engine.load('m', () => {})).rejects.toMatchObject({
      name: 'EngineTaken',
    });
    const three = openTab('own');
    await loadOwn(three);
    expect(three.places).toEqual(['own']);
    const answer = three.engine.generate(prompt, sampling, () => {});
    await vi.waitFor(() => expect(three.own.generations).toHaveLength(1));
    three.own.generations[0]!.end();
    expect((await answer).reason).toBe('end');
  });

  test('takes over when the engine there is lost for good', async () => {
    const [one, two] = [openTab(), openTab()];
    await loadOwn(one);
    await two.engine.load('m', () => {});
    const answer = two.engine.generate(prompt, sampling, () => {});
    await vi.waitFor(() => expect(one.own.generations).toHaveLength(1));
    one.own.generations[0]!.reject(new PalimpsestError('DeviceLost', 'gone'));
    one.own.lose('gone');
    expect(await one.engine.lost()).toBe('gone');
    await vi.waitFor(() => expect(two.own.loads).toHaveLength(1));
    two.own.loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(two.own.generations).toHaveLength(1));
    two.own.generations[0]!.write('on');
    two.own.generations[0]!.end();
    expect((await answer).text).toBe('on');
  });
});

test('a load that fails lets the engine go to others', async () => {
  const [one, two] = [openTab(), openTab()];
  const loading = one.engine.load('m', () => {});
  await vi.waitFor(() => expect(one.own.loads).toHaveLength(1));
  const other = two.engine.load('m', () => {});
  one.own.loads[0]!.reject(new PalimpsestError('OutOfMemory', 'too large'));
  await expect(loading).rejects.toThrow('too large');
  await vi.waitFor(() => expect(two.own.loads).toHaveLength(1));
  two.own.loads[0]!.resolve(loaded);
  expect(await other).toEqual(loaded);
  expect(two.places.at(-1)).toBe('serving0');
});

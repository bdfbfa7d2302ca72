/**
 * One engine for all tabs of a site. The tab that holds the site's lock has the engine and serves the others, each in a
 * seat of its own (seats.ts); they wait in line for the lock meanwhile. When the serving tab ends, the lock passes to the
 * next one, which loads the model and says so, and the others turn to it. Whatever was asked and not answered is asked
 * again: the same words, settings and seed give the same tokens, and those that were told already are not told twice.
 */
import {
  PalimpsestError,
  type BenchApi,
  type BookmarkApi,
  type Branch,
  type DeviceReport,
  type Frame,
  type Loaded,
  type LoadProgress,
  type Manifest,
  type MemoryApi,
  type Prompt,
  type Resumed,
  type Sampling,
  type Stop,
  type TabsMessage,
  type Token,
  type Watch,
} from '../../workers/protocol.ts';
import { Desk, type DeskApi } from './desk.ts';
import { Seats, type Conversing, type Seat, type Shareable } from './seats.ts';
import { aborted, unless } from './unless.ts';

/** An engine with all that a page asks of it: as src/client.ts starts one, and as several tabs have one together. */
export interface WholeEngine extends Shareable {
  device(): Promise<DeviceReport>;
  describe(model: string): Promise<Manifest>;
  load(model: string, report: (p: LoadProgress) => void): Promise<Loaded>;
  lost(): Promise<string>;
  destroy(reason: Error): void;
}

/**
 * What a tab does about an engine that another tab has. share: use that one; wait: until that tab lets it go; own: have
 * one of its own besides; refuse: nothing.
 */
export type TabsChoice = 'share' | 'wait' | 'own' | 'refuse';

/**
 * Where a tab's engine is. own: here, and nobody is served; serving: here, and `guests` other tabs use it; guest: in
 * another tab; waiting: another tab has it; moving: it comes here from another tab.
 */
export type Place =
  { kind: 'own' | 'guest' | 'waiting' | 'moving' } | { kind: 'serving'; guests: number };

export interface Joining {
  /** Asked when a model is to be loaded. */
  choice: () => TabsChoice;
  onPlace: (place: Place | null) => void;
}

/** What tabs know each other by. */
export interface Surroundings {
  /** An engine of this tab's own. */
  start: () => WholeEngine;
  /** null where the browser has none: then no other tab can be asked, and every tab has its own. */
  locks: Pick<LockManager, 'request'> | null;
  /** A line to workers/tabs.worker.ts; null where the browser has no shared workers. */
  broker: (() => MessagePort) | null;
  /** Answer what comes through a port. */
  serve: (desk: DeskApi, port: MessagePort) => void;
  /** A port for the other tab, and the desk that will answer through it. */
  reach: () => { port: MessagePort; desk: Conversing & Pick<DeskApi, 'join'> };
}

/** The lock that stands for the GPU of this origin. */
export const engineLock = 'palimpsest-engine';

/** An engine within reach, of this tab or another one. */
interface There {
  engine: Conversing;
  /** Aborted when it is out of reach for good. */
  gone: AbortSignal;
  leave: () => void;
  /** It is this tab's own. */
  here: boolean;
  /** What its branches' numbers are raised by, so that those of an earlier engine are not mistaken for them. */
  base: number;
  /** It took the place of another one, and this tab's conversation does not stand in it. */
  blank: boolean;
}

const moved = new PalimpsestError('EngineTaken', 'The engine went to another tab.');

/** More branches than one engine ever has. */
const baseStep = 2 ** 20;

/** Locks that this page is letting go: it does not stand in its own way. */
let leaving: Promise<unknown> = Promise.resolve();

/** A client whose engine this tab has, shares or waits for. Every call fails as the engine's does. */
export function joinTabs(joining: Joining, surroundings: Surroundings): WholeEngine {
  return new Joint(joining, surroundings);
}

class Joint implements WholeEngine {
  readonly memory: MemoryApi;
  readonly bookmark: BookmarkApi;
  readonly bench: BenchApi;
  readonly #joining: Joining;
  readonly #around: Surroundings;
  readonly #own: WholeEngine;
  /** Aborted with the reason when this client is destroyed. */
  readonly #ended = new AbortController();
  readonly #lost = promised<string>();
  #there = promised<There>();
  #present: There | null = null;
  #arrivals = 0;
  /** Whoever waits for an engine was told that there is none. */
  #refused = false;
  /** This tab's seat, while it serves. */
  #seat: Seat | null = null;
  /** The engine is here, and no other tab is served. */
  #alone = false;
  #broker: MessagePort | null = null;
  #release: () => void = () => {};
  #model = '';
  #report: (p: LoadProgress) => void = () => {};
  #watching: { watch: Watch; onFrame: (frame: Frame) => void } | null = null;
  /** Ids that the present branch has, as far as this tab knows. */
  #said: number[] = [];
  #writing = new Set<{ stopped: boolean }>();

  constructor(joining: Joining, surroundings: Surroundings) {
    this.#joining = joining;
    this.#around = surroundings;
    this.#own = surroundings.start();
    this.#there.promise.catch(() => {});
    this.memory = this.#memoryOf();
    const own = this.#own.bookmark;
    this.bookmark = {
      account: () => own.account(),
      store: (account) => this.#seat?.store(account) ?? own.store(account, null),
      takeUp: () => {
        if (this.#seat) return this.#seat.takeUp();
        return this.#alone ? own.takeUp() : Promise.resolve(nothing);
      },
    };
    this.bench = {
      bench: (wish, report) => {
        if (this.#seat) return this.#seat.bench(wish, report);
        if (this.#alone) return this.#own.bench.bench(wish, report);
        return Promise.reject(
          new PalimpsestError(
            'Refused',
            'This tab has no engine of its own to measure. Measure in the tab that has it, or load one here.',
          ),
        );
      },
      stopBench: () => this.#own.bench.stopBench(),
    };
  }

  device(): Promise<DeviceReport> {
    return this.#own.device();
  }

  describe(model: string): Promise<Manifest> {
    return this.#own.describe(model);
  }

  lost(): Promise<string> {
    return unless([this.#ended.signal], this.#lost.promise);
  }

  /** Fails: as EngineApi.load, and EngineTaken. */
  async load(model: string, report: (p: LoadProgress) => void): Promise<Loaded> {
    this.#model = model;
    this.#report = report;
    const choice = this.#joining.choice();
    if (choice === 'own' || !this.#around.locks) return this.#loadAlone();
    await leaving;
    if (await this.#claim({ ifAvailable: true })) return this.#serve();
    if (choice === 'refuse') {
      throw taken('Another tab of this site has an engine. Close that one, or wait for it.');
    }
    if (choice === 'wait' || !this.#around.broker) {
      this.#joining.onPlace({ kind: 'waiting' });
      await this.#claim({ signal: this.#ended.signal });
      return this.#serve();
    }
    return this.#visit();
  }

  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    return this.#write(onToken, ({ engine }, take) => engine.generate(prompt, sampling, take));
  }

  stop(): void {
    for (const writing of this.#writing) writing.stopped = true;
    this.#present?.engine.stop();
  }

  async reset(): Promise<void> {
    this.#said = [];
    await this.#ask(({ engine }) => engine.reset());
  }

  tokenize(prompt: Prompt): Promise<number[]> {
    return this.#ask(({ engine }) => engine.tokenize(prompt));
  }

  destroy(reason: Error): void {
    this.#ended.abort(reason);
    this.#stopServing();
    this.#own.destroy(reason);
    this.#broker?.close();
    this.#joining.onPlace(null);
  }

  // ------------------------------------------------------------------------------------ where it is

  async #loadAlone(): Promise<Loaded> {
    const loaded = await this.#own.load(this.#model, this.#report);
    void this.#own.lost().then(this.#lost.resolve, () => {});
    await this.#arrive(this.#own, true);
    this.#alone = true;
    this.#joining.onPlace({ kind: 'own' });
    return loaded;
  }

  /** Hold the site's lock. Answers false where another has it and this one is not to wait. */
  #claim(how: LockOptions): Promise<boolean> {
    return new Promise((claimed, failed) => {
      const asked = this.#around.locks!.request(engineLock, how, (lock) => {
        if (!lock || this.#ended.signal.aborted) return claimed(false);
        claimed(true);
        return new Promise<void>((release) => {
          this.#release = () => {
            leaving = asked;
            release();
          };
        });
      });
      asked.catch(failed);
    });
  }

  /** Load the model here, and let other tabs in. The lock is held. */
  async #serve(): Promise<Loaded> {
    const ready = promised<{ loaded: Loaded; seats: Seats }>();
    ready.promise.catch(() => {});
    const host = {
      model: this.#model,
      ready: ready.promise,
      endOf: (life: string) => this.#around.locks!.request(life, {}, () => {}),
      onChange: () =>
        void ready.promise.then(
          ({ seats }) => this.#tellGuests(seats),
          () => {},
        ),
    };
    this.#hear((message, port) => {
      if (message === 'guest' && port) this.#around.serve(new Desk(host), port);
    });
    this.#say('serve');
    try {
      const loaded = await this.#own.load(this.#model, this.#report);
      const seats = new Seats(this.#own, loaded);
      this.#seat = seats.sit();
      void this.#own.lost().then(
        (reason) => {
          this.#stopServing();
          this.#lost.resolve(reason);
        },
        () => {},
      );
      await this.#arrive(this.#seat, true);
      ready.resolve({ loaded, seats });
      this.#tellGuests(seats);
      return loaded;
    } catch (thrown) {
      ready.reject(thrown);
      this.#stopServing();
      throw thrown;
    }
  }

  #tellGuests(seats: Seats): void {
    if (this.#seat) this.#joining.onPlace({ kind: 'serving', guests: seats.count - 1 });
  }

  #stopServing(): void {
    this.#say('leave');
    this.#seat = null;
    this.#release();
    this.#release = () => {};
  }

  /** Use another tab's engine, and have it here when that tab lets it go. */
  async #visit(): Promise<Loaded> {
    const { locks } = this.#around;
    const life = `palimpsest-tab-${crypto.randomUUID()}`;
    const { signal } = this.#ended;
    const lives = promised<void>();
    void locks!.request(life, {}, () => {
      lives.resolve();
      return aborted(signal);
    });
    await lives.promise;
    // It may have been destroyed while it looked for a place.
    signal.throwIfAborted();

    const first = promised<Loaded>();
    const queue = new AbortController();
    signal.addEventListener('abort', () => queue.abort());
    let over = false;
    /** Counts the engines turned to: an answer of an earlier one is nobody's. */
    let turns = 0;
    const join = async () => {
      if (over) return;
      const turn = ++turns;
      this.#depart();
      const { port, desk } = this.#around.reach();
      this.#say('guest', port);
      try {
        const loaded = await desk.join(life, this.#model);
        if (turn !== turns) return;
        await this.#arrive(desk, false);
        this.#joining.onPlace({ kind: 'guest' });
        first.resolve(loaded);
      } catch (thrown) {
        if (turn === turns) refuse(thrown);
      }
    };
    const refuse = (thrown: unknown) => {
      first.reject(thrown);
      this.#there.reject(thrown);
      this.#refused = true;
    };
    this.#hear((message) => {
      if (message === 'serve') void join();
    });
    void this.#claim({ signal: queue.signal }).then(
      async (held) => {
        if (!held) return;
        over = true;
        turns += 1;
        this.#depart();
        this.#joining.onPlace({ kind: 'moving' });
        const note = 'The tab that had the engine has let it go; the model is loaded here';
        this.#report({ phase: 'restore', doneBytes: 0, totalBytes: 1, note });
        try {
          first.resolve(await this.#serve());
          this.#report({ phase: 'restore', doneBytes: 1, totalBytes: 1, note: '' });
        } catch (thrown) {
          refuse(thrown);
          this.#lost.resolve((thrown as Error).message);
        }
      },
      () => {},
    );
    void join();
    try {
      return await unless([this.#ended.signal], first.promise);
    } catch (thrown) {
      over = true;
      queue.abort();
      throw thrown;
    }
  }

  #hear(hear: (message: TabsMessage, port: MessagePort | undefined) => void): void {
    if (!this.#around.broker) return;
    this.#broker ??= this.#around.broker();
    this.#broker.onmessage = ({ data: message, ports }: MessageEvent<TabsMessage>) =>
      hear(message, ports[0]);
  }

  #say(message: TabsMessage, port?: MessagePort): void {
    this.#broker?.postMessage(message, port ? [port] : []);
  }

  // ---------------------------------------------------------------------------------- from one to another

  /** An engine is within reach. */
  async #arrive(engine: Conversing, here: boolean): Promise<void> {
    const left = new AbortController();
    const there: There = {
      engine,
      gone: left.signal,
      leave: () => left.abort(moved),
      here,
      base: this.#arrivals++ * baseStep,
      blank: this.#said.length > 0,
    };
    if (this.#watching) {
      const { watch, onFrame } = this.#watching;
      await engine.memory.watch(watch, onFrame);
    }
    this.#renew();
    this.#present = there;
    this.#there.resolve(there);
  }

  /** The engine that was within reach is so no more. */
  #depart(): void {
    this.#present?.leave();
    this.#renew();
    this.#present = null;
  }

  /** Let those who ask wait, unless they do already. */
  #renew(): void {
    if (!this.#present && !this.#refused) return;
    this.#refused = false;
    this.#there = promised();
    this.#there.promise.catch(() => {});
  }

  /** Ask whatever engine is within reach, and the next one where it goes away meanwhile. */
  async #ask<T>(work: (there: There) => Promise<T>): Promise<T> {
    for (;;) {
      const end = this.#ended.signal;
      const there = await unless([end], this.#there.promise);
      try {
        return await unless([there.gone, end], work(there));
      } catch (thrown) {
        // An engine that lost its GPU for good is let go by its tab.
        const lostThere = (thrown as Error).name === 'DeviceLost' && !there.here;
        if (thrown !== moved && !lostThere) throw thrown;
        await unless([end], aborted(there.gone));
      }
    }
  }

  /** Likewise for what presupposes the conversation: it is taken in first. */
  #askOn<T>(work: (memory: MemoryApi, there: There) => Promise<T>): Promise<T> {
    return this.#ask(async (there) => {
      await this.#retell(there);
      return work(there.engine.memory, there);
    });
  }

  /** Have the conversation stand in an engine that does not know it; its branches and interventions are gone. */
  async #retell(there: There): Promise<void> {
    const ids = this.#said;
    if (!there.blank || ids.length < 2) return;
    await there.engine.generate({ kind: 'ids', ids }, oneMore, () => {});
    await there.engine.memory.fork(ids.length - 1, null, []);
    there.blank = false;
  }

  async #write(
    onToken: (t: Token) => void,
    work: (there: There, take: (t: Token) => void) => Promise<Stop>,
  ): Promise<Stop> {
    const writing = { stopped: false };
    this.#writing.add(writing);
    /** Tokens that were told, by this engine or an earlier one. */
    let told = 0;
    try {
      return await this.#ask(async (there) => {
        let heard = 0;
        let ended = !writing.stopped;
        const stop = await work(there, (token) => {
          if (this.#present !== there) return;
          heard += 1;
          if (heard > told) {
            told = heard;
            onToken(token);
          }
          // The stop was said to an earlier engine.
          if (!ended && heard >= told) {
            ended = true;
            there.engine.stop();
          }
        });
        there.blank = false;
        this.#said = [...stop.promptIds, ...stop.ids];
        return stop;
      });
    } finally {
      this.#writing.delete(writing);
    }
  }

  #memoryOf(): MemoryApi {
    const told = (branch: Branch, { base }: There): Branch => {
      this.#said = branch.ids;
      return raised(branch, base);
    };
    return {
      layers: () => this.#ask(({ engine }) => engine.memory.layers()),
      watch: async (watch, onFrame) => {
        await this.#ask(({ engine }) => engine.memory.watch(watch, onFrame));
        this.#watching = watch && { watch, onFrame };
      },
      inspect: (inquiry) => this.#askOn((memory) => memory.inspect(inquiry)),
      branches: () =>
        this.#askOn(async (memory, { base }) =>
          (await memory.branches()).map((branch) => raised(branch, base)),
        ),
      fork: (position, token, interventions) =>
        this.#askOn(async (memory, there) => {
          const own = interventions.map((i) =>
            i.kind === 'swap' ? { ...i, branch: lowered(i.branch, there) } : i,
          );
          return told(await memory.fork(position, token, own), there);
        }),
      select: (branch) =>
        this.#askOn(async (memory, there) => {
          const id = lowered(branch, there);
          await memory.select(id);
          this.#said = (await memory.branches()).find((each) => each.id === id)?.ids ?? [];
        }),
      beginBranch: () =>
        this.#ask(async (there) => told(await there.engine.memory.beginBranch(), there)),
      dropBranches: (branches) =>
        this.#askOn((memory, there) =>
          memory.dropBranches(branches.map((branch) => lowered(branch, there))),
        ),
      exportBranch: () => this.#askOn((memory) => memory.exportBranch()),
      importBranch: (state) =>
        this.#ask(async (there) => {
          const branch = await there.engine.memory.importBranch(state);
          there.blank = false;
          return told(branch, there);
        }),
      proceed: (sampling, onToken) =>
        this.#write(onToken, async (there, take) => {
          await this.#retell(there);
          return there.engine.memory.proceed(sampling, take);
        }),
      compare: (a, b) =>
        this.#askOn((memory, there) => memory.compare(lowered(a, there), lowered(b, there))),
      difference: (a, b, layer, head) =>
        this.#askOn((memory, there) =>
          memory.difference(lowered(a, there), lowered(b, there), layer, head),
        ),
    };
  }
}

function raised(branch: Branch, base: number): Branch {
  const { id, parent } = branch;
  return { ...branch, id: id + base, parent: parent === null ? null : parent + base };
}

/** The number of a branch as its engine knows it. Fails: Refused for a branch of an earlier engine. */
function lowered(branch: number, { base }: There): number {
  if (branch >= base) return branch - base;
  throw new PalimpsestError(
    'Refused',
    `Branch ${branch} was in another tab's engine, which is gone. What was said in the present one is kept.`,
  );
}

const nothing: Resumed = { tokens: 0, branch: null, note: '' };

/** Settings that take a prompt in and write one token, which is dropped. */
const oneMore: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 0,
  seed: 0,
  maxTokens: 1,
  stop: [],
  candidates: 0,
};

function taken(message: string): PalimpsestError {
  return new PalimpsestError('EngineTaken', message);
}

/** A promise and its two ends. */
function promised<T>() {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((kept, broken) => {
    resolve = kept;
    reject = broken;
  });
  return { promise, resolve, reject };
}

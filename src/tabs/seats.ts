/**
 * One engine, several tabs: each has a seat, and from its seat the engine looks as if nobody else used it. A seat has
 * branches of its own, one of them present, and a watch of its own. Calls of different seats take turns; with a turn the
 * seat's branch becomes the present one, so that no conversation is taken in twice because another one came between.
 */
import {
  PalimpsestError,
  type BenchApi,
  type BenchProgress,
  type BenchResult,
  type BenchWish,
  type BookmarkApi,
  type Branch,
  type Frame,
  type Intervention,
  type Loaded,
  type MemoryApi,
  type Prompt,
  type Resumed,
  type Sampling,
  type Stop,
  type Token,
  type Watch,
} from '../../workers/protocol.ts';
/** A conversation with an engine, to be looked into: what one tab needs of it. */
export interface Conversing {
  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  stop(): void;
  reset(): Promise<void>;
  tokenize(prompt: Prompt): Promise<number[]>;
  readonly memory: MemoryApi;
}

/** What of an engine is shared. */
export interface Shareable extends Conversing {
  readonly bookmark: BookmarkApi;
  readonly bench: BenchApi;
}

/** One call of a seat that waits for its turn, or has it. */
interface Turn {
  /** It writes: whoever else wants a turn waits for its end. */
  writes: boolean;
  begun: boolean;
  stopped: boolean;
}

/** The seats of one engine, and whose turn it is. */
export class Seats {
  readonly #engine: Shareable;
  readonly #loaded: Loaded;
  readonly #seats = new Set<Seat>();
  /** Whose branch is the present one; null while that changes. */
  #sitting: Seat | null = null;
  /** Calls under way, all of the one who sits. */
  readonly #running = new Set<Turn>();
  #moving = false;
  #waiting: { seat: Seat; turn: Turn; begin: () => void; fail: (reason: unknown) => void }[] = [];

  constructor(engine: Shareable, loaded: Loaded) {
    this.#engine = engine;
    this.#loaded = loaded;
  }

  /** How many seats are taken. */
  get count(): number {
    return this.#seats.size;
  }

  sit(): Seat {
    const seat: Seat = new Seat(this.#engine, this.#loaded, {
      take: (turn, work) => this.#take(seat, turn, work),
      alone: () => this.#seats.size === 1,
      conversing: () => [...this.#seats].some((other) => other !== seat && other.branches.size > 0),
      rise: () => this.#seats.delete(seat),
    });
    this.#seats.add(seat);
    return seat;
  }

  /** Do something while `seat` has the engine. */
  async #take<T>(seat: Seat, turn: Turn, work: () => Promise<T>): Promise<T> {
    await this.#turnOf(seat, turn);
    try {
      return await work();
    } catch (thrown) {
      // After these the engine has forgotten everything (workers/engine.ts).
      if (['BadNumbers', 'OutOfMemory'].includes((thrown as Error).name)) {
        for (const each of this.#seats) each.forget();
      }
      throw thrown;
    } finally {
      this.#running.delete(turn);
      this.#next();
    }
  }

  #turnOf(seat: Seat, turn: Turn): Promise<void> {
    // While the one who sits writes, others wait in any case.
    const writes = [...this.#running].some((running) => running.writes);
    const passes = this.#running.size > 0 && (writes || this.#waiting.length === 0);
    // One that was left without a branch is given another first.
    if (this.#sitting === seat && seat.present !== null && !this.#moving && passes) {
      this.#running.add(turn);
      return Promise.resolve();
    }
    return new Promise((begin, fail) => {
      this.#waiting.push({ seat, turn, begin, fail });
      this.#next();
    });
  }

  #next(): void {
    if (this.#running.size > 0 || this.#moving) return;
    const first = this.#waiting.shift();
    if (!first) return;
    const { seat, turn, begin, fail } = first;
    this.#moving = true;
    this.#seatOn(seat)
      .then(
        () => {
          this.#running.add(turn);
          begin();
        },
        (thrown: unknown) => {
          seat.forget();
          fail(thrown);
        },
      )
      .finally(() => {
        this.#moving = false;
        this.#next();
      });
  }

  #owned(branch: number): boolean {
    return [...this.#seats].some((seat) => seat.branches.has(branch));
  }

  /** Make a seat's branch the present one, in place of another seat's. An empty one that someone left goes. */
  async #seatOn(seat: Seat): Promise<void> {
    const before = this.#sitting;
    if (before === seat && seat.present !== null) return;
    const { memory } = this.#engine;
    this.#sitting = null;
    if (before?.watching && before !== seat) await memory.watch(null, () => {});
    if (seat.present !== null) {
      await memory.select(seat.present);
      const left = (await memory.branches()).filter(({ id }) => !this.#owned(id));
      await memory.dropBranches(left.map(({ id }) => id));
    } else {
      const { id } = await memory.beginBranch();
      // An empty branch that someone left is anybody's.
      for (const other of this.#seats) other.give(id);
      seat.own(id);
      seat.watching?.onFrame({ kind: 'forgotten', from: 0 });
    }
    if (seat.watching && before !== seat) {
      await memory.watch(seat.watching.watch, seat.watching.onFrame);
    }
    this.#sitting = seat;
  }
}

/** What a seat needs of the others. */
interface Row {
  take: <T>(turn: Turn, work: () => Promise<T>) => Promise<T>;
  /** Nobody else has a seat. */
  alone: () => boolean;
  /** Someone else has said something. */
  conversing: () => boolean;
  rise: () => void;
}

/** One tab's place at the engine. Every call fails as the engine's does. */
export class Seat implements Conversing {
  /** Its branches; of the engine's others it knows nothing. */
  readonly branches = new Set<number>();
  /** The one of them to come back to; null while it has none. */
  present: number | null = null;
  watching: { watch: Watch; onFrame: (frame: Frame) => void } | null = null;
  readonly memory: MemoryApi;
  readonly #engine: Shareable;
  readonly #loaded: Loaded;
  readonly #row: Row;
  readonly #turns = new Set<Turn>();
  #risen = false;

  constructor(engine: Shareable, loaded: Loaded, row: Row) {
    this.#engine = engine;
    this.#loaded = loaded;
    this.#row = row;
    const { memory } = engine;
    this.memory = {
      layers: () => memory.layers(),
      watch: (watch, onFrame) =>
        this.#look(async () => {
          await memory.watch(watch, onFrame);
          this.watching = watch && { watch, onFrame };
        }),
      inspect: (inquiry) => this.#look(() => memory.inspect(inquiry)),
      branches: () => this.#look(async () => (await memory.branches()).filter(this.#isOwn)),
      fork: (position, token, interventions) =>
        this.#look(async () => {
          this.#check(...interventions.flatMap(othersOf));
          return this.#add(await memory.fork(position, token, interventions));
        }),
      select: (branch) =>
        this.#look(async () => {
          this.#check(branch);
          await memory.select(branch);
          this.present = branch;
        }),
      beginBranch: () => this.#look(async () => this.#add(await memory.beginBranch())),
      dropBranches: (branches) =>
        this.#look(async () => {
          this.#check(...branches);
          await memory.dropBranches(branches);
          for (const branch of branches) this.branches.delete(branch);
        }),
      exportBranch: () => this.#look(() => memory.exportBranch()),
      importBranch: (state) => this.#look(async () => this.#add(await memory.importBranch(state))),
      proceed: (sampling, onToken) => this.#write(() => memory.proceed(sampling, onToken)),
      compare: (a, b) =>
        this.#look(() => {
          this.#check(a, b);
          return memory.compare(a, b);
        }),
      difference: (a, b, layer, head) =>
        this.#look(() => {
          this.#check(a, b);
          return memory.difference(a, b, layer, head);
        }),
    };
  }

  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    return this.#write(() => this.#engine.generate(prompt, sampling, onToken));
  }

  /** End what this seat writes or waits to write. */
  stop(): void {
    for (const turn of this.#turns) turn.stopped = true;
    if ([...this.#turns].some(({ begun }) => begun)) this.#engine.stop();
  }

  tokenize(prompt: Prompt): Promise<number[]> {
    return this.#engine.tokenize(prompt);
  }

  reset(): Promise<void> {
    return this.#look(async () => {
      if (this.#row.alone()) await this.#engine.reset();
      else await this.#leaveBranches();
      this.forget();
    });
  }

  /** Store the page's account with this seat's part of the state. See BookmarkApi.store. */
  store(account: string): Promise<string> {
    return this.#look(() => this.#engine.bookmark.store(account, [...this.branches]));
  }

  /** See BenchApi. Other tabs wait. */
  bench(wish: BenchWish, report: (p: BenchProgress) => void): Promise<BenchResult> {
    const turn: Turn = { writes: true, begun: true, stopped: false };
    return this.#row.take(turn, () => this.#engine.bench.bench(wish, report));
  }

  /** See BookmarkApi.takeUp: it is for an engine that has said nothing yet. */
  takeUp(): Promise<Resumed> {
    return this.#look(async () => {
      if (this.#row.conversing()) {
        return {
          tokens: 0,
          branch: null,
          note: 'Another tab was first to talk to this engine. The text here is read again with your next message.',
        };
      }
      const resumed = await this.#engine.bookmark.takeUp();
      if (resumed.branch !== null) {
        this.forget();
        for (const { id } of await this.#engine.memory.branches()) this.branches.add(id);
        this.present = resumed.branch;
      }
      return resumed;
    });
  }

  /** Leave for good. What stands in the engine for this seat is forgotten. */
  async rise(): Promise<void> {
    if (this.#risen) return;
    this.#risen = true;
    this.stop();
    const watched = this.watching !== null;
    // Its branch is left, not come back to.
    this.watching = this.present = null;
    try {
      await this.#look(async () => {
        if (watched) await this.#engine.memory.watch(null, () => {});
        await this.#leaveBranches();
      });
    } finally {
      this.forget();
      this.#row.rise();
    }
  }

  /** Its branches are no more. */
  forget(): void {
    this.branches.clear();
    this.present = null;
  }

  own(branch: number): void {
    this.branches.add(branch);
    this.present = branch;
  }

  /** A branch is another's from here on. */
  give(branch: number): void {
    this.branches.delete(branch);
    if (this.present === branch) this.present = null;
  }

  readonly #isOwn = ({ id }: Branch) => this.branches.has(id);

  #add(branch: Branch): Branch {
    this.own(branch.id);
    return branch;
  }

  async #leaveBranches(): Promise<void> {
    const left = [...this.branches];
    const { id } = await this.#engine.memory.beginBranch();
    await this.#engine.memory.dropBranches(left.filter((branch) => branch !== id));
  }

  /** Fails: Refused for a branch that is not this seat's. */
  #check(...branches: number[]): void {
    const foreign = branches.find((branch) => !this.branches.has(branch));
    if (foreign === undefined) return;
    throw new PalimpsestError(
      'Refused',
      `There is no branch ${foreign}; there are ${[...this.branches].join(', ') || 'none'}.`,
    );
  }

  #look<T>(work: () => Promise<T>): Promise<T> {
    return this.#row.take({ writes: false, begun: true, stopped: false }, work);
  }

  async #write(work: () => Promise<Stop>): Promise<Stop> {
    const turn: Turn = { writes: true, begun: false, stopped: false };
    this.#turns.add(turn);
    try {
      return await this.#row.take(turn, async () => {
        if (turn.stopped) return this.#unwritten();
        turn.begun = true;
        return work();
      });
    } finally {
      this.#turns.delete(turn);
    }
  }

  /** How an answer ends that was stopped before its turn came. */
  #unwritten(): Stop {
    return {
      reason: 'stopped',
      ids: [],
      text: '',
      promptIds: [],
      reusedTokens: 0,
      prefillMs: 0,
      firstTokenMs: 0,
      decodeMs: 0,
      contextUsed: 0,
      memory: this.#loaded.memory,
    };
  }
}

const othersOf = (i: Intervention): number[] => (i.kind === 'swap' ? [i.branch] : []);

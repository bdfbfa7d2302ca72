/**
 * An engine that outlives its device. When the GPU goes away it opens another one, puts the weights back from where they
 * are stored and the conversation from what is kept of it outside the GPU (keep.ts), and what was under way goes on: an
 * answer with its next token, everything else from its beginning. Three losses within a minute are too many.
 */
import { cutOutline, presentLine } from './branches.ts';
import { alreadyRunning, Engine, type EngineOptions, type Writing } from './engine.ts';
import type { Gpu } from './gpu.ts';
import type { Standing } from './keep.ts';
import {
  type Answers,
  type Branch,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type Loaded,
  type MemoryReport,
  PalimpsestError,
  type Prompt,
  type Sampling,
  type Stop,
  type Token,
  type Watch,
} from './protocol.ts';
import type { StateFile } from './stateFile.ts';

/** What a lasting engine needs: all that an engine does but the device, which it opens itself. */
export interface LastingOptions extends Omit<EngineOptions, 'gpu'> {
  /** A device, at first and after every loss. Fails: NoWebGPU, LimitTooSmall. */
  open: () => Promise<Gpu>;
}

const MOST_LOSSES = 3;
const LOSSES_MS = 60_000;

/** How long calls have to end after a loss. Then they are given up: nothing comes of them any more. */
const UNWIND_MS = 3000;

/** After a loss there may be no adapter for a moment: how often it is asked for again, and after what time. */
const OPENINGS = 10;
const OPENING_MS = 500;

/** Losses of the last minute. */
class Losses {
  #timesMs: number[] = [];

  /** One more. Fails: DeviceLost where that is one too many. */
  count(nowMs: number, reason: string): void {
    this.#timesMs = [...this.#timesMs, nowMs].filter((ms) => nowMs - ms < LOSSES_MS);
    if (this.#timesMs.length < MOST_LOSSES) return;
    throw new PalimpsestError(
      'DeviceLost',
      `The graphics device went away ${MOST_LOSSES} times within a minute, the last time so: ${reason} What was said is kept. Close what else uses the GPU and load the model again.`,
    );
  }
}

export class LastingEngine {
  readonly loaded: Loaded;
  /** Resolves with the reason when there is no going on. */
  readonly lost: Promise<string>;
  readonly #options: LastingOptions;
  #engine: Engine;
  /** Set for good once there is no going on. */
  #end: PalimpsestError | null = null;
  #sayLost: (reason: string) => void = () => {};
  readonly #losses: Losses;
  #rebuilding: Promise<void> | null = null;
  /** Calls that the engine has not answered yet, and how to give them up. */
  readonly #calls = new Map<Promise<unknown>, (reason: Error) => void>();
  /** A call that no other may disturb is under way: the answer it writes, or how all was before it changes branches. */
  #alone: Writing | Standing | null = null;
  #watched: { watch: Watch; onFrame: (frame: Frame) => unknown } | null = null;

  private constructor(options: LastingOptions, engine: Engine, losses: Losses) {
    this.#options = options;
    this.#losses = losses;
    this.#engine = engine;
    this.loaded = engine.loaded;
    this.lost = new Promise((resolve) => (this.#sayLost = resolve));
    this.#attend(engine);
  }

  /** Read a model's files and put it on a GPU. Fails as `Engine.load` and `LastingOptions.open`. */
  static async load(options: LastingOptions): Promise<LastingEngine> {
    const losses = new Losses();
    for (;;) {
      try {
        return new LastingEngine(options, await openEngine(options.open, options), losses);
      } catch (error) {
        if (!isLoss(error)) throw error;
        losses.count(options.clock(), error.message);
      }
    }
  }

  // ------------------------------------------------------------------------------------ the engine's calls

  /** See Engine, here and below. */
  encode(prompt: Prompt): number[] {
    return this.#engine.encode(prompt);
  }

  layers(): LayerLists {
    return this.#engine.layers();
  }

  memory(): MemoryReport {
    return this.#engine.memory();
  }

  branches(): Branch[] {
    return this.#engine.branches();
  }

  async generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    await this.#stands();
    const writing = this.#engine.begin(prompt, sampling);
    return this.#undisturbed(writing, (engine) => engine.write(writing, onToken));
  }

  async proceed(sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    const ids = await this.#change((engine) => engine.readyToProceed());
    return this.generate({ kind: 'ids', ids }, sampling, onToken);
  }

  stop(): void {
    if (this.#alone && 'answer' in this.#alone) this.#alone.stopped = true;
  }

  reset(): Promise<void> {
    return this.#change((engine) => engine.reset());
  }

  fork(position: number, token: number | null, interventions: Intervention[]): Promise<Branch> {
    return this.#change((engine) => engine.fork(position, token, interventions));
  }

  select(branch: number): Promise<void> {
    return this.#change((engine) => engine.select(branch));
  }

  beginBranch(): Promise<Branch> {
    return this.#change((engine) => engine.beginBranch());
  }

  takeIn(state: StateFile): Promise<Branch> {
    return this.#change((engine) => engine.takeIn(state));
  }

  dropBranches(branches: readonly number[]): Promise<void> {
    return this.#change((engine) => engine.dropBranches(branches));
  }

  compare(a: number, b: number): Promise<Float32Array> {
    return this.#call((engine) => engine.compare(a, b));
  }

  difference(a: number, b: number, layer: number, head: number): Promise<Float32Array> {
    return this.#call((engine) => engine.difference(a, b, layer, head));
  }

  inspect<K extends Inquiry['kind']>(inquiry: Extract<Inquiry, { kind: K }>): Promise<Answers[K]> {
    return this.#call((engine) => engine.inspect<K>(inquiry));
  }

  async watch(watch: Watch | null, onFrame: (frame: Frame) => unknown): Promise<void> {
    await this.#call((engine) => engine.watch(watch, this.#framesOf(engine, onFrame)));
    this.#watched = watch && { watch, onFrame };
  }

  settled(): Promise<void> {
    return this.#call((engine) => engine.settled());
  }

  destroy(): void {
    this.#end ??= new PalimpsestError('Refused', 'The engine was ended. Load the model again.');
    this.#engine.destroy();
  }

  // ----------------------------------------------------------------------------------- to be taken up later

  /** What a state must be made of to be taken up here. */
  get fit(): ReturnType<Engine['fit']> {
    return this.#engine.fit();
  }

  /** The conversation as it is. Before that `keep` sees to it that as much as can be stands outside the GPU. */
  get standing(): Standing {
    if (this.#alone && 'outline' in this.#alone) return this.#alone;
    return standingOf(this.#engine, Infinity);
  }

  keep(): Promise<void> {
    return this.#call((engine) => engine.keep());
  }

  /** Take up a conversation in place of an empty one. See Engine.resume. */
  resume({ outline, kept }: Standing): Promise<void> {
    return this.#change((engine) => engine.resume(outline, kept));
  }

  /**
   * Have the engine to oneself, its conversation empty; afterwards it stands as it did, and is watched as it was.
   * Fails: Refused where the device went away meanwhile, and as `work` does.
   */
  async aside<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
    await this.keep();
    let begun = false;
    return this.#change(async (engine) => {
      if (begun) {
        throw new PalimpsestError(
          'Refused',
          'The graphics device went away meanwhile. Model and conversation are back; begin again.',
        );
      }
      begun = true;
      const { standing } = this; // that of before this change
      try {
        if (this.#watched) await engine.watch(null, () => {});
        await engine.reset();
        return await work(engine);
      } finally {
        if (!(await engine.isLost())) {
          await engine.reset();
          await this.#takeUp(engine, standing);
        }
      }
    });
  }

  // ----------------------------------------------------------------------------------------- through losses

  /** Put a call to the engine, and to the next one if the device goes away under it. */
  async #call<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
    for (;;) {
      await this.#stands();
      const engine = this.#engine;
      let giveUp!: (reason: Error) => void;
      const answer = new Promise<T>((resolve, reject) => {
        giveUp = reject;
        work(engine).then(resolve, reject);
      });
      this.#calls.set(answer, giveUp);
      try {
        return await answer;
      } catch (error) {
        if (!(await comesOfLoss(error, engine))) throw error;
      } finally {
        this.#calls.delete(answer);
      }
      await this.#rebuild(engine);
    }
  }

  /** A call that changes which branches there are. Broken off by a loss, it begins where it began. */
  async #change<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
    await this.#stands();
    return this.#undisturbed(this.standing, work);
  }

  /** One at a time, whatever number of engines it takes. */
  async #undisturbed<T>(
    alone: Writing | Standing,
    work: (engine: Engine) => Promise<T>,
  ): Promise<T> {
    if (this.#alone) {
      throw alreadyRunning();
    }
    this.#alone = alone;
    try {
      return await this.#call(work);
    } finally {
      this.#alone = null;
    }
  }

  /** Resolves when an engine stands. Fails once there is no going on. */
  async #stands(): Promise<void> {
    while (this.#rebuilding) await this.#rebuilding;
    if (this.#end) throw this.#end;
  }

  /** Nothing need be under way for a loss to be seen. */
  #attend(engine: Engine): void {
    void engine.lost.then(() => this.#rebuild(engine));
  }

  /** Resolves when another engine stands in this one's place, or there is no going on. */
  #rebuild(lost: Engine): Promise<void> {
    if (this.#rebuilding) return this.#rebuilding;
    if (lost !== this.#engine || this.#end) return Promise.resolve();
    this.#rebuilding = this.#build(lost)
      .catch((error: Error) => this.#giveUp(error.message))
      .finally(() => (this.#rebuilding = null));
    return this.#rebuilding;
  }

  async #build(lost: Engine): Promise<void> {
    await this.#unwind(lost);
    const standing = this.#whereToGoOn(lost);
    const { clock, report } = this.#options;
    let reason = await lost.lost;
    lost.destroy();
    for (;;) {
      this.#losses.count(clock(), reason);
      const note = `The graphics device went away (${reason}); the model is put back`;
      report({ phase: 'restore', doneBytes: 0, totalBytes: 1, note });
      try {
        const engine = await openEngine(() => this.#reopen(), this.#options);
        if (this.#end) return engine.destroy();
        this.#engine = engine;
        await this.#takeUp(engine, standing);
        this.#attend(engine);
        report({ phase: 'restore', doneBytes: 1, totalBytes: 1, note: '' });
        return;
      } catch (error) {
        if (!isLoss(error)) throw error;
        reason = error.message;
      }
    }
  }

  /** Resolves when the engine's calls have ended: until then tokens may come that the device had made. */
  async #unwind(lost: Engine): Promise<void> {
    await Promise.race([Promise.allSettled(this.#calls.keys()), pause(UNWIND_MS)]);
    if (this.#calls.size === 0) return;
    const reason = new PalimpsestError('DeviceLost', await lost.lost);
    for (const giveUp of this.#calls.values()) giveUp(reason);
  }

  async #reopen(): Promise<Gpu> {
    for (let opening = 1; ; opening++) {
      try {
        return await this.#options.open();
      } catch (error) {
        if ((error as Error).name !== 'NoWebGPU') throw error;
        if (opening === OPENINGS)
          throw new PalimpsestError(
            'NoWebGPU',
            `The graphics device went away and the browser gives no other. ${(error as Error).message} What was said is kept.`,
          );
      }
      await pause(OPENING_MS);
    }
  }

  async #takeUp(engine: Engine, { outline, kept }: Standing): Promise<void> {
    const resume = async () => {
      await engine.resume(outline, kept);
      if (!this.#watched) return;
      const { watch, onFrame } = this.#watched;
      await engine.watch(watch, this.#framesOf(engine, onFrame));
    };
    try {
      await unlessLost(engine, resume());
    } catch (error) {
      const lost = await comesOfLoss(error, engine);
      const failure = lost ? new PalimpsestError('DeviceLost', await engine.lost) : error;
      engine.destroy();
      throw failure;
    }
  }

  /** Where the next engine goes on: before a change that is broken off, and before the token that an answer waits for. */
  #whereToGoOn(lost: Engine): Standing {
    if (!this.#alone) return standingOf(lost, Infinity);
    if ('outline' in this.#alone) return this.#alone;
    const { promptIds, answer, reusedTokens } = this.#alone;
    const begun = reusedTokens !== null;
    return standingOf(lost, begun ? promptIds.length + answer.length - 1 : Infinity);
  }

  #giveUp(reason: string): void {
    if (this.#end) return;
    this.#end = new PalimpsestError('DeviceLost', reason);
    this.#sayLost(reason);
  }

  /** Frames of an engine that is no more are nobody's. */
  #framesOf(engine: Engine, onFrame: (frame: Frame) => unknown) {
    return (frame: Frame) => (engine === this.#engine ? onFrame(frame) : undefined);
  }
}

/** The conversation of an engine, its present line cut to `most` tokens. */
function standingOf(engine: Engine, most: number): Standing {
  const outline = cutOutline(engine.outline(), most);
  return { outline, kept: engine.kept(presentLine(outline).history.length) };
}

/** An engine on a device of its own. Fails as `LastingEngine.load`; a loss is DeviceLost whatever it broke. */
async function openEngine(open: () => Promise<Gpu>, options: LastingOptions): Promise<Engine> {
  const gpu = await open();
  try {
    return await unlessLost(gpu, Engine.load({ ...options, gpu }));
  } catch (error) {
    const lost = await gpu.isLost();
    const failure = lost ? new PalimpsestError('DeviceLost', await gpu.lost) : error;
    gpu.destroy();
    throw failure;
  }
}

/** What `work` gives. A killed GPU process leaves some promises of its devices open for good, so a loss ends the wait. */
function unlessLost<T>(device: { lost: Promise<string> }, work: Promise<T>): Promise<T> {
  const lost = device.lost.then((reason) => {
    throw new PalimpsestError('DeviceLost', reason);
  });
  return Promise.race([work, lost]);
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function isLoss(error: unknown): error is PalimpsestError {
  return error instanceof PalimpsestError && error.name === 'DeviceLost';
}

/** Whether a call failed because the device is gone. A refusal is no such failure and is told at once. */
async function comesOfLoss(error: unknown, engine: Engine): Promise<boolean> {
  if (isLoss(error)) return true;
  const told = error instanceof PalimpsestError ? error.name : '';
  return (told === '' || told === 'OutOfMemory') && engine.isLost();
}

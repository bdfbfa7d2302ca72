/**
 * The serving tab's end of a port to another tab of its site: a seat at this tab's engine, for as long as the other tab
 * lives. What is asked before it has joined is refused.
 */
import {
  PalimpsestError,
  type Answers,
  type Branch,
  type EngineApi,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type Loaded,
  type MemoryApi,
  type Prompt,
  type Sampling,
  type Stop,
  type Token,
  type Watch,
} from '../../workers/protocol.ts';
import type { Seat, Seats } from './seats.ts';

/** What another tab asks through its port. */
export interface DeskApi
  extends Pick<EngineApi, 'generate' | 'stop' | 'reset' | 'tokenize'>, MemoryApi {
  /**
   * Take a seat.
   * @param life a Web Lock that the other tab holds while it lives
   * Fails: EngineTaken where the engine has another model than `model`.
   */
  join(life: string, model: string): Promise<Loaded>;
}

/** What a desk needs of its tab. */
export interface Host {
  /** The address of its model. */
  model: string;
  /** Resolves once the model is loaded. */
  ready: Promise<{ loaded: Loaded; seats: Seats }>;
  /** Resolves when nobody holds the lock of that name any more. */
  endOf: (life: string) => Promise<void>;
  /** Someone sat down or left. */
  onChange: () => void;
}

export class Desk implements DeskApi {
  readonly #host: Host;
  #seat: Seat | null = null;

  constructor(host: Host) {
    this.#host = host;
  }

  async join(life: string, model: string): Promise<Loaded> {
    const { model: own, ready, endOf, onChange } = this.#host;
    const { loaded, seats } = await ready;
    if (model !== own) {
      throw new PalimpsestError(
        'EngineTaken',
        `Another tab of this site has the engine, with ${loaded.model.name}; this one asks for another model.`,
      );
    }
    const seat = (this.#seat = seats.sit());
    onChange();
    void endOf(life)
      .then(() => seat.rise())
      .catch(() => {}) // an engine that is gone keeps nobody's branches
      .then(onChange);
    return loaded;
  }

  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => unknown): Promise<Stop> {
    return handing(onToken, (hand) => this.#own().generate(prompt, sampling, hand));
  }

  stop(): void {
    this.#seat?.stop();
  }

  reset(): Promise<void> {
    return this.#own().reset();
  }

  tokenize(prompt: Prompt): Promise<number[]> {
    return this.#own().tokenize(prompt);
  }

  layers(): Promise<LayerLists> {
    return this.#own().memory.layers();
  }

  watch(watch: Watch | null, onFrame: (frame: Frame) => void): Promise<void> {
    // A callback from another tab is not to be marked as one of this tab's.
    return this.#own().memory.watch(watch, (frame) => onFrame(frame));
  }

  inspect<K extends Inquiry['kind']>(inquiry: Extract<Inquiry, { kind: K }>): Promise<Answers[K]> {
    return this.#own().memory.inspect<K>(inquiry);
  }

  branches(): Promise<Branch[]> {
    return this.#own().memory.branches();
  }

  fork(position: number, token: number | null, interventions: Intervention[]): Promise<Branch> {
    return this.#own().memory.fork(position, token, interventions);
  }

  select(branch: number): Promise<void> {
    return this.#own().memory.select(branch);
  }

  beginBranch(): Promise<Branch> {
    return this.#own().memory.beginBranch();
  }

  dropBranches(branches: number[]): Promise<void> {
    return this.#own().memory.dropBranches(branches);
  }

  exportBranch(): Promise<ArrayBuffer | null> {
    return this.#own().memory.exportBranch();
  }

  importBranch(state: ArrayBuffer): Promise<Branch> {
    return this.#own().memory.importBranch(state);
  }

  proceed(sampling: Sampling, onToken: (t: Token) => unknown): Promise<Stop> {
    return handing(onToken, (hand) => this.#own().memory.proceed(sampling, hand));
  }

  compare(a: number, b: number): Promise<Float32Array> {
    return this.#own().memory.compare(a, b);
  }

  difference(a: number, b: number, layer: number, head: number): Promise<Float32Array> {
    return this.#own().memory.difference(a, b, layer, head);
  }

  #own(): Seat {
    if (this.#seat) return this.#seat;
    throw new PalimpsestError('Refused', 'This tab has no seat at the engine. Join first.');
  }
}

/** Tokens go another way than the answer's end or failure: that waits until the last of them has been taken. */
async function handing(
  onToken: (t: Token) => unknown,
  work: (hand: (t: Token) => void) => Promise<Stop>,
): Promise<Stop> {
  let taken: Promise<unknown> = Promise.resolve();
  try {
    return await work((token) => void (taken = Promise.all([taken, onToken(token)])));
  } finally {
    await taken;
  }
}

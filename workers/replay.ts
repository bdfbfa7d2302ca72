/**
 * Going back: the present line's state at any earlier token, by restoring the nearest snapshot and taking in the rest
 * exactly as it was. What is present is put aside first and stands again afterwards, bit for bit.
 */
import type { Branches, Line } from './branches.ts';
import type { ModelConfig } from './config.ts';
import type { Gpu, Tensor } from './gpu.ts';
import type { Model, Plans } from './model.ts';
import { CHUNK_TOKENS, type Piece } from './path.ts';
import type { Rows, State } from './state.ts';

/** Calls handed to the GPU before it is waited for, so that no queue grows. */
const CALLS_AHEAD = 32;

/** What a replay does beside repeating. */
export interface Visit {
  /** Runs all calls instead of plans without probes: the same numbers, with taps in them. */
  plans: Plans | null;
  /** Before and after each call, which takes in tokens up to `end`. */
  before: (end: number) => Promise<void> | void;
  after: (end: number) => Promise<void> | void;
}

export class Replay {
  readonly #gpu: Gpu;
  readonly #model: Model;
  readonly #state: State;
  readonly #branches: Branches;
  readonly #aside: { best: Tensor; seen: Tensor };
  /** Plans that nobody looks into; null until used. */
  #plans: Plans | null = null;
  /** While going back: cache rows that were put aside, [first, end) in all. */
  #spared: Rows[] = [];
  #away = false;

  constructor(gpu: Gpu, config: ModelConfig, model: Model, state: State, branches: Branches) {
    this.#gpu = gpu;
    this.#model = model;
    this.#state = state;
    this.#branches = branches;
    this.#aside = {
      best: gpu.tensor('scratch', 'best, put aside', [4]),
      seen: gpu.tensor('scratch', 'seen, put aside', [config.vocabulary]),
    };
  }

  /** The buffers or the interventions of the present line have changed. */
  stale(): void {
    this.#plans = null;
  }

  /** Do something with the state, which may be taken back by `goTo`; then everything is again as it was. */
  async away<T>(present: Plans, work: () => Promise<T>): Promise<T> {
    const { position } = this.#state;
    const end = await this.#gpu.guard('the memory, put aside', () => this.#state.snapshot());
    this.#model.suspend(this.#aside);
    this.#away = true;
    try {
      return await work();
    } finally {
      for (const rows of this.#spared) {
        this.#state.putRows(rows);
        this.#state.drop(rows);
      }
      this.#spared = [];
      this.#away = false;
      this.#state.restore(end);
      this.#state.drop(end);
      this.#state.position = position;
      this.#model.resume(this.#aside);
      this.#model.use(present);
    }
  }

  /** Bring the state to where the present line had taken in `to` tokens. */
  async goTo(to: number, visit: Visit | null = null, from = to): Promise<void> {
    const line = this.#branches.present;
    if (this.#state.position === to && from === to) return;
    const start = this.#nearest(line, Math.min(from, to));
    if (this.#away) this.#spare(start, to);
    let calls = 0;
    for (const call of line.path.calls(start, to)) {
      this.#model.use(visit?.plans ?? (await this.#ownPlans()));
      const step = call.route === 'chunk' ? call.tokens : 1;
      for (let at = call.position; at < call.position + call.tokens; at += step) {
        await visit?.before(at + step);
        this.#take(line, at, call, Boolean(visit?.plans));
        await visit?.after(at + step);
        if (++calls % CALLS_AHEAD === 0) await this.#gpu.idle();
      }
    }
  }

  /**
   * Bring the state to `to` tokens, the last call of the way by `plans`; for what passes through the token before `to`.
   */
  async goLookAt(to: number, plans: Plans): Promise<void> {
    const line = this.#branches.present;
    const last = [...line.path.calls(this.#boundary(line, to - 1), to)].at(-1)!;
    const start = last.route === 'chunk' ? last.position : to - 1;
    if (this.#state.position !== start) await this.goTo(start);
    if (this.#away) this.#spare(start, to);
    this.#model.use(plans);
    this.#take(line, start, { ...last, tokens: to - start }, true);
  }

  /** The last place at or before `position` where a call may begin. */
  #boundary(line: Line, position: number): number {
    for (let at = position; at > position - CHUNK_TOKENS && at > 0; at--) {
      if (line.path.mayRest(at)) return at;
    }
    return Math.max(0, position - CHUNK_TOKENS + 1);
  }

  #take(line: Line, at: number, { route, tokens }: Piece, logits: boolean): void {
    line.changes?.apply(at);
    const ids = line.history.slice(at, at + tokens);
    if (route === 'chunk' && logits) this.#model.study(ids, at);
    else if (route === 'chunk') this.#model.prefill(ids, at);
    else this.#model.repeatStep(line.history[at]!, at);
    this.#state.position = at + (route === 'chunk' ? tokens : 1);
  }

  async #ownPlans(): Promise<Plans> {
    const changes = this.#branches.present.changes?.table ?? null;
    return (this.#plans ??= await this.#model.plan(this.#state, { tap: null, changes }));
  }

  /** Restore the last state at or before `position` that a call began or ended with. */
  #nearest(line: Line, position: number): number {
    let best = null;
    for (const snapshot of [...line.checkpoints, ...line.snapshots]) {
      const fits = snapshot.position <= position && line.path.mayRest(snapshot.position);
      if (fits && snapshot.position > (best?.position ?? 0)) best = snapshot;
    }
    if (best) this.#state.restore(best);
    else this.#state.clear();
    return this.#state.position;
  }

  /** Put those cache rows of [first, end) aside that are the present line's and not yet aside. */
  #spare(first: number, end: number): void {
    const { length } = this.#branches.present.history;
    const aside = this.#spared.map((rows) => [rows.first, rows.first + rows.count] as const);
    const from = Math.min(...aside.map(([a]) => a), Infinity);
    const to = Math.max(...aside.map(([, b]) => b), -Infinity);
    const parts =
      aside.length === 0
        ? [[first, end]]
        : [
            [first, from],
            [to, end],
          ];
    for (const [a, b] of parts as [number, number][]) {
      if (Math.min(b, length) > a) this.#spared.push(this.#state.keepRows(a, Math.min(b, length)));
    }
  }
}

/**
 * A second speaker, asked the same prompts as the one of the conversation, to compare. Its answers stand beside the
 * conversation's and are no part of it: the next prompt has the first speaker's answers.
 */
/* eslint-disable svelte/prefer-svelte-reactivity -- maps are replaced, never changed, or nothing on screen reads them */
import { PalimpsestError, type Prompt, type Sampling } from '../workers/protocol.ts';
import { toAnswered, type Answered } from './conversation.ts';
import { toFailure, type Failure } from './errors.ts';
import type { Elsewhere, EngineChoice, Speaker } from './speaker.ts';

/** What the second speaker says to the prompt of one turn. */
export interface Aside {
  by: Elsewhere | null;
  text: string;
  /** It is still coming. */
  running: boolean;
  answered: Answered | null;
  failure: Failure | null;
}

const ended = new PalimpsestError('Refused', 'The second speaker was dismissed.');

export class Beside {
  /** Who is asked besides; null: nobody. */
  engine = $state.raw<EngineChoice | null>(null);
  asides = $state.raw<ReadonlyMap<number, Aside>>(new Map());
  #start: (engine: EngineChoice) => Speaker;
  #speaker: Speaker | null = null;
  #ready: Promise<Elsewhere> | null = null;
  #model = '';
  /** Answers under way, by turn: one that is asked anew speaks for itself alone. */
  #running = new Map<number, symbol>();

  constructor(start: (engine: EngineChoice) => Speaker) {
    this.#start = start;
  }

  /** True while the second speaker reads this model or has it loaded. */
  uses(model: string): boolean {
    return this.engine?.kind === 'cpu' && this.#ready !== null && model === this.#model;
  }

  /** Ask this one besides from the next prompt on; null ends it. What it said stays. */
  choose(engine: EngineChoice | null): void {
    this.#dismiss(ended);
    this.engine = engine;
  }

  stop(): void {
    this.#speaker?.stop();
    for (const id of this.#running.keys()) this.#set(id, { running: false });
    this.#running.clear();
  }

  destroy(reason: Error): void {
    this.#dismiss(reason);
  }

  /** Ask the prompt of turn `id`, if anyone is to be asked. Never throws: a failure becomes part of what is said. */
  ask(id: number, prompt: Prompt, sampling: Sampling, model: string): void {
    if (this.engine) void this.#ask(id, prompt, sampling, model, this.engine);
  }

  async #ask(
    id: number,
    prompt: Prompt,
    sampling: Sampling,
    model: string,
    engine: EngineChoice,
  ): Promise<void> {
    if (model !== this.#model && engine.kind !== 'remote') this.#dismiss(ended);
    const run = Symbol();
    const current = () => this.#running.get(id) === run;
    this.#running.set(id, run);
    this.#set(id, { by: null, text: '', running: true, answered: null, failure: null });
    try {
      const speaker = (this.#speaker ??= this.#start(engine));
      this.#model = model;
      this.#ready ??= speaker
        .load(model, () => {})
        .then((loaded) => {
          if ('device' in loaded) throw new PalimpsestError('Refused', 'There is one GPU engine.');
          return loaded;
        });
      const by = await this.#ready;
      if (!current()) return;
      this.#set(id, { by });
      const told = await speaker.generate(prompt, sampling, ({ text }) => {
        if (current()) this.#set(id, { text: (this.asides.get(id)?.text ?? '') + text });
      });
      if (!current()) return;
      this.#set(id, { text: told.text, answered: toAnswered(told, sampling, by), running: false });
    } catch (thrown) {
      if (!current()) return;
      // A speaker that did not get ready is begun anew by the next prompt.
      if (this.asides.get(id)?.by === null) this.#dismiss(ended);
      this.#set(id, { failure: toFailure(thrown), running: false });
    }
    this.#running.delete(id);
  }

  #set(id: number, change: Partial<Aside>): void {
    const before = this.asides.get(id) ?? {
      by: null,
      text: '',
      running: false,
      answered: null,
      failure: null,
    };
    this.asides = new Map(this.asides).set(id, { ...before, ...change });
  }

  #dismiss(reason: Error): void {
    this.stop();
    this.#speaker?.destroy(reason);
    this.#speaker = null;
    this.#ready = null;
  }
}

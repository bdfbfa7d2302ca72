/**
 * The conversation over a reload of the page: the engine's worker stores the page's account of it beside the state. One
 * tab of a site does this, the first that is open; others would write over it.
 */
import { untrack } from 'svelte';
import type { BookmarkApi } from '../workers/protocol.ts';
import { type Account, readAccount, writeAccount } from './account.ts';

/** After a change, and at most this often while an answer is written. */
const settledMs = 300;
const writingMs = 5000;

/** How long a page waits for the one before it to let go. */
const handoverMs = 1500;

export class Bookmark {
  /** What is to be said about it; '' while all is well. */
  note = $state.raw('');
  readonly #api: () => BookmarkApi | null;
  /** What was said of the state that an engine took up. */
  #ofState = '';
  #mine = false;
  #storing: Promise<void> = Promise.resolve();
  #timer = 0;
  #release: () => void = () => {};

  /** `api` gives the way to the engine's worker of the moment; null where another speaker answers. */
  constructor(api: () => BookmarkApi | null) {
    this.#api = api;
  }

  /** The account of the page before this one; null where there is none. From here on this tab stores its own. */
  async open(): Promise<Account | null> {
    const mine = await this.#claim();
    if (!mine) return null;
    const text = await this.#read();
    this.#mine = true; // not before: an empty page would be stored in its place
    if (typeof text !== 'string') return null;
    const account = readAccount(text);
    if (!account)
      this.note = 'The conversation of your last visit was stored otherwise and is gone.';
    return account;
  }

  /** Who answers may change meanwhile, as where there is no WebGPU: then whoever answers from then on reads it. */
  async #read(): Promise<string | null> {
    for (;;) {
      const api = this.#api();
      const text = await api?.account().catch(() => null);
      if (typeof text === 'string' || api === this.#api()) return text ?? null;
    }
  }

  /** Have a freshly loaded engine take up the stored state. Never throws. */
  async takeUp(): Promise<void> {
    if (!this.#mine) return;
    try {
      await this.#storing;
      this.#ofState = (await this.#api()?.takeUp())?.note ?? '';
    } catch (thrown) {
      this.#ofState = `The stored memory was not taken up: ${(thrown as Error).message}`;
    }
    this.note = this.#ofState;
  }

  /**
   * Store whatever `account` gives, whenever it changes; call inside an effect root. What was said of a state is not said
   * any more once something is written, or nothing of the text is left.
   */
  follow(account: () => { account: Account; writing: boolean }): void {
    let stored = '';
    let storedMs = -Infinity;
    $effect(() => {
      const { account: present, writing } = account();
      const { conversation, paper } = present;
      if (writing || (conversation.nodes.size === 0 && paper.prompt === '')) this.#passOver();
      window.clearTimeout(this.#timer);
      const waitMs = writing ? storedMs + writingMs - performance.now() : settledMs;
      this.#timer = window.setTimeout(
        () => {
          const text = writeAccount(present);
          if (!this.#mine || text === stored) return;
          stored = text;
          storedMs = performance.now();
          this.#storing = this.#store(text);
        },
        Math.max(0, waitMs),
      );
    });
  }

  #passOver(): void {
    if (untrack(() => this.note) === this.#ofState) this.note = '';
  }

  destroy(): void {
    window.clearTimeout(this.#timer);
    this.#release();
  }

  async #store(text: string): Promise<void> {
    try {
      this.note = (await this.#api()?.store(text, null)) ?? this.note;
    } catch (thrown) {
      this.note = `This conversation does not outlive a reload: ${(thrown as Error).message}`;
    }
  }

  /** Whether this tab is the one that stores. Without locks (no secure page) there is no telling, and none does. */
  async #claim(): Promise<boolean> {
    if (!('locks' in navigator)) return false;
    return new Promise((claimed) => {
      const held = new Promise<void>((resolve) => (this.#release = resolve));
      const hold = () => {
        claimed(true);
        return held;
      };
      const signal = AbortSignal.timeout(handoverMs);
      const asked = navigator.locks.request('palimpsest conversation', { signal }, hold);
      asked.catch(() => claimed(false));
    });
  }
}

/**
 * The spans of pieces in memory, so many at most: the one being read and, when reads go forward, those that come from the disk
 * and are hashed. Others wait for a place.
 */
import { freeBytes } from './store.ts';
import type { Clock } from './transfer.ts';

interface Resident {
  bytes: Promise<ArrayBuffer>;
  /** Those who wait for it or copy from it. */
  readers: number;
}

/** So long after the last read the memory is given back. */
const idleMs = 5_000;

export class Residents {
  #clock: Clock;
  #most: number;
  /** Least recently used first. */
  #pieces = new Map<string, Resident>();
  /** Called when a piece has lost a reader. */
  #waiting: (() => void)[] = [];
  /** Ends the wait for idleness. */
  #restless = new AbortController();

  constructor(clock: Clock, most: number) {
    this.#clock = clock;
    this.#most = most;
  }

  /** Whether a piece is here, or on its way. */
  has(key: string): boolean {
    return this.#pieces.has(key);
  }

  /** What `use` makes of a piece, loaded if it is not there. `use` keeps nothing of the bytes. Fails as `load`. */
  async with<T>(
    key: string,
    load: () => Promise<ArrayBuffer>,
    use: (bytes: ArrayBuffer) => T,
  ): Promise<T> {
    let piece = this.#pieces.get(key);
    while (!piece && !this.#makeRoom()) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
      piece = this.#pieces.get(key);
    }
    piece ??= { bytes: load(), readers: 0 };
    piece.readers++;
    this.#pieces.delete(key);
    this.#pieces.set(key, piece);
    try {
      return use(await piece.bytes);
    } catch (cause) {
      if (this.#pieces.get(key) === piece) this.#pieces.delete(key);
      throw cause;
    } finally {
      piece.readers--;
      for (const wake of this.#waiting.splice(0)) wake();
      this.#awaitIdleness();
    }
  }

  /**
   * Begin to load a piece that will be wanted, if there is room without taking it from a reader. One that is here already
   * counts as used: it stays longer than those that nobody will want.
   */
  ahead(key: string, load: () => Promise<ArrayBuffer>): void {
    const here = this.#pieces.get(key);
    if (here) {
      this.#pieces.delete(key);
      this.#pieces.set(key, here);
    }
    if (here || !this.#makeRoom()) return;
    const piece = { bytes: load(), readers: 0 };
    this.#pieces.set(key, piece);
    piece.bytes.catch(() => {
      if (this.#pieces.get(key) === piece) this.#pieces.delete(key); // whoever reads it is told
    });
  }

  /** Let go of all pieces whose key begins so and that nobody reads. */
  forget(prefix: string): void {
    for (const [key, { readers }] of this.#pieces) {
      if (key.startsWith(prefix) && readers === 0) this.#forget(key);
    }
  }

  /** True if one more piece may be in memory; the one unused for longest makes place. */
  #makeRoom(): boolean {
    if (this.#pieces.size < this.#most) return true;
    for (const [key, { readers }] of this.#pieces) {
      if (readers > 0) continue;
      this.#forget(key);
      return true;
    }
    return false;
  }

  #forget(key: string): void {
    const piece = this.#pieces.get(key);
    this.#pieces.delete(key);
    piece?.bytes.then(freeBytes, () => {}); // nobody waits for it
  }

  #awaitIdleness(): void {
    this.#restless.abort();
    const restless = new AbortController();
    this.#restless = restless;
    void this.#clock.sleep(idleMs, restless.signal).then(() => {
      if (this.#restless === restless) this.forget('');
    });
  }
}

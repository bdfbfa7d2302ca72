/**
 * The store on the disk as several threads read it: each gets spans out of IndexedDB by a connection of its own, hashes them,
 * and hands over what is right. They are started when reads come, one for each that finds no other idle, and ended when none
 * has come for a while. What a thread fails to do, for being refused or ended, is done by this one.
 */
import { releaseProxy, wrap, type Remote } from 'comlink';
import { Store, type Shelf } from './store.ts';
import type { Clock } from './transfer.ts';

/** What a reading thread exposes; what it answers is transferred. */
export interface ReaderApi {
  sound: Store['sound'];
}

interface Thread {
  worker: Worker;
  reader: Remote<ReaderApi>;
  /** Ends each read under way, when the worker has died. */
  waiting: Set<(cause: Error) => void>;
}

/** So long after the last read threads are ended. */
const idleMs = 5_000;

export class ReadersStore extends Store {
  readonly #clock: Clock;
  readonly #start: () => Worker;
  #most: number;
  #threads: Thread[] = [];
  /** Ends the wait for idleness. */
  #restless = new AbortController();

  /** At most `most` threads, each a worker that `start` starts and that exposes ReaderApi. */
  constructor(shelf: Shelf, clock: Clock, most: number, start: () => Worker) {
    super(shelf);
    this.#clock = clock;
    this.#most = most;
    this.#start = start;
  }

  override async sound(...range: Parameters<Store['sound']>): ReturnType<Store['sound']> {
    const thread = this.#idlest();
    if (!thread) return super.sound(...range);
    try {
      return await ask(thread, range);
    } catch {
      // Its script is not to be had any more, or it was ended: the next read need not find that out again.
      this.#most = 0;
      this.#end();
      return super.sound(...range);
    } finally {
      this.#awaitIdleness();
    }
  }

  /** The thread with the least to do, a fresh one if all have something; null where there is none. */
  #idlest(): Thread | null {
    const threads = this.#threads;
    threads.sort((a, b) => a.waiting.size - b.waiting.size);
    const [idlest] = threads;
    if (idlest?.waiting.size === 0 || threads.length >= this.#most) return idlest ?? null;
    try {
      const thread = started(this.#start());
      threads.unshift(thread);
      return thread;
    } catch {
      this.#most = threads.length;
      return idlest ?? null;
    }
  }

  #awaitIdleness(): void {
    this.#restless.abort();
    const restless = new AbortController();
    this.#restless = restless;
    void this.#clock.sleep(idleMs, restless.signal).then(() => {
      if (this.#restless !== restless) return;
      // One that is still at work lets them wait once more when it is done.
      if (this.#threads.every(({ waiting }) => waiting.size === 0)) this.#end();
    });
  }

  #end(): void {
    for (const { worker, reader, waiting } of this.#threads.splice(0)) {
      reader[releaseProxy]();
      worker.terminate();
      for (const fail of waiting) fail(new Error('The reading thread was ended'));
    }
  }
}

function started(worker: Worker): Thread {
  const waiting = new Set<(cause: Error) => void>();
  worker.addEventListener('error', (event) => {
    event.preventDefault(); // its reads are done by another: nothing is lost that anybody should hear of
    for (const fail of waiting) fail(new Error(event.message));
  });
  return { worker, reader: wrap<ReaderApi>(worker), waiting };
}

function ask(
  { reader, waiting }: Thread,
  range: Parameters<Store['sound']>,
): ReturnType<Store['sound']> {
  return new Promise((resolve, reject) => {
    waiting.add(reject);
    reader
      .sound(...range)
      .then(resolve, reject)
      .finally(() => waiting.delete(reject));
  });
}

/** The library of weights as a browser's worker has it: the network, the disk, the clock and the locks of this place. */
import { transfer } from 'comlink';
import { commonStorage } from './common.ts';
import { Library } from './library.ts';
import { ReadersStore } from './readers.ts';
import { diskShelf } from './store.ts';
import { limits, type Clock, type Locks } from './transfer.ts';

const clock: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(wake, ms);
      signal.addEventListener('abort', wake);
      function wake() {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        resolve();
      }
      if (signal.aborted) wake();
    }),
};

/** A frame without an origin of its own has no locks; neither does it share anything that would need them. */
const locks: Locks = {
  async request(name, options, work) {
    let asked = false;
    try {
      return await navigator.locks.request(name, options, (lock) => {
        asked = true;
        return work(lock);
      });
    } catch (cause) {
      if (asked || (cause as Error).name !== 'SecurityError') throw cause;
      return work({ name, mode: options.mode ?? 'exclusive' });
    }
  },
};

class TransferringLibrary extends Library {
  override async read(...range: Parameters<Library['read']>): Promise<ArrayBuffer> {
    const bytes = await super.read(...range);
    return transfer(bytes, [bytes]);
  }
}

const world = {
  fetch: (address: string, init: RequestInit) => fetch(address, init),
  clock,
  locks,
  random: () => Math.random(),
  common: commonStorage(navigator),
  estimate: () => navigator.storage.estimate().catch(() => ({})),
  persisted: () => navigator.storage.persisted().catch(() => false),
};

/**
 * A shared worker may have no workers of its own (Chromium's has none): whoever reads through one reads with its thread alone.
 */
const startReader = () =>
  new Worker(new URL('./reader.worker.ts', import.meta.url), { type: 'module' });

/** Threads share the cores with the browser's own, which read the files, and with the engine. */
const usualReaders = Math.min(Math.max(navigator.hardwareConcurrency || 2, 2), 4);

/** The library in this worker's own storage, read by at most so many threads; what it hands out is transferred. */
export function browserLibrary(readers = usualReaders): Library {
  // A span for each thread and one at hand.
  const spans = Math.max(limits.spans, readers + 1);
  return new TransferringLibrary(world, { ...limits, spans }, async () => {
    return new ReadersStore(await diskShelf('palimpsest'), clock, readers, startReader);
  });
}

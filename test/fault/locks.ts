/** Web Locks for several tabs in one process. A tab that dies loses its locks, as in a browser. */
import type { Locks } from '../../workers/transfer.ts';

interface Request {
  tab: object;
  name: string;
  mode: LockMode;
  grant(lock: Lock | null): void;
}

export class FakeLocks {
  #held = new Set<Request>();
  #queue: Request[] = [];

  /** Of all that are held or asked for. */
  get names(): string[] {
    return [...this.#held, ...this.#queue].map(({ name }) => name);
  }

  /** The locks as one tab sees them, and its end. */
  tab(): Locks & { die(): void } {
    const tab = {};
    return {
      request: (name, options, work) =>
        new Promise((resolve, reject) => {
          const { mode = 'exclusive', ifAvailable = false, signal } = options;
          const aborted = () => {
            this.#queue = this.#queue.filter((other) => other !== request);
            reject(new DOMException('The request was aborted.', 'AbortError'));
          };
          if (signal?.aborted) return aborted();
          signal?.addEventListener('abort', aborted, { once: true });
          const request: Request = {
            tab,
            name,
            mode,
            grant: (lock) => {
              signal?.removeEventListener('abort', aborted);
              void Promise.resolve(lock)
                .then(work)
                .then(resolve, reject)
                .then(() => this.#release(request));
            },
          };
          this.#queue.push(request);
          this.#grant();
          if (!ifAvailable || this.#held.has(request)) return;
          this.#queue = this.#queue.filter((other) => other !== request);
          request.grant(null);
        }),
      die: () => {
        this.#queue = this.#queue.filter((request) => request.tab !== tab);
        for (const request of this.#held) if (request.tab === tab) this.#held.delete(request);
        this.#grant();
      },
    };
  }

  #release(request: Request): void {
    this.#held.delete(request);
    this.#grant();
  }

  /** In the order of the requests: one waits for all earlier ones of its name that it cannot share a lock with. */
  #grant(): void {
    const before: Request[] = [...this.#held];
    for (const request of [...this.#queue]) {
      const clash = before.some(
        ({ name, mode }) =>
          name === request.name && (mode === 'exclusive' || request.mode === 'exclusive'),
      );
      before.push(request);
      if (clash) continue;
      this.#queue = this.#queue.filter((other) => other !== request);
      this.#held.add(request);
      request.grant({ name: request.name, mode: request.mode });
    }
  }
}

/** A clock that stands still until it is moved on: waits of minutes take no time. */
import type { Clock } from '../../workers/transfer.ts';

interface Sleeper {
  until: number;
  wake(): void;
}

export class FakeClock implements Clock {
  #now = Date.UTC(2030, 0, 1);
  #sleepers: Sleeper[] = [];

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const wake = () => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      const sleeper = { until: this.#now + ms, wake };
      this.#sleepers.push(sleeper);
      signal.addEventListener('abort', wake);
    });
  }

  /** Milliseconds until the next sleeper wakes; null if none sleeps. */
  get nextMs(): number | null {
    const until = Math.min(...this.#sleepers.map((sleeper) => sleeper.until));
    return until === Infinity ? null : until - this.#now;
  }

  advance(ms: number): void {
    this.#now += ms;
    for (const { until, wake } of this.#sleepers) if (until <= this.#now) wake();
  }
}

/**
 * Settles as `work` does, and moves the clock on whenever nothing else can happen: `activity` changes with everything that
 * does, and is null while something is known to be under way.
 */
export async function passingTime<T>(
  clock: FakeClock,
  activity: () => number | null,
  work: Promise<T>,
): Promise<T> {
  let settled = false;
  const end = () => void (settled = true);
  work.then(end, end);
  let seen: number | null = null;
  let quiet = 0;
  while (!settled) {
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 1));
    // A round that took long had other work in it, and what is awaited may stand behind that.
    const idle = performance.now() - began < 5;
    const now = activity();
    quiet = now !== null && now === seen ? quiet + Number(idle) : 0;
    seen = now;
    // A few rounds, for what is between two activities: bytes in a socket, a hash.
    if (quiet >= 5) clock.advance(clock.nextMs ?? 0);
  }
  return work;
}

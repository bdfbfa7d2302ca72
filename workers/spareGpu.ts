import type { Gpu } from './gpu.ts';

/** A device that was looked at waits so long for a load: a page that is only read shall not keep a graphics card awake. */
const SPARE_MS = 10_000;

/** A device that was opened to be looked at, for a load that follows soon. */
export class SpareGpu {
  readonly #open: () => Promise<Gpu>;
  #opening: Promise<Gpu> | null = null;

  constructor(open: () => Promise<Gpu>) {
    this.#open = open;
  }

  /** The device, opened if it is not. Fails as opening does. */
  async look(): Promise<Gpu> {
    const opening = (this.#opening ??= this.#open());
    try {
      const gpu = await opening;
      void gpu.lost.then(() => this.#forget(opening));
      setTimeout(() => this.#forget(opening) && gpu.destroy(), SPARE_MS);
      return gpu;
    } catch (error) {
      this.#forget(opening);
      throw error;
    }
  }

  /** The device, from here on the caller's; another one if none waits. Fails as opening does. */
  take(): Promise<Gpu> {
    const opening = this.#opening ?? this.#open();
    this.#opening = null;
    return opening;
  }

  #forget(opening: Promise<Gpu>): boolean {
    if (this.#opening !== opening) return false;
    this.#opening = null;
    return true;
  }
}

/** Text as it streams, held back where it may be the beginning of a stop text. */
export class StopText {
  /** Everything let through so far: the answer without the stop text. */
  all = '';
  /** True once a stop text was met; what came after it is dropped. */
  ended = false;
  #held = '';
  readonly #stops: readonly string[];

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((s) => s !== '');
  }

  /** Add text; returns what may be shown now. */
  push(text: string): string {
    if (this.ended) return '';
    const pending = this.#held + text;
    const found = this.#stops.map((s) => pending.indexOf(s)).filter((at) => at >= 0);
    if (found.length > 0) {
      this.ended = true;
      this.#held = '';
      return this.#show(pending.slice(0, Math.min(...found)));
    }
    let keep = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, pending.length); n > keep; n--) {
        if (pending.endsWith(stop.slice(0, n))) keep = n;
      }
    }
    this.#held = pending.slice(pending.length - keep);
    return this.#show(pending.slice(0, pending.length - keep));
  }

  /** The stream is over: what was held back was no stop text. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return this.ended ? '' : this.#show(held);
  }

  #show(text: string): string {
    this.all += text;
    return text;
  }
}

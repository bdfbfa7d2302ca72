/**
 * How the tokens of a conversation were taken in, so that a replay can do the same: which kernels took each, and where
 * chunks began. Bits depend on both.
 */

/** chunk: by the prefill kernels, in chunks from the piece's start. step: by decode steps, one for each token. */
export type Route = 'chunk' | 'step';

/** Tokens [position, position + tokens) by one route. */
export interface Piece {
  position: number;
  tokens: number;
  route: Route;
}

/** Rows of a chunk: a prefill may be cut at any multiple of it from its start without changing a bit. */
export const CHUNK_TOKENS = 64;

/** The route of every token, from position 0 on. */
export class Path {
  #pieces: Piece[] = [];

  /** Tokens in all. */
  get end(): number {
    const last = this.#pieces.at(-1);
    return last ? last.position + last.tokens : 0;
  }

  /** The next tokens were taken in, all in one prefill call or each by one step. */
  add(tokens: number, route: Route): void {
    const last = this.#pieces.at(-1);
    const goesOn = last?.route === route && (route !== 'chunk' || last.tokens % CHUNK_TOKENS === 0);
    if (goesOn) last.tokens += tokens;
    else this.#pieces.push({ position: this.end, tokens, route });
  }

  /** Forget the tokens from `position` on. */
  cut(position: number): void {
    while (this.#pieces.length > 0 && this.#pieces.at(-1)!.position >= position) this.#pieces.pop();
    const last = this.#pieces.at(-1);
    if (last) last.tokens = Math.min(last.tokens, position - last.position);
  }

  /** The path that consists of these pieces. */
  static of(pieces: readonly Piece[]): Path {
    const path = new Path();
    path.#pieces = pieces.map((piece) => ({ ...piece }));
    return path;
  }

  get pieces(): readonly Readonly<Piece>[] {
    return this.#pieces;
  }

  copy(): Path {
    return Path.of(this.#pieces);
  }

  /** Whether the tokens before `position` end where a call may end without changing what comes after. */
  mayRest(position: number): boolean {
    const piece = this.#pieces.find(
      (p) => position >= p.position && position < p.position + p.tokens,
    );
    return piece?.route !== 'chunk' || (position - piece.position) % CHUNK_TOKENS === 0;
  }

  /** The calls that take in [from, to) as it was: chunks, and runs of steps. `from` must be a place to rest. */
  *calls(from: number, to: number): Generator<Piece> {
    for (const piece of this.#pieces) {
      const end = Math.min(to, piece.position + piece.tokens);
      for (let at = Math.max(from, piece.position); at < end;) {
        const tokens = piece.route === 'chunk' ? Math.min(CHUNK_TOKENS, end - at) : end - at;
        yield { position: at, tokens, route: piece.route };
        at += tokens;
      }
    }
  }
}

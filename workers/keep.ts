/**
 * What of the present line stands outside the GPU, so that it outlives the device: its recurrent state as it was a little
 * while ago, read back at intervals, and the cache rows up to there, of which only those that came since are read.
 * Decoding waits for none of it. What came after is taken in again (replay.ts).
 */
import type { Outline } from './branches.ts';
import type { Gpu } from './gpu.ts';
import type { RowBlock, State } from './state.ts';

/** Tokens between two readings: no replay after a loss is longer. */
const KEEP_TOKENS = 64;

/** Bytes that may stand outside the GPU; a longer conversation is taken in again from its beginning. */
const KEEP_BYTES = 512e6;

/** A state of the present line, outside the GPU. */
export interface Kept {
  readonly position: number;
  /** Words of one cache row: a device that caches in another precision cannot take the rows up. */
  readonly rowWords: number;
  readonly recurrent: Uint32Array<ArrayBuffer>;
  /** Rows [0, position) without a gap, oldest first. */
  readonly blocks: readonly RowBlock[];
}

/** A conversation as another engine can take it up. */
export interface Standing {
  readonly outline: Outline;
  readonly kept: Kept | null;
}

export class Keep {
  readonly #gpu: Gpu;
  readonly #state: State;
  /**
   * Oldest first, two at most: an answer that breaks off goes on from before its last token, and the latest state may
   * have that in it.
   */
  #states: Pick<Kept, 'position' | 'recurrent'>[] = [];
  #blocks: RowBlock[] = [];
  /** The reading under way, and how far of what it reads still holds. */
  #reading: Promise<void> | null = null;
  #holds = Infinity;

  constructor(gpu: Gpu, state: State) {
    this.#gpu = gpu;
    this.#state = state;
  }

  /** The latest state that stands outside, of those after at most `most` tokens; null where there is none. */
  kept(most: number): Kept | null {
    const state = this.#states.findLast(({ position }) => position <= most);
    if (!state) return null;
    const { rowWords } = this.#state;
    return { ...state, rowWords, blocks: upTo(this.#blocks, state.position) };
  }

  /** Between two calls: read the state back if it is time. */
  rest(): void {
    if (this.#state.position - this.#last >= KEEP_TOKENS) this.take();
  }

  /** Read the state back now, unless a reading is under way. */
  take(): void {
    if (!this.#mayTake()) return;
    this.#holds = Infinity;
    this.#reading = this.#read().finally(() => (this.#reading = null));
  }

  /** Resolves when no reading is under way. */
  async settled(): Promise<void> {
    while (this.#reading) await this.#reading;
  }

  /** Tokens from `position` on no longer hold. */
  forget(position: number): void {
    this.#holds = Math.min(this.#holds, position);
    this.#blocks = upTo(this.#blocks, position);
    this.#states = this.#states.filter((state) => state.position <= position);
  }

  /** What was put back into a state is still kept. */
  resume({ position, recurrent, blocks }: Kept): void {
    this.#states = [{ position, recurrent }];
    this.#blocks = [...blocks];
  }

  #mayTake(): boolean {
    const { position, recurrentWords, rowWords, cacheCount } = this.#state;
    const words = recurrentWords + position * rowWords * cacheCount;
    return !this.#reading && position !== this.#last && 4 * words <= KEEP_BYTES;
  }

  get #last(): number {
    return this.#states.at(-1)?.position ?? 0;
  }

  async #read(): Promise<void> {
    const first = this.#blocks.at(-1)?.end ?? 0;
    try {
      const { position, recurrent, rows } = await this.#state.readBack(
        Math.min(first, this.#state.position),
      );
      if (this.#holds < position) return; // the conversation went back meanwhile
      if (rows.end > rows.first) this.#blocks.push(rows);
      this.#states = [...this.#states.slice(-1), { position, recurrent }];
    } catch (error) {
      // Whoever waits for the GPU tells of a loss. Without room for a readback the last state stays the one that is kept.
      if ((error as Error).name === 'OutOfMemory' || (await this.#gpu.isLost())) return;
      throw error;
    }
  }
}

/** Blocks cut to the rows before `end`. */
function upTo(blocks: readonly RowBlock[], end: number): RowBlock[] {
  return blocks.flatMap((block) => {
    if (block.first >= end) return [];
    if (block.end <= end) return [block];
    const share = (end - block.first) / (block.end - block.first);
    const layers = block.layers.map((words) => words.subarray(0, words.length * share));
    return [{ first: block.first, end, layers }];
  });
}

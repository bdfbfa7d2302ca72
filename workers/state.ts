/**
 * The memory of one conversation on the GPU: recurrent matrices and convolution tails of the KDA layers (constant size),
 * latent caches of the MLA layers (one row a token). Snapshots keep the recurrent part; cache rows stay where they are.
 */
import { latentBytesPerToken, type ModelConfig } from './config.ts';
import { type Copy, type Gpu, PART_ELEMENTS, type Stretch, type Tensor } from './gpu.ts';
import { dequantize } from './quant.ts';

/** What a KDA layer remembers. */
export interface KdaState {
  kind: 'kda';
  /** [H, K, V] f32, V fastest: with the tails a part of a buffer of all layers, since a call costs the processor by the buffer. */
  memory: Tensor;
  /** [taps - 1, C] raw convolution inputs, oldest first; C = H (2K + V), q | k | v. */
  tails: Tensor;
}

/** How a latent cache holds its numbers: f16 halves it, at an error of some 1e-4 in the logits. */
export type CacheNumbers = 'f32' | 'f16';

/** What an MLA layer caches: rows of [latent, shared key], cut into segments of growing length. */
export interface MlaState {
  kind: 'mla';
  numbers: CacheNumbers;
  segments: Tensor[];
}

/** Rows [first, first + rows) of every latent cache. */
export interface Segment {
  first: number;
  rows: number;
}

/** The recurrent part of a state after `position` tokens. */
export interface Snapshot {
  readonly position: number;
  readonly tensors: readonly Tensor[];
  readonly bytes: number;
}

/** Cache rows of the tokens [first, first + count), put aside. */
export interface Rows {
  readonly first: number;
  readonly count: number;
  /** One per MLA layer: [count, latent + shared key]. */
  readonly tensors: readonly Tensor[];
  readonly bytes: number;
}

/** A state read back, to stand outside the GPU: after `position` tokens, with cache rows from `first` on. */
export interface ReadState {
  readonly position: number;
  /** Memory and tails of each KDA layer in turn, as words. */
  readonly recurrent: Uint32Array<ArrayBuffer>;
  readonly rows: RowBlock;
}

/** Cache rows [first, end) outside the GPU: of each MLA layer [end - first, row words]. */
export interface RowBlock {
  readonly first: number;
  readonly end: number;
  readonly layers: readonly Uint32Array<ArrayBuffer>[];
}

/** Bytes that the first segment of a latent cache may take: one token's attention makes a call for each segment. */
const FIRST_SEGMENT_BYTES = 8 * 1024 * 1024;

/** Rows of the first segment, a power of two; whoever knows that more will be used says so. */
function firstRowsFor(rowBytes: number): number {
  return 2 ** Math.floor(Math.log2(FIRST_SEGMENT_BYTES / rowBytes));
}

/**
 * How rows for `contextLimit` tokens are cut: the first segment has `firstRows`, each further one doubles what is there, none
 * passes what can be bound. Growing adds a segment and never copies.
 */
export function segmentsFor(
  contextLimit: number,
  rowBytes: number,
  bindingBytes: number,
  firstRows: number,
): Segment[] {
  const most = Math.floor(bindingBytes / rowBytes);
  const segments: Segment[] = [];
  for (let first = 0; first < contextLimit;) {
    const rows = Math.min(Math.max(firstRows, first), most, contextLimit - first);
    segments.push({ first, rows });
    first += rows;
  }
  return segments;
}

function latentRowBytes({ mla }: ModelConfig, numbers: CacheNumbers): number {
  return (mla.latent + mla.sharedKey) * (numbers === 'f16' ? 2 : 4);
}

/** The state of one conversation. `position` = tokens it has taken in. */
export class State {
  position = 0;
  readonly layers: readonly (KdaState | MlaState)[];
  /** All segments that the context limit allows; the first `allocated` have buffers. */
  readonly segments: readonly Segment[];
  /** Words of one row of one latent cache, and of all that is recurrent. */
  readonly rowWords: number;
  readonly recurrentWords: number;
  readonly #gpu: Gpu;
  /** The buffers in which all memories and tails lie. */
  readonly #recurrentBuffers: Tensor[] = [];
  /** They, as the last step found them; null until a step puts them aside. */
  #beforeStep: Tensor[] | null = null;

  constructor(
    gpu: Gpu,
    config: ModelConfig,
    contextLimit: number,
    numbers: CacheNumbers,
    firstRows = firstRowsFor(latentRowBytes(config, numbers)),
  ) {
    this.#gpu = gpu;
    this.rowWords = latentRowBytes(config, numbers) / 4;
    const { maxBindingBytes } = gpu.report;
    this.segments = segmentsFor(contextLimit, 4 * this.rowWords, maxBindingBytes, firstRows);
    const { heads: H } = config;
    const { keys: K, values: V, taps } = config.kda;
    const memoryWords = aligned(H * K * V);
    const layerWords = memoryWords + aligned((taps - 1) * H * (2 * K + V));
    let left = config.layers.filter(({ kind }) => kind === 'kda').length;
    const most = Math.max(1, Math.floor(maxBindingBytes / (4 * layerWords)));
    let next = most; // of the layers in the last buffer
    this.layers = config.layers.map((layer, i): KdaState | MlaState => {
      if (layer.kind === 'mla') return { kind: 'mla', numbers, segments: [] };
      if (next === most) {
        const shape = [Math.min(most, left), layerWords];
        this.#recurrentBuffers.push(gpu.tensor('recurrent', 'memories and tails', shape));
        next = 0;
      }
      const whole = this.#recurrentBuffers.at(-1)!;
      const at = next++ * layerWords;
      left--;
      return {
        kind: 'kda',
        memory: gpu.part(whole, `layer ${i} memory`, at, [H, K, V]),
        tails: gpu.part(whole, `layer ${i} tails`, at + memoryWords, [taps - 1, H * (2 * K + V)]),
      };
    });
    this.recurrentWords = this.#recurrent().reduce((sum, t) => sum + t.bytes / 4, 0);
  }

  get contextLimit(): number {
    const last = this.segments.at(-1)!;
    return last.first + last.rows;
  }

  /** MLA layers, each of which has a latent cache. */
  get cacheCount(): number {
    return this.#caches().length;
  }

  /** Segments that have buffers. */
  get allocated(): number {
    const mla = this.layers.find((l) => l.kind === 'mla');
    return mla ? mla.segments.length : this.segments.length;
  }

  /** Segments that so many tokens need. */
  segmentsFor(tokens: number): number {
    return this.segments.filter((s) => s.first < tokens).length;
  }

  /** Make room for `tokens` in all; plans must bind the segments added. Call within `gpu.guard`. */
  reserve(tokens: number): void {
    for (let s = this.allocated; s < this.segmentsFor(tokens); s++) {
      this.layers.forEach((layer, i) => {
        if (layer.kind !== 'mla') return;
        const shape = [this.segments[s]!.rows, this.rowWords];
        layer.segments.push(this.#gpu.tensor('latent', `layer ${i} latents ${s}`, shape));
      });
    }
  }

  /** Forget everything. Cache rows past `position` are never read, so they need no clearing. */
  clear(): void {
    this.#gpu.clear(this.#recurrentBuffers);
    this.position = 0;
  }

  /** What puts the recurrent part aside, for `stepBack`: to stand before the calls of a step. */
  putAside(): Copy[] {
    this.#beforeStep ??= this.#recurrentBuffers.map(({ name, shape }) =>
      this.#gpu.tensor('scratch', `${name} before the last step`, shape),
    );
    return this.#recurrentBuffers.map((from, i) => {
      const to = this.#beforeStep![i]!;
      return { from, to, toElement: 0, perToken: from.bytes / 4 };
    });
  }

  /** Take the last step back, which began with `putAside`. */
  stepBack(): void {
    this.#recurrentBuffers.forEach((to, i) =>
      this.#gpu.copy(this.#beforeStep![i]!, 0, to, 0, to.bytes / 4),
    );
    this.position--;
  }

  /** Keep the recurrent part as it is after all submitted work. Release it with `drop`. */
  snapshot(): Snapshot {
    const tensors = this.#recurrentBuffers.map((from) => {
      const to = this.#gpu.tensor('snapshots', `${from.name} at ${this.position}`, from.shape);
      this.#gpu.copy(from, 0, to, 0, from.bytes / 4);
      return to;
    });
    const bytes = tensors.reduce((sum, t) => sum + t.bytes, 0);
    return { position: this.position, tensors, bytes };
  }

  /** A KDA layer's memory as a snapshot has it. */
  memoryIn(snapshot: Snapshot, layer: number): Tensor {
    const { memory } = this.layers[layer] as KdaState;
    const place = this.#recurrentBuffers.findIndex(({ buffer }) => buffer === memory.buffer);
    return this.#gpu.part(snapshot.tensors[place]!, memory.name, memory.offset / 4, memory.shape);
  }

  /** Go back to a snapshot. The cache rows before its position must be those it was taken with. */
  restore(snapshot: Snapshot): void {
    this.#recurrentBuffers.forEach((to, i) =>
      this.#gpu.copy(snapshot.tensors[i]!, 0, to, 0, to.bytes / 4),
    );
    this.position = snapshot.position;
  }

  /** Put cache rows [first, end) aside as they are after all submitted work. Release them with `drop`. */
  keepRows(first: number, end: number): Rows {
    const count = end - first;
    const tensors = this.#caches().map((segments, i) => {
      const to = this.#gpu.tensor('latent', `rows ${i} from ${first}`, [count, this.rowWords]);
      this.#eachStretch(first, count, (s, row, at, rows) => {
        const n = this.rowWords;
        this.#gpu.copy(segments[s]!, row * n, to, at * n, rows * n);
      });
      return to;
    });
    return { first, count, tensors, bytes: tensors.reduce((sum, t) => sum + t.bytes, 0) };
  }

  /** Put rows back where they were. Their segments must be there. */
  putRows({ first, count, tensors }: Rows): void {
    this.#caches().forEach((segments, i) =>
      this.#eachStretch(first, count, (s, row, at, rows) => {
        const n = this.rowWords;
        this.#gpu.copy(tensors[i]!, at * n, segments[s]!, row * n, rows * n);
      }),
    );
  }

  /** Cache rows [0, end) of an MLA layer, [end, latent + shared key], read back. */
  async readRows(layer: number, end: number): Promise<Float32Array> {
    const cache = this.layers[layer];
    if (cache?.kind !== 'mla') throw new Error(`layer ${layer} has no latent cache`);
    const n = this.rowWords;
    const all = new Uint32Array(end * n);
    const reads: Promise<void>[] = [];
    this.#eachStretch(0, end, (s, row, at, rows) => {
      const read = this.#gpu.read(cache.segments[s]!, row * n, rows * n);
      reads.push(read.then((bytes) => all.set(new Uint32Array(bytes), at * n)));
    });
    await Promise.all(reads);
    const bytes = new Uint8Array(all.buffer);
    return cache.numbers === 'f32'
      ? new Float32Array(all.buffer)
      : dequantize('F16', bytes, bytes.length / 2);
  }

  /** The state as it is after all submitted work, with cache rows from `first` on. Decoding need not wait for it. */
  async readBack(first: number): Promise<ReadState> {
    const { position, rowWords: n } = this;
    const whole = (tensor: Tensor): Stretch => ({ tensor, element: 0, count: tensor.bytes / 4 });
    const stretches: Stretch[] = [];
    for (const segments of this.#caches()) {
      this.#eachStretch(first, position - first, (s, row, _, rows) =>
        stretches.push({ tensor: segments[s]!, element: row * n, count: rows * n }),
      );
    }
    // Apart, so that what is long is copied once and neither keeps the other.
    const [recurrent, words] = (
      await this.#gpu.readApart([this.#recurrent().map(whole), stretches])
    ).map((bytes) => new Uint32Array(bytes));
    const layerWords = (position - first) * n;
    const layers = this.#caches().map((_, i) => words!.slice(i * layerWords, (i + 1) * layerWords));
    return { position, recurrent: recurrent!, rows: { first, end: position, layers } };
  }

  /** Take a state's numbers up again. Room for its rows must have been made. */
  writeBack(position: number, recurrent: Uint32Array, blocks: readonly RowBlock[]): void {
    let from = 0;
    for (const tensor of this.#recurrent()) {
      this.#gpu.write(tensor, 0, recurrent.subarray(from, from + tensor.bytes / 4));
      from += tensor.bytes / 4;
    }
    const n = this.rowWords;
    for (const { first, end, layers } of blocks) {
      this.#caches().forEach((segments, i) =>
        this.#eachStretch(first, end - first, (s, row, at, rows) =>
          this.#gpu.write(segments[s]!, row * n, layers[i]!.subarray(at * n, (at + rows) * n)),
        ),
      );
    }
    this.position = position;
  }

  /** Free a snapshot, or rows. */
  drop(kept: { readonly tensors: readonly Tensor[] }): void {
    for (const tensor of kept.tensors) this.#gpu.release(tensor);
  }

  /** Free all that the state itself holds. */
  destroy(): void {
    const caches = this.#caches().flat();
    for (const tensor of [...this.#recurrentBuffers, ...(this.#beforeStep ?? []), ...caches])
      this.#gpu.release(tensor);
  }

  #caches(): Tensor[][] {
    return this.layers.flatMap((l) => (l.kind === 'mla' ? [l.segments] : []));
  }

  /** The parts of [first, first + count) by segment: its index, the row in it, the row in the stretch, how many. */
  #eachStretch(
    first: number,
    count: number,
    visit: (segment: number, row: number, at: number, rows: number) => void,
  ): void {
    this.segments.forEach((segment, s) => {
      const from = Math.max(first, segment.first);
      const rows = Math.min(first + count, segment.first + segment.rows) - from;
      if (rows > 0) visit(s, from - segment.first, from - first, rows);
    });
  }

  #recurrent(): Tensor[] {
    return this.layers.flatMap((l) => (l.kind === 'kda' ? [l.memory, l.tails] : []));
  }
}

function aligned(words: number): number {
  return PART_ELEMENTS * Math.ceil(words / PART_ELEMENTS);
}

/** Bytes that the latent cache of a conversation may grow to: WebGPU does not say how much memory a GPU has. */
const CACHE_BYTES = { gpu: 2 ** 31, software: 2 ** 28 };

/** Tokens that a conversation may hold: as the file states, as asked for, and as the cache has room for, in f16 if need be. */
export function contextFor(
  config: ModelConfig,
  software: boolean,
  contextTokens: number,
): { limit: number; numbers: CacheNumbers } {
  const wanted = Math.min(config.contextTrained, contextTokens);
  const bytes = CACHE_BYTES[software ? 'software' : 'gpu'];
  const numbers = wanted * latentBytesPerToken(config, 4) > bytes ? 'f16' : 'f32';
  const room = Math.floor(bytes / latentBytesPerToken(config, numbers === 'f16' ? 2 : 4));
  return { limit: Math.min(wanted, room), numbers };
}

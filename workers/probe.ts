/**
 * Taps into the forward pass, and what their kernels leave: records of every token in a ring, histories of layers, and
 * pictures made on demand. Nothing here changes a number that the model computes.
 */
import type { ModelConfig } from './config.ts';
import type { Call, Gpu, Program, Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import { halfLife, type Heads, norm, type Rows } from './measures.ts';
import type { Site, Tap } from './plan.ts';
import { type Segment, segmentsFor, type State } from './state.ts';

/** Tokens whose records wait on the GPU to be read. More than one call takes in. */
export const RING = 256;
/** Best next tokens told with each token. */
const BEST = 5;
/** Value columns that one workgroup of probe_trace takes. */
const COLUMNS = 32;

/** What one token did, as read back: see TokenRecord, whose arrays these are. */
export interface Trace {
  position: number;
  written: Float32Array;
  writeStrength: Float32Array;
  known: Float32Array;
  halfLife: Float32Array;
  energy: Float32Array;
  experts: Uint32Array;
  expertWeights: Float32Array;
  best: { id: number; logprob: number }[];
  entropy: number;
}

/** Rows of the stream and of whatever else passes through the last token of a call. */
export interface Sight {
  /** [layers, D]: the residual stream after each layer. */
  stream: Tensor;
  /** Values by `${site} ${layer}`. */
  read(site: Site, layer: number): Promise<ArrayBuffer>;
}

/** Rows of a history's first segment. */
const FIRST_ROWS = 2048;

/** What one KDA layer read and wrote at every token so far: rows of [q | k | v | g | u | beta], see measures.ts. */
export class History {
  readonly layer: number;
  readonly words: number;
  /** Tokens [0, upTo) are in it, once all submitted work is done. */
  upTo = 0;
  readonly segments: { segment: Segment; rows: Tensor; recall: Tensor; found: Tensor }[] = [];
  readonly #gpu: Gpu;
  readonly #cuts: readonly Segment[];
  readonly #heads: number;

  constructor(gpu: Gpu, sizes: Heads, layer: number, contextLimit: number) {
    this.#gpu = gpu;
    this.layer = layer;
    this.words = K.historyWords(sizes);
    this.#heads = sizes.H;
    const { maxBindingBytes } = gpu.report;
    this.#cuts = segmentsFor(contextLimit, 4 * this.words, maxBindingBytes, FIRST_ROWS);
  }

  get bytes(): number {
    const all = this.segments.flatMap(({ rows, recall, found }) => [rows, recall, found]);
    return all.reduce((sum, t) => sum + t.bytes, 0);
  }

  /** Make room for so many tokens; true if plans must bind a segment that was added. */
  reserve(tokens: number): boolean {
    let added = false;
    for (const segment of this.#cuts.slice(this.segments.length)) {
      if (segment.first >= tokens) break;
      const name = `history of layer ${this.layer} from ${segment.first}`;
      const tensor = (what: string, width: number) =>
        this.#gpu.tensor('scratch', `${what} ${name}`, [segment.rows, width]);
      this.segments.push({
        segment,
        rows: tensor('rows,', this.words),
        recall: tensor('recall,', this.#heads),
        found: tensor('overwrites,', 2),
      });
      added = true;
    }
    return added;
  }

  /** Rows of the tokens [from, to), read back. */
  async read(from: number, to: number): Promise<Rows> {
    const values = new Float32Array((to - from) * this.words);
    await this.#each(from, to, 'rows', this.words, values);
    return { values, words: this.words };
  }

  /** Read [from, to) of one of the tensors, `width` words a token. */
  async #each(
    from: number,
    to: number,
    which: 'rows' | 'recall' | 'found',
    width: number,
    into: Float32Array | Uint32Array,
  ): Promise<void> {
    const reads = this.segments.map(async (part) => {
      const { first, rows } = part.segment;
      const start = Math.max(from, first);
      const count = Math.min(to, first + rows) - start;
      if (count <= 0) return;
      const bytes = await this.#gpu.read(part[which], (start - first) * width, count * width);
      const values =
        into instanceof Float32Array ? new Float32Array(bytes) : new Uint32Array(bytes);
      into.set(values, (start - from) * width);
    });
    await Promise.all(reads);
  }

  /** What probe_recall left for the first `tokens`: [tokens, H]. */
  async readRecall(tokens: number): Promise<Float32Array> {
    const values = new Float32Array(tokens * this.#heads);
    await this.#each(0, tokens, 'recall', this.#heads, values);
    return values;
  }

  /** What probe_overwrite left: (s + 1, bits of loss) of each token. */
  async readFound(tokens: number): Promise<Uint32Array> {
    const values = new Uint32Array(2 * tokens);
    await this.#each(0, tokens, 'found', 2, values);
    return values;
  }

  destroy(): void {
    for (const { rows, recall, found } of this.segments) {
      for (const tensor of [rows, recall, found]) this.#gpu.release(tensor);
    }
    this.segments.length = 0;
  }
}

/** The probes of one model: buffers, taps, and readings. */
export class Probe {
  readonly sizes: Heads;
  readonly #gpu: Gpu;
  readonly #config: ModelConfig;
  readonly #state: State;
  readonly #kda: number[];
  readonly #moe: number[];
  readonly #slices: number;
  /** u32 words of a record, and where its parts begin. */
  readonly #row: number;
  readonly #choices: number;
  readonly #logits: number;
  readonly #records: Tensor;
  readonly #u: Tensor;
  readonly #cells: Tensor;
  /** The calls of `thumbnails`, once they are asked for. */
  #pictures: Promise<Call[]> | null = null;
  readonly #count: Tensor;
  readonly #asked: Tensor;
  readonly #stream: Tensor;
  readonly #details: Tensor;
  readonly #placed = new Map<string, { first: number; width: number }>();
  readonly #bias = new Map<number, Tensor>();

  constructor(gpu: Gpu, config: ModelConfig, state: State) {
    const { heads: H, layers, moe, vocabulary, width: D, mla } = config;
    const { keys, values: V } = config.kda;
    this.#gpu = gpu;
    this.#config = config;
    this.#state = state;
    this.sizes = { H, K: keys, V };
    this.#kda = layers.flatMap((l, i) => (l.kind === 'kda' ? [i] : []));
    this.#moe = layers.flatMap((l, i) => (l.ffn === 'moe' ? [i] : []));
    this.#slices = Math.min(64, Math.ceil(vocabulary / 1024));
    this.#choices = this.#kda.length * H * K.probeWords(V);
    this.#logits = this.#choices + this.#moe.length * 2 * moe.expertsUsed;
    this.#row = this.#logits + this.#slices * (4 + 2 * BEST);

    const place = (site: Site, layer: number, width: number, at: number) => {
      this.#placed.set(`${site} ${layer}`, { first: at, width });
      return at + width;
    };
    let end = 0;
    layers.forEach((layer, i) => {
      if (layer.kind === 'mla') {
        end = place('query', i, H * mla.query, end);
        end = place('latentQuery', i, H * mla.latent, end);
      }
      if (layer.ffn !== 'moe') return;
      end = place('scores', i, moe.experts, end);
      end = place('ids', i, moe.expertsUsed, end);
      end = place('routed', i, moe.expertsUsed, end);
    });
    const tensor = (name: string, ...shape: number[]) => gpu.tensor('scratch', name, shape);
    this.#records = tensor('token records', RING, this.#row);
    this.#u = tensor('writes', RING, H, V);
    this.#cells = tensor('thumbnails', this.#kda.length, H, 8, 8);
    this.#count = tensor('positions', 4);
    this.#asked = tensor('asked', 4);
    this.#stream = tensor('stream after each layer', layers.length, D);
    this.#details = tensor('rows of the last token', end);
  }

  /** Bytes on the GPU, histories apart. */
  get bytes(): number {
    return this.#tensors().reduce((sum, t) => sum + t.bytes, 0);
  }

  destroy(): void {
    for (const tensor of this.#tensors()) this.#gpu.release(tensor);
  }

  #tensors(): Tensor[] {
    return [
      this.#records,
      this.#u,
      this.#cells,
      this.#count,
      this.#asked,
      this.#stream,
      this.#details,
    ];
  }

  // ------------------------------------------------------------------------------------------------ taps

  /** Records every token, and keeps the history of a layer. */
  recordTap(history: History): Tap {
    const keep = this.historyTap(history, true);
    const ring = { RING, ROW: this.#row };
    const records = this.#records;
    const TOP = this.#config.moe.expertsUsed;
    let chosen: Tensor;
    let ids: Tensor;
    return (site, layer, tensor, plan) => {
      keep(site, layer, tensor, plan);
      if (site === 'chosen') chosen = tensor;
      if (site === 'token' && layer === this.#config.layers.length) {
        const [LAYERS, WATCHED] = tensor.shape as [number, number];
        const BLOCKS = Math.ceil(this.sizes.V / COLUMNS);
        const memories = { LAYERS, ...this.sizes, WATCHED, BLOCKS, ...ring };
        const choices = {
          ROUTERS: this.#moe.length,
          CHOSEN: chosen.shape[1]!,
          TOP: Math.max(1, TOP), // models without experts compile it, too
          CHOICES: this.#choices,
        };
        const tensors = { watched: tensor, chosen, records };
        plan.run(K.probeToken, { ...memories, ...choices }, tensors, [K.step]);
      }
      if (site === 'ids') ids = tensor;
      if (site === 'routed' && !plan.few) {
        const FIRST = this.#choices + this.#moe.indexOf(layer) * 2 * TOP;
        const tensors = { ids, weights: tensor, records };
        plan.run(K.probeChoice, { TOP, ...ring, FIRST }, tensors, [K.step]);
      }
      if (site === 'logits') {
        const VOCABULARY = this.#config.vocabulary;
        const consts = { VOCABULARY, SLICES: this.#slices, BEST, ...ring, FIRST: this.#logits };
        plan.run(K.probeLogits, consts, { logits: tensor, records }, [K.best, K.step]);
      }
    };
  }

  /** Keeps the history of a layer; with `all`, records what every layer does to its memory, too. */
  historyTap(history: History, all = false): Tap {
    const { H, K: keys, V } = this.sizes;
    let mixed: Tensor;
    let g: Tensor;
    return (site, layer, tensor, plan) => {
      if (this.#config.layers[layer]?.kind !== 'kda' || plan.phase === 'prefill') return;
      if (site === 'mixed') mixed = tensor;
      if (site === 'g') g = tensor;
      if (site === 'token' && layer === history.layer) {
        for (const { segment, rows } of history.segments) {
          const consts = { ROW: history.words, FIRST: segment.first, SEGMENT: segment.rows };
          plan.run(K.probeAppend, consts, { watched: tensor, history: rows }, [K.step]);
        }
      }
      if (site !== 'beta' || (!all && layer !== history.layer)) return;
      const state = this.#state.layers[layer]!;
      if (state.kind !== 'kda') return;
      const FIRST = this.#kda.indexOf(layer) * H * K.probeWords(V);
      const PARTS = this.#gpu.report.software ? 1 : 8;
      const consts = { H, K: keys, V, PARTS, RING, ROW: this.#row, FIRST };
      const inputs = { mixed, g, beta: tensor };
      const outputs = { u: this.#u, records: this.#records };
      plan.run(K.probeTrace, consts, { ...inputs, S: state.memory, ...outputs }, [K.step]);
      if (layer !== history.layer) return;
      for (const { segment, rows } of history.segments) {
        const cut = { FIRST: segment.first, SEGMENT: segment.rows };
        plan.run(K.probeKeep, { ...this.sizes, ...cut }, { ...inputs, u: this.#u, history: rows }, [
          K.step,
        ]);
      }
    };
  }

  /** Keeps what passes through the last token of a call, for `sight`. */
  sightTap(): Tap {
    const D = this.#config.width;
    return (site, layer, tensor, plan) => {
      const keep = (x: Tensor, row: Tensor, FIRST: number, WIDTH: number) =>
        plan.run(K.probeRow, { WIDTH, FIRST }, { x, row }, [K.step]);
      if (site === 'bias') this.#bias.set(layer, tensor);
      if (site === 'input' && layer > 0) keep(tensor, this.#stream, (layer - 1) * D, D);
      const placed = this.#placed.get(`${site} ${layer}`);
      if (!placed) return;
      keep(tensor, this.#details, placed.first, placed.width);
    };
  }

  /** What `sightTap` saw of the last call. */
  sight(): Sight {
    return {
      stream: this.#stream,
      read: (site, layer) => {
        if (site === 'bias')
          return this.#gpu.read(this.#bias.get(layer)!, 0, this.#config.moe.experts);
        const { first, width } = this.#placed.get(`${site} ${layer}`)!;
        return this.#gpu.read(this.#details, first, width);
      },
    };
  }

  // -------------------------------------------------------------------------------------------- readings

  /** Records of the tokens [from, to), of which the last RING tokens taken in are at hand. */
  async records(from: number, to: number): Promise<Trace[]> {
    const all: Trace[] = [];
    for (let at = from; at < to;) {
      const count = Math.min(to - at, RING - (at % RING));
      const bytes = await this.#gpu.read(this.#records, (at % RING) * this.#row, count * this.#row);
      for (let i = 0; i < count; i++) all.push(this.#record(at + i, bytes, i * this.#row));
      at += count;
    }
    return all;
  }

  #record(position: number, bytes: ArrayBuffer, first: number): Trace {
    const { H, V } = this.sizes;
    const TOP = this.#config.moe.expertsUsed;
    const floats = new Float32Array(bytes);
    const words = new Uint32Array(bytes);
    const rows = this.#kda.length * H;
    const record: Trace = {
      position,
      written: new Float32Array(rows),
      writeStrength: new Float32Array(rows),
      known: new Float32Array(rows),
      halfLife: new Float32Array(rows),
      energy: new Float32Array(rows),
      experts: new Uint32Array(this.#moe.length * TOP),
      expertWeights: new Float32Array(this.#moe.length * TOP),
      ...this.#outlook(words, floats, first + this.#logits),
    };
    const blocks = Math.ceil(V / COLUMNS);
    for (let row = 0; row < rows; row++) {
      const at = first + row * K.probeWords(V);
      let [written, along, held, value, energy] = [0, 0, 0, 0, 0];
      for (let b = at; b < at + blocks * K.PROBE_SUMS; b += K.PROBE_SUMS) {
        written += floats[b]!;
        along += floats[b + 1]!;
        held += floats[b + 2]!;
        value += floats[b + 3]!;
        energy += floats[b + 4]!;
      }
      const rest = at + blocks * K.PROBE_SUMS;
      record.written[row] = Math.sqrt(written);
      record.known[row] = held > 0 && value > 0 ? along / Math.sqrt(held * value) : 0;
      record.energy[row] = Math.sqrt(energy);
      record.writeStrength[row] = floats[rest]!;
      const [a, b] = [floats[rest + 1]!, floats[rest + 2]!];
      record.halfLife[row] = (halfLife(a) + halfLife(b)) / 2;
    }
    for (let m = 0; m < this.#moe.length; m++) {
      const at = first + this.#choices + m * 2 * TOP;
      record.experts.set(words.subarray(at, at + TOP), m * TOP);
      record.expertWeights.set(floats.subarray(at + TOP, at + 2 * TOP), m * TOP);
    }
    return record;
  }

  /** The best next tokens and the entropy, from the slices of the vocabulary. */
  #outlook(words: Uint32Array, floats: Float32Array, first: number) {
    const stride = 4 + 2 * BEST;
    const slices = Array.from({ length: this.#slices }, (_, s) => first + s * stride);
    const top = Math.max(...slices.map((at) => floats[at]!));
    let total = 0; // sum of exp(l - top)
    let weighted = 0; // sum of exp(l - top) (l - top)
    for (const at of slices) {
      const below = floats[at]! - top;
      const scale = Math.exp(below);
      total += scale * floats[at + 1]!;
      weighted += scale * (floats[at + 2]! + below * floats[at + 1]!);
    }
    const log = Math.log(total);
    const best: Trace['best'] = [];
    for (const at of slices) {
      // A slice's candidates are in order: once one comes after the last of the best, all do.
      for (let n = 0; n < BEST; n++) {
        const found = { id: words[at + 4 + 2 * n]!, logprob: floats[at + 5 + 2 * n]! - top - log };
        if (found.id >= this.#config.vocabulary) break;
        let place = best.length;
        while (place > 0 && comesBefore(found, best[place - 1]!)) place--;
        if (place === BEST) break;
        best.splice(place, 0, found);
        best.length = Math.min(best.length, BEST);
      }
    }
    return { best, entropy: log - weighted / total };
  }

  /** The best next tokens of each of the first `rows` rows of logits. */
  async outlooks(logits: Tensor, rows: number): Promise<Trace['best'][]> {
    const VOCABULARY = this.#config.vocabulary;
    const consts = {
      VOCABULARY,
      SLICES: this.#slices,
      BEST,
      RING,
      ROW: this.#row,
      FIRST: this.#logits,
    };
    // In a ring of its own: that of the tokens may have records that wait.
    const records = this.#gpu.tensor('scratch', 'outlooks', [RING, this.#row]);
    try {
      this.#gpu.write(this.#count, 0, Uint32Array.of(rows, 0));
      const program = this.#gpu.program(K.probeLogits, [K.best, K.step], consts);
      await this.#gpu.ready();
      const call = this.#gpu.bind(program, { logits, records, step: this.#count });
      this.#gpu.submit(this.#gpu.record([call], rows));
      const bytes = await this.#gpu.read(records, 0, rows * this.#row);
      const [words, floats] = [new Uint32Array(bytes), new Float32Array(bytes)];
      return Array.from(
        { length: rows },
        (_, i) => this.#outlook(words, floats, i * this.#row + this.#logits).best,
      );
    } finally {
      this.#gpu.release(records);
    }
  }

  /**
   * Readies recall in the memory of a history's layer. What it gives takes a number of tokens, looks at the memory as it is
   * after all work submitted so far, and answers [tokens, H].
   */
  async recall(history: History): Promise<(tokens: number) => Promise<Float32Array>> {
    const S = this.#memoryOf(history.layer);
    const calls = await this.#bound(
      history.segments.map(({ segment, rows, recall }) => {
        const consts = { ...this.sizes, FIRST: segment.first, SEGMENT: segment.rows };
        const program = this.#gpu.program(K.probeRecall, [K.step], consts);
        return [program, { history: rows, S, recall, step: this.#count }];
      }),
    );
    return (tokens) => {
      this.#run(calls, tokens);
      return history.readRecall(tokens);
    };
  }

  /**
   * For each of the first `tokens` which later one of them took most from its recall, and how much; in one head, or by the
   * mean over all.
   */
  async overwrites(
    history: History,
    tokens: number,
    head: number | 'median',
  ): Promise<{ by: Int32Array; loss: Float32Array }> {
    const [first, heads] = head === 'median' ? [0, this.sizes.H] : [head, 1];
    this.#gpu.write(this.#asked, 0, Uint32Array.of(tokens, first, heads, 0));
    const used = history.segments.filter(({ segment }) => segment.first < tokens);
    this.#gpu.clear(used.map(({ found }) => found));
    const bindings = used.flatMap((kept, i) =>
      used.slice(i).map((later): [Program, Record<string, Tensor>] => {
        const consts = {
          ...this.sizes,
          FIRST: kept.segment.first,
          SEGMENT: kept.segment.rows,
          LATER_FIRST: later.segment.first,
          LATER_SEGMENT: later.segment.rows,
        };
        const program = this.#gpu.program(K.probeOverwrite, [], consts);
        return [
          program,
          { asked: this.#asked, kept: kept.rows, later: later.rows, found: kept.found },
        ];
      }),
    );
    this.#run(await this.#bound(bindings), tokens);
    const found = await history.readFound(tokens);
    const losses = new Float32Array(found.buffer);
    return {
      by: Int32Array.from({ length: tokens }, (_, i) => found[2 * i]! - 1),
      loss: Float32Array.from({ length: tokens }, (_, i) => losses[2 * i + 1]!),
    };
  }

  /** Readies pictures of all memories: [KDA layer, head, 8, 8], after all work submitted when one is asked for. */
  async thumbnails(): Promise<() => Promise<Float32Array>> {
    const { H } = this.sizes;
    this.#pictures ??= this.#bound(
      this.#kda.map((layer, i) => {
        const consts = { ...this.sizes, FIRST: i * H * 64 };
        const program = this.#gpu.program(K.probeState, [K.sumTree], consts, { SUM_LANES: 16 });
        return [program, { S: this.#memoryOf(layer), cells: this.#cells }];
      }),
    );
    const calls = await this.#pictures;
    return async () => {
      this.#run(calls, 1);
      return new Float32Array(await this.#gpu.read(this.#cells, 0, this.#kda.length * H * 64));
    };
  }

  /** One head's memory [K, V] as it is after all submitted work. */
  async memory(layer: number, head: number): Promise<Float32Array> {
    const cells = this.sizes.K * this.sizes.V;
    return new Float32Array(await this.#gpu.read(this.#memoryOf(layer), head * cells, cells));
  }

  #memoryOf(layer: number): Tensor {
    const state = this.#state.layers[layer]!;
    if (state.kind !== 'kda') throw new Error(`layer ${layer} has no recurrent memory`);
    return state.memory;
  }

  async #bound(bindings: [Program, Record<string, Tensor>][]): Promise<Call[]> {
    await this.#gpu.ready();
    return bindings.map(([program, tensors]) => this.#gpu.bind(program, tensors));
  }

  #run(calls: Call[], tokens: number): void {
    this.#gpu.write(this.#count, 0, Uint32Array.of(tokens, 0));
    this.#gpu.submit(this.#gpu.record(calls, tokens));
  }
}

type Candidate = Trace['best'][number];

/** Better ones first, and of equals the lower id. */
function comesBefore(a: Candidate, b: Candidate): boolean {
  return a.logprob > b.logprob || (a.logprob === b.logprob && a.id < b.id);
}

/** Frobenius norm of the difference of two memories [H, K, V], head by head. */
export function distances(
  a: Float32Array,
  b: Float32Array,
  { H, K: keys, V }: Heads,
): Float32Array {
  const cells = keys * V;
  return Float32Array.from({ length: H }, (_, h) => {
    const part = Float64Array.from(
      { length: cells },
      (_, i) => a[h * cells + i]! - b[h * cells + i]!,
    );
    return norm(part);
  });
}

/** Keeps the row of q, k and v that the last token of a call has in a layer. */
export function keyTap(layer: number, row: Tensor): Tap {
  return (site, at, x, plan) => {
    if (site !== 'mixed' || at !== layer) return;
    plan.run(K.probeRow, { WIDTH: row.shape[0]!, FIRST: 0 }, { x, row }, [K.step]);
  };
}

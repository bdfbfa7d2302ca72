/**
 * How fast a model runs on a device, and how near the memory's limit: the stream first, which everything else is held
 * against, then 4-bit products alone, then the whole model. Medians after a warm-up; a figure above the stream is refused,
 * since one of the two would be measured wrongly.
 */
import type { Engine } from './engine.ts';
import type { Call, Gpu, Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import { Plan } from './plan.ts';
import {
  type BenchProgress,
  type BenchResult,
  type BenchWish,
  type KernelFigure,
  PalimpsestError,
  type Prompt,
  type Sampling,
  type Spread,
  type Watch,
} from './protocol.ts';
import { packedRow } from './quant.ts';

/** How far above the stream a rate may be: both are measured. */
const ROOFLINE = 1.05;

/** Bytes that no cache holds: a rate above the stream is no error where less is read again and again. */
const UNCACHED_BYTES = 64e6;

/** Matrices of a product take so many bytes together that no cache holds them. */
const PRODUCT_BYTES = { gpu: 2 ** 28, software: 2 ** 24 };

/** A software adapter's caches are small, and it is slow. */
const SOFTWARE_STREAM_BYTES = 2 ** 27;

/** What a run takes at least: browsers round the GPU's clock to 0.1 ms, and the other clock counts the submission, too. */
const RUN_US = { timestamps: 20_000, clock: 100_000 };
const MOST_REPEATS = 1024;
/** How often the same work goes before what is timed. */
const BUSY_BEFORE = 4;

const SHORT_PROMPT = 32;

/** Prompts are tried until one is answered at length. */
const PROMPTS = 5;

/** Milliseconds from any fixed start. */
type Clock = () => number;

// ----------------------------------------------------------------------------------------------- figures

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const { length } = sorted;
  return { median: sorted[length >> 1]!, least: sorted[0]!, most: sorted.at(-1)!, runs: length };
}

/** Why a rate is refused: it is above what memory gives. '' where it may be. */
export function aboveStream(what: string, gbps: number, stream: number): string {
  if (gbps <= ROOFLINE * stream) return '';
  return `${what} came to ${gbps.toFixed(0)} GB/s, and memory streams ${stream.toFixed(0)}: one of the two is measured wrongly.`;
}

// --------------------------------------------------------------------------------------- a device alone

/** Fill a tensor's first `words` with words that do not compress. */
export function fillWithNoise(gpu: Gpu, tensor: Tensor, words: number): void {
  const noise = Uint32Array.from(
    { length: Math.min(words, 2 ** 20) },
    (_, i) => Math.imul(i ^ 0x9e3779b9, 0x85ebca6b) ^ (i << 7),
  );
  for (let at = 0; at < words; at += noise.length) {
    gpu.write(tensor, at, noise.subarray(0, Math.min(noise.length, words - at)));
  }
}

/**
 * GB/s of reading `bytes` by these calls: as often in one pass as it takes for a run to be long.
 */
export async function* readRates(
  gpu: Gpu,
  calls: readonly Call[],
  bytes: number,
  runs: number,
  clock: Clock,
): AsyncGenerator<number> {
  const stamped = gpu.has('timestamp-query');
  const leastUs = RUN_US[stamped ? 'timestamps' : 'clock'];
  const elapsedUs = async (repeats: number): Promise<number> => {
    const repeated = Array.from({ length: repeats }, () => calls).flat();
    // Busy with several times as much before, the GPU has the clocks that work gives it when the timed part begins.
    for (let before = 0; before < BUSY_BEFORE; before++) gpu.submit(gpu.record(repeated, 1));
    if (stamped) return (await gpu.profile([repeated], 1))[0]!;
    await gpu.idle();
    const started = clock();
    gpu.submit(gpu.record(repeated, 1));
    await gpu.idle();
    return 1000 * (clock() - started);
  };
  await gpu.ready();
  let repeats = 1;
  for (let us = 0; us < leastUs && repeats < MOST_REPEATS;) {
    us = await elapsedUs(repeats);
    if (us < leastUs) {
      const wanted = Math.ceil((1.1 * repeats * leastUs) / Math.max(us, 1));
      repeats = Math.min(MOST_REPEATS, Math.max(2 * repeats, wanted));
    }
  }
  await elapsedUs(repeats);
  for (let run = 0; run < runs; run++) {
    yield (repeats * bytes) / (await elapsedUs(repeats)) / 1000;
  }
}

/** GB/s of reading a buffer of random words, far larger than any cache. */
export async function* streamRates(
  gpu: Gpu,
  streamBytes: number,
  runs: number,
  clock: Clock,
): AsyncGenerator<number> {
  const { software, maxBindingBytes } = gpu.report;
  const most = Math.min(streamBytes, maxBindingBytes, software ? SOFTWARE_STREAM_BYTES : Infinity);
  const WORDS = 1024 * Math.floor(most / 4096);
  const LANES = software ? 2 ** 12 : 2 ** 20;
  const words = await gpu.guard('a buffer to stream', () =>
    gpu.tensor('scratch', 'words', [WORDS]),
  );
  const sink = gpu.tensor('scratch', 'sink', [LANES]);
  try {
    fillWithNoise(gpu, words, WORDS);
    const call = gpu.bind(gpu.program(K.stream, [], { WORDS, LANES }), { words, sink });
    yield* readRates(gpu, [call], 4 * WORDS, runs, clock);
  } finally {
    gpu.release(words);
    gpu.release(sink);
  }
}

/** How many matrices of this shape together exceed all caches. */
export function productMatrices(gpu: Gpu, rows: number, cols: number): number {
  return Math.ceil(
    PRODUCT_BYTES[gpu.report.software ? 'software' : 'gpu'] / productBytes(rows, cols),
  );
}

function productBytes(rows: number, cols: number): number {
  return 4 * rows * packedRow('Q4_0', cols).codeWords;
}

/**
 * GB/s of 4-bit weights in one token's products, on as many matrices as no cache holds: one after another, each with the norm
 * before it, as a token waits for them; or together in one call, as a stack: the products alone, with nothing between two.
 */
export async function* productRates(
  gpu: Gpu,
  rows: number,
  cols: number,
  how: 'in turn' | 'together',
  runs: number,
  clock: Clock,
): AsyncGenerator<number> {
  const { codeWords } = packedRow('Q4_0', cols);
  const wanted = productMatrices(gpu, rows, cols);
  const bound = Math.max(1, Math.floor(gpu.report.maxBindingBytes / productBytes(rows, cols)));
  const stacked = how === 'together' ? Math.min(wanted, bound) : 1;
  const stacks = how === 'together' ? 1 : wanted;
  const used: Tensor[] = [];
  const take = (name: string, words: number) => {
    const tensor = gpu.tensor('scratch', name, [words]);
    used.push(tensor);
    return tensor;
  };
  try {
    const calls = await gpu.guard('matrices to multiply', () => {
      const [x, w] = [take('x', stacked * cols), take('w', cols)];
      const plan = new Plan(gpu, 'decode', take('step', 4));
      for (let i = 0; i < stacks; i++) {
        const codes = take('codes', stacked * rows * codeWords);
        fillWithNoise(gpu, codes, stacked * rows * codeWords);
        const matrix = {
          name: 'noise',
          type: 'Q4_0' as const,
          batch: stacked,
          rows,
          cols,
          parts: [{ firstRow: 0, rows: stacked * rows, offset: 0, codes, scales: null }],
        };
        const y = take('y', stacked * rows);
        if (how === 'together') plan.linear(matrix, x, y);
        else plan.project(matrix, 0, null, { w, eps: 1e-5 }, x, y);
      }
      return plan.calls.filter((call) => 'program' in call);
    });
    yield* readRates(gpu, calls, stacks * stacked * productBytes(rows, cols), runs, clock);
  } finally {
    for (const tensor of used) gpu.release(tensor);
  }
}

// -------------------------------------------------------------------------------------- a model and all

/** What a bench needs. */
export interface BenchPlace {
  engine: Engine;
  /** Another device on the same adapter; closed after use. */
  open: () => Promise<Gpu>;
  clock: Clock;
}

/** Thrown through a step when it is stopped. */
const STOPPED = new PalimpsestError('Refused', 'The bench was stopped.');

/** One course of measurements. The engine's conversation is forgotten. */
export class Bench {
  readonly #place: BenchPlace;
  readonly #wish: BenchWish;
  readonly #report: (p: BenchProgress) => void;
  readonly #result: BenchResult;
  /** The device that has nothing but what is measured alone. */
  #device: Gpu | null = null;
  /** Where prompts begin; see `#decoded`. */
  #seed = 0;
  #stopped = false;
  #at = { step: '', doneSteps: 0, totalSteps: 0, doneRuns: 0, totalRuns: 0 };

  constructor(place: BenchPlace, wish: BenchWish, report: (p: BenchProgress) => void) {
    this.#place = place;
    this.#wish = wish;
    this.#report = report;
    const { engine } = place;
    this.#result = {
      device: engine.loaded.device,
      model: engine.loaded.model.name,
      stream: null,
      products: [],
      decode: [],
      tokenBytes: engine.decodeBytes(),
      tokenShare: null,
      prompts: [],
      watched: null,
      kernels: [],
      memory: engine.memory(),
      refused: [],
      stopped: false,
    };
  }

  /** End it after the run at hand. */
  stop(): void {
    this.#stopped = true;
    this.#place.engine.stop();
  }

  /** Everything that is wished for and has room, in order; less where it is stopped. Fails as `Engine.generate`. */
  async run(): Promise<BenchResult> {
    const steps = this.#steps();
    this.#at.totalSteps = steps.length;
    try {
      for (const { name, work } of steps) {
        Object.assign(this.#at, { step: name, doneRuns: 0, totalRuns: this.#wish.runs });
        this.#tell();
        await work();
        this.#at.doneSteps++;
      }
    } catch (thrown) {
      if (thrown !== STOPPED) throw thrown;
      this.#result.stopped = true;
    } finally {
      this.#device?.destroy();
      this.#device = null;
    }
    this.#result.memory = this.#place.engine.memory();
    this.#tell();
    return this.#result;
  }

  #steps(): { name: string; work: () => Promise<void> }[] {
    const { products, contexts, prompts, watch, tokens, profiledTokens } = this.#wish;
    const { model, device } = this.#place.engine.loaded;
    const fits = (own: number) => own <= model.contextLimit;
    const step = (name: string, work: () => Promise<void>) => ({ name, work });
    return [
      step('reading memory', () => this.#stream()),
      ...products.map(([rows, cols]) =>
        step(`a 4-bit product of ${rows} x ${cols}`, () => this.#product(rows, cols)),
      ),
      ...[SHORT_PROMPT, ...contexts]
        .filter((context) => fits(context + tokens))
        .map((context) => step(`decoding after ${context} tokens`, () => this.#decode(context))),
      ...prompts
        .filter((length) => fits(length + 1))
        .map((length) => step(`a prompt of ${length} tokens`, () => this.#prompt(length))),
      ...(watch ? [step('decoding while watched', () => this.#watch(watch))] : []),
      ...(device.features.includes('timestamp-query')
        ? [
            step('kernels of a token', () => this.#kernels('decode', 1)),
            step('kernels of a prompt', () => this.#kernels('prefill', profiledTokens)),
          ]
        : []),
    ];
  }

  #tell(): void {
    this.#report({ ...this.#at, result: this.#result });
  }

  /** One run more is done. */
  #ran(): void {
    this.#at.doneRuns++;
    this.#tell();
    this.#goOn();
  }

  #goOn(): void {
    if (this.#stopped) throw STOPPED;
  }

  // ------------------------------------------------------------------------------------ on a device alone

  async #stream(): Promise<void> {
    const { streamBytes, runs } = this.#wish;
    const rates = async (gpu: Gpu) =>
      this.#collect(streamRates(gpu, streamBytes, runs, this.#place.clock));
    this.#result.stream = await this.#alone(rates);
  }

  async #product(rows: number, cols: number): Promise<void> {
    const { stream } = this.#result;
    if (!stream) return;
    const { runs } = this.#wish;
    const { clock } = this.#place;
    await this.#alone(async (gpu) => {
      const rates = async (how: 'in turn' | 'together') =>
        this.#collect(productRates(gpu, rows, cols, how, runs, clock));
      const [gbps, together] = [await rates('in turn'), await rates('together')];
      const name = `The product of ${rows} x ${cols}`;
      if (!this.#holds(name, gbps.median) || !this.#holds(name, together.median)) return;
      const share = gbps.median / stream.median;
      const togetherShare = together.median / stream.median;
      const matrices = productMatrices(gpu, rows, cols);
      this.#result.products.push({ rows, cols, matrices, gbps, share, together, togetherShare });
    });
  }

  /** Work on a device that has nothing else; null, and said, where it has no room for it. */
  async #alone<T>(work: (gpu: Gpu) => Promise<T>): Promise<T | null> {
    try {
      this.#device ??= await this.#place.open();
      return await work(this.#device);
    } catch (thrown) {
      if ((thrown as Error).name !== 'OutOfMemory') throw thrown;
      this.#result.refused.push((thrown as Error).message);
      return null;
    }
  }

  async #collect(rates: AsyncGenerator<number>): Promise<Spread> {
    const values: number[] = [];
    for await (const rate of rates) {
      values.push(rate);
      this.#ran();
    }
    return spreadOf(values);
  }

  /** Whether a rate in GB/s is one that memory can give; where not, that is said. */
  #holds(what: string, gbps: number): boolean {
    const { stream, refused } = this.#result;
    const reason = stream ? aboveStream(what, gbps, stream.median) : '';
    if (reason !== '') refused.push(reason);
    return reason === '';
  }

  // --------------------------------------------------------------------------------------- the whole model

  async #decode(contextTokens: number): Promise<void> {
    const { runs, tokens } = this.#wish;
    await this.#place.engine.reset();
    const made = await this.#findPrompt(contextTokens);
    const rates: number[] = [];
    const gaps: number[] = [];
    while (rates.length < runs) {
      const { tokensPerSec, gapsMs } = await this.#decoded(contextTokens);
      rates.push(tokensPerSec);
      gaps.push(...gapsMs);
      this.#ran();
    }
    gaps.sort((a, b) => a - b);
    const tokensPerSec = spreadOf(rates);
    const { tokenBytes, stream, decode } = this.#result;
    const gbps = (tokenBytes * tokensPerSec.median) / 1e9;
    if (!this.#holds(`Decoding after ${contextTokens} tokens`, gbps)) return;
    const at = (share: number) => gaps[Math.floor((gaps.length - 1) * share)]!;
    const betweenMs = { p50: at(0.5), p95: at(0.95) };
    decode.push({ contextTokens, tokens: Math.min(made, tokens), tokensPerSec, betweenMs });
    if (decode.length === 1 && stream) this.#result.tokenShare = gbps / stream.median;
  }

  /** Find a prompt that is answered at length, which warms up, too. Returns the tokens of its answer. */
  async #findPrompt(contextTokens: number): Promise<number> {
    const lengths: number[] = [];
    for (let seed = 0; seed < PROMPTS; seed++) {
      this.#seed = seed;
      const { made } = await this.#decoded(contextTokens);
      this.#goOn();
      if (made === this.#wish.tokens) return made;
      lengths.push(made);
    }
    const most = Math.max(...lengths);
    this.#seed = lengths.indexOf(most);
    return most;
  }

  async #decoded(
    contextTokens: number,
  ): Promise<{ made: number; tokensPerSec: number; gapsMs: number[] }> {
    const { clock } = this.#place;
    const gapsMs: number[] = [];
    let last = NaN;
    const stop = await this.#generate(contextTokens, this.#wish.tokens, () => {
      const now = clock();
      if (!Number.isNaN(last)) gapsMs.push(now - last);
      last = now;
    });
    this.#goOn();
    const made = stop.ids.length;
    return { made, tokensPerSec: (1000 * (made - 1)) / stop.decodeMs, gapsMs };
  }

  /** Greedily, so that nothing but the best token is computed and the next step can run ahead. */
  #generate(promptTokens: number, maxTokens: number, onToken: () => void) {
    const sampling: Sampling = {
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      repetitionWindow: 64,
      seed: 0,
      maxTokens,
      stop: [],
      candidates: 0,
    };
    return this.#place.engine.generate(this.#ids(promptTokens), sampling, onToken);
  }

  /** Ids that look like text to no one: the same for every run, and none at the vocabulary's ends, where special ones are. */
  #ids(count: number): Prompt {
    const { vocabulary } = this.#place.engine.loaded.model;
    const margin = Math.min(100, vocabulary >> 2);
    const id = (i: number) => margin + ((i * 7919 + 31 * this.#seed) % (vocabulary - 2 * margin));
    return { kind: 'ids', ids: Array.from({ length: count }, (_, i) => id(i)) };
  }

  async #prompt(tokens: number): Promise<void> {
    const { engine } = this.#place;
    const rates: number[] = [];
    const first: number[] = [];
    for (let run = -1; run < this.#wish.runs; run++) {
      await engine.reset();
      const stop = await this.#generate(tokens, 1, () => {});
      this.#goOn();
      if (run < 0) continue;
      rates.push((1000 * (tokens - 1)) / stop.prefillMs);
      first.push(stop.firstTokenMs);
      this.#ran();
    }
    const [tokensPerSec, firstTokenMs] = [spreadOf(rates), spreadOf(first)];
    this.#result.prompts.push({ tokens, tokensPerSec, firstTokenMs });
  }

  /** One answer unwatched and one watched, in turn, so that both see the same clocks. */
  async #watch(watch: Watch): Promise<void> {
    const { engine } = this.#place;
    const off: number[] = [];
    const on: number[] = [];
    const callsOff = engine.calls('decode').length;
    let callsOn = 0;
    try {
      await engine.reset();
      await this.#findPrompt(SHORT_PROMPT);
      for (let run = -1; run < this.#wish.runs; run++) {
        for (const [rates, watched] of [
          [off, null],
          [on, watch],
        ] as const) {
          await engine.reset();
          await engine.watch(watched, () => {});
          if (watched) callsOn = engine.calls('decode').length;
          const { tokensPerSec } = await this.#decoded(SHORT_PROMPT);
          if (run >= 0) rates.push(tokensPerSec);
        }
        if (run >= 0) this.#ran();
      }
    } finally {
      await engine.watch(null, () => {});
    }
    const [unwatched, watched] = [spreadOf(off), spreadOf(on)];
    const share = watched.median / unwatched.median;
    this.#result.watched = { off: unwatched, on: watched, share, callsOff, callsOn };
  }

  async #kernels(phase: 'decode' | 'prefill', most: number): Promise<void> {
    const { engine } = this.#place;
    const { stream, kernels } = this.#result;
    const { tokens, times } = await engine.profile(phase, most, this.#wish.runs);
    const rows = times.flatMap(({ name, calls, us, bytes }): KernelFigure[] => {
      const spread = spreadOf(us);
      const gbps = bytes / spread.median / 1000;
      const cached = bytes < UNCACHED_BYTES;
      // A prompt's products are limited by arithmetic: of them no share is told.
      const told = stream && phase === 'decode' && bytes > 0;
      if (told && !cached && !this.#holds(`The kernel ${name}`, gbps)) return [];
      const share = told ? gbps / stream.median : null;
      return [{ name, calls, us: spread, bytes, share: share && share > ROOFLINE ? null : share }];
    });
    kernels.push({ phase, tokens, rows });
    this.#goOn();
  }
}

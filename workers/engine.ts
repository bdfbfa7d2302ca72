/**
 * A conversation with one model: prompt in, tokens out. How a prompt becomes tokens reads top to bottom here:
 * encode, rewind to what is still in memory, prefill, decode, stop. Device and forward pass are gpu.ts and model.ts.
 */
import { asBranch, type Line, type Outline } from './branches.ts';
import { type ModelConfig, modelConfig, withoutOutputCopy } from './config.ts';
import { FileWeights } from './fileWeights.ts';
import { openGguf, type ByteSource } from './gguf.ts';
import { type Gpu, megabytes } from './gpu.ts';
import { greedy } from './greedy.ts';
import type { Kept } from './keep.ts';
import { measured } from './measured.ts';
import { Memory } from './memory.ts';
import { type KernelTime, Model } from './model.ts';
import { reportOf } from './modelReport.ts';
import { Path } from './path.ts';
import {
  type Answers,
  type Branch,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type Loaded,
  type LoadProgress,
  type MemoryReport,
  PalimpsestError,
  type Prompt,
  type Sampling,
  type Stop,
  type Token,
  type Watch,
} from './protocol.ts';
import { checkSampling, needsAllLogits, sampleFrom, wholeVocabulary } from './sampler.ts';
import { contextFor, State } from './state.ts';
import type { StateFile } from './stateFile.ts';
import { StopText } from './stopText.ts';
import { createTokenizer, type Tokenizer } from './tokenizer.ts';

/** What an engine needs from the place it runs in. */
export interface EngineOptions {
  gpu: Gpu;
  /** The model's file, or its shards in any order. */
  shards: ByteSource[];
  /** Tokens the conversation may hold at most; the file's own context length and memory may lower it. */
  contextTokens: number;
  report: (p: LoadProgress) => void;
  /** Milliseconds from any fixed start. */
  clock: () => number;
}

/** One token as the decode loop makes it. `logprob` is the natural log of its probability before penalty and filters. */
interface Picked {
  id: number;
  logprob: number;
  candidates: { id: number; logprob: number }[];
}

/**
 * An answer under way: what was asked, and what has been said so far. Nothing of it is on a GPU, so it goes on on another
 * engine with the same model whose conversation stands where this one's stood.
 */
export interface Writing {
  readonly promptIds: readonly number[];
  readonly sampling: Sampling;
  readonly answer: number[];
  readonly text: StopText;
  readonly decoder: ReturnType<Tokenizer['stream']>;
  /** Set from outside to end it after the token in flight. */
  stopped: boolean;
  /** Tokens that were in memory before; null until the memory stands where the prompt goes on. */
  reusedTokens: number | null;
  /** Milliseconds of the engine's clock. NaN until then. */
  startedMs: number;
  prefilledMs: number;
  firstTokenMs: number;
  lastTokenMs: number;
}

/** Recurrent states kept for going back (edit, regenerate), in bytes at most; the latest is always kept. */
const CHECKPOINT_BYTES = 256e6;

/** What a second generation is told while one runs. */
export function alreadyRunning(): PalimpsestError {
  return new PalimpsestError(
    'Refused',
    'A generation is running on this engine. Stop it, or wait for its end.',
  );
}

/** One model on one GPU and the conversation in its memory. */
export class Engine {
  readonly loaded: Loaded;
  readonly #gpu: Gpu;
  readonly #model: Model;
  readonly #state: State;
  readonly #tokenizer: Tokenizer;
  readonly #clock: () => number;
  readonly #memory: Memory;
  #running: { stopped: boolean } | null = null;
  /** Looks into the memory: under way while nothing runs, and waiting for a moment between two tokens. */
  #looks: Promise<unknown> = Promise.resolve();
  #guests: (() => Promise<void>)[] = [];

  private constructor(
    options: EngineOptions,
    config: ModelConfig,
    model: Model,
    state: State,
    tokenizer: Tokenizer,
    memory: Memory,
  ) {
    this.#gpu = options.gpu;
    this.#clock = options.clock;
    this.#model = model;
    this.#state = state;
    this.#tokenizer = tokenizer;
    this.#memory = memory;
    this.loaded = {
      model: reportOf(config, tokenizer.mode, state.contextLimit),
      device: options.gpu.report,
      memory: this.memory(),
    };
  }

  /** Read a model's files and put it on the GPU. Fails: BadModel, Unsupported, LimitTooSmall, OutOfMemory, and what the byte sources throw. */
  static async load(options: EngineOptions): Promise<Engine> {
    const { gpu, report } = options;
    const stored = await measured('headers', () => openGguf(options.shards));
    modelConfig(stored); // what cannot run is refused before weights are read
    const file = await measured('output compared', () => withoutOutputCopy(stored));
    const config = modelConfig(file);
    const tuning = gpu.report.software ? 'cpu' : 'gpu';
    const source = new FileWeights(gpu, file, report);
    const { model, filled } = await Model.begin(gpu, source, config, tuning, source.bytes);
    const { limit, numbers } = contextFor(config, gpu.report.software, options.contextTokens);
    const state = new State(gpu, config, limit, numbers);
    await gpu.guard('the first part of the context', () => state.reserve(1));
    const piece = (id: number) => tokenizer.piece(id);
    const memory = await Memory.open({ gpu, config, model, state, piece });
    // Pipelines are compiled and weights read elsewhere: meanwhile there is time for the tokenizer.
    const [, tokenizer] = await Promise.all([
      measured('plans', () => memory.attach()),
      measured('tokenizer', () => createTokenizer(stored.metadata)),
      filled.then(() => report({ phase: 'compile', doneBytes: 0, totalBytes: 0, note: '' })),
    ]);
    await measured('GPU at rest', () => gpu.idle());
    return new Engine(options, config, model, state, tokenizer, memory);
  }

  /** Token ids of a prompt as `generate` feeds them. Fails: Refused. */
  encode(prompt: Prompt): number[] {
    switch (prompt.kind) {
      case 'chat':
        if (this.#tokenizer.mode === 'raw') {
          throw new PalimpsestError(
            'Refused',
            'This model file has no chat template. Use raw completion: the text is continued as it stands.',
          );
        }
        return this.#tokenizer.encodeChat(prompt.turns, { generate: true });
      case 'raw':
        return [
          ...this.#tokenizer.prefix,
          ...this.#tokenizer.encode(prompt.text, { special: true }),
        ];
      case 'ids': {
        const { vocabulary } = this.loaded.model;
        const bad = prompt.ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
        if (bad !== undefined) {
          throw new PalimpsestError(
            'Refused',
            `${bad} is no token id: they go from 0 to ${vocabulary - 1}.`,
          );
        }
        return prompt.ids;
      }
    }
  }

  /** Answer a prompt. See EngineApi.generate. */
  async generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    return this.write(this.begin(prompt, sampling), onToken);
  }

  /** An answer of which nothing is said yet. Fails: ContextFull, Refused. */
  begin(prompt: Prompt, sampling: Sampling): Writing {
    const startedMs = this.#clock();
    checkSampling(sampling);
    const promptIds = this.encode(prompt);
    this.#checkRoom(promptIds);
    return {
      promptIds,
      sampling,
      answer: [],
      text: new StopText(sampling.stop),
      decoder: this.#tokenizer.stream(),
      stopped: false,
      reusedTokens: null,
      startedMs,
      prefilledMs: NaN,
      firstTokenMs: NaN,
      lastTokenMs: NaN,
    };
  }

  /** Write an answer to its end, from wherever it is. See EngineApi.generate. */
  async write(writing: Writing, onToken: (t: Token) => void): Promise<Stop> {
    return this.#alone(async () => {
      const { promptIds, sampling, answer, text, decoder } = writing;
      const ids = [...promptIds, ...answer];
      writing.reusedTokens ??= await this.#rewind(ids);
      const taken = Number.isNaN(writing.prefilledMs)
        ? await measured('prompt', () => this.#prefill(ids, writing))
        : Infinity;
      if (taken >= ids.length - 1) writing.prefilledMs ||= this.#clock();

      const limit = this.#state.contextLimit - promptIds.length;
      const room = Math.min(sampling.maxTokens, limit);
      let reason: Stop['reason'] = room < sampling.maxTokens ? 'context' : 'length';
      if (taken < ids.length - 1) reason = 'stopped';
      else if (room > answer.length) {
        for await (const picked of this.#decode(ids, room - answer.length, sampling)) {
          const picking = this.#clock();
          writing.firstTokenMs ||= picking;
          if (this.#tokenizer.isStop(picked.id)) {
            reason = 'end';
            break;
          }
          writing.lastTokenMs = picking;
          const shown = text.push(decoder.push(picked.id));
          onToken(this.#token(picked, promptIds.length + answer.length, shown));
          answer.push(picked.id);
          if (this.#state.position === this.#memory.line.history.length) await this.#serve();
          if (text.ended) reason = 'stop';
          else if (writing.stopped) reason = 'stopped';
          else continue;
          break;
        }
      }
      text.push(decoder.flush());
      text.flush();
      const { line, keep } = this.#memory;
      line.said = [...promptIds, ...answer].slice(line.history.length);
      keep.take();
      const { reusedTokens, startedMs } = writing;
      const prefilled = writing.prefilledMs || this.#clock();
      const first = writing.firstTokenMs || prefilled;
      return {
        reason,
        ids: answer,
        text: text.all,
        promptIds: [...promptIds],
        reusedTokens,
        prefillMs: prefilled - startedMs,
        firstTokenMs: first - startedMs,
        decodeMs: (writing.lastTokenMs || first) - first,
        contextUsed: line.history.length,
        memory: this.memory(),
      };
    }, writing);
  }

  /**
   * Logits [tokens, vocabulary] of a sequence from an empty memory, handed over in pieces of rows in order: 'chunk' by the
   * prefill kernels, 'step' token by token by the decode kernels.
   */
  async score(
    ids: number[],
    path: 'chunk' | 'step',
    onRows: (firstRow: number, logits: Float32Array<ArrayBuffer>) => void,
  ): Promise<void> {
    await this.#alone(async () => {
      this.#checkRoom(ids);
      this.#restart();
      await this.#reserve(ids.length);
      for (let at = 0; at < ids.length;) {
        const piece = ids.slice(at, at + (path === 'chunk' ? this.#model.scoreTokens : 1));
        await this.#memory.before(at, at + piece.length);
        const score =
          path === 'chunk' ? this.#model.score(piece, at) : this.#model.scoreStep(piece[0]!, at);
        this.#advance(piece, path);
        onRows(at, await score);
        at += piece.length;
      }
    });
  }
  // --------------------------------------------------------------------------------------- laid open

  /** See MemoryApi, here and below. */
  layers(): LayerLists {
    return this.#memory.layers();
  }

  async watch(watch: Watch | null, onFrame: (frame: Frame) => unknown): Promise<void> {
    await this.#between(() => this.#memory.watch(watch, onFrame));
  }

  async inspect<K extends Inquiry['kind']>(
    inquiry: Extract<Inquiry, { kind: K }>,
  ): Promise<Answers[K]> {
    return this.#between(() => this.#memory.inspect(inquiry));
  }

  branches(): Branch[] {
    return this.#memory.branches.list();
  }

  async fork(
    position: number,
    token: number | null,
    interventions: Intervention[],
  ): Promise<Branch> {
    return this.#alone(() => this.#memory.fork(position, token, interventions));
  }

  async select(branch: number): Promise<void> {
    await this.#alone(() => this.#memory.select(branch));
  }

  async beginBranch(): Promise<Branch> {
    return this.#alone(async () => asBranch(await this.#beginLine()));
  }

  async #beginLine(): Promise<Line> {
    const { line, branches } = this.#memory;
    if (line.history.length + line.said.length > 0) {
      await branches.begin();
      this.#memory.cut(0);
      await this.#memory.attach();
    }
    return this.#memory.line;
  }

  /** A branch beside the others, and the present one, that stands as a state says. Fails: OutOfMemory, DeviceLost. */
  async takeIn({ history, said, path, kept }: StateFile): Promise<Branch> {
    return this.#alone(async () => {
      await this.#reserve(history.length + said.length);
      const line = await this.#beginLine();
      line.history.push(...history);
      line.said = [...said];
      line.path = Path.of(path);
      line.marks = [history.length];
      await this.#memory.stand(kept);
      return asBranch(line);
    });
  }

  async dropBranches(ids: readonly number[]): Promise<void> {
    await this.#alone(async () => this.#memory.branches.drop(ids));
  }

  async proceed(sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    const ids = await this.readyToProceed();
    return this.generate({ kind: 'ids', ids }, sampling, onToken);
  }

  /** The ids that the present branch goes on from; the last of them is left to take in. */
  readyToProceed(): Promise<number[]> {
    return this.#alone(() => this.#memory.readyToProceed());
  }

  async compare(a: number, b: number): Promise<Float32Array> {
    return this.#between(() => this.#memory.compare(a, b));
  }

  async difference(a: number, b: number, layer: number, head: number): Promise<Float32Array> {
    return this.#between(() => this.#memory.difference(a, b, layer, head));
  }

  /** Resolves when the watcher has been told everything so far. */
  async settled(): Promise<void> {
    await this.#memory.settled();
  }

  // ------------------------------------------------------------------------------------- another device

  /** Whether this engine's device is gone; asked after a failure that this may have caused. */
  isLost(): Promise<boolean> {
    return this.#gpu.isLost();
  }

  /** Resolves with the reason when the device is gone, other than by `destroy`. */
  get lost(): Promise<string> {
    return this.#gpu.lost;
  }

  /** All branches as they are, without anything of the GPU. Not while a branch is being made. */
  outline(): Outline {
    return this.#memory.branches.outline();
  }

  /** The last state of the present branch that stands outside the GPU, after `most` tokens at most; null where there is none. */
  kept(most: number): Kept | null {
    return this.#memory.keep.kept(most);
  }

  /** What a state must be made of to be taken up here. */
  fit() {
    const { vocabulary, contextLimit } = this.loaded.model;
    const { rowWords, recurrentWords, cacheCount: caches } = this.#state;
    return { vocabulary, contextLimit, rowWords, recurrentWords, caches };
  }

  /** Resolves when the present state stands outside the GPU; while an answer is written, a recent one does. */
  async keep(): Promise<void> {
    if (this.#running) return;
    const { keep } = this.#memory;
    await this.#between(async () => {
      await keep.settled();
      keep.take();
      await keep.settled();
    });
  }

  /**
   * Take up a conversation of another engine with the same model. It stands as it stood there, to the bit where the device
   * is of the same kind. Fails: ContextFull, OutOfMemory, DeviceLost.
   */
  async resume(outline: Outline, kept: Kept | null): Promise<void> {
    await this.#alone(async () => {
      const tokens = Math.max(...outline.lines.map(({ history }) => history.length), 1);
      const limit = this.#state.contextLimit;
      if (tokens > limit) {
        throw new PalimpsestError(
          'ContextFull',
          `The conversation has ${tokens} tokens and this device has room for ${limit}. Begin another one.`,
        );
      }
      await this.#reserve(tokens);
      await this.#memory.resume(outline, kept);
    });
  }

  // ------------------------------------------------------------------------------------- stop and reset

  stop(): void {
    if (this.#running) this.#running.stopped = true;
  }

  /** Forget the conversation. Fails: Refused while a generation runs. */
  async reset(): Promise<void> {
    await this.#alone(() => this.#forget());
  }

  memory(): MemoryReport {
    const { weights, recurrent, latent, snapshots, scratch } = this.#gpu.bytes;
    return {
      weightBytes: weights,
      recurrentBytes: recurrent,
      latentBytes: latent,
      snapshotBytes: snapshots,
      scratchBytes: scratch,
    };
  }

  // ------------------------------------------------------------------------------------------ in order

  /** One at a time; an error leaves no half-fed memory behind. */
  async #alone<T>(work: () => Promise<T>, run = { stopped: false }): Promise<T> {
    if (this.#running) {
      throw alreadyRunning();
    }
    this.#running = run;
    try {
      await this.#looks;
      return await work();
    } catch (error) {
      if (error instanceof PalimpsestError && ['BadNumbers', 'OutOfMemory'].includes(error.name))
        await this.#forget();
      throw error;
    } finally {
      await this.#serve();
      this.#running = null;
    }
  }

  /** Work that leaves the state as it is: at once, or between two tokens of a running generation. */
  async #between<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running) {
      return new Promise((resolve, reject) => {
        this.#guests.push(() => work().then(resolve, reject));
      });
    }
    const look = this.#looks.then(work);
    this.#looks = look.catch(() => {});
    return look;
  }

  /** Let those look who wait. */
  async #serve(): Promise<void> {
    for (let look = this.#guests.shift(); look; look = this.#guests.shift()) await look();
  }

  #checkRoom(ids: number[]): void {
    if (ids.length === 0) {
      throw new PalimpsestError(
        'Refused',
        'The prompt is empty: there is nothing to continue. Write something first.',
      );
    }
    const limit = this.#state.contextLimit;
    if (ids.length > limit) {
      throw new PalimpsestError(
        'ContextFull',
        `The prompt has ${ids.length} tokens and the context holds ${limit}. Shorten it, or start a new conversation.`,
      );
    }
  }

  /** Keep of the memory what is a prefix of `ids`, and not all of it: the last token must be fed to get logits. Returns the tokens kept. */
  async #rewind(ids: number[]): Promise<number> {
    const { line } = this.#memory;
    let shared = 0;
    const most = Math.min(ids.length - 1, line.history.length);
    while (shared < most && ids[shared] === line.history[shared]) shared++;
    if (shared === line.history.length) return shared;
    const checkpoint = line.checkpoints.findLast((c) => c.position <= shared);
    const mark = line.marks.findLast((position) => position <= shared) ?? 0;
    if (mark > (checkpoint?.position ?? 0)) {
      await this.#memory.returnTo(mark);
      return mark;
    }
    if (!checkpoint) {
      this.#restart();
      return 0;
    }
    this.#memory.cut(checkpoint.position);
    this.#state.restore(checkpoint);
    return checkpoint.position;
  }

  /** Take in all but the last token, chunkwise, and keep a checkpoint there. Returns the position reached: less when stopped. */
  async #prefill(ids: number[], run: { readonly stopped: boolean }): Promise<number> {
    await this.#reserve(ids.length);
    const end = ids.length - 1;
    while (this.#state.position < end) {
      if (run.stopped) return this.#state.position;
      const at = this.#state.position;
      const most = Math.min(end, at + this.#model.prefillTokens);
      const piece = ids.slice(at, this.#memory.end(at, most));
      await this.#memory.before(at, at + piece.length);
      this.#memory.prefill(piece, at);
      this.#advance(piece, 'chunk');
      await this.#memory.rest({ keeps: this.#state.position < end });
      if (this.#state.position === end) await this.#checkpoint();
      await this.#gpu.idle(); // so that a stop is heard between pieces, and no queue grows
      if (this.#state.position < end) await this.#serve(); // after the last, the first token comes first
    }
    await this.#checkpoint();
    return end;
  }

  /** Tokens after `ids`, at most `count`. What the state took in is in the history whenever a token is handed over. */
  async *#decode(ids: number[], count: number, sampling: Sampling): AsyncGenerator<Picked> {
    const onGpu =
      sampling.temperature === 0 && sampling.repetitionPenalty === 1 && sampling.candidates === 0;
    this.#model.setToken(ids.at(-1)!);
    if (!onGpu) return yield* this.#sampled(ids, count, sampling);
    const by = {
      ...{ model: this.#model, memory: this.#memory, state: this.#state },
      reserve: (tokens: number) => this.#reserve(tokens),
      awaited: () => this.#guests.length > 0,
    };
    for await (const best of greedy(by, ids.at(-1)!, count)) yield { ...best, candidates: [] };
  }

  /** Tokens drawn here from the best candidates that the GPU hands over, or from all logits where the settings look further. */
  async *#sampled(ids: number[], count: number, sampling: Sampling): AsyncGenerator<Picked> {
    this.#model.setPenalty(sampling, ids);
    let token = ids.at(-1)!;
    for (let made = 0; made < count; made++) {
      await this.#reserve(this.#state.position + 1);
      await this.#memory.before(this.#state.position, this.#state.position + 1);
      if (made > 0) this.#model.setToken(token);
      let candidates = await this.#model.decodeCandidates(this.#state.position);
      this.#advance([token], 'step');
      await this.#memory.rest({ keeps: true });
      if (needsAllLogits(sampling, candidates)) {
        candidates = wholeVocabulary(
          await this.#model.logits(1),
          this.#memory.line.history,
          sampling,
        );
      }
      const { raw, logSumExp } = candidates;
      const at = sampleFrom(candidates, sampling, this.#state.position);
      token = candidates.ids[at]!;
      yield {
        id: token,
        logprob: raw[at]! - logSumExp,
        candidates: Array.from(candidates.ids.subarray(0, sampling.candidates), (id, i) => ({
          id,
          logprob: raw[i]! - logSumExp,
        })),
      };
    }
  }

  #token(picked: Picked, position: number, text: string): Token {
    const candidates = picked.candidates.map((c) => ({ ...c, text: this.#tokenizer.piece(c.id) }));
    return { id: picked.id, position, text, logprob: picked.logprob, candidates };
  }

  #advance(ids: number[], by: 'chunk' | 'step'): void {
    const { history } = this.#memory.line;
    history.push(...ids);
    this.#state.position = history.length;
    this.#memory.took(ids.length, history.length, by);
  }

  async #reserve(tokens: number): Promise<void> {
    const needed = this.#state.segmentsFor(tokens);
    if (needed <= this.#state.allocated) return;
    await this.#gpu.guard(`the context at ${tokens} tokens`, () => this.#state.reserve(tokens));
    await this.#memory.attach();
  }

  async #checkpoint(): Promise<void> {
    if (
      this.#memory.line.checkpoints.at(-1)?.position === this.#state.position ||
      this.#state.position === 0
    )
      return;
    const what = `a checkpoint of the memory (${megabytes(this.#gpu.bytes.snapshots)} so far)`;
    this.#memory.line.checkpoints.push(await this.#gpu.guard(what, () => this.#state.snapshot()));
    const { line, branches } = this.#memory;
    const bytes = () => line.checkpoints.reduce((sum, c) => sum + c.bytes, 0);
    while (line.checkpoints.length > 1 && bytes() > CHECKPOINT_BYTES) {
      branches.dropCheckpoint(line.checkpoints[0]!);
    }
  }

  /**
   * GPU time of a phase's kernels, slowest first, on as many of `tokens` as one call takes. The conversation is forgotten.
   * See Model.profile.
   */
  async profile(
    phase: 'decode' | 'prefill',
    tokens: number,
    runs: number,
  ): Promise<{ tokens: number; times: KernelTime[] }> {
    return this.#alone(async () => {
      const most = Math.min(tokens, phase === 'decode' ? 1 : this.#model.prefillTokens);
      await this.#reserve(most);
      const times = await this.#model.profile(phase, most, runs);
      this.#restart();
      return { tokens: most, times };
    });
  }

  /** Bytes of weights that one decode step reads. */
  decodeBytes(): number {
    return this.#model.decodeBytes();
  }

  /** What a phase calls, in order: kernels by name, and copies. */
  calls(phase: 'decode' | 'prefill'): string[] {
    return this.#model.calls(phase);
  }

  /** Free everything on the GPU, the device with it. Harmless after a loss. */
  destroy(): void {
    this.#gpu.destroy();
  }

  /** The present branch begins anew. */
  #restart(): void {
    this.#memory.cut(0);
    this.#state.clear();
  }

  /** Nothing is left but one empty branch. */
  async #forget(): Promise<void> {
    this.#state.clear();
    await this.#memory.clear();
  }
}

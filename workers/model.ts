/**
 * The forward pass: a plan of GPU calls per phase, built once in the order of execution and recorded for each piece of
 * tokens. Decode takes one token by matrix-vector products and the recurrence itself; prefill takes a piece of tokens by
 * matrix products and the chunk form. Shapes come from the file.
 */
import { mlaAttention } from './attention.ts';
import { mergeCandidates } from './candidates.ts';
import { kdaChunks } from './chunks.ts';
import type { ModelConfig } from './config.ts';
import { decodesInFewCalls, oneToken } from './decode.ts';
import { FileWeights } from './fileWeights.ts';
import type { GgufFile } from './gguf.ts';
import { type Call, type Copy, type Gpu, megabytes, type Reading, type Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import { shortRows } from './narrow.ts';
import { type Phase, Plan, type Site, TILE, type Tuning, type Visitors } from './plan.ts';
import { PalimpsestError, type Sampling } from './protocol.ts';
import type { Candidates } from './sampler.ts';
import {
  CANDIDATES,
  prefillTokensFor,
  SCORE_TOKENS,
  type Scratch,
  scratchFor,
  VOCABULARY_SLICES,
} from './scratch.ts';
import type { KdaState, MlaState, Segment, State } from './state.ts';
import {
  adjoining,
  type Ffn,
  type KdaWeights,
  layOutWeights,
  type Matrix,
  type MlaWeights,
  type ModelWeights,
  type MoeWeights,
  type WeightSource,
} from './weights.ts';

/** GPU microseconds that one run of a profile takes at least, where so many rounds are enough. */
const PROFILE_US = 30_000;
const MOST_ROUNDS = 16;

/** Calls of a prompt that are submitted together: few enough that the GPU begins at once, many enough that it has work while the next are recorded. */
const CALLS_AT_ONCE = 48;

type Look = (site: Site, tensor: Tensor) => void;

/**
 * A plan for every phase, the short ones for tokens at positions before `shortRows`, and what a step that may be taken back
 * begins with.
 */
export type Plans = Readonly<Record<Phase, Plan>> & {
  readonly shortRows: number;
  readonly putAside: readonly Copy[];
};

/** GPU microseconds of all calls of one kernel in a plan, by run, and the bytes of weights that they read. */
export interface KernelTime {
  name: string;
  calls: number;
  us: number[];
  bytes: number;
}

/** The best token as the GPU found it. */
export interface Best {
  id: number;
  /** Natural log of its probability. */
  logprob: number;
}

/** Weights, activations and plans of one model on one GPU. Plans are bound to a conversation's state by `attach`. */
export class Model {
  /** Most tokens of one prefill call. */
  readonly prefillTokens: number;
  readonly scoreTokens = SCORE_TOKENS;
  readonly #gpu: Gpu;
  readonly #config: ModelConfig;
  readonly #weights: ModelWeights;
  readonly #scratch: Scratch;
  readonly #tuning: Tuning;
  /** Weights of which one token reads the chosen experts' share. */
  readonly #stacks: ReadonlySet<Tensor>;
  #plans: Plans | null = null;
  /** The decode step that is recorded already. */
  #ahead: { plan: Plan; reading: Reading } | null = null;

  private constructor(
    gpu: Gpu,
    config: ModelConfig,
    weights: ModelWeights,
    scratch: Scratch,
    tuning: Tuning,
  ) {
    this.#tuning = tuning;
    this.prefillTokens = prefillTokensFor(config, tuning);
    this.#gpu = gpu;
    this.#config = config;
    this.#weights = weights;
    this.#scratch = scratch;
    const stacks = weights.layers.flatMap(({ ffn }) =>
      ffn.kind === 'moe' ? [ffn.experts.gate, ffn.experts.up, ffn.experts.down] : [],
    );
    const parts = stacks.flatMap((stack) => stack.parts);
    this.#stacks = new Set(parts.flatMap((p) => (p.scales ? [p.codes, p.scales] : [p.codes])));
  }

  /** Put a model's weights on the GPU. Fails: BadModel, Unsupported, LimitTooSmall, OutOfMemory. */
  static async load(gpu: Gpu, file: GgufFile, config: ModelConfig, tuning: Tuning): Promise<Model> {
    const source = new FileWeights(gpu, file, () => {});
    return Model.from(gpu, source, config, tuning, source.bytes);
  }

  /** The same with weights of any source, `totalBytes` of them. */
  static async from(
    gpu: Gpu,
    source: WeightSource,
    config: ModelConfig,
    tuning: Tuning,
    totalBytes: number,
  ): Promise<Model> {
    const { model, filled } = await Model.begin(gpu, source, config, tuning, totalBytes);
    await filled;
    return model;
  }

  /** The same, but while its weights come it can be planned with: `filled` resolves when they are there, and fails as the source. */
  static async begin(
    gpu: Gpu,
    source: WeightSource,
    config: ModelConfig,
    tuning: Tuning,
    totalBytes: number,
  ): Promise<{ model: Model; filled: Promise<void> }> {
    return gpu.guard(`${config.name} (${megabytes(totalBytes)} of weights)`, () => {
      const { weights, wanted } = layOutWeights(gpu, source, config);
      const scratch = scratchFor(gpu, config, prefillTokensFor(config, tuning));
      const filled = source.bring(wanted);
      filled.catch(() => {}); // told where it is awaited
      return { model: new Model(gpu, config, weights, scratch, tuning), filled };
    });
  }

  // ------------------------------------------------------------------------------------------ running

  /** Take in tokens; their logits are not computed. At most `prefillTokens`. */
  prefill(ids: readonly number[], position: number): void {
    this.#gpu.write(this.#scratch.tokens, 0, Uint32Array.from(ids));
    this.#submit('prefill', ids.length, position);
  }

  /** Take in tokens and return the logits of each, [ids.length, vocabulary]. At most `scoreTokens`. */
  async score(ids: readonly number[], position: number): Promise<Float32Array<ArrayBuffer>> {
    this.#gpu.write(this.#scratch.tokens, 0, Uint32Array.from(ids));
    this.#submit('score', ids.length, position);
    return this.logits(ids.length);
  }

  /** Take in tokens, their logits left on the GPU for taps to look at. At most `scoreTokens`. */
  study(ids: readonly number[], position: number): void {
    this.#gpu.write(this.#scratch.tokens, 0, Uint32Array.from(ids));
    this.#submit('score', ids.length, position);
  }

  /** Take in the token at hand by one decode step and look at nothing. */
  repeatStep(id: number, position: number): void {
    this.setToken(id);
    this.#submit('decode', 1, position);
  }

  /** The same for one token, by a decode step. */
  async scoreStep(id: number, position: number): Promise<Float32Array<ArrayBuffer>> {
    this.setToken(id);
    this.#submit('decode', 1, position);
    return this.logits(1);
  }

  /** The token that the next decode takes in. A decode leaves its own best token here. */
  setToken(id: number): void {
    this.#gpu.write(this.#scratch.best, 0, Uint32Array.of(id));
  }

  /** Take in the token at hand by one decode step; the best token after it replaces it. Fails: BadNumbers, DeviceLost. */
  async decodeBest(position: number): Promise<Best> {
    return readBest(await this.#step('decode', position, this.#scratch.best), position);
  }

  /** What the coming draws penalise, from the tokens so far; see Sampling. */
  setPenalty({ repetitionPenalty, repetitionWindow }: Sampling, ids: readonly number[]): void {
    const penalty = new ArrayBuffer(8);
    new Float32Array(penalty)[0] = repetitionPenalty;
    new Uint32Array(penalty)[1] = repetitionWindow;
    this.#gpu.write(this.#scratch.penalty, 0, new Uint32Array(penalty));
    if (repetitionPenalty === 1) return;
    const seen = new Uint32Array(this.#config.vocabulary);
    ids.forEach((id, position) => (seen[id] = position + 1));
    this.#gpu.write(this.#scratch.seen, 0, seen);
  }

  /** Take in the token at hand by one decode step; the best tokens after it. Fails: BadNumbers, DeviceLost. */
  async decodeCandidates(position: number): Promise<Candidates> {
    const record = await this.#step('draw', position, this.#scratch.top);
    const merged = mergeCandidates(record, VOCABULARY_SLICES, CANDIDATES, this.#config.vocabulary);
    checkNumbers(merged.bad, position);
    return merged.candidates;
  }

  /** The logits of the last call's first `tokens` rows. */
  async logits(tokens: number): Promise<Float32Array<ArrayBuffer>> {
    return new Float32Array(
      await this.#gpu.read(this.#scratch.logits, 0, tokens * this.#config.vocabulary),
    );
  }

  /**
   * GPU time by kernel over the state at hand, slowest first. All calls of a kernel follow one another in one pass, and all
   * passes are repeated until a run is long: neither a pass's own cost nor a coarse clock counts then, and what one kernel
   * reads is not what the last one left in a cache. Needs 'timestamp-query'. Moves the state on. A token is the first of its
   * conversation.
   */
  async profile(phase: Phase, tokens: number, runs: number): Promise<KernelTime[]> {
    const calls = this.#planFor(phase, 0).calls.filter((c) => 'program' in c);
    const names = [...new Set(calls.map(({ program }) => program.name))];
    const groups = names.map((name) => calls.filter(({ program }) => program.name === name));
    this.#gpu.write(this.#scratch.step, 0, Uint32Array.of(tokens, 0));
    const firstUs = (await this.#gpu.profile(groups, tokens)).reduce((a, b) => a + b, 0);
    const rounds = Math.max(1, Math.min(MOST_ROUNDS, Math.ceil(PROFILE_US / firstUs)));
    const repeated = Array.from({ length: rounds }, () => groups).flat();
    const rows = groups.map((own, i): KernelTime => {
      const bytes = own.reduce((sum, call) => sum + this.#weightBytesRead(call), 0);
      return { name: names[i]!, calls: own.length, us: [], bytes };
    });
    for (let run = -1; run < runs; run++) {
      // Busy with as much before, the GPU has the clocks that work gives it when the timed part begins.
      this.#gpu.submit(this.#gpu.record(repeated.flat(), tokens));
      const us = await this.#gpu.profile(repeated, tokens);
      if (run < 0) continue; // the first run warms up
      rows.forEach((row, i) => {
        const own = us.filter((_, pass) => pass % groups.length === i);
        row.us.push(own.reduce((a, b) => a + b, 0) / rounds);
      });
    }
    const total = ({ us }: KernelTime) => us.reduce((a, b) => a + b, 0);
    return rows.sort((a, b) => total(b) - total(a));
  }

  /** What a phase calls at the begin of a conversation, in order: kernels by name, and copies. */
  calls(phase: Phase): string[] {
    return this.#planFor(phase, 0).calls.map((c) => ('program' in c ? c.program.name : 'copy'));
  }

  /** Bytes of weights that one decode step reads: of the experts, those chosen. */
  decodeBytes(): number {
    const calls = this.#plans!.decode.calls.filter((c) => 'program' in c);
    return calls.reduce((sum, call) => sum + this.#weightBytesRead(call), 0);
  }

  #weightBytesRead({ program, weights }: Call): number {
    const { experts, expertsUsed } = this.#config.moe;
    if (program.name === 'embed') return 0; // one row of many
    // A call may bind a matrix in two places and read it in one.
    return [...new Set(weights)].reduce(
      (sum, t) => sum + (this.#stacks.has(t) ? (t.bytes * expertsUsed) / experts : t.bytes),
      0,
    );
  }

  /** Logits of rows of the residual stream x [rows, D], as if each came out of the last layer. At most `scoreTokens` rows. */
  async project(x: Tensor, rows: number): Promise<Tensor> {
    const s = this.#scratch;
    const { width: D, eps: EPS } = this.#config;
    const p = new Plan(this.#gpu, 'score', s.step);
    p.run(K.norm, { D, EPS }, { x, w: this.#weights.outputNorm, h: s.h }, [p.sum], p.lanes(D / 4));
    p.linear(this.#weights.output, s.h, s.logits);
    await this.#gpu.ready();
    this.#gpu.write(s.step, 0, Uint32Array.of(rows, 0));
    this.#gpu.submit(this.#gpu.record(p.calls, rows));
    return s.logits;
  }

  /** Put aside what a running generation has on the GPU between two tokens, the state apart. Put it back with `resume`. */
  suspend(aside: { best: Tensor; seen: Tensor }): void {
    this.#gpu.copy(this.#scratch.best, 0, aside.best, 0, 4);
    this.#gpu.copy(this.#scratch.seen, 0, aside.seen, 0, this.#config.vocabulary);
  }

  resume(aside: { best: Tensor; seen: Tensor }): void {
    this.#gpu.copy(aside.best, 0, this.#scratch.best, 0, 4);
    this.#gpu.copy(aside.seen, 0, this.#scratch.seen, 0, this.#config.vocabulary);
  }

  /** The plan for a call of a phase whose first token is at `position`. */
  #planFor(phase: Phase, position: number): Plan {
    const plans = this.#plans!;
    if (position >= plans.shortRows) return plans[phase];
    if (phase === 'decode') return plans.shortDecode;
    return phase === 'draw' ? plans.shortDraw : plans[phase];
  }

  /** Submit a phase's calls, in stretches: the GPU begins while the rest is recorded. */
  #submit(phase: Phase, tokens: number, position: number): void {
    const { calls } = this.#planFor(phase, position);
    this.#gpu.write(this.#scratch.step, 0, Uint32Array.of(tokens, position));
    for (let at = 0; at < calls.length; at += CALLS_AT_ONCE) {
      this.#gpu.submit(this.#gpu.record(calls.slice(at, at + CALLS_AT_ONCE), tokens));
    }
  }

  /** Submit a decode step and read what it leaves; while it runs, the coming step is recorded: mostly it is the same calls. */
  #step(phase: 'decode' | 'draw', position: number, result: Tensor): Promise<ArrayBuffer> {
    const { putAside } = this.#plans!;
    const plan = this.#planFor(phase, position);
    const stretch = { tensor: result, element: 0, count: result.bytes / 4 };
    const record = (plan: Plan) => {
      const calls = phase === 'decode' ? [...putAside, ...plan.calls] : plan.calls;
      return { plan, reading: this.#gpu.recordReading(calls, 1, [stretch]) };
    };
    if (this.#ahead && this.#ahead.plan !== plan) this.#gpu.dropReading(this.#ahead.reading);
    const { reading } = this.#ahead?.plan === plan ? this.#ahead : record(plan);
    this.#gpu.write(this.#scratch.step, 0, Uint32Array.of(1, position));
    const read = this.#gpu.submitReading(reading);
    this.#ahead = record(this.#planFor(phase, position + 1));
    return read;
  }

  // ------------------------------------------------------------------------------------------ planning

  /** Build the plans on this state's buffers, with visitors in them. Again after the state has grown. */
  async attach(state: State, visitors: Visitors): Promise<void> {
    this.use(await this.plan(state, visitors));
  }

  /** Plans as `attach` builds them, to be used and set aside at will. */
  async plan(state: State, visitors: Visitors): Promise<Plans> {
    const plan = (phase: Phase) => this.#makePlan(phase, state, visitors);
    const decode = plan('decode');
    const draw = plan('draw');
    const rows = decode.few ? shortRows(this.#config, this.#weights, this.#scratch, state) : 0;
    const plans = {
      putAside: state.putAside(),
      shortRows: rows,
      decode,
      shortDecode: rows > 0 ? plan('shortDecode') : decode,
      draw,
      shortDraw: rows > 0 ? plan('shortDraw') : draw,
      prefill: plan('prefill'),
      score: plan('score'),
    };
    await this.#gpu.ready();
    return plans;
  }

  /** Run these plans from the next call on. */
  use(plans: Plans): void {
    this.#plans = plans;
  }

  #makePlan(phase: Phase, state: State, visitors: Visitors): Plan {
    const c = this.#config;
    const s = this.#scratch;
    const w = this.#weights;
    const single = phase !== 'prefill' && phase !== 'score';
    if (single && this.#tuning === 'gpu' && decodesInFewCalls(c, w)) {
      const p = oneToken(this.#gpu, phase, c, w, s, state, visitors);
      if (phase === 'decode' || phase === 'shortDecode') this.#best(p);
      else this.#candidates(p);
      return p;
    }
    const { tap, changes } = visitors;
    const p = new Plan(this.#gpu, phase, s.step);
    const normed = { D: c.width, EPS: c.eps };
    const lanes = p.lanes(c.width / 4);

    const { tokens, stride } = p.single
      ? { tokens: s.best, stride: 4 }
      : { tokens: s.tokens, stride: 1 };
    for (const part of w.embedding.parts) {
      const consts = { FIRST: part.firstRow, COUNT: part.rows, STRIDE: stride };
      p.runMatrix(K.embed, consts, { tokens, x: s.x, seen: s.seen }, w.embedding, part, [K.step]);
    }
    p.run(K.norm, normed, { x: s.x, w: w.layers[0]!.mixer.norm, h: s.h }, [p.sum], lanes);

    const addNorm = (norm: Tensor) =>
      p.run(
        K.addNorm,
        { ...normed, LAST: 0 },
        { x: s.x, y: s.y, w: norm, h: s.h },
        [p.sum, K.step],
        lanes,
      );
    w.layers.forEach(({ mixer, ffn }, i) => {
      const memory = state.layers[i]!;
      const look = (site: Site, tensor: Tensor) => tap?.(site, i, tensor, p);
      look('input', s.x);
      if (mixer.kind === 'kda') this.#kda(p, mixer, memory as KdaState, changes?.(i) ?? null, look);
      else this.#mla(p, mixer, memory as MlaState, state.segments, look);
      addNorm(ffn.norm);
      if (ffn.kind === 'dense') this.#ffn(p, ffn, s.y);
      else this.#moe(p, ffn, look);
      addNorm(w.layers[i + 1]?.mixer.norm ?? w.outputNorm);
    });
    tap?.('input', w.layers.length, s.x, p);
    tap?.('final', w.layers.length, s.h, p);

    if (phase === 'prefill') return p; // the last token of a prompt is decoded, so these logits are never needed
    p.linear(w.output, s.h, s.logits);
    tap?.('logits', w.layers.length, s.logits, p);
    if (phase === 'decode') this.#best(p);
    if (phase === 'draw') this.#candidates(p);
    return p;
  }

  /** Kimi Delta Attention: h -> y, and the memory moves on. */
  #kda(p: Plan, w: KdaWeights, state: KdaState, changes: Tensor | null, look: Look): void {
    const s = this.#scratch;
    const H = this.#config.heads;
    const { keys, values: V, taps: TAPS } = this.#config.kda;
    const C = H * (2 * keys + V);
    const EPS = this.#config.eps;
    linearSideBySide(p, [w.q, w.k, w.v], s.h, s.qkv);
    p.run(K.shortConv, { C, TAPS }, { qkv: s.qkv, w: w.conv, tails: state.tails, mixed: s.mixed }, [
      K.activation,
      K.step,
    ]);
    const low = w.forgetA.rows + w.outGateA.rows;
    linearSideBySide(p, [w.forgetA, w.outGateA], s.h, s.low);
    p.linear(w.forgetB, s.low, s.g, { xToken: low });
    p.linear(w.writeStrength, s.h, s.beta);
    const gates = { mixed: s.mixed, g: s.g, beta: s.beta, dt: w.dt, a: w.a };
    p.run(K.kdaGate, { H, K: keys, C, EPS }, gates, [K.activation, p.sum], p.lanes(keys));
    if (changes) {
      const consts = { H, K: keys, CHANGES: changes.shape[0]! };
      p.run(K.intervene, consts, { changes, g: s.g, beta: s.beta }, [K.step]);
    }
    look('mixed', s.mixed);
    look('g', s.g);
    look('beta', s.beta);
    if (p.single || this.#tuning === 'cpu') {
      const memory = { mixed: s.mixed, g: s.g, beta: s.beta, S: state.memory, o: s.o };
      const PARTS = this.#tuning === 'cpu' ? 1 : 8;
      p.run(K.kdaStep, { H, K: keys, V, PARTS }, memory, [K.step]);
    } else {
      const { mixed, g, beta, o, chunk } = s;
      const tensors = { mixed, g, beta, S: state.memory, o, chunk };
      kdaChunks(p, this.#gpu, { H, K: keys, V }, tensors);
    }
    look('o', s.o);
    p.linear(w.outGateB, s.low, s.outGate, { xToken: low, xFirst: w.forgetA.rows });
    look('outGate', s.outGate);
    const out = { o: s.o, gate: s.outGate, w: w.outNorm, y: s.gated };
    p.run(K.kdaOut, { H, V, EPS }, out, [K.activation, p.sum], p.lanes(V));
    p.linear(w.output, s.gated, s.y);
  }

  /** Multi-head latent attention, absorbed: h -> y, and the cache gets a row per token. */
  #mla(p: Plan, w: MlaWeights, cache: MlaState, rows: readonly Segment[], look: Look): void {
    const s = this.#scratch;
    p.linear(w.q, s.h, s.query);
    p.linear(w.latent, s.h, s.latentRow);
    look('query', s.query);
    look('latentRow', s.latentRow);
    mlaAttention(p, this.#gpu, this.#config, w, cache, rows, s);
    look('latentQuery', s.latentQuery);
    look('o', s.o);
    p.linear(w.output, s.o, s.y);
  }

  /** A SwiGLU network on h. */
  #ffn(p: Plan, w: Ffn, y: Tensor): void {
    const s = this.#scratch;
    const WIDTH = w.gate.rows;
    linearSideBySide(p, [w.gate, w.up], s.h, s.gateUp);
    const consts = { WIDTH, SLOTS: 1, GATE_FIRST: 0, UP_FIRST: WIDTH, STRIDE: 2 * WIDTH };
    p.run(K.swiglu, consts, { gate: s.gateUp, up: s.gateUp, act: s.act }, [K.activation]);
    p.linear(w.down, s.act, y);
  }

  /** Mixture of experts: the chosen ones, weighted, and the shared one. Nothing of the choice is read back. */
  #moe(p: Plan, w: MoeWeights, look: Look): void {
    const s = this.#scratch;
    const D = this.#config.width;
    const {
      experts: EXPERTS,
      expertsUsed: TOP,
      scale: SCALE,
      width,
      normalised,
    } = this.#config.moe;
    const NORM = normalised ? 1 : 0;
    p.linear(w.router, s.h, s.scores);
    p.run(
      K.route,
      { EXPERTS, TOP, SCALE, NORM },
      { logits: s.scores, bias: w.bias, ids: s.ids, weights: s.routed },
      [K.activation],
    );
    look('scores', s.scores);
    look('bias', w.bias);
    look('ids', s.ids);
    look('routed', s.routed);
    this.#ffn(p, w.shared, s.always);
    const slots = { WIDTH: width, SLOTS: TOP, GATE_FIRST: 0, UP_FIRST: 0, STRIDE: width };
    const routing = { ids: s.ids, list: s.list, tiles: s.tiles, TOP };
    if (!p.single) {
      const { TILE_TOKENS } = TILE;
      const sorted = { ids: s.ids, list: s.list, tiles: s.tiles };
      p.run(K.expertGroup, { EXPERTS, TOP, TILE_TOKENS }, sorted, [K.step]);
    }
    p.experts(w.experts.gate, routing, s.h, s.expertGate, 'token');
    p.experts(w.experts.up, routing, s.h, s.expertUp, 'token');
    p.run(K.swiglu, slots, { gate: s.expertGate, up: s.expertUp, act: s.expertAct }, [
      K.activation,
    ]);
    p.experts(w.experts.down, routing, s.expertAct, s.expertDown, 'slot');
    p.run(
      K.expertSum,
      { D, TOP },
      { weights: s.routed, down: s.expertDown, always: s.always, y: s.y },
    );
  }

  #candidates(p: Plan): void {
    const { penalty, logits, seen, top: slices } = this.#scratch;
    const consts = {
      VOCABULARY: this.#config.vocabulary,
      SLICES: VOCABULARY_SLICES,
      BEST: CANDIDATES,
    };
    const lanes = { SUM_LANES: 128 };
    p.run(K.topLogits, consts, { penalty, logits, seen, slices }, [p.sum, K.step], lanes);
  }

  #best(p: Plan): void {
    const s = this.#scratch;
    const consts = { VOCABULARY: this.#config.vocabulary, SLICES: VOCABULARY_SLICES };
    p.run(K.argmax, consts, { logits: s.logits, slices: s.slices }, [K.best]);
    p.run(K.argmaxMerge, { SLICES: VOCABULARY_SLICES }, { slices: s.slices, best: s.best }, [
      K.best,
    ]);
  }
}

/** The record [id, logit, bad, sum of exp(l - logit)] that argmax leaves. Fails: BadNumbers. */
function readBest(record: ArrayBuffer, position: number): Best {
  const [id, , bad] = new Uint32Array(record);
  const sum = new Float32Array(record)[3]!;
  checkNumbers(bad!, position);
  return { id: id!, logprob: -Math.log(sum) };
}

function checkNumbers(bad: number, position: number): void {
  if (bad > 0) {
    throw new PalimpsestError(
      'BadNumbers',
      `${bad} logits after token ${position} are not finite numbers. The model file may be damaged; load it again, and if it happens again, choose another file.`,
    );
  }
}

/** y = the products of one input, one after another in a row of y. */
function linearSideBySide(p: Plan, matrices: Matrix[], x: Tensor, y: Tensor): void {
  const yToken = matrices.reduce((sum, w) => sum + w.rows, 0);
  for (const { matrix, first } of adjoining(...matrices))
    p.linear(matrix, x, y, { yToken, yFirst: first });
}

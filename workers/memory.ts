/**
 * The memory laid open: recordings, questions about any token, branches and interventions (MemoryApi). The engine tells it
 * of every call that takes tokens in; while no one watches that is all it does.
 */
import {
  asBranch,
  Branches,
  type Line,
  type LineOutline,
  type Outline,
  sharedTokens,
} from './branches.ts';
import type { ModelConfig } from './config.ts';
import type { Gpu } from './gpu.ts';
import { Changes } from './interventions.ts';
import { Keep, type Kept } from './keep.ts';
import * as M from './measures.ts';
import type { Model, Plans } from './model.ts';
import type { Tap, Visitors } from './plan.ts';
import { type History, distances, keyTap } from './probe.ts';
import {
  type Answers,
  type Branch,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  PalimpsestError,
  type Watch,
} from './protocol.ts';
import { Recording } from './recording.ts';
import { Replay } from './replay.ts';
import type { KdaState, State } from './state.ts';

/** What the memory is laid open of. */
export interface Laid {
  gpu: Gpu;
  config: ModelConfig;
  model: Model;
  state: State;
  /** The text of one token. */
  piece: (id: number) => string;
}

export class Memory {
  readonly branches: Branches;
  readonly keep: Keep;
  readonly #gpu: Gpu;
  readonly #config: ModelConfig;
  readonly #model: Model;
  readonly #state: State;
  readonly #piece: (id: number) => string;
  readonly #replay: Replay;
  #recording: Recording | null = null;
  #present!: Plans;

  private constructor({ gpu, config, model, state, piece }: Laid) {
    this.#gpu = gpu;
    this.#config = config;
    this.#model = model;
    this.#state = state;
    this.#piece = piece;
    this.branches = new Branches(gpu, state);
    this.keep = new Keep(gpu, state);
    this.#replay = new Replay(gpu, config, model, state, this.branches);
  }

  /** Call `attach` before anything else. */
  static open(laid: Laid): Promise<Memory> {
    return laid.gpu.guard('what looks into the memory', () => new Memory(laid));
  }

  /** The present branch. */
  get line(): Line {
    return this.branches.present;
  }

  // -------------------------------------------------------------------------------- while tokens are taken in

  /** Bind the plans to the buffers, probes and interventions there are. */
  async attach(): Promise<void> {
    const recording = this.#recording;
    this.#replay.stale();
    this.#present = await this.#planFor(recording && recording.probe.recordTap(recording.history));
    this.#model.use(this.#present);
  }

  /** Plans for the present branch, with its interventions and a tap in them. */
  #planFor(tap: Tap | null): Promise<Plans> {
    const visitors: Visitors = { tap, changes: this.line.changes?.table ?? null };
    return this.#model.plan(this.#state, visitors);
  }

  /** Where a prefill call from `at` must end at the latest. */
  end(at: number, most: number): number {
    const end = this.#recording ? Math.min(most, at + this.#model.scoreTokens) : most;
    return this.line.changes?.end(at, end) ?? end;
  }

  /** Before a call that takes in tokens [at, end). */
  async before(at: number, end: number): Promise<void> {
    if (this.#recording) {
      if (this.#recording.reserve(end)) await this.attach();
      await this.#recording.room(end);
    }
    this.line.changes?.apply(at);
  }

  /** Take in a piece of a prompt. */
  prefill(ids: readonly number[], at: number): void {
    if (this.#recording) this.#model.study(ids, at);
    else this.#model.prefill(ids, at);
  }

  /** A call that took in `tokens`, up to `end`, is submitted. */
  took(tokens: number, end: number, by: 'chunk' | 'step'): void {
    this.line.path.add(tokens, by);
    this.#recording?.took(end);
  }

  /** Between two calls, the history being up to date: a place for a snapshot, and to keep the state outside the GPU. */
  async rest({ keeps }: { keeps: boolean }): Promise<void> {
    if (!this.line.path.mayRest(this.#state.position)) return;
    if (keeps) this.keep.rest();
    await this.#recording?.keep();
  }

  /** Whether a snapshot is to be kept at the next rest, where the history must be up to date. */
  get due(): boolean {
    return this.#recording?.due ?? false;
  }

  /** The present branch goes back to its first `position` tokens. */
  cut(position: number): void {
    this.branches.cut(position);
    this.#forget(position);
  }

  /** What is known of the present branch's tokens from `position` on no longer holds. */
  #forget(position: number): void {
    this.keep.forget(position);
    this.#recording?.forget(position);
  }

  /** Bring the present branch back to the end of a prompt whose state went with its device. */
  async returnTo(mark: number): Promise<void> {
    await this.#replay.goTo(mark);
    this.#model.use(this.#present);
    this.cut(mark);
    await this.#mark();
  }

  /** Keep the state as it is as a place to go back to. */
  async #mark(): Promise<void> {
    const { line } = this;
    const what = 'a checkpoint of the memory';
    const snapshot = await this.#gpu.guard(what, () => this.#state.snapshot());
    const isMark = line.marks.includes(snapshot.position);
    line[isMark ? 'checkpoints' : 'snapshots'].push(snapshot);
    line.marks = line.marks.filter((mark) => mark !== snapshot.position);
  }

  /** Everything is forgotten: one fresh branch is left. */
  async clear(): Promise<void> {
    const changed = this.line.changes !== null;
    this.branches.clear();
    this.#forget(0);
    this.#replay.stale();
    if (changed) await this.attach();
  }

  /** Resolves when everything so far is told to the watcher. */
  async settled(): Promise<void> {
    await this.#recording?.settled();
  }

  // ------------------------------------------------------------------------------------------ another device

  /**
   * Take up a conversation in place of the empty one there is: the present branch stands again as it did, from what was
   * kept of it outside the GPU and the same calls since; the others when they are asked for.
   */
  async resume(outline: Outline, kept: Kept | null): Promise<void> {
    const changes = new Map<LineOutline, Changes | null>();
    await this.#gpu.guard('interventions', async () => {
      const none = { count: 0, changes: null };
      const [gpu, config, state] = [this.#gpu, this.#config, this.#state];
      for (const line of outline.lines) {
        const { interventions, taken } = line;
        changes.set(line, await Changes.prepare(gpu, config, state, none, interventions, taken));
      }
    });
    this.branches.resume(outline, (line) => changes.get(line)!);
    await this.stand(kept);
  }

  /** Have the present branch stand where its tokens end, from what was kept of it where that is of this kind. */
  async stand(kept: Kept | null): Promise<void> {
    await this.#recording?.pause();
    await this.attach();
    const fits = kept?.rowWords === this.#state.rowWords;
    if (fits && kept.recurrent.length === this.#state.recurrentWords) {
      this.#state.writeBack(kept.position, kept.recurrent, kept.blocks);
      await this.#mark();
      this.keep.resume(kept);
    }
    await this.#replay.goTo(this.line.history.length);
    this.#model.use(this.#present);
    await this.#afterSwitch();
  }

  // ------------------------------------------------------------------------------------------------- watching

  layers(): LayerLists {
    const of = (wanted: (l: ModelConfig['layers'][number]) => boolean) =>
      this.#config.layers.flatMap((l, i) => (wanted(l) ? [i] : []));
    return {
      kda: of((l) => l.kind === 'kda'),
      mla: of((l) => l.kind === 'mla'),
      moe: of((l) => l.ffn === 'moe'),
    };
  }

  /** See MemoryApi.watch. Call where no token is under way. */
  async watch(watch: Watch | null, onFrame: (frame: Frame) => unknown): Promise<void> {
    if (watch) this.#checkHead(watch.layer, watch.head);
    if (!watch || !this.#recording) {
      await this.#recording?.end();
      this.#recording = null;
    }
    if (!watch) return this.attach();
    if (this.#recording) this.#recording.follow(watch, onFrame);
    else {
      const begin = () => new Recording(this.#parts(), watch, onFrame);
      this.#recording = await this.#gpu.guard('a recording', begin);
    }
    await this.#catchUp();
  }

  /** Record what the present branch has taken in and the recording has not. */
  async #catchUp(): Promise<void> {
    const recording = this.#recording!;
    const { length } = this.line.history;
    recording.reserve(length);
    await this.attach();
    const from = recording.complete;
    if (from >= length) return recording.picture();
    await recording.pause();
    await this.#replay.away(this.#present, async () => {
      let begun = false;
      const visit = {
        plans: this.#present,
        before: async (end: number) => {
          if (!begun) recording.rewindTo(this.#state.position);
          begun = true;
          await recording.room(end);
        },
        after: async (end: number) => {
          recording.took(end);
          if (this.line.path.mayRest(end)) await recording.keep();
        },
      };
      await this.#replay.goTo(length, visit, from);
      await recording.pause(); // until the ring is read
    });
    recording.resume(length);
  }

  // -------------------------------------------------------------------------------------------------- inquiries

  /** See MemoryApi.inspect. Call where no token is under way. */
  async inspect<Kind extends Inquiry['kind']>(
    inquiry: Extract<Inquiry, { kind: Kind }>,
  ): Promise<Answers[Kind]> {
    const recording = this.#recording;
    if (!recording) {
      throw new PalimpsestError('Refused', 'Nothing is recorded. Begin to watch first.');
    }
    const asked: Inquiry = inquiry;
    this.#checkPosition(asked.kind === 'gates' ? asked.to - 1 : asked.position);
    await recording.pause();
    try {
      const answer = await this.#replay.away(this.#present, () => this.#answer(recording, asked));
      return answer as Answers[Kind];
    } finally {
      recording.resume(this.#state.position);
      recording.thin();
    }
  }

  async #answer(recording: Recording, asked: Inquiry): Promise<Answers[Inquiry['kind']]> {
    switch (asked.kind) {
      case 'gates':
        return this.#gates(recording, asked);
      case 'memory':
        return this.#memory(recording, asked);
      case 'thumbnails': {
        await this.#replay.goTo(asked.position + 1);
        const look = await recording.probe.thumbnails();
        return { cells: await look() };
      }
      case 'recall':
        return this.#recall(recording, asked);
      case 'reach':
        return this.#reach(recording, asked);
      case 'router':
        return this.#router(recording, asked);
      case 'lens':
        return this.#lens(recording, asked.position);
    }
  }

  async #gates(
    recording: Recording,
    { layer, from, to }: Extract<Inquiry, { kind: 'gates' }>,
  ): Promise<Answers['gates']> {
    this.#checkHead(layer, 0);
    if (!(from >= 0 && from < to)) {
      throw new PalimpsestError(
        'Refused',
        `There are no tokens from ${from} to ${to}. Ask for at least one.`,
      );
    }
    const { H, K } = recording.probe.sizes;
    const { values, words } = await (await this.#historyUpTo(recording, layer, to)).read(from, to);
    const halfLife = new Float32Array((to - from) * H * K);
    const first = M.places(recording.probe.sizes, 0).g;
    for (let i = 0; i < halfLife.length; i++) {
      const t = Math.floor(i / (H * K));
      halfLife[i] = M.halfLife(values[t * words + first + (i % (H * K))]!);
    }
    return { halfLife, tokens: to - from };
  }

  async #memory(
    recording: Recording,
    { layer, head, position }: Extract<Inquiry, { kind: 'memory' }>,
  ): Promise<Answers['memory']> {
    this.#checkHead(layer, head);
    await this.#replay.goTo(position);
    const before = await recording.probe.memory(layer, head);
    await this.#replay.goTo(position + 1);
    const cells = await recording.probe.memory(layer, head);
    const { K, V } = recording.probe.sizes;
    const singular = M.singularValues(cells, K, V);
    return {
      cells,
      change: cells.map((value, i) => value - before[i]!),
      energy: M.norm(cells),
      effectiveRank: M.effectiveRank(singular),
      singularValues: Float32Array.from(singular),
    };
  }

  async #recall(
    recording: Recording,
    { layer, head, position }: Extract<Inquiry, { kind: 'recall' }>,
  ): Promise<Answers['recall']> {
    this.#checkHead(layer, head);
    const tokens = position + 1;
    const { probe } = recording;
    const history = await this.#historyUpTo(recording, layer, tokens);
    await this.#replay.goTo(tokens);
    const look = await probe.recall(history);
    const all = await look(tokens);
    const left = M.ink(probe.sizes, await history.read(0, tokens));
    const { by, loss } = await probe.overwrites(history, tokens, head);
    const { H } = probe.sizes;
    const one = (values: Float32Array) =>
      head === 'median' ? M.medians(values, H) : M.column(values, H, head);
    return { recall: one(all), ink: one(left), overwrittenBy: by, loss };
  }

  async #reach(
    recording: Recording,
    { layer, head, position }: Extract<Inquiry, { kind: 'reach' }>,
  ): Promise<Answers['reach']> {
    const tokens = position + 1;
    if (this.#config.layers[layer]?.kind === 'mla')
      return this.#attention(recording, layer, head, tokens);
    this.#checkHead(layer, head);
    const history = await this.#historyUpTo(recording, layer, tokens);
    return { weights: M.reach(recording.probe.sizes, await history.read(0, tokens), head) };
  }

  /** The softmax row of an MLA layer, from its query in the latent's terms and the cache. */
  async #attention(
    recording: Recording,
    layer: number,
    head: number,
    tokens: number,
  ): Promise<Answers['reach']> {
    const { ownKey, sharedKey, query, latent } = this.#config.mla;
    this.#checkHeadNumber(head);
    const sight = await this.#lookAt(recording, tokens);
    const [queries, latents, rows] = await Promise.all([
      sight.read('query', layer),
      sight.read('latentQuery', layer),
      this.#state.readRows(layer, tokens),
    ]);
    const row = new Float64Array(latent + sharedKey);
    row.set(new Float32Array(latents).subarray(head * latent, (head + 1) * latent));
    const first = head * query + ownKey;
    row.set(new Float32Array(queries).subarray(first, first + sharedKey), latent);
    return { weights: M.attention(row, rows, query ** -0.5) };
  }

  async #router(
    recording: Recording,
    { layer, position }: Extract<Inquiry, { kind: 'router' }>,
  ): Promise<Answers['router']> {
    if (this.#config.layers[layer]?.ffn !== 'moe') {
      throw new PalimpsestError('Refused', `Layer ${layer} has no experts. Choose one that has.`);
    }
    const sight = await this.#lookAt(recording, position + 1);
    const [scores, bias, chosen, weights] = await Promise.all([
      sight.read('scores', layer),
      sight.read('bias', layer),
      sight.read('ids', layer),
      sight.read('routed', layer),
    ]);
    return {
      scores: new Float32Array(scores).map((s) => 1 / (1 + Math.exp(-s))),
      bias: new Float32Array(bias),
      chosen: new Uint32Array(chosen),
      weights: new Float32Array(weights),
    };
  }

  async #lens(recording: Recording, position: number): Promise<Answers['lens']> {
    const { stream } = await this.#lookAt(recording, position + 1);
    const layers: Answers['lens']['layers'] = [];
    const rows = this.#config.layers.length;
    const outlooks = await recording.probe.outlooks(await this.#model.project(stream, rows), rows);
    for (const best of outlooks) {
      const three = best.slice(0, 3);
      layers.push(
        three.map(({ id, logprob }) => ({
          id,
          text: this.#piece(id),
          probability: Math.exp(logprob),
        })),
      );
    }
    return { layers };
  }

  async #lookAt(recording: Recording, tokens: number) {
    const plans = await this.#planFor(recording.probe.sightTap());
    await this.#replay.goLookAt(tokens, plans);
    return recording.probe.sight();
  }

  /** A layer's history of the first `tokens`; what is missing comes by replay. */
  async #historyUpTo(recording: Recording, layer: number, tokens: number): Promise<History> {
    const history = recording.historyOf(layer);
    history.reserve(tokens);
    if (history.upTo >= tokens) return history;
    const visit = {
      plans: await this.#planFor(recording.probe.historyTap(history)),
      before: () => {},
      after: (end: number) => void (history.upTo = Math.max(history.upTo, end)),
    };
    await this.#replay.goTo(tokens, visit, history.upTo);
    return history;
  }

  // --------------------------------------------------------------------------------------------------- branches

  /** See MemoryApi.fork. Call where no token is under way. */
  async fork(
    position: number,
    token: number | null,
    interventions: Intervention[],
  ): Promise<Branch> {
    const parent = this.line;
    const ids = [...parent.history, ...parent.said];
    if (!Number.isInteger(position) || position < 1 || position >= ids.length) {
      throw new PalimpsestError(
        'Refused',
        `No branch can begin at token ${position}: this one has tokens 0 to ${ids.length - 1}, and the first is shared.`,
      );
    }
    const next = token ?? ids[position]!;
    if (!Number.isInteger(next) || next < 0 || next >= this.#config.vocabulary) {
      throw new PalimpsestError(
        'Refused',
        `${next} is no token id: they go from 0 to ${this.#config.vocabulary - 1}.`,
      );
    }
    const at = Math.min(position, parent.history.length);
    const all = [...parent.interventions, ...interventions];
    const { taken, changes } = await this.#prepare(interventions);
    const unchanged = Math.min(at, ...interventions.map(({ from }) => from));
    await this.#recording?.pause();
    const line = await this.branches.fork(at, next, unchanged, all, taken, changes);
    line.said = [...ids.slice(at, position), next];
    this.#forget(unchanged);
    this.#recut(line, unchanged);
    await this.attach();
    await this.#replay.goTo(at, null, unchanged);
    this.#model.use(this.#present);
    await this.#afterSwitch();
    return asBranch(line);
  }

  /** Events that a branch has where its parent had none end a call; so does where they begin in a replayed path. */
  #recut(line: Line, unchanged: number): void {
    const path = line.path.copy();
    const { end } = path;
    line.path.cut(unchanged);
    for (const call of path.calls(line.path.end, end)) {
      for (let at = call.position; at < call.position + call.tokens;) {
        const last = call.position + call.tokens;
        const to = call.route === 'chunk' ? (line.changes?.end(at, last) ?? last) : last;
        line.path.add(to - at, call.route);
        at = to;
      }
    }
  }

  async #prepare(interventions: readonly Intervention[]) {
    const { line } = this;
    for (const i of interventions) {
      if (i.kind === 'swap') await this.#standing(this.branches.line(i.branch));
      if (i.kind === 'forget' && i.token >= line.history.length) this.#checkPosition(i.token);
    }
    const { length: count } = line.interventions;
    const { taken: before, changes: base } = line;
    const earlier = { count, taken: before };
    const taken = await Changes.gather(this.#config, earlier, interventions, {
      key: (layer, token) => this.#keyOf(layer, token),
      memory: async (layer, branch) =>
        new Float32Array(await this.#gpu.read(this.#memoryOf(this.branches.line(branch), layer))),
    });
    const changes = await this.#gpu.guard('interventions', () =>
      Changes.prepare(
        this.#gpu,
        this.#config,
        this.#state,
        { count, changes: base },
        interventions,
        taken,
      ),
    );
    return { taken, changes };
  }

  /** The keys [H, K] of a token of the present branch. */
  async #keyOf(layer: number, token: number): Promise<Float32Array> {
    const { heads: H } = this.#config;
    const { keys } = this.#config.kda;
    const row = await this.#gpu.guard('a row of q, k and v', () =>
      this.#gpu.tensor('scratch', 'a row of q, k and v', [
        H * (2 * keys + this.#config.kda.values),
      ]),
    );
    try {
      return await this.#replay.away(this.#present, async () => {
        const plans = await this.#planFor(keyTap(layer, row));
        await this.#replay.goLookAt(token + 1, plans);
        return new Float32Array(await this.#gpu.read(row, H * keys, H * keys));
      });
    } finally {
      this.#gpu.release(row);
    }
  }

  #memoryOf(line: Line, layer: number) {
    if (!line.aside) return (this.#state.layers[layer] as KdaState).memory;
    return this.#state.memoryIn(line.aside.end, layer);
  }

  /** See MemoryApi.select. Call where no token is under way. */
  async select(branch: number): Promise<void> {
    const line = this.branches.line(branch);
    if (line === this.line) return;
    await this.#standing(line);
    const shared = sharedTokens(this.line, line);
    await this.#recording?.pause();
    await this.branches.select(line);
    this.#forget(shared);
    await this.attach();
    await this.#afterSwitch();
  }

  /** Have a line's state at hand: one that went with its device is taken in again. */
  async #standing(line: Line): Promise<void> {
    const { line: present } = this;
    if (line === present || line.aside) return;
    await this.#recording?.pause();
    await this.#replay.away(this.#present, async () => {
      await this.branches.select(line);
      this.#replay.stale();
      await this.#replay.goTo(line.history.length);
      await this.branches.select(present);
      this.#replay.stale();
    });
    this.#recording?.resume(this.#state.position);
  }

  async #afterSwitch(): Promise<void> {
    if (this.#recording) await this.#catchUp();
  }

  /** Make sure that a token is left to take in, so that the present branch can go on. */
  async readyToProceed(): Promise<number[]> {
    const { line } = this;
    if (line.history.length === 0 && line.said.length === 0) {
      throw new PalimpsestError(
        'Refused',
        'This branch is empty: there is nothing to go on from. Write something first.',
      );
    }
    if (line.said.length === 0) {
      const last = line.history.at(-1)!;
      const at = line.history.length - 1;
      await this.#recording?.pause();
      await this.#replay.goTo(at);
      this.#model.use(this.#present);
      this.branches.cut(at);
      line.said = [last];
      this.#forget(at);
      this.#recording?.resume(at);
    }
    return [...line.history, ...line.said];
  }

  /** See MemoryApi.compare. */
  async compare(a: number, b: number): Promise<Float32Array> {
    const [one, other] = [this.branches.line(a), this.branches.line(b)];
    await this.#standing(one);
    await this.#standing(other);
    const { heads: H } = this.#config;
    const sizes = { H, K: this.#config.kda.keys, V: this.#config.kda.values };
    const { kda } = this.layers();
    const all = new Float32Array(kda.length * H);
    for (const [i, layer] of kda.entries()) {
      const read = async (line: Line) =>
        new Float32Array(await this.#gpu.read(this.#memoryOf(line, layer)));
      all.set(distances(await read(one), await read(other), sizes), i * H);
    }
    return all;
  }

  /** See MemoryApi.difference. */
  async difference(a: number, b: number, layer: number, head: number): Promise<Float32Array> {
    const [one, other] = [this.branches.line(a), this.branches.line(b)];
    this.#checkHead(layer, head);
    await this.#standing(one);
    await this.#standing(other);
    const { keys, values } = this.#config.kda;
    const size = keys * values;
    const read = async (line: Line) =>
      new Float32Array(await this.#gpu.read(this.#memoryOf(line, layer), head * size, size));
    const [cells, others] = [await read(one), await read(other)];
    return cells.map((value, i) => value - others[i]!);
  }

  // --------------------------------------------------------------------------------------------------- refusals

  #parts() {
    return {
      gpu: this.#gpu,
      config: this.#config,
      state: this.#state,
      branches: this.branches,
      piece: this.#piece,
    };
  }

  #checkHead(layer: number, head: number | 'median'): void {
    if (this.#config.layers[layer]?.kind !== 'kda') {
      throw new PalimpsestError(
        'Refused',
        `Layer ${layer} has no recurrent memory. Choose a KDA layer.`,
      );
    }
    if (head !== 'median') this.#checkHeadNumber(head);
  }

  #checkHeadNumber(head: number): void {
    if (!Number.isInteger(head) || head < 0 || head >= this.#config.heads) {
      throw new PalimpsestError(
        'Refused',
        `There is no head ${head}; heads go from 0 to ${this.#config.heads - 1}.`,
      );
    }
  }

  #checkPosition(position: number): void {
    const { length } = this.line.history;
    if (!Number.isInteger(position) || position < 0 || position >= length) {
      throw new PalimpsestError(
        'Refused',
        `Token ${position} has not been taken in; there are ${length}, counted from 0. Choose an earlier one.`,
      );
    }
  }
}

/**
 * What is known of the model's memory and what of it is looked at, as reactive state: one selection for all views, the
 * records of every token, and the answers to what the views ask. It looks at a running engine or at a recording alike.
 */
import {
  type Answers,
  type Branch,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type MemoryApi,
  type ModelReport,
  type RecallFrame,
  type TokenRecord,
} from '../workers/protocol.ts';
import { toFailure } from './errors.ts';
import { instruments, type Instrument } from './views/instruments.ts';
import { storyOf, tellingLoss, writtenShares } from './views/story.ts';
import { recall as recallSetting, remember } from './settings.ts';
import { askRecording, inquiryKey, noteText, type Recording } from './replay.ts';

/** A head of the layer, or the median over all of them. */
export type Head = number | 'median';

/** Bytes that a recording may take on the GPU and in the engine's worker. */
export const budgetBytes = 175e6;

/** How long a token stays on screen while a text is played. */
const playMs = 110;

/** How long a note stays while a recording is played: at least, and for each character. */
const noteMs = 900;
const readMs = 38;

/** A loss of recall that is drawn in full strength, and how many lines are drawn at most. */
const fullLoss = 0.25;
const mostThreads = 6;

/** However little a memory returns, full ink stands for no less than this recall. */
const leastFullInk = 0.25;

/** Recalls kept for going back and forth without asking again: numbers, over all tokens. */
const keptRecalls = 2e6;

export class Memory {
  model = $state.raw<ModelReport | null>(null);
  lists = $state.raw<LayerLists>({ kda: [], mla: [], moe: [] });
  records = $state.raw<readonly TokenRecord[]>([]);
  /** The recording that is looked at; null for a running engine. */
  recording = $state.raw<Recording | null>(null);
  /** The memories in small, as they came last: [KDA layer, head, 8, 8]. */
  thumbnails = $state.raw<{ position: number; cells: Float32Array } | null>(null);
  branches = $state.raw<readonly Branch[]>([]);
  /** Interventions of the next branch, in order of making. */
  planned = $state.raw<readonly Intervention[]>([]);
  /** Bytes the engine's recording takes. */
  recordedBytes = $state.raw(0);
  /** Why nothing more is recorded; '' while all is well. */
  refusal = $state.raw('');
  /** Why the branch that was chosen last is not the present one; '' where it is. */
  branchRefusal = $state.raw('');

  // ------------------------------------------------------------------------------------- selection
  layer = $state(0);
  head = $state<Head>('median');
  /** The token that is looked at; null follows the newest. */
  token = $state<number | null>(null);
  /** The token under the pointer. */
  hovered = $state<number | null>(null);
  branch = $state(0);
  playing = $state(false);
  /** Record what the model does. Costs some of its speed. */
  watching = $state(recallSetting('watching', (stored) => stored !== false));
  /** Show texts as ink, not rendered. */
  inked = $state(recallSetting('inked', (stored) => stored !== false));
  /** The instruments that are open, the last opened last. */
  opened = $state.raw<readonly Instrument[]>(
    recallSetting('opened', (stored) =>
      Array.isArray(stored) ? instruments.filter((view) => stored.includes(view)) : ['writes'],
    ),
  );
  /** Tokens arrive: only what comes by itself is shown, so that the model need not wait. */
  live = $state(false);

  last = $derived(this.records.length - 1);
  at = $derived(this.token === null ? this.last : Math.min(this.token, this.last));
  record = $derived<TokenRecord | null>(this.records[this.at] ?? null);
  isKda = $derived(this.lists.kda.includes(this.layer));
  /** The place of the layer among the KDA layers; of the nearest one before it for an MLA layer. */
  kdaIndex = $derived(
    Math.max(
      0,
      this.lists.kda.findLastIndex((layer) => layer <= this.layer),
    ),
  );
  kdaLayer = $derived(this.lists.kda[this.kdaIndex] ?? 0);
  /** The head for views that show one. */
  oneHead = $derived(this.head === 'median' ? (this.recording?.start.head ?? 0) : this.head);

  #api: MemoryApi | null = null;
  #ask = $state.raw<MemoryApi['inspect'] | null>(null);
  #recallAsked = new Asked<'recall'>();
  // Read through #recallsSeen, so that many changes in a frame are one.
  // eslint-disable-next-line svelte/prefer-svelte-reactivity
  #recalls = new Map<string, RecallFrame>();
  #recallsHeld = 0;
  #recallsSeen = $state.raw(0);
  /** What asks about tokens, and how often some of these were forgotten: then it asks anew, of those in their place. */
  // eslint-disable-next-line svelte/prefer-svelte-reactivity -- nothing on screen reads it
  readonly #asking = new Set<Pick<Asked<never>, 'forget'>>();
  #forgets = $state.raw(0);
  /** The text of each token id that was seen. */
  // eslint-disable-next-line svelte/prefer-svelte-reactivity -- nothing on screen reads it
  #pieces = new Map<number, string>();
  /** The records of each branch as they were when it was left. */
  // eslint-disable-next-line svelte/prefer-svelte-reactivity -- likewise
  #left = new Map<number, readonly TokenRecord[]>();
  /** Frames of the present recording that are not shown yet; those of one that was ended come in vain. */
  #arrived: Frame[] = [];
  #frame = 0;
  #timer = 0;

  // ---------------------------------------------------------------------------------------- sources

  /** Look at a running engine. Its recording begins with the next token. */
  async attach(api: MemoryApi, model: ModelReport): Promise<void> {
    this.detach();
    this.#api = api;
    try {
      const lists = await api.layers();
      if (this.#api !== api) return;
      this.model = model;
      this.lists = lists;
      this.layer = lists.kda[Math.floor(lists.kda.length / 2)] ?? 0;
      this.#ask = (inquiry) => api.inspect(inquiry);
      await this.#watch();
      this.branches = await api.branches();
    } catch (thrown) {
      if (this.#api === api) this.refusal = toFailure(thrown).message;
    }
  }

  /** Look at a recording, from its first token. */
  replay(recording: Recording): void {
    this.detach();
    this.recording = recording;
    this.model = recording.model;
    this.lists = recording.lists;
    this.records = recording.records;
    this.layer = recording.start.layer;
    this.head = recording.start.head;
    this.#ask = askRecording(recording);
  }

  /** Nothing is looked at any more. The engine's recording ends: another one tells all from the start. */
  detach(): void {
    this.pause();
    if (this.watching) this.#api?.watch(null, () => {}).catch(() => {});
    this.#api = this.#ask = null;
    this.#drop();
    this.#pieces.clear();
    this.#left.clear();
    this.recording = this.model = null;
    this.branches = this.planned = [];
    this.lists = { kda: [], mla: [], moe: [] };
    this.token = this.hovered = null;
    this.head = 'median';
    this.branch = 0;
    this.live = false;
    this.refusal = this.branchRefusal = '';
  }

  /** All that a recording told, and what of it is still on its way. */
  #drop(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#arrived = [];
    this.recordedBytes = 0;
    this.startOver();
  }

  /** A text begins anew: what is known of the last one is shown no more, though the engine may forget it only later. */
  startOver(): void {
    this.#arrived.length = 0;
    this.records = [];
    this.token = null;
    this.#forget(0);
  }

  async #watch(): Promise<void> {
    const api = this.#api;
    if (!api) return;
    const watch = { layer: this.kdaLayer, head: this.head, budgetBytes };
    const arrived = this.#arrived;
    await api.watch(this.watching ? watch : null, (frame) => {
      if (arrived === this.#arrived) this.#take(frame);
    });
  }

  /** Frames may come faster than the screen is drawn: they are taken in once a frame. */
  #take(frame: Frame): void {
    this.#arrived.push(frame);
    // A hidden tab draws nothing: what is told meanwhile must not pile up.
    if (document.hidden && this.#arrived.length >= 100) this.#show();
    else if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#show());
  }

  #show(): void {
    this.#frame = 0;
    const arrived = this.#arrived.splice(0);
    let records: TokenRecord[] | null = null;
    for (const frame of arrived) {
      switch (frame.kind) {
        case 'tokens':
          records ??= [...this.records];
          for (const record of frame.records) {
            if (record.position > records.length) continue; // what came before it is shown no more
            this.#pieces.set(record.id, record.text);
            for (const { id, text } of record.candidates) this.#pieces.set(id, text);
            records.length = Math.min(records.length, record.position);
            records[record.position] = record;
          }
          break;
        case 'forgotten':
          records = (records ?? [...this.records]).slice(0, frame.from);
          this.#forget(frame.from);
          if (frame.from === 0) void this.#recount();
          break;
        case 'recall':
          this.#keepRecall(frame.frame);
          break;
        case 'thumbnails':
          this.thumbnails = frame;
          break;
        case 'budget':
          this.recordedBytes = frame.bytes;
          break;
        default:
          frame satisfies never;
      }
    }
    if (!records) return;
    this.records = records;
    if (this.token !== null && this.token >= records.length) this.token = null;
  }

  setWatching(watching: boolean): void {
    this.watching = watching;
    remember('watching', watching);
    if (!watching) this.#drop();
    void this.#watch().catch(() => {});
  }

  setInked(inked: boolean): void {
    this.inked = inked;
    remember('inked', inked);
  }

  open(opened: readonly Instrument[]): void {
    this.opened = opened;
    remember('opened', opened);
  }

  // -------------------------------------------------------------------------------------- selecting

  selectLayer(layer: number): void {
    this.layer = layer;
    if (this.#api) void this.#watch().catch(() => {});
  }

  selectHead(head: Head): void {
    this.head = head;
    if (this.#api) void this.#watch().catch(() => {});
  }

  /** Take up a selection from an address: layer, head, token and open instruments, each only if it is there. */
  lookAt(address: URLSearchParams): void {
    const number = (name: string, below: number) => {
      const text = address.get(name) ?? '';
      return /^\d+$/.test(text) && Number(text) < below ? Number(text) : null;
    };
    const layer = number('layer', this.model?.layers.length ?? 0);
    const head = number('head', this.model?.heads ?? 0);
    const token = number('token', this.records.length);
    const opened = address.get('view')?.split(',');
    if (opened) this.opened = instruments.filter((view) => opened.includes(view));
    if (layer !== null) this.selectLayer(layer);
    if (head !== null || address.get('head') === 'median') this.selectHead(head ?? 'median');
    if (token !== null) this.selectToken(token);
  }

  /** Look at a token, and stay there; null follows the newest. */
  selectToken(token: number | null): void {
    this.pause();
    this.#moveTo(token);
  }

  /** Some tokens on or back. */
  step(tokens: number): void {
    this.selectToken(Math.max(0, Math.min(this.last, this.at + tokens)));
  }

  #moveTo(token: number | null): void {
    this.token = token !== null && token >= this.last && !this.recording ? null : token;
  }

  /** Show the text again as it was written, from the token looked at, or from the start if that is the last. */
  play(): void {
    if (this.last < 0) return;
    if (this.at >= this.last) this.token = 0;
    this.playing = true;
    const step = () => {
      if (this.at >= this.last) this.pause();
      else {
        this.#moveTo(this.at + 1);
        this.#timer = window.setTimeout(step, this.#stayMs());
      }
    };
    window.clearTimeout(this.#timer);
    this.#timer = window.setTimeout(step, this.#stayMs());
  }

  /** A moment that something is said of stays until that can be read. */
  #stayMs(): number {
    const note = this.recording?.notes?.find(({ position }) => position === this.at);
    return note ? noteMs + readMs * note.text.length : playMs;
  }

  pause(): void {
    window.clearTimeout(this.#timer);
    this.playing = false;
  }

  // ------------------------------------------------------------------------------------------ asking

  /**
   * The answer to the inquiry of the moment, in an effect root; null asks nothing. The last answer stays until the next is
   * here, and of the inquiries made meanwhile only the newest is put.
   */
  ask<K extends Inquiry['kind']>(inquiry: () => Extract<Inquiry, { kind: K }> | null): Asked<K> {
    const asked = new Asked<K>();
    $effect(() => {
      this.#asking.add(asked);
      return () => this.#asking.delete(asked);
    });
    $effect(() => {
      void this.#forgets;
      const ask = this.#ask;
      const wanted = inquiry();
      if (ask && wanted) asked.want(ask, wanted);
    });
    return asked;
  }

  /** Keep `recall` and what overwrote what in step with the selection; call inside an effect root. */
  start(): void {
    this.#recallAsked = this.ask<'recall'>(() => {
      if (this.at < 0 || this.live || !this.watching) return null;
      return { kind: 'recall', layer: this.kdaLayer, head: this.head, position: this.at };
    });
  }

  /** Asks whatever is looked at, an engine or a recording; null where there is nothing. */
  get inspect(): MemoryApi['inspect'] | null {
    return this.#ask;
  }

  /** What the memory returns of every token, as it is after `at`: [at + 1] or, for a moment, of a token nearby. */
  get recall(): Float32Array | null {
    const { answer, inquiry } = this.#recallAsked;
    const isAnswer = (position: number) =>
      inquiry?.layer === this.kdaLayer &&
      inquiry.head === this.head &&
      inquiry.position === position;
    if (answer && isAnswer(this.at)) return answer.recall;
    return this.#recallSeen?.recall ?? answer?.recall ?? null;
  }

  /**
   * The recall that is drawn in full ink: what the memory keeps of the tenth that it keeps best, so that a head that
   * returns little of anything still shows what it returns more of.
   */
  fullInk = $derived.by(() => {
    const { recall } = this;
    if (!recall || recall.length === 0) return 1;
    const best = Float32Array.from(recall).sort()[Math.floor(0.9 * (recall.length - 1))]!;
    return Math.min(1, Math.max(leastFullInk, best));
  });

  /** What a recording says of the moment looked at, its figures filled in; '' where it says nothing. */
  note = $derived.by(() => {
    const note = this.recording?.notes?.findLast(({ position }) => position <= this.at);
    return note ? noteText(note.text, this.recall) : '';
  });

  /**
   * Lines to draw on the text: from the token that is pointed at or looked at back to those of which it took most, and to
   * it from the one that took most of it. Strength 0 to 1.
   */
  get threads(): { from: number; to: number; strength: number }[] {
    const { overwrites } = this;
    const focus = this.hovered ?? this.at;
    if (!overwrites || !this.inked) return [];
    const { overwrittenBy, loss } = overwrites;
    const threads: { from: number; to: number; strength: number }[] = [];
    overwrittenBy.forEach((by, position) => {
      if (by !== focus && (position !== focus || by < 0)) return;
      const strength = Math.min(1, loss[position]! / fullLoss);
      if (loss[position]! >= tellingLoss) threads.push({ from: by, to: position, strength });
    });
    return threads.sort((a, b) => b.strength - a.strength).slice(0, mostThreads);
  }

  /** The story of the token looked at, in one sentence; '' while none is known. */
  get story(): string {
    const { at, records, model, overwrites, recall } = this;
    if (!model || !records[at]) return '';
    const from = this.kdaIndex * model.heads + (this.head === 'median' ? 0 : this.head);
    const heads = this.head === 'median' ? model.heads : 1;
    const by = overwrites?.overwrittenBy[at] ?? -1;
    let taken = -1;
    overwrites?.overwrittenBy.forEach((other, position) => {
      const more = taken < 0 || overwrites.loss[position]! > overwrites.loss[taken]!;
      if (other === at && more) taken = position;
    });
    return storyOf({
      position: at,
      records,
      share: writtenShares(records, from, heads)[at]!,
      recall: recall?.[at] ?? NaN,
      overwrittenBy: by < 0 ? null : { position: by, loss: overwrites!.loss[at]! },
      overwrote: taken < 0 ? null : { position: taken, loss: overwrites!.loss[taken]! },
    });
  }

  /** Why there is no recall of the token looked at. */
  get recallRefusal(): string {
    return this.#recallAsked.refusal;
  }

  /** Which token overwrote each one up to the token looked at, and what it took; null while it is not known. */
  get overwrites(): Pick<Answers['recall'], 'overwrittenBy' | 'loss'> | null {
    const { answer, inquiry } = this.#recallAsked;
    const isOf = inquiry?.layer === this.kdaLayer && inquiry.head === this.head;
    return answer && isOf && !this.live ? answer : null;
  }

  /** The recall that came by itself for the token looked at; the newest there is while tokens arrive. */
  get #recallSeen(): RecallFrame | null {
    void this.#recallsSeen;
    for (let position = this.at; position >= Math.max(0, this.at - 2); position--) {
      const frame = this.#recalls.get(recallKey(this.kdaLayer, this.head, position));
      if (frame) return frame;
      if (!this.live) return null;
    }
    return null;
  }

  #keepRecall(frame: RecallFrame): void {
    const place = recallKey(frame.layer, frame.head, frame.position);
    this.#recallsHeld += frame.recall.length - (this.#recalls.get(place)?.recall.length ?? 0);
    this.#recalls.set(place, frame);
    for (const [key, oldest] of this.#recalls) {
      if (this.#recallsHeld <= keptRecalls) break;
      this.#recalls.delete(key);
      this.#recallsHeld -= oldest.recall.length;
    }
    this.#recallsSeen += 1;
  }

  /** What is known of tokens from `from` on holds no longer. */
  #forget(from: number): void {
    if ((this.thumbnails?.position ?? -1) >= from) this.thumbnails = null;
    for (const asked of this.#asking) asked.forget(from);
    this.#forgets += 1;
    for (const [key, frame] of this.#recalls) {
      if (frame.position < from) continue;
      this.#recalls.delete(key);
      this.#recallsHeld -= frame.recall.length;
    }
    this.#recallsSeen += 1;
  }

  // ---------------------------------------------------------------------------------------- branches

  /** Whether the engine can be made to go on differently: not a recording, and nothing is being written. */
  get canFork(): boolean {
    return this.#ask !== null && this.recording === null && !this.live;
  }

  plan(intervention: Intervention): void {
    this.planned = [...this.planned, intervention];
  }

  unplan(index: number): void {
    this.planned = this.planned.filter((_, at) => at !== index);
  }

  /** Make a branch that goes on after `position`, with the planned interventions. Fails as MemoryApi.fork. */
  async fork(position: number, token: number | null): Promise<Branch | null> {
    const api = this.#api;
    if (!api) return null;
    this.#left.set(this.branch, this.records);
    const branch = await api.fork(position, token, [...this.planned]);
    this.planned = [];
    await this.#reread(api, branch.id);
    return branch;
  }

  /** Make a branch the present one. Answers whether it is. */
  async select(branch: number): Promise<boolean> {
    const api = this.#api;
    if (!api) return false;
    this.#left.set(this.branch, this.records);
    this.branchRefusal = '';
    try {
      await api.select(branch);
      await this.#reread(api, branch);
    } catch (thrown) {
      if (api === this.#api) this.branchRefusal = toFailure(thrown).message;
    }
    return branch === this.branch;
  }

  /**
   * The present branch and another, and how far their memories lie apart: norms of every head, [KDA layer, head], and one
   * head's difference, [keys, values]. Null while no engine is looked at. Fails as MemoryApi.compare and difference.
   */
  async compare(
    other: number,
    layer: number,
    head: number,
  ): Promise<{ sides: [Side, Side]; norms: Float32Array; cells: Float32Array } | null> {
    const api = this.#api;
    if (!api) return null;
    this.branches = await api.branches();
    const mine = this.branches.find(({ id }) => id === this.branch);
    const theirs = this.branches.find(({ id }) => id === other);
    if (!mine || !theirs) return null;
    const norms = await api.compare(mine.id, other);
    const cells = await api.difference(mine.id, other, layer, head);
    const side = (branch: Branch, records: readonly TokenRecord[]): Side => ({
      branch,
      texts: branch.ids.map((id) => this.#pieces.get(id) ?? ''),
      records,
    });
    return {
      sides: [side(mine, this.records), side(theirs, this.#left.get(other) ?? [])],
      norms,
      cells,
    };
  }

  /** All was forgotten: where a conversation began anew, one branch is left, and what was planned was for another. */
  async #recount(): Promise<void> {
    const api = this.#api;
    const branches = await api?.branches().catch(() => null);
    if (!branches || api !== this.#api) return;
    this.branches = branches;
    const [only, second] = branches;
    if (!only || second) return;
    this.branch = only.id;
    this.planned = [];
    this.#left.clear();
  }

  async #reread(api: MemoryApi, branch: number): Promise<void> {
    this.branch = branch;
    this.token = null;
    this.#forget(0);
    this.branches = await api.branches();
    await this.#watch();
  }
}

/** One view's question and the last answer to it. */
export class Asked<K extends Inquiry['kind']> {
  answer = $state.raw<Answers[K] | null>(null);
  /** What the answer answers. */
  inquiry = $state.raw<Extract<Inquiry, { kind: K }> | null>(null);
  /** Why the question of the moment has no answer. */
  refusal = $state.raw('');
  #wanted: Extract<Inquiry, { kind: K }> | null = null;
  /** The one under way, unless its tokens were forgotten meanwhile. */
  #put: Extract<Inquiry, { kind: K }> | null = null;
  #asking = false;

  want(ask: MemoryApi['inspect'], inquiry: Extract<Inquiry, { kind: K }>): void {
    if (this.#wanted && inquiryKey(this.#wanted) === inquiryKey(inquiry)) return;
    this.#wanted = inquiry;
    if (!this.#asking) void this.#go(ask);
  }

  /** Answers about tokens from `from` on are none any more. */
  forget(from: number): void {
    const isOf = (inquiry: Inquiry | null) => inquiry !== null && lastToken(inquiry) >= from;
    if (isOf(this.#wanted)) this.#wanted = null;
    if (isOf(this.#put)) this.#put = null;
    if (isOf(this.inquiry)) this.answer = this.inquiry = null;
  }

  async #go(ask: MemoryApi['inspect']): Promise<void> {
    this.#asking = true;
    for (let put = this.#wanted; put; put = this.#wanted === put ? null : this.#wanted) {
      this.#put = put;
      try {
        const answer = await ask(put);
        if (this.#put !== put) continue;
        this.answer = answer;
        this.inquiry = put;
        this.refusal = '';
      } catch (thrown) {
        if (this.#put !== put) continue;
        this.answer = this.inquiry = null;
        this.refusal = toFailure(thrown).message;
      }
    }
    this.#put = null;
    this.#asking = false;
  }
}

/** One branch as far as it was seen: the texts of its tokens, and their records ([] where it was never watched). */
export interface Side {
  branch: Branch;
  texts: string[];
  records: readonly TokenRecord[];
}

/** The last token that an answer speaks of. */
const lastToken = (inquiry: Inquiry) =>
  inquiry.kind === 'gates' ? inquiry.to - 1 : inquiry.position;

const recallKey = (layer: number, head: Head, position: number) => `${layer} ${head} ${position}`;

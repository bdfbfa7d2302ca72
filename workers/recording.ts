/**
 * A recording of the present branch: what every token did, sent to whoever watches, and states in between from which any
 * moment can be replayed. The GPU's work is never waited for by decoding; of pictures the newest is sent, of records all.
 */
import type { Branches } from './branches.ts';
import type { ModelConfig } from './config.ts';
import type { Gpu } from './gpu.ts';
import { column, medians } from './measures.ts';
import { History, Probe, RING, type Trace } from './probe.ts';
import type { Frame, TokenRecord, Watch } from './protocol.ts';
import type { State } from './state.ts';

/** Tokens between snapshots: a replay is never longer while the budget holds. */
const SNAPSHOT_TOKENS = 64;
/** Most frames of one kind a second. */
const FRAME_MS = 33;
/** Between readbacks of records: one for every token would take as long as a fast token itself. */
const READ_MS = 16;

/** What a recording is made with. */
export interface Recorded {
  gpu: Gpu;
  config: ModelConfig;
  state: State;
  branches: Branches;
  /** The text of one token. */
  piece: (id: number) => string;
}

/** Given each frame; the next is sent when the promise it gives is settled. */
export type OnFrame = (frame: Frame) => unknown;

export class Recording {
  readonly probe: Probe;
  /** Of layers that were asked about; the watched one's is `history`. */
  readonly histories = new Map<number, History>();
  readonly #with: Recorded;
  #watch: Watch;
  #onFrame: OnFrame;
  /** Tokens taken in; read back from the ring; sent. */
  #taken = 0;
  #read = 0;
  #sent = 0;
  /** Records read back and not yet sent, in order. */
  #records: Trace[] = [];
  #frames: Frame[] = [];
  #newest = new Map<Frame['kind'], Frame>();
  #pictured = -1;
  /** Tokens, counted from the first, that pictures sent may speak of. */
  #shown = 0;
  /** How often records were forgotten: what was read before that is not of the tokens that stand there after it. */
  #forgets = 0;
  #paused = false;
  #ended = false;
  #toldBytes = -1;
  #reading: Promise<void> | null = null;
  #soon: ReturnType<typeof setTimeout> | null = null;
  #sending: Promise<void> | null = null;
  #picturing: Promise<void> | null = null;
  /** Wait no longer until the watcher has taken its frame. */
  #waitNoMore: () => void = () => {};

  constructor(recorded: Recorded, watch: Watch, onFrame: OnFrame) {
    this.#with = recorded;
    this.#onFrame = onFrame;
    this.#watch = watch;
    this.probe = new Probe(recorded.gpu, recorded.config, recorded.state);
  }

  get watch(): Watch {
    return this.#watch;
  }

  /** The watched layer's history. */
  get history(): History {
    return this.historyOf(this.#watch.layer);
  }

  /** A layer's history, empty if there was none. */
  historyOf(layer: number): History {
    const { gpu, state } = this.#with;
    let history = this.histories.get(layer);
    if (!history) {
      history = new History(gpu, this.probe.sizes, layer, state.contextLimit);
      this.histories.set(layer, history);
    }
    return history;
  }

  /** Tokens [0, complete) are recorded: sent, and in the watched layer's history. */
  get complete(): number {
    return Math.min(this.#taken, this.history.upTo);
  }

  /** Bytes that the recording takes, on the GPU and here. */
  get bytes(): number {
    const histories = [...this.histories.values()].reduce((sum, h) => sum + h.bytes, 0);
    const waiting = this.#records.length * this.#recordBytes();
    const snapshots = this.#with.branches.present.snapshots.reduce((sum, s) => sum + s.bytes, 0);
    return this.probe.bytes + histories + snapshots + waiting;
  }

  /** Follow another layer or head. */
  follow(watch: Watch, onFrame: OnFrame): void {
    this.#watch = watch;
    this.#onFrame = onFrame;
    this.#pictured = -1;
    this.#newest.clear();
    this.#taken = Math.min(this.#taken, this.history.upTo);
  }

  // ------------------------------------------------------------------------------------ while tokens go in

  /** Before tokens up to `end` are taken in: true if plans must be built again, since histories have grown. */
  reserve(end: number): boolean {
    return this.history.reserve(end);
  }

  /** Wait until there is room in the ring for tokens up to `end`. */
  async room(end: number): Promise<void> {
    while (end - this.#read > RING) await this.#readOn();
  }

  /** Tokens up to `end` were taken in by work that is submitted. */
  took(end: number): void {
    this.#taken = end;
    this.history.upTo = Math.max(this.history.upTo, end);
    this.#readSoon();
    this.picture();
  }

  /** Whether a state is to be kept here, or something to be let go. */
  get due(): boolean {
    return this.#snapshotDue || this.bytes > this.#watch.budgetBytes;
  }

  get #snapshotDue(): boolean {
    const { state, branches } = this.#with;
    return state.position - (branches.present.snapshots.at(-1)?.position ?? 0) >= SNAPSHOT_TOKENS;
  }

  /** A state that may be replayed from, if one is due here and there is room. Call where a call may end. */
  async keep(): Promise<void> {
    const { gpu, state, branches } = this.#with;
    if (this.#snapshotDue) {
      const { snapshots } = branches.present;
      snapshots.push(await gpu.guard('a snapshot of the memory', () => state.snapshot()));
    }
    this.thin();
  }

  /** Records from `position` on no longer hold. */
  forget(position: number): void {
    this.#forgets += 1;
    for (const history of this.histories.values()) history.upTo = Math.min(history.upTo, position);
    this.#taken = Math.min(this.#taken, position);
    this.#read = Math.min(this.#read, position);
    this.#records = this.#records.filter((r) => r.position < position);
    this.#newest.clear();
    this.#pictured = -1;
    const told = Math.max(this.#sent, this.#shown);
    this.#sent = Math.min(this.#sent, position);
    this.#shown = Math.min(this.#shown, position);
    if (told > position) {
      this.#frames.push({ kind: 'forgotten', from: position });
      this.#send().catch(() => {});
      this.picture();
    }
  }

  /** Stop looking at the memory, and read what the ring holds: a replay is about to use both. */
  async pause(): Promise<void> {
    this.#paused = true;
    while (this.#read < this.#taken) await this.#readOn();
  }

  /** A replay that records begins at `position`: what is sent already is not sent again. */
  rewindTo(position: number): void {
    this.#taken = position;
    this.#read = position;
  }

  /** The memory is the present one again, after `end` tokens. */
  resume(end: number): void {
    this.#paused = false;
    this.#taken = end;
    this.#read = end;
    this.#pictured = -1;
    this.picture();
  }

  /** Everything taken in so far is told. */
  async settled(): Promise<void> {
    while (this.#read < this.#taken && !this.#ended) await this.#readOn();
    await this.#picturing;
    this.#tellBytes();
    await this.#send();
  }

  /** All of it is told, without waiting for the watcher, who may be gone. Then everything is freed. */
  async end(): Promise<void> {
    while (this.#read < this.#taken) await this.#readOn();
    this.#ended = true;
    this.#waitNoMore();
    if (this.#soon) clearTimeout(this.#soon);
    await Promise.all([this.#reading, this.#picturing]);
    for (let frame = this.#next(); frame; frame = this.#next()) this.#tell(frame).catch(() => {});
    this.probe.destroy();
    for (const history of this.histories.values()) history.destroy();
    this.histories.clear();
    this.#with.branches.dropSnapshots();
  }

  // --------------------------------------------------------------------------------------------- the budget

  /** Let histories of other layers go, then snapshots: always the one whose loss makes the least difference for its age. */
  thin(): void {
    const { branches, state } = this.#with;
    for (const [layer, history] of this.histories) {
      if (this.bytes <= this.#watch.budgetBytes) return;
      if (layer === this.#watch.layer) continue;
      history.destroy();
      this.histories.delete(layer);
    }
    while (this.bytes > this.#watch.budgetBytes) {
      const kept = branches.present.snapshots;
      if (kept.length < 2) return;
      let least = 0;
      let gap = Infinity;
      for (let i = 0; i < kept.length - 1; i++) {
        const before = kept[i - 1]?.position ?? 0;
        const relative =
          (kept[i + 1]!.position - before) / (state.position - kept[i]!.position + 1);
        if (relative < gap) [least, gap] = [i, relative];
      }
      branches.dropSnapshot(kept[least]!);
    }
  }

  #recordBytes(): number {
    const { config } = this.#with;
    const { kda, moe } = layerCounts(config);
    return 4 * (kda * config.heads * 5 + moe * config.moe.expertsUsed * 2);
  }

  #tellBytes(): void {
    if (this.bytes === this.#toldBytes) return;
    this.#toldBytes = this.bytes;
    this.#newest.set('budget', { kind: 'budget', bytes: this.bytes });
  }

  // ------------------------------------------------------------------------------------- reading and sending

  /** Read what the ring has in a moment, unless that is to happen anyway. */
  #readSoon(): void {
    this.#soon ??= setTimeout(() => {
      this.#soon = null;
      this.#readOn().catch(() => {}); // a lost device is told by whoever waits for its work
    }, READ_MS);
  }

  /** Read what the ring has, once, unless that is under way. */
  #readOn(): Promise<void> {
    this.#reading ??= (async () => {
      await Promise.resolve(); // so that #reading is set before it can be cleared; below likewise
      try {
        const from = this.#read;
        const to = Math.min(this.#taken, from + RING);
        if (from >= to) return;
        const forgets = this.#forgets;
        const traces = await this.probe.records(from, to);
        // Where the conversation went back meanwhile, what stands there is read anew.
        const stands = forgets === this.#forgets && this.#read === from && this.#taken >= to;
        if (stands && !this.#ended) {
          this.#read = to;
          this.#records.push(...traces.filter((t) => t.position >= this.#sent));
          this.#send().catch(() => {});
        }
      } finally {
        this.#reading = null;
      }
      if (this.#read < this.#taken && !this.#ended) this.#readSoon();
    })();
    return this.#reading;
  }

  /** Look at the watched layer's recall and at all memories, again and again while tokens go in. */
  picture(): void {
    if (this.#picturing) return;
    this.#picturing = (async () => {
      await Promise.resolve();
      try {
        while (!this.#paused && !this.#ended && this.#pictured < this.#taken && this.#taken > 0) {
          const { layer, head } = this.#watch;
          const { history } = this;
          const look = await this.probe.recall(history);
          const pictures = await this.probe.thumbnails();
          const tokens = this.#taken;
          if (this.#paused || this.#ended || tokens === 0 || history.upTo < tokens) return;
          this.#pictured = tokens;
          const [all, cells] = await Promise.all([look(tokens), pictures()]);
          if (this.#ended || this.#pictured !== tokens || this.#taken < tokens) continue;
          const { H } = this.probe.sizes;
          const recall = head === 'median' ? medians(all, H) : column(all, H, head);
          const position = tokens - 1;
          this.#shown = Math.max(this.#shown, tokens);
          this.#newest.set('recall', { kind: 'recall', frame: { layer, head, position, recall } });
          this.#newest.set('thumbnails', { kind: 'thumbnails', position, cells });
          this.#tellBytes();
          await Promise.all([
            this.#send(),
            new Promise((resolve) => setTimeout(resolve, FRAME_MS)),
          ]);
        }
      } finally {
        this.#picturing = null;
      }
    })();
    this.#picturing.catch(() => {});
  }

  /** Send what waits, one frame at a time. */
  #send(): Promise<void> {
    this.#sending ??= (async () => {
      await Promise.resolve();
      try {
        for (let frame = this.#next(); frame; frame = this.#ended ? null : this.#next()) {
          await this.#tell(frame);
        }
      } finally {
        this.#sending = null;
      }
    })();
    return this.#sending;
  }

  /** Resolves when the watcher has taken the frame, or is waited for no more. */
  #tell(frame: Frame): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waitNoMore = resolve;
      Promise.resolve(this.#onFrame(frame)).then(() => resolve(), reject);
    });
  }

  /** What is to be told next. */
  #next(): Frame | null {
    const frame = this.#frames.shift();
    if (frame) return frame;
    const { history } = this.#with.branches.present;
    // The id of a token that the GPU chose may be known here only later.
    const known = this.#records.findIndex((r) => r.position >= history.length);
    const ready = this.#records.splice(0, known < 0 ? this.#records.length : known);
    if (ready.length > 0) {
      this.#sent = ready.at(-1)!.position + 1;
      return { kind: 'tokens', records: ready.map((r) => this.#record(r, history[r.position]!)) };
    }
    for (const [kind, newest] of this.#newest) {
      this.#newest.delete(kind);
      return newest;
    }
    return null;
  }

  #record({ best, ...trace }: Trace, id: number): TokenRecord {
    const { piece } = this.#with;
    return {
      ...trace,
      id,
      text: piece(id),
      candidates: best.map((c) => ({ ...c, text: piece(c.id) })),
    };
  }
}

/** How many layers have a recurrent memory, and how many have experts. */
function layerCounts({ layers }: ModelConfig): { kda: number; moe: number } {
  return {
    kda: layers.filter((l) => l.kind === 'kda').length,
    moe: layers.filter((l) => l.ffn === 'moe').length,
  };
}

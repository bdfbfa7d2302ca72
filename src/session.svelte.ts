/**
 * One reader's session: the conversation, the sheet of raw text, the model and what it is doing, as reactive state.
 * Every way to change them is a method here; components show and call, nothing else.
 */
import {
  PalimpsestError,
  type DeviceReport,
  type Loaded,
  type MemoryApi,
  type MemoryReport,
  type Prompt,
  type Sampling,
  type Stop,
} from '../workers/protocol.ts';
import { accountOf, type Account } from './account.ts';
import { Beside } from './beside.svelte.ts';
import { Bookmark } from './bookmark.svelte.ts';
import {
  addTurn,
  emptyConversation,
  removeTurn,
  setTurn,
  shownPath,
  siblings,
  showTurn,
  toAnswered,
  turnsBefore,
  type Answered,
  type Conversation,
  type TurnNode,
} from './conversation.ts';
import { toFailure, type Failure } from './errors.ts';
import {
  addCompletion,
  blankPaper,
  editPaper,
  paperText,
  promptOf,
  settlePaper,
  toCompletion,
  withdrawCompletions,
  type Paper,
} from './paper.ts';
import { advance, fraction, startProgress, type Progress } from './progress.ts';
import { drawSeed, readSampling, varied } from './sampling.ts';
import { recall, remember } from './settings.ts';
import type { Elsewhere, EngineChoice, Piece, Speaker, Told } from './speaker.ts';

/** The model, as a whole. While it is failed, `failure` says why and the remedy is to load it (again). */
export type Status =
  | { kind: 'absent' }
  | { kind: 'loading'; progress: Progress }
  | { kind: 'ready' }
  | { kind: 'failed'; failure: Failure };

/** Where the words go that are being written: an answer of the conversation, or the sheet. */
export type Target = { kind: 'turn'; id: number } | { kind: 'paper' };

/** The answer under way. waiting: for the model; reading: the prompt; writing: tokens arrive. */
export interface Writing {
  target: Target;
  phase: 'waiting' | 'reading' | 'writing';
  text: string;
  /** Length of `text` before the last batch of tokens: what follows is the latest. */
  settledLength: number;
  tokens: number;
  /** Tokens of its beginning that were there already: it goes on from a branch of the memory. */
  begunTokens: number;
  /** Tokens in memory with the last one. */
  contextUsed: number;
  sampling: Sampling;
  startedMs: number;
  firstTokenMs: number | null;
  /** Since the first token. */
  decodeMs: number;
  stopping: boolean;
}

export type Mode = 'chat' | 'paper';

/** The beginning of an answer that is already in memory once `prepare` has resolved; the rest is to be written. */
export interface Begun {
  ids: number[];
  text: string;
  prepare: () => Promise<unknown>;
}

const ended = new PalimpsestError('Refused', 'The workers were ended by the page.');

export class Session {
  conversation = $state.raw<Conversation>(emptyConversation);
  paper = $state.raw<Paper>(blankPaper);
  status = $state.raw<Status>({ kind: 'absent' });
  writing = $state.raw<Writing | null>(null);
  /** Who answers. */
  engine = $state.raw<EngineChoice>({ kind: 'gpu' });
  /** The model as this page's engine on the GPU has it; null while another speaker answers. */
  loaded = $state.raw<Loaded | null>(null);
  /** What is known of a speaker that is not this page's engine, once it is ready. */
  elsewhere = $state.raw<Elsewhere | null>(null);
  /** The GPU at hand; null while it is not known. */
  device = $state.raw<DeviceReport | null>(null);
  memory = $state.raw<MemoryReport | null>(null);
  /** The GPU went away, and the engine puts back what it had; how far that is. */
  recovery = $state.raw<Progress | null>(null);
  /** The last answer that ended, for its figures. */
  last = $state.raw<Answered | null>(null);
  /** Why the sheet's last completion failed. */
  paperFailure = $state.raw<Failure | null>(null);
  /** What the model weighs; null until its manifest is read. */
  modelBytes = $state.raw<number | null>(null);
  /** What of it is on this computer already. */
  storedBytes = $state.raw(0);
  /** Bytes to fetch for the model; null while not known. */
  missingBytes = $derived(this.modelBytes && Math.max(0, this.modelBytes - this.storedBytes));
  /** The conversation that the present one took the place of, for one step back. */
  previous = $state.raw<Conversation | null>(null);
  model = $state.raw('');
  /** What stands in the message box. */
  draft = $state('');
  sampling = $state.raw<Sampling>(recall('sampling', readSampling));
  /** Draw a seed for every answer, or keep the one that is set. */
  freshSeed = $state.raw(recall('freshSeed', (stored) => stored !== false));
  /** First turn of every prompt; empty for the model's own default. */
  system = $state.raw(recall('system', (stored) => (typeof stored === 'string' ? stored : '')));
  #wanted = $state.raw<Mode>(recall('mode', (stored) => (stored === 'paper' ? 'paper' : 'chat')));

  path = $derived<TurnNode[]>(shownPath(this.conversation));
  busy = $derived(this.writing !== null);
  rawOnly = $derived((this.loaded?.model ?? this.elsewhere)?.mode === 'raw');
  /** Tokens that fit; null while not known. */
  contextLimit = $derived(this.loaded?.model.contextLimit ?? this.elsewhere?.contextLimit ?? null);
  mode = $derived<Mode>(this.rawOnly ? 'paper' : this.#wanted);
  contextUsed = $derived(this.writing?.contextUsed || this.last?.contextUsed || 0);

  /** Others who answer the same prompts, to compare. */
  readonly beside: Beside;
  readonly bookmark = new Bookmark(() => this.#client.bookmark ?? null);
  #start: (engine: EngineChoice) => Speaker;
  #client: Speaker;
  #loading: Promise<void> | null = null;
  #answering: Promise<void> = Promise.resolve();
  #forgetting: Promise<void> | null = null;
  /** Tokens of the answer under way that are not yet in `writing`. */
  #arrived: Piece[] = [];
  #ids: number[] = [];
  #frame = 0;
  /** How the answer that waits begins, if it goes on from a branch of the memory. */
  #begun: Begun | null = null;

  /** `start` makes a speaker with workers of its own: at first, for another choice, and after the GPU or a worker was lost. */
  constructor(start: (engine: EngineChoice) => Speaker, model: string) {
    this.#start = start;
    this.#client = start(this.engine);
    this.model = model;
    this.beside = new Beside(start);
    void this.#weigh();
    void this.#findDevice();
    void this.#recall(model);
  }

  /** The engine, to be looked into; another one after every restart. */
  get lookInto(): MemoryApi {
    const { memory } = this.#client;
    if (!memory) throw new PalimpsestError('Refused', 'Only the engine on the GPU is looked into.');
    return memory;
  }

  destroy(): void {
    cancelAnimationFrame(this.#frame);
    this.beside.destroy(ended);
    this.bookmark.destroy();
    this.#client.destroy(ended);
  }

  // ------------------------------------------------------------------------------------------- model

  /** True while the engine reads this model or has it loaded. */
  uses(model: string): boolean {
    if (this.beside.uses(model)) return true;
    const here = model === this.model && this.engine.kind !== 'remote';
    return here && (this.status.kind === 'ready' || this.status.kind === 'loading');
  }

  /** Load the model, or wait for the load under way. Ends in `status`, ready or failed; never throws. */
  load(): Promise<void> {
    if (this.status.kind === 'ready') return Promise.resolve();
    if (this.#loading) return this.#loading;
    const loading = this.#load().finally(() => {
      if (this.#loading === loading) this.#loading = null;
    });
    return (this.#loading = loading);
  }

  async #load(): Promise<void> {
    // After a failure nothing is known of what the workers still hold: begin with others.
    if (this.status.kind === 'failed') this.#restart();
    const client = this.#client;
    let progress = startProgress;
    this.recovery = null;
    this.status = { kind: 'loading', progress };
    try {
      const loaded = await client.load(this.model, (report) => {
        if (client !== this.#client) return;
        progress = advance(progress, report, performance.now());
        if (this.status.kind === 'loading') this.status = { kind: 'loading', progress };
        else this.recovery = fraction(report) === 1 && report.phase === 'restore' ? null : progress;
      });
      if (client !== this.#client) return;
      if ('device' in loaded) {
        await this.bookmark.takeUp();
        if (client !== this.#client) return;
        this.loaded = loaded;
        this.device = loaded.device;
        this.memory = loaded.memory;
      } else {
        this.elsewhere = loaded;
      }
      this.status = { kind: 'ready' };
    } catch (thrown) {
      if (client !== this.#client) return;
      const failure = toFailure(thrown);
      if (this.#takeProcessor(failure)) await this.load();
      else this.status = { kind: 'failed', failure };
      return;
    }
    void this.#watch(client);
    if (this.rawOnly) this.#moveToPaper();
    if (this.writing?.phase !== 'waiting') return;
    this.#answering = this.#answer();
  }

  /** Load the model anew, whatever state it is in. A prompt that waits goes on waiting. */
  async reload(): Promise<void> {
    if (this.writing?.phase !== 'waiting') await this.stop();
    this.#restart();
    this.status = { kind: 'absent' };
    await this.load();
  }

  /** Break off a load. A prompt that waits for it stays unanswered. */
  cancelLoad(): void {
    if (this.status.kind !== 'loading') return;
    this.#restart();
    this.status = { kind: 'absent' };
    if (this.writing) this.#unqueue();
  }

  /** Take another model. The conversation stays; the ids of its answers do not, since another model has other tokens. */
  async chooseModel(model: string): Promise<void> {
    if (model === this.model) return;
    await this.stop();
    this.model = model;
    this.#startOther();
  }

  /** Have someone else answer. The conversation stays. A choice of a person's own is gone back on only by another one. */
  async chooseEngine(engine: EngineChoice): Promise<void> {
    if (engine.kind === this.engine.kind && engine.kind !== 'remote') return;
    await this.stop();
    this.engine = engine;
    this.#startOther();
    if (engine.kind === 'remote') await this.load();
    else void this.#findDevice();
  }

  /** Where there is no WebGPU the processor answers. A prompt that waits goes on waiting. Answers whether it is so. */
  #takeProcessor(failure: Failure): boolean {
    if (failure.name !== 'NoWebGPU' || this.engine.kind !== 'gpu') return false;
    this.engine = { kind: 'cpu', why: failure.message };
    this.#startOther();
    return true;
  }

  #startOther(): void {
    this.#restart();
    this.modelBytes = null;
    this.status = { kind: 'absent' };
    this.loaded = null;
    this.elsewhere = null;
    this.device = null;
    this.memory = null;
    this.last = null;
    for (const { id, turn, origin } of this.conversation.nodes.values()) {
      const { role, content } = turn;
      this.conversation = setTurn(this.conversation, id, { role, content }, origin);
    }
    this.paper = editPaper(blankPaper, paperText(this.paper));
    void this.#weigh();
  }

  async #weigh(): Promise<void> {
    const { model } = this;
    const client = this.#client;
    const manifest = await client.describe(model).catch(() => null); // a load says what is wrong
    if (manifest && model === this.model && client === this.#client)
      this.modelBytes = manifest.bytes;
  }

  /** A page that cannot run the model says so before anyone waits for a download. */
  async #findDevice(): Promise<void> {
    const client = this.#client;
    try {
      const device = await client.device();
      if (client === this.#client) this.device = device;
    } catch (thrown) {
      if (client !== this.#client || this.status.kind !== 'absent') return;
      const failure = toFailure(thrown);
      if (!this.#takeProcessor(failure)) this.status = { kind: 'failed', failure };
    }
  }

  async #watch(client: Speaker): Promise<void> {
    try {
      const reason = await client.lost();
      if (client === this.#client) this.#lose({ name: 'DeviceLost', message: reason });
    } catch (thrown) {
      if (client === this.#client) this.#lose(toFailure(thrown));
    }
  }

  /** Whatever the workers still do is in vain: an answer under way fails with the same reason. */
  #lose(failure: Failure): void {
    this.status = { kind: 'failed', failure };
    this.#client.destroy(Object.assign(new Error(failure.message), { name: failure.name }));
  }

  /** Begin with other workers. A load that was under way comes to nothing. */
  #restart(): void {
    this.#loading = null;
    this.#client.destroy(ended);
    this.#client = this.#start(this.engine);
  }

  /** What outlives a reload. */
  readonly account = (): Account => accountOf(this, this.#ids);

  /** Take up what the page before this one left, unless something is said already. A model chosen meanwhile stays. */
  async #recall(offered: string): Promise<void> {
    const account = await this.bookmark.open();
    const untouched = this.path.length === 0 && this.paper === blankPaper && !this.busy;
    if (!account || !untouched || !['absent', 'failed'].includes(this.status.kind)) return;
    this.conversation = account.conversation;
    this.paper = account.paper;
    if (this.path.length === 0 && this.paper !== blankPaper) this.#wanted = 'paper';
    if (account.model === this.model) return;
    // Files of this computer are gone with the page, and their ids say nothing to another model.
    if (this.model !== offered || !/^https?:/.test(account.model)) return this.#startOther();
    this.model = account.model;
    void this.#weigh();
  }

  // -------------------------------------------------------------------------------------------- chat

  /** Add what the reader says to the conversation's end, and have it answered. */
  async send(text: string): Promise<void> {
    if (text.trim() === '' || this.busy) return;
    await this.#ask(this.path.at(-1)?.id ?? null, text);
  }

  /** Another answer beside this one; one that failed before its first word is replaced. */
  async regenerate(id: number): Promise<void> {
    await this.stop();
    const node = this.conversation.nodes.get(id);
    if (!node || node.turn.role !== 'assistant') return;
    if (node.origin.kind === 'failed' && node.turn.content === '') {
      const { turn } = node;
      this.conversation = setTurn(this.conversation, id, turn, { kind: 'pending' });
      this.#queue({ kind: 'turn', id });
    } else {
      this.#reply(node.parent);
    }
  }

  /** Answer a turn of the reader's that has no answer. */
  async answer(id: number): Promise<void> {
    await this.stop();
    if (this.conversation.nodes.get(id)?.turn.role === 'user') this.#reply(id);
  }

  /** Another wording of a turn, as a branch. The reader's is answered anew; the model's is gone on from by the next message. */
  async edit(id: number, text: string): Promise<void> {
    const node = this.conversation.nodes.get(id);
    if (!node || text.trim() === '' || text === node.turn.content) return;
    await this.stop();
    if (node.turn.role === 'user') {
      await this.#ask(node.parent, text);
    } else {
      const turn = { role: node.turn.role, content: text };
      this.conversation = addTurn(this.conversation, node.parent, turn, { kind: 'person' }).tree;
    }
  }

  /** Another answer beside this one, which begins as given and goes on from there. */
  goOn(id: number, begun: Begun): void {
    const node = this.conversation.nodes.get(id);
    if (this.busy || this.status.kind !== 'ready' || node?.turn.role !== 'assistant') return;
    this.#begun = begun;
    this.#reply(node.parent);
  }

  /** Show another branch. */
  show(id: number): void {
    this.conversation = showTurn(this.conversation, id);
  }

  /** Begin another conversation; one step back is kept. */
  async startOver(): Promise<void> {
    await this.stop();
    if (this.conversation.nodes.size > 0) this.previous = this.conversation;
    this.conversation = emptyConversation;
    await (this.#forgetting = this.#forget().finally(() => (this.#forgetting = null)));
  }

  /** Take back the last `startOver`. */
  async goBack(): Promise<void> {
    if (!this.previous) return;
    await this.stop();
    this.conversation = this.previous;
    this.previous = null;
  }

  async #ask(parent: number | null, text: string): Promise<void> {
    const said = addTurn(
      this.conversation,
      parent,
      { role: 'user', content: text },
      { kind: 'person' },
    );
    this.conversation = said.tree;
    this.#reply(said.id);
  }

  #reply(parent: number | null): void {
    const turn = { role: 'assistant' as const, content: '' };
    const reply = addTurn(this.conversation, parent, turn, { kind: 'pending' });
    this.conversation = reply.tree;
    this.#queue({ kind: 'turn', id: reply.id });
  }

  // ------------------------------------------------------------------------------------------- sheet

  editSheet(text: string): void {
    if (this.busy) return;
    this.paper = editPaper(this.paper, text);
    this.paperFailure = null;
  }

  /** Have the model go on from the sheet's end. */
  async writeOn(): Promise<void> {
    if (this.busy || paperText(this.paper) === '') return;
    this.paper = settlePaper(this.paper);
    this.#queue({ kind: 'paper' });
  }

  /** Another way to go on from the same prompt. */
  async writeOtherwise(): Promise<void> {
    await this.stop();
    if (this.paper.prompt === '') return;
    this.#queue({ kind: 'paper' });
  }

  /** Another continuation of `prompt`, which begins as given and goes on from there. */
  goOnSheet(prompt: string, begun: Begun): void {
    if (this.busy || this.status.kind !== 'ready') return;
    this.editSheet(prompt === this.paper.prompt ? paperText(this.paper) : prompt);
    this.#begun = begun;
    this.#queue({ kind: 'paper' });
  }

  /** Put another sheet on screen. */
  showSheet(paper: Paper): void {
    if (!this.busy) this.paper = paper;
  }

  showCompletion(index: number): void {
    if (!this.busy && this.paper.completions[index]) this.paper = { ...this.paper, shown: index };
  }

  /** Take what the model wrote off the sheet. */
  async withdraw(): Promise<void> {
    await this.stop();
    this.paper = withdrawCompletions(this.paper);
  }

  // ---------------------------------------------------------------------------------------- settings

  setSampling(sampling: Sampling): void {
    this.sampling = sampling;
    remember('sampling', sampling);
  }

  /** Draw with moderate settings, another seed each time. */
  vary(): void {
    this.setSampling({ ...this.sampling, ...varied, seed: drawSeed() });
    this.setFreshSeed(true);
  }

  setFreshSeed(fresh: boolean): void {
    this.freshSeed = fresh;
    remember('freshSeed', fresh);
  }

  setSystem(text: string): void {
    this.system = text;
    remember('system', text);
  }

  setMode(mode: Mode): void {
    this.#wanted = mode;
    remember('mode', mode);
  }

  // ------------------------------------------------------------------------------------------ answer

  /** End the answer under way; what is written stays. Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.beside.stop();
    if (!this.writing) return;
    if (this.writing.phase === 'waiting') {
      this.#unqueue();
    } else {
      this.writing = { ...this.writing, stopping: true };
      this.#client.stop();
      await this.#answering;
    }
  }

  #queue(target: Target): void {
    if (this.freshSeed) this.setSampling({ ...this.sampling, seed: drawSeed() });
    this.writing = {
      target,
      phase: 'waiting',
      text: '',
      settledLength: 0,
      tokens: 0,
      begunTokens: 0,
      contextUsed: 0,
      sampling: this.sampling,
      startedMs: 0,
      firstTokenMs: null,
      decodeMs: 0,
      stopping: false,
    };
    if (target.kind === 'paper') this.paperFailure = null;
    if (this.status.kind === 'ready')
      this.#answering = this.#forgetting?.then(() => this.#answer()) ?? this.#answer();
    else void this.load();
  }

  /** A prompt that still waits is not answered; its answer's place goes. */
  #unqueue(): void {
    const target = this.writing?.target;
    this.writing = null;
    if (target?.kind === 'turn') this.conversation = removeTurn(this.conversation, target.id);
  }

  /** With a model without a chat template, what was sent or typed meanwhile goes to the sheet, the only place for it. */
  #moveToPaper(): void {
    const { writing } = this;
    if (this.draft !== '' && this.paper === blankPaper) {
      this.paper = editPaper(blankPaper, this.draft);
      this.draft = '';
    }
    if (writing?.phase !== 'waiting' || writing.target.kind === 'paper') return;
    const { id } = writing.target;
    const question = this.conversation.nodes.get(id)?.parent ?? null;
    const onlyAnswer = siblings(this.conversation, id).length === 1;
    this.paper = editPaper(blankPaper, turnsBefore(this.conversation, id).at(-1)?.content ?? '');
    this.conversation = removeTurn(this.conversation, id);
    if (question !== null && onlyAnswer)
      this.conversation = removeTurn(this.conversation, question);
    this.writing = { ...writing, target: { kind: 'paper' } };
  }

  /** Answer the prompt that waits. Never throws: a failure becomes part of the answer. */
  async #answer(): Promise<void> {
    const waiting = this.writing;
    if (!waiting) return;
    const { target, sampling } = waiting;
    const client = this.#client;
    const begun = this.#begun;
    const text = begun?.text ?? '';
    let over = false;
    this.#begun = null;
    this.#arrived = [];
    this.#ids = begun ? [...begun.ids] : [];
    this.writing = {
      ...waiting,
      phase: 'reading',
      text,
      settledLength: text.length,
      begunTokens: this.#ids.length,
      startedMs: performance.now(),
    };
    const take = (piece: Piece) => {
      if (!over) this.#take(piece);
    };
    try {
      const stop = begun
        ? joined(begun, await begun.prepare().then(() => this.lookInto.proceed(sampling, take)))
        : await this.#generate(client, target, sampling, take);
      if ('memory' in stop) this.memory = stop.memory;
      this.#finish(target, stop, sampling);
    } catch (thrown) {
      this.#fail(target, toFailure(thrown));
    }
    // After a worker's end a token may still be on its way here: it must not get into the next answer.
    over = true;
    cancelAnimationFrame(this.#frame);
    this.writing = null;
  }

  #generate(
    client: Speaker,
    target: Target,
    sampling: Sampling,
    take: (piece: Piece) => void,
  ): Promise<Stop | Told> {
    const prompt = this.#promptFor(target);
    if (target.kind === 'turn') this.beside.ask(target.id, prompt, sampling, this.model);
    return client.generate(prompt, sampling, take);
  }

  #promptFor(target: Target): Prompt {
    if (target.kind === 'paper') return promptOf(this.paper);
    const turns = turnsBefore(this.conversation, target.id);
    if (this.system !== '') turns.unshift({ role: 'system', content: this.system });
    return { kind: 'chat', turns };
  }

  /** Tokens may come faster than the screen is drawn: they are shown once a frame. */
  #take(piece: Piece): void {
    this.#arrived.push(piece);
    if (piece.id !== null) this.#ids.push(piece.id);
    if (this.#arrived.length === 1) this.#frame = requestAnimationFrame(() => this.#show());
  }

  #show(): void {
    const { writing } = this;
    const latest = this.#arrived.at(-1);
    if (!writing || !latest) return;
    const sinceStartMs = performance.now() - writing.startedMs;
    const firstTokenMs = writing.firstTokenMs ?? sinceStartMs;
    this.writing = {
      ...writing,
      phase: 'writing',
      text: writing.text + this.#arrived.map((piece) => piece.text).join(''),
      settledLength: writing.text.length,
      tokens: writing.tokens + this.#arrived.length,
      contextUsed: latest.position === null ? 0 : latest.position + 1,
      firstTokenMs,
      decodeMs: sinceStartMs - firstTokenMs,
    };
    this.#arrived = [];
  }

  #finish(target: Target, stop: Stop | Told, sampling: Sampling): void {
    const answered = toAnswered(stop, sampling, this.elsewhere);
    this.last = answered;
    if (target.kind === 'paper') {
      this.paper = addCompletion(this.paper, toCompletion(stop, answered));
    } else {
      const ids = 'ids' in stop ? { ids: stop.ids } : {};
      const turn = { role: 'assistant' as const, content: stop.text, ...ids };
      const origin = { kind: 'answered' as const, answered };
      this.conversation = setTurn(this.conversation, target.id, turn, origin);
    }
  }

  /** What was written before the failure stays, with the ids it was written as. */
  #fail(target: Target, failure: Failure): void {
    this.#show();
    const text = this.writing?.text ?? '';
    if (failure.name === 'DeviceLost') this.#lose(failure);
    if (target.kind === 'paper') {
      this.paperFailure = failure;
      if (text) this.paper = addCompletion(this.paper, { text, answered: null, ids: null });
    } else {
      const ids = this.engine.kind === 'gpu' ? { ids: this.#ids } : {};
      const turn = { role: 'assistant' as const, content: text, ...ids };
      const origin = { kind: 'failed' as const, failure };
      this.conversation = setTurn(this.conversation, target.id, turn, origin);
    }
  }

  async #forget(): Promise<void> {
    if (this.status.kind !== 'ready') return;
    this.last = null;
    await this.#client.reset().catch((thrown: unknown) => {
      this.status = { kind: 'failed', failure: toFailure(thrown) };
    });
  }
}

/** An answer from its beginning on, with the prompt before it. */
function joined(begun: Begun, stop: Stop): Stop {
  const promptIds = stop.promptIds.slice(0, stop.promptIds.length - begun.ids.length);
  return { ...stop, promptIds, ids: [...begun.ids, ...stop.ids], text: begun.text + stop.text };
}

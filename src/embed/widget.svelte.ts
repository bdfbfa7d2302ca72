/**
 * What a widget's frame knows and does, as reactive state: a short conversation with one model, driven by the person in
 * front of it and, through the line, by the page around. What costs much or tells what a person wrote waits for that
 * person's word, given in the frame.
 */
import {
  PalimpsestError,
  type Loaded,
  type LoadProgress,
  type MemoryReport,
  type Prompt,
  type Sampling,
  type Stop,
} from '../../workers/protocol.ts';
import type { Client, Weights } from '../client.ts';
import { toFailure, type Failure } from '../errors.ts';
import { formatBytes } from '../format.ts';
import type { Memory } from '../memory.svelte.ts';
import { advance, startProgress, type Progress } from '../progress.ts';
import { fetchRecording } from '../replay.ts';
import type { Elsewhere, Piece, Speaker, Told } from '../speaker.ts';
import { aborted, unless } from '../tabs/unless.ts';
import { outcomeOf, promptOf, samplingOf, toldPromptOf, unwritten } from './asking.ts';
import {
  limits,
  type Answers,
  type Draw,
  type Look,
  type Outcome,
  type Snapshot,
  type Status,
  type Theme,
  type View,
  type WidgetModel,
  type WidgetToken,
  type WidgetTurn,
} from './protocol.ts';
import { recordingAddress, selectionOf, type Wishes } from './wishes.ts';

/** How the widget reaches the workers, made when first needed. */
export interface Workshop {
  startWeights: () => Weights;
  startClient: (weights: Weights) => Client;
  /** llama.cpp on the processor, where there is no WebGPU. */
  startProcessor: (weights: Weights) => Speaker;
}

/** Who answers, once loaded: this program on the GPU, or llama.cpp, and then why. */
type Answerer =
  | { kind: 'gpu'; client: Client; loaded: Loaded }
  | { kind: 'cpu'; speaker: Speaker; elsewhere: Elsewhere; parameters: number; why: string };

/** An answer in the conversation, and where its tokens begin, once that is known. */
export interface Spoken extends WidgetTurn {
  first: number | null;
  /** It is being written. */
  grows: boolean;
}

/** What waits for the person's word. */
export interface Question {
  text: string;
  yes: string;
  answer: (agreed: boolean) => void;
}

type State =
  | { kind: 'poster' }
  | { kind: 'loading'; progress: Progress }
  | { kind: 'ready' }
  | { kind: 'failed'; failure: Failure };

const declined = 'The person at the widget said no.';
/** The longest that a question waits for the size that it states, milliseconds. */
const weighMs = 2_000;
const brokenOff = new PalimpsestError('Refused', 'The load was broken off in the widget.');

/** An answer that is asked for. Aborted when it is to end. */
interface Answering {
  ending: AbortController;
  /** Resolves when it has ended, however. */
  ended: Promise<void>;
}

export class Widget {
  state = $state.raw<State>({ kind: 'poster' });
  /** The model is handed, or was, to llama.cpp: there is no WebGPU. */
  onProcessor = $state.raw(false);
  turns = $state.raw<readonly Spoken[]>([]);
  writing = $state.raw(false);
  answerer = $state.raw<Answerer | null>(null);
  bytes = $state.raw<MemoryReport | null>(null);
  /** Of the weights; null while they are not known, or lie elsewhere and nobody has agreed to ask there. */
  weightBytes = $state.raw<number | null>(null);
  /** The weights are here: to load them fetches nothing. */
  stored = $state.raw(false);
  question = $state.raw<Question | null>(null);
  /** Why the model, which stands ready, did not answer what a person asked last. */
  trouble = $state.raw<Failure | null>(null);
  view = $state.raw<View>('text');
  theme = $state.raw<Theme>('auto');
  draft = $state('');
  /** What a person asked, until the model is there. */
  waiting = $state.raw('');
  /** Why the weights are in memory only; '' where they are kept. */
  memoryNote = $state.raw('');

  readonly wishes: Wishes;
  readonly memory: Memory;
  #workshop: Workshop;
  #weights: Weights | null = null;
  #client: Client | null = null;
  #speaker: Speaker | null = null;
  #loading: Promise<Answerer> | null = null;
  /** What a person wrote here is not the surrounding page's to read unasked. */
  #personWrote = false;
  #cancelled = false;
  #held = false;
  /** What is known of the weights: size, and whether they are here. */
  #weighed: Promise<void> = Promise.resolve();
  /** What is being written, or waits for its model. */
  #answering: Answering | null = null;
  /** What has the conversation be another one, or reads it as it is, one after the other: answers wait for that. */
  #changes: Promise<unknown> = Promise.resolve();
  /** The state of a restored snapshot, until an engine takes it up. */
  #restored: ArrayBuffer | null = null;
  #release: () => void = () => {};

  status = $derived.by<Status>(() => {
    const { state, question, memory } = this;
    const idle = { doneBytes: 0, totalBytes: 0, note: '' };
    if (question) return { ...idle, state: 'asking', note: question.text };
    if (state.kind === 'failed') return { ...idle, state: 'failed', note: state.failure.message };
    if (state.kind === 'loading') {
      const { doneBytes, totalBytes, note } = state.progress;
      return { state: 'loading', doneBytes, totalBytes, note: note.slice(0, 500) };
    }
    if (state.kind === 'ready') return { ...idle, state: this.writing ? 'writing' : 'ready' };
    return { ...idle, state: memory.recording ? 'replay' : 'poster' };
  });

  look = $derived.by<Look>(() => {
    const { layer, head, token, model } = this.memory;
    if (!model) return { view: this.view };
    return { view: this.view, layer, head, token: token ?? 'newest' };
  });

  constructor(wishes: Wishes, workshop: Workshop, memory: Memory) {
    this.wishes = wishes;
    this.memory = memory;
    this.#workshop = workshop;
    this.view = wishes.look.view ?? 'text';
    this.theme = wishes.theme;
    this.draft = wishes.prompt;
    if (wishes.replay) void this.replay(wishes.replay);
    if (!wishes.foreign) this.#weighed = this.#weigh();
  }

  destroy(): void {
    const ended = new PalimpsestError('Refused', 'The widget was closed.');
    this.#dismiss(ended);
    this.#weights?.destroy(ended);
  }

  /** End whoever answers. */
  #dismiss(reason: Error): void {
    this.#client?.destroy(reason);
    this.#speaker?.destroy(reason);
    this.#client = this.#speaker = this.answerer = null;
  }

  // ------------------------------------------------------------------------------------------- model

  /** How large the model is and whether it is here already: known before anything is asked of anybody. */
  async #weigh(): Promise<void> {
    try {
      const { totalBytes, state, placeNote } = await this.#shelf().status(this.wishes.model);
      this.weightBytes = totalBytes;
      this.stored = state === 'complete';
      this.memoryNote = placeNote;
    } catch {
      // The size is a courtesy; loading says what is wrong.
    }
  }

  #shelf(): Weights {
    return (this.#weights ??= this.#workshop.startWeights());
  }

  /** Take weights from another store, unless some are loaded, or on their way, by now. Answers whether it did. */
  useWeights(weights: Weights): boolean {
    const ended = new PalimpsestError('Refused', 'The widget changed its storage.');
    if (this.state.kind !== 'poster') {
      weights.destroy(ended);
      return false;
    }
    this.#dismiss(ended);
    this.#weights?.destroy(ended);
    this.#weights = weights;
    this.stored = false;
    this.#weighed = this.#weigh();
    return true;
  }

  /** Load the model, asked by the person. Ends in `state`; never throws. */
  async begin(): Promise<void> {
    await this.#load().catch(() => {});
  }

  /** Break off a load. Who waits for it is told so. */
  cancelLoad(): void {
    if (this.state.kind !== 'loading') return;
    this.#cancelled = true;
    this.#dismiss(brokenOff);
  }

  /** Load the model, asked by the page around: where weights must be fetched, only once the person agrees. */
  async #loadIfAllowed(): Promise<Answerer> {
    // Whether anything must be fetched is known in no time, but where its host does not answer.
    await Promise.race([this.#weighed, new Promise((late) => setTimeout(late, weighMs))]);
    if (this.state.kind !== 'ready' && !this.#loading && !this.stored) {
      const size = this.weightBytes === null ? '' : `, ${formatBytes(this.weightBytes)}`;
      const agreed = await this.#ask(
        `This page would like to run a language model here. It is fetched from ${this.wishes.source}${size}, and runs on your GPU, or, without WebGPU, on your processor.`,
        'Run it',
      );
      if (!agreed) throw new PalimpsestError('Refused', declined);
    }
    return this.#load();
  }

  #load(): Promise<Answerer> {
    if (this.state.kind === 'ready' && this.answerer) return Promise.resolve(this.answerer);
    return (this.#loading ??= this.#loadAnew().finally(() => (this.#loading = null)));
  }

  async #loadAnew(): Promise<Answerer> {
    let progress = startProgress;
    this.state = { kind: 'loading', progress };
    const report = (told: LoadProgress) => {
      if (this.state.kind !== 'loading') return;
      progress = advance(progress, told, performance.now());
      this.state = { kind: 'loading', progress };
    };
    try {
      const answerer = await this.#findAnswerer(report);
      if (this.#cancelled) throw brokenOff;
      this.answerer = answerer;
      this.stored = true;
      this.state = { kind: 'ready' };
      void this.#weigh();
      return answerer;
    } catch (thrown) {
      if (this.#cancelled) this.state = { kind: 'poster' };
      else this.#fail(toFailure(thrown));
      this.#cancelled = false;
      throw thrown;
    }
  }

  /** The GPU, or, where the browser has no WebGPU, the processor; known before weights are fetched. */
  async #findAnswerer(report: (p: LoadProgress) => void): Promise<Answerer> {
    const weights = this.#shelf();
    const client = (this.#client ??= this.#workshop.startClient(weights));
    try {
      await client.device();
    } catch (thrown) {
      // A frame without an origin may not start llama.cpp's worker.
      if (toFailure(thrown).name !== 'NoWebGPU' || this.#cancelled || origin === 'null')
        throw thrown;
      return this.#loadProcessor(weights, toFailure(thrown).message, report);
    }
    const loaded = await client.load(this.wishes.model, report);
    this.memory.detach();
    await this.memory.attach(client.memory, loaded.model);
    this.memory.lookAt(selectionOf(this.wishes.look));
    // One that was dismissed is nobody's loss.
    const lost = (failure: Failure) => this.#client === client && this.#fail(failure);
    void client.lost().then(
      (message) => lost({ name: 'DeviceLost', message }),
      (thrown: unknown) => lost(toFailure(thrown)),
    );
    this.bytes = loaded.memory;
    // Before the model was loaded it could not be looked at: bytes that are no state are as if there were none.
    await this.#takeUp(client).catch(() => {});
    return { kind: 'gpu', client, loaded };
  }

  async #loadProcessor(
    weights: Weights,
    why: string,
    report: (p: LoadProgress) => void,
  ): Promise<Answerer> {
    const { model } = this.wishes;
    this.#dismiss(new PalimpsestError('NoWebGPU', why));
    this.onProcessor = true;
    const speaker = (this.#speaker = this.#workshop.startProcessor(weights));
    const { parameters } = await weights.describe(model);
    const elsewhere = await speaker.load(model, report);
    if (!('kind' in elsewhere)) throw new Error('The processor answers as the GPU does.');
    return { kind: 'cpu', speaker, elsewhere, parameters, why };
  }

  /** Nothing is known of what the engine still holds: another is started when the model is wanted again. */
  #fail(failure: Failure): void {
    this.#dismiss(Object.assign(new Error(failure.message), { name: failure.name }));
    this.state = { kind: 'failed', failure };
    const helpless = failure.name === 'NoWebGPU' || failure.name === 'LimitTooSmall';
    if (helpless && !this.memory.recording) void this.replay('first-visit');
  }

  #ask(text: string, yes: string): Promise<boolean> {
    if (this.question) {
      return Promise.reject(
        new PalimpsestError('Refused', 'The person at the widget is being asked something else.'),
      );
    }
    return new Promise((resolve) => {
      const answer = (agreed: boolean) => {
        this.question = null;
        resolve(agreed);
      };
      this.question = { text, yes, answer };
    });
  }

  // ------------------------------------------------------------------------------------------ replay

  /** Show a recording that lies beside the page, if there is one. */
  async replay(name: string): Promise<void> {
    const recording = await fetchRecording(recordingAddress(name)).catch(() => null);
    if (!recording || this.answerer?.kind === 'gpu') return;
    this.memory.replay(recording);
    this.memory.lookAt(selectionOf(this.wishes.look));
  }

  // ------------------------------------------------------------------------------------ conversation

  /** What the person asks. */
  async say(text: string): Promise<void> {
    if (this.writing || text.trim() === '') return;
    this.#personWrote ||= text.trim() !== this.wishes.prompt.trim();
    this.trouble = null;
    this.waiting = text;
    const { turns } = this;
    try {
      await this.#inTurn(this.wishes.draw, async (ending) => {
        await unless([ending], this.#load());
        this.waiting = '';
        return this.#answer(text, this.wishes.draw, ending, () => {});
      });
    } catch (thrown) {
      if (this.state.kind === 'ready') this.trouble = toFailure(thrown);
    }
    this.waiting = '';
    // Nothing came of it: the words are the person's again.
    if (this.turns === turns && this.draft === '') this.draft = text;
  }

  /** Forget the conversation. */
  async startOver(): Promise<void> {
    const stopped = this.stop();
    await this.#change(async () => {
      await stopped;
      this.turns = [];
      this.#restored = null;
      this.draft = this.wishes.prompt;
      this.#personWrote = false;
      await (this.#client ?? this.#speaker)
        ?.reset()
        .catch((thrown) => this.#fail(toFailure(thrown)));
    });
  }

  /** Fails: Refused while another answer is written; as EngineApi.generate. */
  async generate(
    asked: { prompt: string; begin: boolean; draw: Draw },
    tell: (token: WidgetToken) => void,
  ): Promise<Outcome> {
    // One that is ending is as good as over.
    while (this.#answering?.ending.signal.aborted) await this.#answering.ended;
    if (this.#answering) {
      throw new PalimpsestError('Refused', 'An answer is being written. Stop it first.');
    }
    return this.#inTurn(asked.draw, async (ending) => {
      // An answer to what a person wrote would tell of it.
      if (!asked.begin && this.#personWrote && !(await unless([ending], this.#mayRead()))) {
        throw new PalimpsestError('Refused', declined);
      }
      await unless([ending], this.#loadIfAllowed());
      await unless([ending], this.#changes);
      if (asked.begin) {
        this.turns = [];
        this.#personWrote = false;
      }
      return this.#answer(asked.prompt, asked.draw, ending, tell);
    });
  }

  /** Have an answer written. One that is ended before it began has no words, and leaves no trace. */
  async #inTurn(draw: Draw, work: (ending: AbortSignal) => Promise<Outcome>): Promise<Outcome> {
    const ending = new AbortController();
    let end = () => {};
    const ended = new Promise<void>((resolve) => (end = resolve));
    this.#answering = { ending, ended };
    this.writing = true;
    try {
      return await work(ending.signal);
    } catch (thrown) {
      if (!ending.signal.aborted || thrown !== ending.signal.reason) throw thrown;
      return unwritten(draw);
    } finally {
      this.#answering = null;
      this.writing = false;
      end();
    }
  }

  /** Do something to the conversation while nothing is written. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(work);
    this.#changes = done.catch(() => {});
    return done;
  }

  async #answer(
    prompt: string,
    draw: Draw,
    ending: AbortSignal,
    tell: (token: WidgetToken) => void,
  ): Promise<Outcome> {
    await unless([ending], this.#changes);
    const answerer = this.answerer;
    if (!answerer)
      throw new PalimpsestError('Refused', 'The model is not loaded any more. Ask again.');
    const sampling = samplingOf(draw);
    const said: Spoken = { role: 'user', content: prompt, first: null, grows: false };
    const before = this.turns;
    const asked = [...before, said];
    const reply: Spoken = { role: 'assistant', content: '', first: null, grows: true };
    const show = (change: Partial<Spoken>) => {
      Object.assign(reply, change);
      this.turns = [...asked, { ...reply }];
    };
    show({});
    // A recording gives way to what is asked; nobody looks into llama.cpp.
    if (answerer.kind === 'cpu') this.memory.detach();
    this.memory.live = true;
    this.memory.selectToken(null);
    const take = ({ id, position, text, logprob }: Piece) => {
      show({ content: reply.content + text, first: reply.first ?? position });
      tell({ id, position, text, logprob: logprob === null ? null : Math.min(0, logprob) });
    };
    try {
      const stop =
        answerer.kind === 'gpu'
          ? await this.#write(answerer, asked, sampling, ending, take)
          : await this.#tell(
              answerer.speaker,
              toldPromptOf(asked, answerer.elsewhere),
              sampling,
              ending,
              take,
            );
      const ids = 'ids' in stop ? stop.ids : [];
      if (stop.reason === 'stopped' && stop.text === '') this.turns = before;
      else show({ content: stop.text, ...('ids' in stop && { ids }), grows: false });
      return outcomeOf(stop, sampling);
    } catch (thrown) {
      if (reply.content === '') this.turns = before;
      else show({ grows: false });
      throw thrown;
    } finally {
      this.memory.live = false;
    }
  }

  /** An answer of the engine's on the GPU. */
  async #write(
    { client, loaded }: Extract<Answerer, { kind: 'gpu' }>,
    asked: readonly Spoken[],
    sampling: Sampling,
    ending: AbortSignal,
    tell: (piece: Piece) => void,
  ): Promise<Stop> {
    const end = () => client.stop();
    const take = (piece: Piece) => {
      tell(piece);
      // Said before the engine wrote, it was said to nobody.
      if (this.#held || ending.aborted) end();
    };
    await this.#takeUp(client).catch(() => {});
    const prompt = await promptOf(client, asked, loaded);
    await this.#seen(ending);
    ending.throwIfAborted();
    ending.addEventListener('abort', end);
    let stop = await client.generate(prompt, sampling, take);
    // Held because nobody could see it, not stopped: it goes on from where it was.
    while (stop.reason === 'stopped' && (await this.#seen(ending))) {
      const left = sampling.maxTokens - stop.ids.length;
      if (left < 1) {
        stop = { ...stop, reason: 'length' };
        break;
      }
      const rest = await client.memory.proceed({ ...sampling, maxTokens: left }, take);
      stop = { ...rest, ids: [...stop.ids, ...rest.ids], text: stop.text + rest.text };
      stop.promptIds = stop.promptIds.slice(0, stop.promptIds.length - stop.ids.length);
    }
    this.bytes = stop.memory;
    return stop;
  }

  /** An answer of llama.cpp's. One that was held is asked for again, and what was told is not told twice. */
  async #tell(
    speaker: Speaker,
    prompt: Prompt,
    sampling: Sampling,
    ending: AbortSignal,
    take: (piece: Piece) => void,
  ): Promise<Told> {
    let toldLength = 0;
    await this.#seen(ending);
    ending.throwIfAborted();
    ending.addEventListener('abort', () => speaker.stop());
    for (;;) {
      let heardLength = 0;
      const stop = (await speaker.generate(prompt, sampling, (piece) => {
        const text = piece.text.slice(Math.max(0, toldLength - heardLength));
        heardLength += piece.text.length;
        if (text === '') return;
        toldLength = heardLength;
        take({ ...piece, text });
        if (this.#held || ending.aborted) speaker.stop();
      })) as Told;
      if (stop.reason !== 'stopped' || !(await this.#seen(ending))) return stop;
    }
  }

  /** End the answer that is being written, or the wish for it; a load that it waits for goes on. */
  async stop(): Promise<void> {
    const answering = this.#answering;
    answering?.ending.abort();
    this.question?.answer(false);
    await answering?.ended;
  }

  /** While nobody can see the widget, the GPU is left to others: an answer waits after its next token. */
  hold(hidden: boolean): void {
    this.#held = hidden;
    if (hidden) {
      this.memory.pause();
      if (this.writing) (this.#client ?? this.#speaker)?.stop();
    } else this.#release();
  }

  /** Wait until the widget can be seen, or the answer is to end. Answers whether it goes on. */
  async #seen(ending: AbortSignal): Promise<boolean> {
    while (this.#held && !ending.aborted) {
      const shown = new Promise<void>((resolve) => (this.#release = resolve));
      await Promise.race([shown, aborted(ending)]);
    }
    return !ending.aborted;
  }

  // ------------------------------------------------------------------------------- the page's requests

  async load(): Promise<WidgetModel> {
    const answerer = await this.#loadIfAllowed();
    const known = answerer.kind === 'gpu' ? answerer.loaded.model : answerer.elsewhere;
    return {
      name: known.name.slice(0, 200),
      parameters: answerer.kind === 'gpu' ? answerer.loaded.model.parameters : answerer.parameters,
      layers: 'layers' in known ? known.layers.length : null,
      contextLimit: Math.min(known.contextLimit ?? 0, 0xffffffff),
      engine: answerer.kind,
    };
  }

  async snapshot(): Promise<Snapshot> {
    while (this.#answering?.ending.signal.aborted) await this.#answering.ended;
    const refuse = () => {
      if (!this.#answering) return;
      throw new PalimpsestError('Refused', 'An answer is being written. Stop it first.');
    };
    refuse();
    if (this.#personWrote && !(await this.#mayRead())) {
      throw new PalimpsestError('Refused', declined);
    }
    return this.#change(() => {
      refuse();
      return this.#kept();
    });
  }

  async #kept(): Promise<Snapshot> {
    const { wishes, look } = this;
    return {
      format: 'palimpsest-snapshot',
      version: 1,
      model: wishes.model,
      turns: this.turns.map(({ role, content, ids }) => ({ role, content, ...(ids && { ids }) })),
      draw: $state.snapshot(wishes.draw) as Draw,
      look,
      ...(await this.#stateOf()),
    };
  }

  /** What the memory holds of the conversation, where it is small enough to be handed over. */
  async #stateOf(): Promise<{ state?: ArrayBuffer }> {
    if (this.#restored) return { state: this.#restored };
    const last = this.turns.at(-1);
    if (!this.#client || this.state.kind !== 'ready' || !last?.ids) return {};
    const state = await this.#client.memory.exportBranch();
    return state && state.byteLength <= limits.stateBytes ? { state } : {};
  }

  #mayRead(): Promise<boolean> {
    return this.#ask(
      'The page around this widget would like to read the conversation, with what you wrote.',
      'Let it read',
    );
  }

  async restore(snapshot: Snapshot): Promise<null> {
    if (snapshot.model !== this.wishes.model) {
      throw new PalimpsestError(
        'Refused',
        `The snapshot is of ${snapshot.model}, and this widget has ${this.wishes.model}.`,
      );
    }
    const stopped = this.stop();
    return this.#change(async () => {
      await stopped;
      this.#restored = snapshot.state ?? null;
      if (this.#client && this.state.kind === 'ready') await this.#takeUp(this.#client);
      // What stays of a person's words here is replaced, not read.
      this.#personWrote = false;
      this.turns = snapshot.turns.map((turn) => ({ ...turn, first: null, grows: false }));
      this.setLook(snapshot.look);
      return null;
    });
  }

  /**
   * Take up a restored state; what is no state is refused, and all stays as it was. Where this device keeps numbers
   * otherwise the text is read anew with what is asked next.
   */
  async #takeUp(client: Client): Promise<void> {
    const state = this.#restored;
    this.#restored = null;
    if (!state) return;
    const before = await client.memory.branches();
    try {
      await client.memory.importBranch(state);
      await client.memory.dropBranches(before.map(({ id }) => id));
    } catch (thrown) {
      if ((thrown as Error).name !== 'Unsupported') throw thrown;
      await client.reset();
    }
  }

  setLook({ view, layer, head, token }: Look): null {
    if (view) this.view = view;
    const { memory } = this;
    if (memory.model) {
      if (layer !== undefined && layer < memory.model.layers.length) memory.selectLayer(layer);
      if (head === 'median' || (head !== undefined && head < memory.model.heads)) {
        memory.selectHead(head);
      }
      if (token === 'newest') memory.selectToken(null);
      else if (token !== undefined && token <= memory.last) memory.selectToken(token);
    }
    return null;
  }

  setTheme(theme: Theme): Answers['theme'] {
    this.theme = theme;
    return null;
  }
}

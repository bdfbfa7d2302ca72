/**
 * Palimpsest as a library: a Kimi Linear model in this tab, asked as OpenAI's client asks a server, and looked into as
 * no server lets one.
 *
 *     const engine = await createEngine({ model: 'https://host/models/palimpsest-150m/' });
 *     for await (const chunk of engine.chat.completions.create({ messages, stream: true })) …
 */
import type {
  Branch,
  Frame,
  Loaded,
  LoadProgress,
  Prompt,
  Stop,
  Token,
  Turn,
  Watch,
} from '../workers/protocol.ts';
import { PalimpsestError } from '../workers/protocol.ts';
import { startJointClient, startWeights, type Client } from './client.ts';
import {
  chunksOf,
  completionOf,
  samplingOf,
  type Completion,
  type CompletionChunk,
  type CompletionRequest,
} from './inTab/completions.ts';
import { drawSeed } from './sampling.ts';

export type { Completion, CompletionChunk, CompletionRequest, Frame, Loaded, LoadProgress, Watch };
export { PalimpsestError };

export interface EngineOptions {
  /** An absolute address: of a folder with a manifest, ending in "/", or of a .gguf file. */
  model: string;
  onProgress?: (progress: LoadProgress) => void;
  /**
   * One engine an origin has the GPU. Where another tab has it, share that one, wait until it is closed, have one of
   * one's own besides, or fail with EngineTaken. Shared by tabs with the same model, calls take turns, and each tab's
   * conversations and states are its own; when the tab that has it is closed, another one loads the model, and what was
   * asked goes on with the same tokens. "share" if left out.
   */
  tabs?: 'share' | 'wait' | 'own' | 'refuse';
  /** Where the engine is: here, here for other tabs as well, in another tab, or not to be had yet. */
  onPlace?: (place: EnginePlace) => void;
  /** Ends the waiting and the load. */
  signal?: AbortSignal;
}

/** own: here; serving: here, used by other tabs as well; guest: in another tab; waiting: another
 * tab has it; moving: it comes here from another tab. */
export type EnginePlace = 'own' | 'serving' | 'guest' | 'waiting' | 'moving';

/** A state to come back to, in this engine. */
export interface Snapshot {
  readonly branch: number;
  readonly tokens: number;
}

/** A state to come back to anywhere: a function of the model and the tokens, and with its bytes nothing is computed again. */
export interface ExportedState {
  format: 'palimpsest-state';
  version: 1;
  /** The model's name, as its file states it. */
  model: string;
  ids: number[];
  /**
   * The recurrent memories and what else there is, some MB. Absent where the conversation is too long to stand in 64 MB, or
   * was left out to have JSON: then, and on a device that keeps numbers otherwise, the tokens are read anew.
   */
  state?: ArrayBuffer;
}

export interface Options {
  signal?: AbortSignal;
}

export interface Engine {
  readonly loaded: Loaded;
  readonly chat: {
    readonly completions: {
      /**
       * Answer; calls queue. An aborted answer ends with what was written and the reason "stopped"; one that is aborted
       * while it queues fails with the signal's reason. Fails: as EngineApi.generate.
       */
      create(
        request: CompletionRequest & { stream: true },
        options?: Options,
      ): Promise<AsyncIterable<CompletionChunk>>;
      create(
        request: CompletionRequest & { stream?: false | null },
        options?: Options,
      ): Promise<Completion>;
    };
  };
  readonly state: {
    /** Keep the state as it is. Fails: Refused before anything was said. */
    snapshot(): Promise<Snapshot>;
    /** Go back to a state. Fails: Refused for one of another model, and for bytes that are no state. */
    restore(state: Snapshot | ExportedState): Promise<void>;
    export(): Promise<ExportedState>;
    /** Let a snapshot go: what it kept in memory is free. */
    release(snapshot: Snapshot): Promise<void>;
  };
  /** Be told of what every token does to the memory from now on, in place of an earlier watch. Answers how to end it. */
  watch(watch: Watch, onFrame: (frame: Frame) => void): Promise<() => Promise<void>>;
  /** End the engine and let another tab have the GPU. Calls under way fail. */
  close(): void;
}

/** Load a model into this tab, or join the tab that has it. Fails: as EngineApi.load; EngineTaken as `tabs` says. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  checkOptions(options);
  const { model, onProgress = () => {}, tabs = 'share', onPlace = () => {}, signal } = options;
  const weights = startWeights();
  const client = startJointClient(weights, {
    choice: () => tabs,
    onPlace: (place) => place && onPlace(place.kind),
  });
  const end = (reason: Error) => {
    client.destroy(reason);
    weights.destroy(reason);
  };
  const abort = () => end(abortReason(signal));
  signal?.addEventListener('abort', abort, { once: true });
  try {
    signal?.throwIfAborted();
    const loaded = await client.load(model, onProgress);
    return engineOf(client, loaded, () => end(closed));
  } catch (thrown) {
    end(thrown instanceof Error ? thrown : new Error(String(thrown)));
    throw signal?.aborted ? abortReason(signal) : thrown;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

function checkOptions(options: EngineOptions | undefined): void {
  const { model, tabs = 'share' } = options ?? {};
  if (typeof model !== 'string' || !URL.canParse(model)) {
    throw new PalimpsestError(
      'Refused',
      `model is ${String(model)}; it takes an absolute address, of a folder with a manifest, ending in "/", or of a .gguf file: new URL('models/palimpsest-150m/', document.baseURI).href.`,
    );
  }
  if (!['share', 'wait', 'own', 'refuse'].includes(tabs)) {
    throw new PalimpsestError('Refused', `tabs is ${tabs}; it is share, wait, own or refuse.`);
  }
}

/** Answers whose ids are remembered. */
const mostAnswers = 256;

const closed = new PalimpsestError('Refused', 'The engine was closed. Create another one.');

function abortReason(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new DOMException(String(reason), 'AbortError');
}

/** The library's face of a client that has loaded a model. */
export function engineOf(
  client: Pick<Client, 'generate' | 'stop' | 'memory'>,
  loaded: Loaded,
  close: () => void,
): Engine {
  const { name, mode } = loaded.model;
  /** One thing after another. */
  let queue: Promise<unknown> = Promise.resolve();
  let made = 0;
  /** The branch that is present; null where nothing says which: then it is the last that was made. */
  let present: number | null = null;
  /** Who was last to watch. */
  let watching = {};
  /** What was kept, by branch: an engine in another tab takes its branches with it. */
  const snapshots = new Map<number, number[]>();
  /** The ids that answers were written as: fed back, a conversation goes on from memory. */
  const answers = new Map<string, number[]>();

  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = queue.then(work);
    queue = turn.catch(() => {});
    return turn;
  }

  function remember({ text, ids }: Stop): void {
    answers.delete(text);
    answers.set(text, ids);
    const [oldest] = answers.keys();
    if (answers.size > mostAnswers) answers.delete(oldest!);
  }

  function promptOf({ messages }: CompletionRequest): Prompt {
    if (mode === 'raw') {
      throw new PalimpsestError(
        'Unsupported',
        `${name} has no chat template: it continues raw text and knows no messages.`,
      );
    }
    const turns = messages.map(({ role, content }): Turn => {
      const ids = role === 'assistant' ? answers.get(content) : undefined;
      return ids ? { role, content, ids } : { role, content };
    });
    return { kind: 'chat', turns };
  }

  /** Answer when it is this request's turn. */
  function answer(
    request: CompletionRequest,
    signal: AbortSignal | undefined,
    onToken: (token: Token) => void,
  ): Promise<Stop> {
    const sampling = samplingOf(request, drawSeed);
    const prompt = promptOf(request);
    /** Its turn has come: from here on a signal stops it, and until then takes it out of the queue. */
    const begun = new AbortController();
    const answered = inTurn(async () => {
      if (signal?.aborted) throw abortReason(signal);
      begun.abort();
      const stop = () => client.stop();
      signal?.addEventListener('abort', stop, { once: true });
      try {
        const stopped = await client.generate(prompt, sampling, onToken);
        remember(stopped);
        return stopped;
      } finally {
        signal?.removeEventListener('abort', stop);
      }
    });
    if (!signal) return answered;
    return new Promise((resolve, reject) => {
      answered.then(resolve, reject);
      const leave = () => reject(abortReason(signal));
      if (signal.aborted) leave();
      else signal.addEventListener('abort', leave, { once: true, signal: begun.signal });
    });
  }

  function headOf() {
    made += 1;
    const created = Math.floor(Date.now() / 1000);
    return { id: `chatcmpl-palimpsest-${made}`, created, model: name };
  }

  /** The tokens of an answer as a stream. It is written whether or not anyone reads; leaving the loop stops it. */
  function stream(
    request: CompletionRequest,
    signal: AbortSignal | undefined,
  ): AsyncIterable<CompletionChunk> {
    const left = new AbortController();
    const both = signal ? AbortSignal.any([signal, left.signal]) : left.signal;
    const chunks = chunksOf(headOf(), request.logprobs === true);
    const arrived: CompletionChunk[] = [chunks.first()];
    let wake: () => void = () => {};
    let over = false;
    const answering = answer(request, both, (token) => {
      arrived.push(chunks.token(token));
      wake();
    })
      .then((stop) => void arrived.push(chunks.last(stop)))
      .finally(() => {
        over = true;
        wake();
      });
    answering.catch(() => {}); // told to whoever reads
    return (async function* () {
      try {
        for (;;) {
          const chunk = arrived.shift();
          if (chunk) yield chunk;
          else if (over) return await answering;
          else await new Promise<void>((more) => (wake = more));
        }
      } finally {
        left.abort();
      }
    })();
  }

  async function whole(
    request: CompletionRequest,
    signal: AbortSignal | undefined,
  ): Promise<Completion> {
    const tokens: Token[] = [];
    const stop = await answer(request, signal, (token) => tokens.push(token));
    return completionOf(headOf(), stop, request.logprobs ? tokens : null);
  }

  function create(
    request: CompletionRequest & { stream: true },
    options?: Options,
  ): Promise<AsyncIterable<CompletionChunk>>;
  function create(
    request: CompletionRequest & { stream?: false | null },
    options?: Options,
  ): Promise<Completion>;
  async function create(
    request: CompletionRequest,
    { signal }: Options = {},
  ): Promise<Completion | AsyncIterable<CompletionChunk>> {
    return request?.stream ? stream(request, signal) : whole(request, signal);
  }

  async function line(): Promise<Branch> {
    const branches = await client.memory.branches();
    const found = branches.find(({ id }) => id === present) ?? branches.at(-1);
    if (!found || found.ids.length < 2) {
      throw new PalimpsestError('Refused', 'Nothing was said yet, so there is no state to keep.');
    }
    return found;
  }

  /** Go on beside a line, which stays as it is. */
  async function leave(kept: Branch): Promise<Snapshot> {
    const beside = await client.memory.fork(kept.ids.length - 1, null, []);
    present = beside.id;
    snapshots.set(kept.id, kept.ids);
    return { branch: kept.id, tokens: kept.ids.length };
  }

  return {
    loaded,
    chat: { completions: { create } },
    state: {
      snapshot: () => inTurn(async () => leave(await line())),
      restore: (state) =>
        inTurn(async () => {
          if (
            typeof state !== 'object' ||
            state === null ||
            !('ids' in state || 'branch' in state)
          ) {
            throw new PalimpsestError(
              'Refused',
              'This is neither a snapshot nor an exported state.',
            );
          }
          if ('ids' in state) await read(state);
          else await goTo(state);
          await sweep();
        }),
      release: ({ branch }) =>
        inTurn(async () => {
          snapshots.delete(branch);
          await sweep();
        }),
      export: () =>
        inTurn(async () => {
          const { ids } = await line();
          const state = await client.memory.exportBranch();
          return {
            format: 'palimpsest-state',
            version: 1,
            model: name,
            ids: [...ids],
            ...(state && { state }),
          };
        }),
    },
    async watch(watch, onFrame) {
      const own = (watching = {});
      await client.memory.watch(watch, onFrame);
      return async () => {
        // Another one took its place: that goes on.
        if (watching === own) await client.memory.watch(null, () => {});
      };
    },
    close() {
      watching = {};
      close();
    },
  };

  /** Branches that nobody can come back to are let go. */
  async function sweep(): Promise<void> {
    const branches = (await client.memory.branches()).map(({ id }) => id);
    const last = present ?? branches.at(-1);
    const left = branches.filter((id) => id !== last && !snapshots.has(id));
    if (left.length > 0) await client.memory.dropBranches(left);
  }

  async function goTo({ branch }: Snapshot): Promise<void> {
    const branches = await client.memory.branches();
    const ids = snapshots.get(branch);
    if (ids && !branches.some(({ id }) => id === branch)) return readAnew(ids);
    await client.memory.select(branch);
    present = branch;
    await leave(await line());
  }

  async function read({ format, version, model, ids, state }: ExportedState): Promise<void> {
    if (format !== 'palimpsest-state' || version !== 1 || model !== name) {
      throw new PalimpsestError(
        'Refused',
        `A state of ${model} (${format} ${version}) is none of ${name}.`,
      );
    }
    if (!Array.isArray(ids) || ids.length < 2) {
      throw new PalimpsestError('Refused', 'This state has no ids: it was not exported whole.');
    }
    // JSON makes an empty object of bytes.
    if (!(state instanceof ArrayBuffer)) return readAnew(ids);
    try {
      const taken = await client.memory.importBranch(state);
      present = taken.id;
      if (taken.ids.join() === ids.join()) return;
      throw new PalimpsestError(
        'Refused',
        'The bytes of this state are of other tokens than its own.',
      );
    } catch (thrown) {
      if ((thrown as Error).name !== 'Unsupported') throw thrown;
    }
    return readAnew(ids);
  }

  async function readAnew(ids: number[]): Promise<void> {
    const greedy = samplingOf({ messages: [{ role: 'user', content: '' }] }, () => 0);
    const sampling = { ...greedy, temperature: 0, maxTokens: 1 };
    await client.generate({ kind: 'ids', ids }, sampling, () => {});
    // The state is that after the last of its tokens: one was written past it.
    present = (await client.memory.fork(ids.length - 1, null, [])).id;
  }
}

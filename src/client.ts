/**
 * The page's one door to the workers: starts them, connects the engine with the weights, and calls across with Comlink.
 * Weights go from worker to worker; through the page pass only those that a person exports.
 */
import { createEndpoint, type Endpoint, expose, proxy, transfer, wrap } from 'comlink';
import {
  PalimpsestError,
  type BenchApi,
  type BookmarkApi,
  type CheckpointOffer,
  type CheckpointPlace,
  type DeviceReport,
  type EngineApi,
  type HubRepository,
  type Loaded,
  type LoadProgress,
  type MemoryApi,
  type Manifest,
  type Prompt,
  type Room,
  type Sampling,
  type Shard,
  type Stop,
  type StoredModel,
  type Token,
  type Verification,
  type WeightsApi,
  type WeightsStatus,
} from '../workers/protocol.ts';
import weightsWorker from '../workers/download.worker.ts?worker&url';
import engineWorker from '../workers/engine.worker.ts?worker&url';
import sharedWeightsWorker from '../workers/sharedDownload.worker.ts?sharedworker&url';
import tabsWorker from '../workers/tabs.worker.ts?sharedworker&url';
import type { Speaker } from './speaker.ts';
import type { DeskApi } from './tabs/desk.ts';
import { joinTabs, type Joining } from './tabs/joint.ts';
import type { Conversing } from './tabs/seats.ts';
import { ownScript, startWorker } from './trusted.ts';

/**
 * The weights worker as the page sees it. It lives as long as the page: engines come and go, downloads go on, and adopted
 * files stay known. Every call fails as WeightsApi says, and when the worker dies.
 */
export interface Weights {
  describe(model: string): Promise<Manifest>;
  status(model: string): Promise<WeightsStatus>;
  /** One watcher a model, the last; it hears of the model until that is removed, closed and opened again included. */
  watch(model: string, report: (s: WeightsStatus) => void): Promise<void>;
  download(model: string): Promise<void>;
  pause(model: string): Promise<void>;
  cancel(model: string): Promise<void>;
  close(model: string): Promise<void>;
  list(): Promise<StoredModel[]>;
  verify(
    model: string,
    report: (doneBytes: number, totalBytes: number) => void,
  ): Promise<Verification>;
  remove(model: string): Promise<void>;
  room(): Promise<Room>;
  repository(repository: string, revision: string): Promise<HubRepository>;
  checkpoint(place: CheckpointPlace): Promise<CheckpointOffer>;
  adopt(files: File[]): Promise<string>;
  keep(model: string, report: (p: LoadProgress) => void): Promise<string>;
  /** For an export: the shards, and verified bytes of one. */
  open(model: string): Promise<Shard[]>;
  read(model: string, shard: number, offset: number, bytes: number): Promise<ArrayBuffer>;
  /** For an engine to read through. */
  port(): Promise<MessagePort>;
  /** Resolves with the reason when the worker has died or was ended. */
  readonly ended: Promise<Error>;
  destroy(reason: Error): void;
}

/** What the page can ask of the workers. Every call fails as the engine's does (workers/protocol.ts), and when a worker dies. */
export interface Client extends Speaker, Conversing {
  /** The GPU that a load will take; nothing is fetched. */
  device(): Promise<DeviceReport>;
  /** A model's manifest; nothing else is fetched. */
  describe(model: string): Promise<Manifest>;
  load(model: string, report: (p: LoadProgress) => void): Promise<Loaded>;
  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  stop(): void;
  reset(): Promise<void>;
  /** Resolves with the reason when the GPU goes away. */
  lost(): Promise<string>;
  /** The engine, to be looked into. */
  readonly memory: MemoryApi;
  readonly bookmark: BookmarkApi;
  readonly bench: BenchApi;
  /** End the engine, whatever it is doing; calls under way fail with `reason`. The model it loaded is not in use any more. */
  destroy(reason: Error): void;
}

/** Start the weights worker of this page. Nothing is fetched but its code. */
export function startWeights(): Weights {
  return connectWeights(startWorker(weightsWorker));
}

/** The weights of a shared worker that `start` starts: it may stand in another storage than this document's workers. */
export function startSharedWeights(start: (address: string) => SharedWorker): Weights {
  const { port } = start(ownScript(sharedWeightsWorker));
  // Comlink and `connectWeights` ask no more of a worker than a port has, but for its end.
  return connectWeights(Object.assign(port, { terminate: () => port.close() }) as never);
}

/** Start an engine. Nothing is fetched but its code. */
export function startClient(weights: Weights): Client {
  return connect(startWorker(engineWorker), weights);
}

/** An engine that the tabs of this site share, wait for or have each for itself, as `joining` says. */
export function startJointClient(
  weights: Weights,
  joining: Joining,
  start: (weights: Weights) => Client = startClient,
): Client {
  return joinTabs(joining, {
    start: () => start(weights),
    locks: (navigator as { locks?: LockManager }).locks ?? null,
    broker: typeof SharedWorker === 'function' ? openBroker : null,
    serve: (desk, port) => expose(desk, port),
    reach: () => {
      const { port1, port2: port } = new MessageChannel();
      const join: DeskApi['join'] = (life, model) => wrap<DeskApi>(port1).join(life, model);
      const conversation = conversationOver(port1, (ask) => Promise.resolve(ask()));
      return { port, desk: { ...conversation, join } };
    },
  });
}

/** A line to the worker that introduces the tabs of this site to each other. */
function openBroker(): MessagePort {
  return new SharedWorker(ownScript(tabsWorker), { type: 'module' }).port;
}

/** Calls to a worker. One that has died answers nothing more, so whoever waits is told by `end`. */
class Calls {
  #waiting = new Set<(reason: Error) => void>();
  #reason: Error | null = null;
  #announce: (reason: Error) => void = () => {};
  readonly ended = new Promise<Error>((resolve) => (this.#announce = resolve));

  constructor(worker: Worker) {
    worker.addEventListener('error', ({ message }) => {
      const why = message ? `: ${message}` : '';
      this.end(
        new PalimpsestError('DownloadFailed', `A worker did not start${why}. Reload the page.`),
      );
    });
  }

  end(reason: Error): void {
    this.#reason ??= reason;
    this.#announce(this.#reason);
    for (const reject of this.#waiting) reject(this.#reason);
    this.#waiting.clear();
  }

  ask<T>(ask: () => PromiseLike<T>): Promise<T> {
    if (this.#reason) return Promise.reject(this.#reason);
    return new Promise<T>((resolve, reject) => {
      this.#waiting.add(reject);
      ask()
        .then(resolve, reject)
        .then(() => this.#waiting.delete(reject));
    });
  }
}

/** The weights of a worker that exposes WeightsApi. */
export function connectWeights(worker: Worker): Weights {
  const api = wrap<WeightsApi>(worker);
  const calls = new Calls(worker);
  /** Files of this computer: closed, the worker would not know them any more, and they are in nobody's way. */
  const adopted = new Set<string>();
  /** One a model. */
  const watchers = new Map<string, (s: WeightsStatus) => void>();

  async function attach(model: string): Promise<void> {
    try {
      const report = proxy((status: WeightsStatus) => watchers.get(model)?.(status));
      await calls.ask(() => api.watch(model, report));
    } catch (cause) {
      watchers.delete(model);
      throw cause;
    }
  }

  return {
    describe: (model) => calls.ask(() => api.describe(model)),
    status: (model) => calls.ask(() => api.status(model)),
    async watch(model, report) {
      const attached = watchers.has(model);
      watchers.set(model, report);
      if (!attached) await attach(model);
    },
    download: (model) => calls.ask(() => api.download(model)),
    pause: (model) => calls.ask(() => api.pause(model)),
    cancel: (model) => calls.ask(() => api.cancel(model)),
    async close(model) {
      if (adopted.has(model)) return;
      await calls.ask(() => api.close(model));
      if (watchers.has(model)) await attach(model);
    },
    list: () => calls.ask(() => api.list()),
    verify: (model, report) => calls.ask(() => api.verify(model, proxy(report))),
    async remove(model) {
      await calls.ask(() => api.remove(model));
      watchers.delete(model);
    },
    room: () => calls.ask(() => api.room()),
    repository: (repository, revision) => calls.ask(() => api.repository(repository, revision)),
    checkpoint: (place) => calls.ask(() => api.checkpoint(place)),
    async adopt(files) {
      const model = await calls.ask(() => api.adopt(files));
      adopted.add(model);
      return model;
    },
    keep: (model, report) => calls.ask(() => api.keep(model, proxy(report))),
    open: (model) =>
      calls.ask(() =>
        api.open(
          model,
          proxy(() => {}),
        ),
      ),
    read: (...range) => calls.ask(() => api.read(...range)),
    port: () => calls.ask(() => api[createEndpoint]()),
    ended: calls.ended,
    destroy(reason) {
      calls.end(reason);
      // Not Comlink's releaseProxy: it would post to the worker, and it is gone with all it holds.
      worker.terminate();
    },
  };
}

/** A conversation with the engine at the other end, which exposes that part of EngineApi, and MemoryApi. */
export function conversationOver(
  endpoint: Endpoint,
  call: <T>(ask: () => PromiseLike<T>) => Promise<T>,
): Conversing {
  const engine = wrap<Pick<EngineApi, 'generate' | 'stop' | 'reset' | 'tokenize'> & MemoryApi>(
    endpoint,
  );
  return {
    generate: (prompt, sampling, onToken) =>
      call(() => engine.generate(prompt, sampling, proxy(onToken))),
    stop: () => void engine.stop().catch(() => {}),
    reset: () => call(() => engine.reset()),
    tokenize: (prompt) => call(() => engine.tokenize(prompt)),
    memory: {
      layers: () => call(() => engine.layers()),
      watch: (watch, onFrame) => call(() => engine.watch(watch, proxy(onFrame))),
      // Comlink's types do not carry a method's own type parameters across.
      inspect: (inquiry) => call(() => engine.inspect(inquiry) as Promise<never>),
      branches: () => call(() => engine.branches()),
      fork: (position, token, interventions) =>
        call(() => engine.fork(position, token, interventions)),
      select: (branch) => call(() => engine.select(branch)),
      beginBranch: () => call(() => engine.beginBranch()),
      dropBranches: (branches) => call(() => engine.dropBranches(branches)),
      exportBranch: () => call(() => engine.exportBranch()),
      importBranch: (state) => call(() => engine.importBranch(state)),
      proceed: (sampling, onToken) => call(() => engine.proceed(sampling, proxy(onToken))),
      compare: (a, b) => call(() => engine.compare(a, b)),
      difference: (a, b, layer, head) => call(() => engine.difference(a, b, layer, head)),
    },
  };
}

/** A client of a worker that exposes EngineApi, and of weights that it reads. */
export function connect(engineWorker: Worker, weights: Weights): Client {
  const engine = wrap<EngineApi & MemoryApi & BookmarkApi & BenchApi>(engineWorker);
  const calls = new Calls(engineWorker);
  const call = <T>(ask: () => PromiseLike<T>) => calls.ask(ask);
  const used = new Set<string>();
  void weights.ended.then((reason) => calls.end(reason));

  return {
    device: () => call(() => engine.device()),
    describe: (model) => weights.describe(model),
    async load(model, report) {
      used.add(model);
      const port = await call(() => weights.port());
      return call(() => engine.load(model, transfer(port, [port]), proxy(report)));
    },
    ...conversationOver(engineWorker, call),
    lost: () => call(() => engine.lost()),
    bookmark: {
      account: () => call(() => engine.account()),
      store: (account, branches) => call(() => engine.store(account, branches)),
      takeUp: () => call(() => engine.takeUp()),
    },
    bench: {
      bench: (wish, report) => call(() => engine.bench(wish, proxy(report))),
      stopBench: () => void engine.stopBench().catch(() => {}),
    },
    destroy(reason) {
      calls.end(reason);
      engineWorker.terminate();
      for (const model of used) weights.close(model).catch(() => {}); // with its worker it is closed
    },
  };
}

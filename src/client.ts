/**
 * The page's one door to the workers: starts them, connects the engine with the weights, and calls across with Comlink.
 * Weights go from worker to worker and never pass through the page.
 */
import { createEndpoint, proxy, transfer, wrap } from 'comlink';
import {
  PalimpsestError,
  type DeviceReport,
  type EngineApi,
  type Loaded,
  type LoadProgress,
  type MemoryApi,
  type Manifest,
  type Prompt,
  type Sampling,
  type Stop,
  type Token,
  type WeightsApi,
} from '../workers/protocol.ts';

/** What the page can ask of the workers. Every call fails as the engine's does (workers/protocol.ts), and when a worker dies. */
export interface Client {
  /** The GPU that a load will take; nothing is fetched. */
  device(): Promise<DeviceReport>;
  /** A model's manifest; nothing else is fetched. */
  describe(model: string): Promise<Manifest>;
  load(model: string, report: (p: LoadProgress) => void): Promise<Loaded>;
  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  stop(): void;
  reset(): Promise<void>;
  tokenize(prompt: Prompt): Promise<number[]>;
  /** Resolves with the reason when the GPU goes away. */
  lost(): Promise<string>;
  /** The engine, to be looked into. */
  readonly memory: MemoryApi;
  /** End both workers, whatever they are doing; calls under way fail with `reason`. */
  destroy(reason: Error): void;
}

/** Start the two workers of this page. Nothing is fetched but their code. */
export function startClient(): Client {
  return connect(
    new Worker(new URL('../workers/engine.worker.ts', import.meta.url), { type: 'module' }),
    new Worker(new URL('../workers/download.worker.ts', import.meta.url), { type: 'module' }),
  );
}

/** A client of two workers that expose EngineApi and WeightsApi. */
export function connect(engineWorker: Worker, weightsWorker: Worker): Client {
  const engine = wrap<EngineApi & MemoryApi>(engineWorker);
  const weights = wrap<WeightsApi>(weightsWorker);

  // A worker that dies answers nothing more, so whoever waits is told here.
  const waiting = new Set<(reason: Error) => void>();
  let ended: Error | null = null;
  const end = (reason: Error) => {
    ended ??= reason;
    for (const reject of waiting) reject(reason);
    waiting.clear();
  };
  const died = (event: ErrorEvent) => {
    const why = event.message ? `: ${event.message}` : '';
    end(new PalimpsestError('DownloadFailed', `A worker did not start${why}. Reload the page.`));
  };
  engineWorker.addEventListener('error', died);
  weightsWorker.addEventListener('error', died);

  function call<T>(ask: () => PromiseLike<T>): Promise<T> {
    if (ended) return Promise.reject(ended);
    return new Promise<T>((resolve, reject) => {
      waiting.add(reject);
      ask()
        .then(resolve, reject)
        .then(() => waiting.delete(reject));
    });
  }

  return {
    device: () => call(() => engine.device()),
    describe: (model) => call(() => weights.describe(model)),
    async load(model, report) {
      const port = await call(() => weights[createEndpoint]());
      return call(() => engine.load(model, transfer(port, [port]), proxy(report)));
    },
    generate: (prompt, sampling, onToken) =>
      call(() => engine.generate(prompt, sampling, proxy(onToken))),
    stop: () => void engine.stop().catch(() => {}),
    reset: () => call(() => engine.reset()),
    tokenize: (prompt) => call(() => engine.tokenize(prompt)),
    lost: () => call(() => engine.lost()),
    memory: {
      layers: () => call(() => engine.layers()),
      watch: (watch, onFrame) => call(() => engine.watch(watch, proxy(onFrame))),
      // Comlink's types do not carry a method's own type parameters across.
      inspect: (inquiry) => call(() => engine.inspect(inquiry) as Promise<never>),
      branches: () => call(() => engine.branches()),
      fork: (position, token, interventions) =>
        call(() => engine.fork(position, token, interventions)),
      select: (branch) => call(() => engine.select(branch)),
      proceed: (sampling, onToken) => call(() => engine.proceed(sampling, proxy(onToken))),
      compare: (a, b) => call(() => engine.compare(a, b)),
    },
    destroy(reason) {
      end(reason);
      // Not Comlink's releaseProxy: it would post to the workers, and they are gone with all they hold.
      engineWorker.terminate();
      weightsWorker.terminate();
    },
  };
}

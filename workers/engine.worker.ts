/** The engine's worker: EngineApi over Comlink. The engine itself is engine.ts, which runs in Node as well. */
import { expose, proxy, releaseProxy, wrap } from 'comlink';
import { Engine } from './engine.ts';
import type { ByteSource } from './gguf.ts';
import { FULL, Gpu } from './gpu.ts';
import {
  type DeviceReport,
  type EngineApi,
  type Loaded,
  type LoadProgress,
  PalimpsestError,
  type Prompt,
  type Sampling,
  type Stop,
  type Token,
  type WeightsApi,
} from './protocol.ts';

class Door implements EngineApi {
  #gpu: Gpu | null = null;
  #engine: Engine | null = null;
  #sayLost: (reason: string) => void = () => {};
  readonly #lost = new Promise<string>((resolve) => (this.#sayLost = resolve));

  async device(): Promise<DeviceReport> {
    const gpu = await Gpu.open(navigator.gpu, FULL);
    gpu.destroy();
    return gpu.report;
  }

  async load(model: string, port: MessagePort, report: (p: LoadProgress) => void): Promise<Loaded> {
    this.#gpu?.destroy();
    this.#gpu = this.#engine = null;
    const weights = wrap<WeightsApi>(port);
    try {
      const gpu = await Gpu.open(navigator.gpu, FULL);
      this.#gpu = gpu;
      void gpu.lost.then((reason) => this.#sayLost(reason));
      const shards = await weights.open(model, proxy(report));
      const sources = shards.map(({ file, bytes }, i): ByteSource => ({
        name: file,
        byteLength: bytes,
        read: async (offset, byteLength) =>
          new Uint8Array(await weights.read(model, i, offset, byteLength)),
      }));
      const clock = () => performance.now();
      this.#engine = await Engine.load({
        gpu,
        shards: sources,
        contextTokens: Infinity,
        report,
        clock,
      });
      const { loaded } = this.#engine;
      const { context_trained: contextTrained } = await weights.describe(model);
      return contextTrained > 0
        ? { ...loaded, model: { ...loaded.model, contextTrained } }
        : loaded;
    } catch (error) {
      this.#gpu?.destroy();
      this.#gpu = this.#engine = null;
      throw error;
    } finally {
      weights[releaseProxy]();
    }
  }

  async generate(
    prompt: Prompt,
    sampling: Sampling,
    onToken: (t: Token) => void | Promise<void>,
  ): Promise<Stop> {
    // Tokens go another way than the answer's end or failure: that waits until the last of them has been taken.
    let taken: Promise<unknown> = Promise.resolve();
    const hand = (token: Token) => void (taken = Promise.all([taken, onToken(token)]));
    try {
      return await this.#loaded().generate(prompt, sampling, hand);
    } finally {
      await taken;
    }
  }

  stop(): void {
    this.#engine?.stop();
  }

  reset(): Promise<void> {
    return this.#loaded().reset();
  }

  tokenize(prompt: Prompt): Promise<number[]> {
    return Promise.resolve(this.#loaded().encode(prompt));
  }

  lost(): Promise<string> {
    return this.#lost;
  }

  #loaded(): Engine {
    if (!this.#engine) throw new PalimpsestError('Refused', 'No model is loaded. Load one first.');
    return this.#engine;
  }
}

expose(new Door());

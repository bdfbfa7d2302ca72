/** The engine's worker: EngineApi over Comlink. The engine itself is engine.ts, which runs in Node as well. */
import { expose, proxy, releaseProxy, type Remote, transfer, wrap } from 'comlink';
import { Bench } from './bench.ts';
import { Bookmark } from './bookmark.ts';
import { outlineOf } from './branches.ts';
import type { ByteSource } from './gguf.ts';
import { FULL, Gpu } from './gpu.ts';
import { LastingEngine } from './lasting.ts';
import { measured } from './measured.ts';
import {
  type Answers,
  type BenchApi,
  type BenchProgress,
  type BenchResult,
  type BenchWish,
  type Branch,
  type BookmarkApi,
  type DeviceReport,
  type EngineApi,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type Loaded,
  type LoadProgress,
  type MemoryApi,
  PalimpsestError,
  type Prompt,
  type Resumed,
  type Sampling,
  type Shard,
  type Stop,
  type Token,
  type Watch,
  type WeightsApi,
} from './protocol.ts';
import { sha256 } from './sha256.ts';
import { SpareGpu } from './spareGpu.ts';
import { readState, writeState } from './stateFile.ts';
import { diskShelf } from './store.ts';

class Door implements EngineApi, MemoryApi, BookmarkApi, BenchApi {
  #engine: LastingEngine | null = null;
  /** The loaded model by address, sizes and hashes; '' while none is. */
  #model = '';
  /** The same by its files' hashes alone, wherever they lie; '' where they have none. */
  #identity = '';
  /** Where weights come from, after a loss again. */
  #weights: Remote<WeightsApi> | null = null;
  readonly #spare = new SpareGpu(openGpu);
  readonly #bookmark = new Bookmark(() => diskShelf('palimpsest-conversation'));
  #bench: Bench | null = null;
  #sayLost: (reason: string) => void = () => {};
  readonly #lost = new Promise<string>((resolve) => (this.#sayLost = resolve));

  async device(): Promise<DeviceReport> {
    return (await this.#spare.look()).report;
  }

  async load(model: string, port: MessagePort, report: (p: LoadProgress) => void): Promise<Loaded> {
    this.#end();
    const weights = wrap<WeightsApi>(port);
    this.#weights = weights;
    try {
      const shards = await measured('store', () => weights.open(model, proxy(report)));
      const sources = shards.map(({ file, bytes }, i): ByteSource => ({
        name: file,
        byteLength: bytes,
        read: async (offset, byteLength) =>
          new Uint8Array(await weights.read(model, i, offset, byteLength)),
      }));
      // The store makes ready while the device is opened; what fails is told by the next read.
      sources[0]?.read(0, 0).catch(() => {});
      const engine = await LastingEngine.load({
        open: () => this.#spare.take(),
        shards: sources,
        contextTokens: Infinity,
        report,
        clock: () => performance.now(),
      });
      this.#engine = engine;
      this.#model = JSON.stringify([model, shards]);
      this.#identity = await identityOf(shards);
      void engine.lost.then((reason) => this.#sayLost(reason));
      const { loaded } = engine;
      const { context_trained: contextTrained } = await weights.describe(model);
      return contextTrained > 0
        ? { ...loaded, model: { ...loaded.model, contextTrained } }
        : loaded;
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  #end(): void {
    this.#engine?.destroy();
    this.#weights?.[releaseProxy]();
    this.#engine = this.#weights = null;
    this.#model = this.#identity = '';
  }

  async generate(
    prompt: Prompt,
    sampling: Sampling,
    onToken: (t: Token) => void | Promise<void>,
  ): Promise<Stop> {
    return this.#handing(onToken, (hand) => this.#loaded().generate(prompt, sampling, hand));
  }

  /** Tokens go another way than the answer's end or failure: that waits until the last of them has been taken. */
  async #handing(
    onToken: (t: Token) => void | Promise<void>,
    work: (hand: (t: Token) => void) => Promise<Stop>,
  ): Promise<Stop> {
    let taken: Promise<unknown> = Promise.resolve();
    const hand = (token: Token) => void (taken = Promise.all([taken, onToken(token)]));
    try {
      return await work(hand);
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

  // Over a reload of the page.

  account(): Promise<string | null> {
    return this.#bookmark.account();
  }

  async store(account: string, branches: number[] | null): Promise<string> {
    const engine = this.#engine;
    await engine?.keep();
    const standing = engine?.standing ?? null;
    if (!standing) return this.#bookmark.store(account, null);
    const outline = branches ? outlineOf(standing.outline, branches) : standing.outline;
    return this.#bookmark.store(account, { ...standing, outline, model: this.#model });
  }

  async takeUp(): Promise<Resumed> {
    const engine = this.#loaded();
    const stored = await this.#bookmark.state({ model: this.#model, ...engine.fit });
    if (typeof stored === 'string') return { tokens: 0, branch: null, note: stored };
    await engine.resume(stored);
    const { present: branch } = stored.outline;
    const { ids } = engine.branches().find(({ id }) => id === branch)!;
    return { tokens: ids.length, branch, note: '' };
  }

  // How fast it is.

  bench(wish: BenchWish, report: (p: BenchProgress) => void): Promise<BenchResult> {
    return this.#loaded().aside(async (engine) => {
      const bench = new Bench(
        { engine, open: openGpu, clock: () => performance.now() },
        wish,
        report,
      );
      this.#bench = bench;
      try {
        return await bench.run();
      } finally {
        this.#bench = null;
      }
    });
  }

  stopBench(): void {
    this.#bench?.stop();
  }

  // The memory laid open. Arrays are handed over, not copied: the engine keeps none of what it answers.

  layers(): Promise<LayerLists> {
    return Promise.resolve(this.#loaded().layers());
  }

  watch(watch: Watch | null, onFrame: (frame: Frame) => void): Promise<void> {
    const tell = (frame: Frame) => onFrame(transfer(frame, buffersOf(frame)));
    return measured('looking on', () => this.#loaded().watch(watch, tell));
  }

  async inspect<K extends Inquiry['kind']>(
    inquiry: Extract<Inquiry, { kind: K }>,
  ): Promise<Answers[K]> {
    const answer = await this.#loaded().inspect<K>(inquiry);
    return transfer(answer, buffersOf(answer));
  }

  branches(): Promise<Branch[]> {
    return Promise.resolve(this.#loaded().branches());
  }

  fork(position: number, token: number | null, interventions: Intervention[]): Promise<Branch> {
    return this.#loaded().fork(position, token, interventions);
  }

  select(branch: number): Promise<void> {
    return this.#loaded().select(branch);
  }

  beginBranch(): Promise<Branch> {
    return this.#loaded().beginBranch();
  }

  dropBranches(branches: number[]): Promise<void> {
    return this.#loaded().dropBranches(branches);
  }

  async exportBranch(): Promise<ArrayBuffer | null> {
    const engine = this.#loaded();
    await engine.keep();
    const state = writeState(engine.standing, { model: this.#identity, ...engine.fit });
    return state && transfer(state, [state]);
  }

  async importBranch(state: ArrayBuffer): Promise<Branch> {
    const engine = this.#loaded();
    return engine.takeIn(readState(state, { model: this.#identity, ...engine.fit }));
  }

  proceed(sampling: Sampling, onToken: (t: Token) => void | Promise<void>): Promise<Stop> {
    return this.#handing(onToken, (hand) => this.#loaded().proceed(sampling, hand));
  }

  compare(a: number, b: number): Promise<Float32Array> {
    return this.#loaded().compare(a, b);
  }

  async difference(a: number, b: number, layer: number, head: number): Promise<Float32Array> {
    const cells = await this.#loaded().difference(a, b, layer, head);
    return transfer(cells, buffersOf(cells));
  }

  #loaded(): LastingEngine {
    if (!this.#engine) throw new PalimpsestError('Refused', 'No model is loaded. Load one first.');
    return this.#engine;
  }
}

function openGpu(): Promise<Gpu> {
  return measured('graphics device', () => Gpu.open(navigator.gpu, FULL));
}

/** A hash over the hashes of a model's files; '' if one has none. */
async function identityOf(shards: readonly Shard[]): Promise<string> {
  const hashes = shards.map((shard) => shard.sha256);
  return hashes.includes(null) ? '' : sha256(new TextEncoder().encode(hashes.join()));
}

/** The buffers of all typed arrays in an answer or a frame. */
function buffersOf(value: unknown): ArrayBuffer[] {
  if (ArrayBuffer.isView(value)) return [value.buffer as ArrayBuffer];
  if (typeof value !== 'object' || value === null) return [];
  return [...new Set(Object.values(value).flatMap(buffersOf))];
}

performance.mark('script');
expose(new Door());

/** A client whose every answer a test gives by hand, to drive a session through its states one by one. */
import type { Client } from '../../src/client.ts';
import type {
  BenchApi,
  BookmarkApi,
  DeviceReport,
  Loaded,
  LoadProgress,
  MemoryApi,
  Manifest,
  MemoryReport,
  Prompt,
  Sampling,
  Stop,
  Token,
} from '../../workers/protocol.ts';

export const memory: MemoryReport = {
  weightBytes: 100,
  recurrentBytes: 20,
  latentBytes: 30,
  snapshotBytes: 0,
  scratchBytes: 4,
};

export const loaded: Loaded = {
  model: {
    name: 'scripted',
    architecture: 'kimi-linear',
    fileType: 'F32',
    layers: [
      { kind: 'kda', ffn: 'dense' },
      { kind: 'mla', ffn: 'moe' },
    ],
    heads: 2,
    keys: 8,
    values: 4,
    latent: 6,
    sharedKey: 2,
    experts: 4,
    expertsUsed: 2,
    vocabulary: 64,
    width: 16,
    parameters: 1000,
    mode: 'chat',
    contextLimit: 100,
    contextTrained: 50,
  },
  device: { name: 'none', software: true, features: [], maxBindingBytes: 1024 },
  memory,
};

interface Call<T> {
  resolve: (value: T) => void;
  reject: (reason: Error) => void;
}

export interface LoadCall extends Call<Loaded> {
  model: string;
  report: (p: LoadProgress) => void;
}

export interface GenerateCall extends Call<Stop> {
  prompt: Prompt;
  sampling: Sampling;
  /** Give out tokens with these texts; ids count from 100. */
  write: (...texts: string[]) => void;
  /** End with what was given out. */
  end: (reason?: Stop['reason']) => void;
}

export class ScriptedClient implements Client {
  loads: LoadCall[] = [];
  generations: GenerateCall[] = [];
  resets = 0;
  stops = 0;
  destroyed = false;
  /** Say what `device` found. */
  found!: Call<DeviceReport>;
  lose: (reason: string) => void = () => {};
  /** What a page stored, by this or an earlier client. */
  static account: string | null = null;
  readonly bookmark: BookmarkApi = {
    account: () => Promise.resolve(ScriptedClient.account),
    store: (account) => {
      ScriptedClient.account = account;
      return Promise.resolve('');
    },
    takeUp: () => Promise.resolve({ tokens: 0, branch: null, note: '' }),
  };
  readonly bench: BenchApi = {
    bench: () => Promise.reject(new Error('nothing is measured')),
    stopBench: () => {},
  };
  #device: Promise<DeviceReport>;
  #lost: Promise<string>;
  #pending = new Set<(reason: Error) => void>();

  constructor() {
    this.#device = this.#call<DeviceReport>((call) => (this.found = call));
    this.#lost = this.#call<string>((call) => (this.lose = call.resolve));
  }

  device(): Promise<DeviceReport> {
    return this.#device;
  }

  describe(model: string): Promise<Manifest> {
    return Promise.resolve({
      name: model,
      file_type: 'F32',
      license: '',
      parameters: 1000,
      context_trained: 50,
      bytes: 123,
      shards: [],
    });
  }

  load(model: string, report: (p: LoadProgress) => void): Promise<Loaded> {
    return this.#call((call) => this.loads.push({ ...call, model, report }));
  }

  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop> {
    const ids: number[] = [];
    let text = '';
    return this.#call((call) => {
      const write = (...texts: string[]) => {
        for (const part of texts) {
          const id = 100 + ids.length;
          onToken({ id, position: 10 + ids.length, text: part, logprob: -1, candidates: [] });
          ids.push(id);
          text += part;
        }
      };
      const end = (reason: Stop['reason'] = 'end') =>
        call.resolve({
          reason,
          ids,
          text,
          promptIds: [1, 2],
          reusedTokens: 0,
          prefillMs: 1,
          firstTokenMs: 2,
          decodeMs: 3,
          contextUsed: 10 + ids.length,
          memory: { ...memory, latentBytes: 60 },
        });
      this.generations.push({ ...call, prompt, sampling, write, end });
    });
  }

  stop(): void {
    this.stops += 1;
    this.generations.at(-1)?.end('stopped');
  }

  reset(): Promise<void> {
    this.resets += 1;
    return Promise.resolve();
  }

  tokenize(): Promise<number[]> {
    return Promise.resolve([]);
  }

  /** Nothing is to be seen of a scripted engine, except where a test gives it something. */
  memory: MemoryApi = {
    layers: () => Promise.resolve({ kda: [0], mla: [1], moe: [1] }),
    watch: () => Promise.resolve(),
    inspect: () => Promise.reject(new Error('nothing is recorded')),
    branches: () => Promise.resolve([]),
    fork: () => Promise.reject(new Error('nothing is recorded')),
    select: () => Promise.reject(new Error('nothing is recorded')),
    exportBranch: () => Promise.resolve(null),
    importBranch: () => Promise.reject(new Error('nothing is recorded')),
    beginBranch: () => Promise.reject(new Error('nothing is recorded')),
    dropBranches: () => Promise.reject(new Error('nothing is recorded')),
    proceed: () => Promise.reject(new Error('nothing is recorded')),
    compare: () => Promise.reject(new Error('nothing is recorded')),
    difference: () => Promise.reject(new Error('nothing is recorded')),
  };

  lost(): Promise<string> {
    return this.#lost;
  }

  destroy(reason: Error): void {
    this.destroyed = true;
    for (const reject of this.#pending) reject(reason);
  }

  #call<T>(begin: (call: Call<T>) => void): Promise<T> {
    const promise = new Promise<T>((resolve, reject) => {
      this.#pending.add(reject);
      begin({ resolve, reject });
    });
    // A test that lets a call be ended by destroy need not wait for it.
    promise.catch(() => {});
    return promise;
  }
}

/**
 * The door between the page and the workers: every type that may cross it, and the one error class.
 * Nothing here runs a model. `src/` imports from `workers/` this file alone.
 */

// ---------------------------------------------------------------------------------------------- errors

/**
 * What can go wrong, by name. The name is the code: of an error that crosses Comlink only `name`, `message`
 * and `stack` survive. A software adapter is no error but a status (`DeviceReport.software`).
 */
export type ErrorName =
  | 'NoWebGPU' // the browser has no WebGPU, or no adapter
  | 'LimitTooSmall' // the adapter cannot hold or bind something the model needs
  | 'OutOfMemory' // the GPU refused an allocation
  | 'DeviceLost' // the GPU went away
  | 'DownloadFailed' // the network or the server failed, retries included
  | 'ShardCorrupt' // bytes whose hash is not the expected one
  | 'QuotaExceeded' // the browser has no room to store more
  | 'ContextFull' // the prompt does not fit, or no room is left to go on
  | 'BadModel' // a file that contradicts itself or is not what it says
  | 'Unsupported' // a sound file of a kind we do not read
  | 'BadNumbers' // NaN or infinity where numbers should be
  | 'RemoteFailed' // an endpoint answered with an error
  | 'Refused'; // a request that makes no sense, or not now

/** The one error class. `message` says what happened, with the numbers, and what to do. */
export class PalimpsestError extends Error {
  constructor(name: ErrorName, message: string) {
    super(message);
    this.name = name;
  }
}

// --------------------------------------------------------------------------------------------- weights

/** One file of a model, as its manifest lists it. `sha256` is lower-case hex; null where nobody stated it. */
export interface Shard {
  file: string;
  bytes: number;
  sha256: string | null;
}

/** `manifest.json` beside a model's shards; written by tools/manifest.ts. */
export interface Manifest {
  name: string;
  file_type: string;
  license: string;
  parameters: number;
  bytes: number;
  shards: Shard[];
}

/** How far a load has come. `phase` names what takes the time; bytes count within that phase. */
export interface LoadProgress {
  phase: 'download' | 'upload' | 'compile';
  doneBytes: number;
  totalBytes: number;
  note: string;
}

/**
 * What the weights worker offers the engine: a model is opened once and then read by byte range.
 * The port comes from Comlink's `createEndpoint`, so weights never pass through the page.
 */
export interface WeightsApi {
  /** The shards of a model in order. `model` is a folder URL with a manifest, ending in "/". Fails: DownloadFailed, BadModel. */
  open(model: string, report: (p: LoadProgress) => void): Promise<Shard[]>;
  /** Verified bytes [offset, offset + bytes) of one shard, transferred. Fails: DownloadFailed, ShardCorrupt, QuotaExceeded. */
  read(model: string, shard: number, offset: number, bytes: number): Promise<ArrayBuffer>;
}

// ---------------------------------------------------------------------------------------------- engine

/** The GPU as the page names it. */
export interface DeviceReport {
  /** What the adapter calls itself, e.g. "nvidia", "apple m2", "SwiftShader". */
  name: string;
  /** True for an adapter that computes on the CPU: everything works, slowly. */
  software: boolean;
  /** Features in use, e.g. "subgroups", "shader-f16". */
  features: string[];
  maxBindingBytes: number;
}

/** What the page may know of a loaded model. Sizes as in docs/MATH.md. */
export interface ModelReport {
  name: string;
  architecture: string;
  fileType: string;
  layers: { kind: 'kda' | 'mla'; ffn: 'dense' | 'moe' }[];
  heads: number;
  keys: number;
  values: number;
  latent: number;
  sharedKey: number;
  experts: number;
  expertsUsed: number;
  vocabulary: number;
  width: number;
  parameters: number;
  /** 'chat' where the file has a chat template or the K2 tokens; otherwise only raw completion, and the page says so. */
  mode: 'chat' | 'raw';
  /** Tokens that fit: chosen from the file's context length and the memory at hand. */
  contextLimit: number;
  contextTrained: number;
}

/** GPU bytes, by what they hold. */
export interface MemoryReport {
  weightBytes: number;
  /** Recurrent memories and convolution tails: constant. */
  recurrentBytes: number;
  /** Latent cache: allocated in segments as the conversation grows. */
  latentBytes: number;
  scratchBytes: number;
}

export interface Loaded {
  model: ModelReport;
  device: DeviceReport;
  memory: MemoryReport;
}

export type Role = 'system' | 'user' | 'assistant';

/**
 * One turn of a conversation. `ids` are the token ids an assistant turn was generated as; they are fed back as they
 * were, so a conversation continues from its memory. A turn that a person wrote or edited has none.
 */
export interface Turn {
  role: Role;
  content: string;
  ids?: number[];
}

export type Prompt =
  | { kind: 'chat'; turns: Turn[] } // through the model's chat template; user text cannot become special tokens
  | { kind: 'raw'; text: string } // as it stands, special tokens parsed
  | { kind: 'ids'; ids: number[] };

/** How a token is chosen. Neutral values: temperature 0 = the best token; topK 0, topP 1, minP 0, repetitionPenalty 1 = off. */
export interface Sampling {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  /** Divides positive and multiplies negative logits of tokens seen in the last `repetitionWindow` tokens. */
  repetitionPenalty: number;
  repetitionWindow: number;
  /** The same seed, prompt and settings give the same tokens: the draw is a function of (seed, position). Unsigned 32 bits. */
  seed: number;
  /** The most tokens to generate. */
  maxTokens: number;
  /** Texts that end the answer; they are not part of it. */
  stop: string[];
  /** How many of the best tokens to report with each token, 0 to 64. */
  candidates: number;
}

/** One generated token as it arrives. `text` is what became readable with it: '' while a character is incomplete. */
export interface Token {
  id: number;
  position: number;
  text: string;
  /** Natural log of its probability before temperature, penalty and filters. */
  logprob: number;
  /** The best `Sampling.candidates` tokens at this position, likewise; most probable first. */
  candidates: { id: number; text: string; logprob: number }[];
}

/** Why and how a generation ended. */
export interface Stop {
  /** end: the model's end-of-turn token; stop: a stop text; length: maxTokens; context: no room left; stopped: by request. */
  reason: 'end' | 'stop' | 'length' | 'context' | 'stopped';
  ids: number[];
  text: string;
  /** Token ids of the whole prompt, and how many of them were already in memory. */
  promptIds: number[];
  reusedTokens: number;
  prefillMs: number;
  /** From the request to the first token. */
  firstTokenMs: number;
  decodeMs: number;
  contextUsed: number;
  memory: MemoryReport;
}

/** A conversation with one model on one GPU, in a worker. One generation at a time: a second is refused, stop the first. */
export interface EngineApi {
  /** Load a model through `weights` (a MessagePort that speaks WeightsApi). A model loaded before is destroyed first. */
  load(model: string, weights: MessagePort, report: (p: LoadProgress) => void): Promise<Loaded>;
  /** Answer a prompt; `onToken` is called once per token. Fails: ContextFull, BadNumbers, DeviceLost, Refused. */
  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  /** End the running generation after the token in flight. Harmless when none runs. */
  stop(): void;
  /** Forget the conversation: memories and caches as at the start. */
  reset(): Promise<void>;
  /** Token ids of a prompt as `generate` would feed them. */
  tokenize(prompt: Prompt): Promise<number[]>;
  /** Resolves with the reason when the GPU goes away; never otherwise. */
  lost(): Promise<string>;
}

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
  | 'EngineTaken' // another tab of this site has the engine
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
  /** Tokens of context the model was trained on, where the file's own figure is larger; 0 if not stated. */
  context_trained: number;
  bytes: number;
  shards: Shard[];
}

/**
 * How far a load has come. `phase` names what takes the time; bytes count within that phase. After the loss of a device
 * the model is put back: that begins and ends with phase 'restore', of 1 in all.
 */
export interface LoadProgress {
  phase: 'download' | 'upload' | 'compile' | 'restore';
  doneBytes: number;
  totalBytes: number;
  note: string;
}

/** Where a model's bytes are kept: IndexedDB; this worker's memory, gone with the tab; a person's own files, in place. */
export type WeightsPlace = 'disk' | 'memory' | 'files';

/** One model's bytes. A piece is what is hashed, stored and repaired on its own: at most 16 MiB of a shard. */
export interface WeightsStatus {
  model: string;
  name: string;
  license: string;
  place: WeightsPlace;
  /** Why `place` is memory, to be shown; otherwise ''. */
  placeNote: string;
  /** `partial`: something is there, nothing is under way. */
  state: 'absent' | 'partial' | 'downloading' | 'paused' | 'failed' | 'complete';
  totalBytes: number;
  /** Bytes of pieces that are present: their SHA-256 was right when they were stored. */
  storedBytes: number;
  /** Those and the finished ranges of pieces under way. */
  receivedBytes: number;
  pieces: number;
  storedPieces: number;
  /** Stored pieces found damaged or missing since the worker started, and fetched again. */
  repairedPieces: number;
  /** Over the last seconds; 0 when nothing is under way. */
  bytesPerSec: number;
  /** null while there is no rate to tell it by. */
  secondsLeft: number | null;
  /** The last thing worth telling: a repair, a retry and its reason; '' if nothing. */
  note: string;
  /** Why `state` is failed; a PalimpsestError's two fields. */
  error: { name: ErrorName; message: string } | null;
}

/** A model in the store, whole or in part. */
export interface StoredModel {
  model: string;
  name: string;
  license: string;
  fileType: string;
  shards: number;
  totalBytes: number;
  /** Bytes present, pieces shared with other models and unfinished ranges included. */
  storedBytes: number;
  /** What removing it would free. */
  ownBytes: number;
  /** Milliseconds since 1970. */
  usedAt: number;
  /** When the piece verified longest ago was verified, milliseconds since 1970; null if nothing is stored. */
  verifiedAt: number | null;
}

/** What the browser says about room; null where it does not say. */
export interface Room {
  place: 'disk' | 'memory';
  /** Why `place` is memory, to be shown; otherwise ''. */
  placeNote: string;
  quotaBytes: number | null;
  usedBytes: number | null;
  freeBytes: number | null;
  /** False: the browser may delete the weights when the disk gets full. Only the page can ask: navigator.storage.persist(). */
  persisted: boolean;
}

/** What a verification found. Damaged pieces are dropped, and fetched again by the next read or download. */
export interface Verification {
  pieces: number;
  damagedPieces: number;
}

/** A file of a repository on the Hugging Face hub. */
export interface HubFile {
  /** Its path in the repository. */
  path: string;
  bytes: number;
  /** Lower-case hex, where the hub knows it: of all large files. */
  sha256: string | null;
  /** Where its bytes are, by range. It names the commit, so what is there does not change. */
  address: string;
}

/** A GGUF file, or all shards of a split one. */
export interface GgufChoice {
  /** The file's name without its ending and its shard's number. */
  name: string;
  /** Its encoding as the name states it, e.g. "Q4_K_M"; '' where it states none. */
  quant: string;
  /** False where that encoding is known not to be read. */
  readable: boolean;
  bytes: number;
  files: HubFile[];
  /** How many shards the name promises and the repository lacks. */
  missingShards: number;
}

/** What a repository offers. */
export interface HubRepository {
  /** "owner/name". */
  id: string;
  /** The commit that the revision stands for. */
  commit: string;
  /** '' where its authors state none. */
  license: string;
  /** The page for people. */
  page: string;
  /** The smallest first. */
  gguf: GgufChoice[];
  /** The files of a safetensors checkpoint of Kimi Linear, config.json and tokenizer included; null without one. */
  checkpoint: { bytes: number; files: HubFile[] } | null;
}

/** How an imported model's matrices are stored. Its norms, gates, convolutions and router are F32. */
export type ImportEncoding = 'F32' | 'Q8_0' | 'Q4_0';

/** Where a safetensors checkpoint is: the files of a folder of this computer, or a repository that was looked at. */
export type CheckpointPlace =
  { kind: 'files'; name: string; files: File[] } | { kind: 'hub'; repository: HubRepository };

/** A checkpoint of Kimi Linear, and what it can become here. */
export interface CheckpointOffer {
  name: string;
  /** '' where nobody states it. */
  license: string;
  /** Of its weights. */
  bytes: number;
  /** The smallest first. `model` is the name to open, download and read it by, as any other. */
  choices: { model: string; encoding: ImportEncoding; bytes: number }[];
}

/**
 * What the weights worker offers: a model is opened once and then read by byte range.
 * The port comes from Comlink's `createEndpoint`, so weights never pass through the page.
 *
 * A model is named by an absolute URL: of a folder with a manifest, ending in "/", or of a GGUF file, ending in ".gguf"
 * (the first of a split one names them all). Local files get their name from `adopt` and `keep`, what is made of a
 * checkpoint from `checkpoint`. A callback is a Comlink proxy.
 */
export interface WeightsApi {
  /**
   * The shards of a model in order. Fetches the manifest, or a GGUF file's size, and no weights; of a model in the store
   * nothing if the network is away. `report` is called while a download is under way, at most ten times a second.
   * Fails: DownloadFailed, BadModel, Refused.
   */
  open(model: string, report: (p: LoadProgress) => void): Promise<Shard[]>;
  /** What the model's manifest says, or what stands in for one. Opens it if it is not open; fetches no weights. Fails as `open`. */
  describe(model: string): Promise<Manifest>;
  /**
   * Verified bytes [offset, offset + bytes) of one shard, transferred. If they are not there, the download of the whole
   * model begins, this range first; while that is paused, the answer waits. Ranges in the order of the file are read
   * ahead and cost one read of the store.
   * Fails: DownloadFailed, ShardCorrupt, QuotaExceeded, Refused.
   */
  read(model: string, shard: number, offset: number, bytes: number): Promise<ArrayBuffer>;
  /** The model is not read any more: it can be removed. Its download goes on. Harmless for a model that is not open. */
  close(model: string): Promise<void>;

  /** How much of a model is there. Opens it if it is not open; fetches no weights. Fails as `open`. */
  status(model: string): Promise<WeightsStatus>;
  /** Calls `report` with every change of a model's status, at most ten times a second. Fails as `open`. */
  watch(model: string, report: (s: WeightsStatus) => void): Promise<void>;
  /** Fetch what is missing, or go on after a pause. Resolves when the model is whole. Fails as `read`. */
  download(model: string): Promise<void>;
  /** Hold the download. What has arrived is kept; reads wait. */
  pause(model: string): Promise<void>;
  /** End the download. What has arrived is kept; waiting reads and downloads fail: Refused. */
  cancel(model: string): Promise<void>;

  /** What the store holds, the last used first. */
  list(): Promise<StoredModel[]>;
  /** Compute every stored piece's SHA-256 again. Fails: Refused for a model that is not in the store. */
  verify(
    model: string,
    report: (doneBytes: number, totalBytes: number) => void,
  ): Promise<Verification>;
  /** Delete a model; pieces that other models share stay. Fails: Refused while any tab uses it. */
  remove(model: string): Promise<void>;
  room(): Promise<Room>;

  /**
   * What a repository of the Hugging Face hub offers: "owner/name" or the address of its page, at a branch, tag or commit
   * ('' for the main one). A GGUF choice is opened by its first file's address.
   * Fails: Refused, DownloadFailed, Unsupported.
   */
  repository(repository: string, revision: string): Promise<HubRepository>;
  /**
   * What a safetensors checkpoint can become. Reads its headers and its tokenizer; its weights are read when a choice is
   * downloaded, by range, and made into that model's pieces.
   * Fails: Refused (files missing), BadModel, Unsupported, DownloadFailed.
   */
  checkpoint(place: CheckpointPlace): Promise<CheckpointOffer>;

  /**
   * Use local .gguf files in place, all shards of a split one. Reads their headers. Answers the name to open them by.
   * Fails: Refused, BadModel (damaged, cut off, shards missing).
   */
  adopt(files: File[]): Promise<string>;
  /** Copy adopted files into the store. Answers the name to open the copy by. Fails: QuotaExceeded, BadModel, Refused. */
  keep(model: string, report: (p: LoadProgress) => void): Promise<string>;
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
  /** Recurrent memories kept as they were, for going back and for looking back. */
  snapshotBytes: number;
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
  /** From the first token to the last. */
  decodeMs: number;
  contextUsed: number;
  memory: MemoryReport;
}

/** A conversation with one model on one GPU, in a worker. One generation at a time: a second is refused, stop the first. */
export interface EngineApi {
  /** The GPU that `load` will take, opened and let go again; nothing is fetched. Fails: NoWebGPU, LimitTooSmall. */
  device(): Promise<DeviceReport>;
  /** Load a model through `weights` (a MessagePort that speaks WeightsApi). A model loaded before is destroyed first. */
  load(model: string, weights: MessagePort, report: (p: LoadProgress) => void): Promise<Loaded>;
  /**
   * Answer a prompt; `onToken` is called once per token, and has returned from the last before this settles.
   * Fails: ContextFull, BadNumbers, DeviceLost, Refused.
   */
  generate(prompt: Prompt, sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  /** End the running generation after the token in flight. Harmless when none runs. */
  stop(): void;
  /** Forget the conversation: memories and caches as at the start. */
  reset(): Promise<void>;
  /** Token ids of a prompt as `generate` would feed them. */
  tokenize(prompt: Prompt): Promise<number[]>;
  /**
   * Resolves with the reason when the GPU went away for good: three times within a minute, or nothing came in its place.
   * A loss that is made up for is told to `load`'s `report` and to nobody else: calls under way take longer, no more.
   */
  lost(): Promise<string>;
}

/**
 * What tabs say to the worker that introduces them, and it to them. serve: this tab has the engine from now on; guest:
 * here is the port of a tab that would use it; leave: this tab has it no more.
 */
export type TabsMessage = 'serve' | 'guest' | 'leave';

/** The conversation over a reload of its page: one record in this browser, of the page's account and the engine's state. */
export interface BookmarkApi {
  /** The page's account as it was stored last; null where there is none. */
  account(): Promise<string | null>;
  /**
   * Store the page's account with the state as it is; where no model is loaded the state stored before stays. Answers why
   * the state is not stored, or ''. Fails: QuotaExceeded, and as the browser does where it stores nothing.
   * @param branches those of the state that are stored, the present one in any case; null for all
   */
  store(account: string, branches: number[] | null): Promise<string>;
  /** Take up the stored state, once the model is loaded and before anything is said. */
  takeUp(): Promise<Resumed>;
}

/** What came of a stored state. */
export interface Resumed {
  /** Tokens that stand in the memory again, the last one perhaps still to be taken in. */
  tokens: number;
  /** The branch that they are, the present one; null where there are none. */
  branch: number | null;
  /** Why there are none, to be shown; '' where all is well or nothing was stored. */
  note: string;
}

/** The same engine, looked into. Everything here leaves untouched what `generate` would say. */
export interface MemoryApi {
  layers(): Promise<LayerLists>;
  /** Begin, change (another layer or head) or end (null) a recording of the present branch. */
  watch(watch: Watch | null, onFrame: (frame: Frame) => void): Promise<void>;
  /** Fails: Refused where nothing is recorded or the position is out of range. */
  inspect<K extends Inquiry['kind']>(inquiry: Extract<Inquiry, { kind: K }>): Promise<Answers[K]>;
  branches(): Promise<Branch[]>;
  /** A branch that goes on after `position` of the present one, optionally with another token there, and becomes the present one. */
  fork(position: number, token: number | null, interventions: Intervention[]): Promise<Branch>;
  /** Make a branch the present one. */
  select(branch: number): Promise<void>;
  /** An empty branch beside the others becomes the present one; a present one that is empty stays so. */
  beginBranch(): Promise<Branch>;
  /** Forget branches, with what only they hold. Fails: Refused for the present one. */
  dropBranches(branches: number[]): Promise<void>;
  /**
   * The state that the present branch ends in, as bytes for any engine with the same model; null where none can be had: it
   * is too long, interventions changed it, or the model's files have no hashes.
   */
  exportBranch(): Promise<ArrayBuffer | null>;
  /**
   * A branch that goes on from such bytes becomes the present one; nothing is computed again. Fails: Refused for bytes that
   * are no state of this model; Unsupported for one that this device cannot take up.
   */
  importBranch(state: ArrayBuffer): Promise<Branch>;
  /** Go on from where the present branch ends, without a new prompt. */
  proceed(sampling: Sampling, onToken: (t: Token) => void): Promise<Stop>;
  /** Frobenius norm of the difference of two branches' memories, [KDA layer, head]. */
  compare(a: number, b: number): Promise<Float32Array>;
  /** One head's memory of branch `a` less that of branch `b`, each at its end: [keys, values]. */
  difference(a: number, b: number, layer: number, head: number): Promise<Float32Array>;
}

// ------------------------------------------------------------------------------------------- how fast

/** What is measured. Lengths that the model or its context has no room for are left out. */
export interface BenchWish {
  /** Runs of each figure, after a warm-up. */
  runs: number;
  /** Tokens decoded in a run. */
  tokens: number;
  /** 4-bit products alone: rows and columns. */
  products: [rows: number, cols: number][];
  /** Prompts, in tokens: how fast they are taken in, and when the first token comes. */
  prompts: number[];
  /** Tokens in memory while decoding. */
  contexts: number[];
  /** Decode with this watched, against nothing watched; null leaves it out. */
  watch: Watch | null;
  /** Tokens of the prompt whose kernels are timed. */
  profiledTokens: number;
  /** The buffer that is streamed, where the adapter binds so much. */
  streamBytes: number;
}

/** A figure that was measured several times. */
export interface Spread {
  median: number;
  least: number;
  most: number;
  runs: number;
}

/** Where the time of a token or of a prompt goes: all calls of one kernel. */
export interface KernelFigure {
  name: string;
  calls: number;
  us: Spread;
  /** Of weights, that they read. */
  bytes: number;
  /** Of the stream's rate; null where nothing is read, or what is read may have come out of a cache. */
  share: number | null;
}

/** 4-bit products of a token, on as many matrices as no cache holds. */
export interface ProductFigure {
  rows: number;
  cols: number;
  matrices: number;
  /** One after another, as a token waits for them: GB/s of weights, and the share of the stream's rate. */
  gbps: Spread;
  share: number;
  /** The same in one call: the products alone, with nothing between two. */
  together: Spread;
  togetherShare: number;
}

/** What was measured so far; a list that is empty and a figure that is null were not. */
export interface BenchResult {
  device: DeviceReport;
  model: string;
  /** GB/s of reading a buffer far larger than any cache: what everything else is held against. */
  stream: Spread | null;
  products: ProductFigure[];
  /** One token after another, greedily, each read back; the first with a short prompt. */
  decode: {
    contextTokens: number;
    tokens: number;
    tokensPerSec: Spread;
    /** Between one token and the next, over all runs. */
    betweenMs: { p50: number; p95: number };
  }[];
  /** Bytes of weights that a token reads, and the share of the stream's rate that decoding reads them with. */
  tokenBytes: number;
  tokenShare: number | null;
  prompts: { tokens: number; tokensPerSec: Spread; firstTokenMs: Spread }[];
  /** Decode while nothing is watched and while everything the page watches is, one after the other. */
  watched: { off: Spread; on: Spread; share: number; callsOff: number; callsOn: number } | null;
  kernels: { phase: 'decode' | 'prefill'; tokens: number; rows: KernelFigure[] }[];
  memory: MemoryReport;
  /** Figures that were refused, each in a sentence: they were above what the memory can give. */
  refused: string[];
  /** It was stopped before everything was measured. */
  stopped: boolean;
}

export interface BenchProgress {
  /** What is being measured. */
  step: string;
  doneSteps: number;
  totalSteps: number;
  /** Runs of this step. */
  doneRuns: number;
  totalRuns: number;
  result: BenchResult;
}

/** How fast the loaded model runs on this machine. */
export interface BenchApi {
  /**
   * Measure, with the conversation set aside: afterwards it stands as it did. Fails: Refused while a generation runs or
   * another bench does, and as `generate`.
   */
  bench(wish: BenchWish, report: (p: BenchProgress) => void): Promise<BenchResult>;
  /** End it after the run at hand. Harmless when none runs. */
  stopBench(): void;
}

// ------------------------------------------------------------------------------------------- the memory

/** KDA and MoE layers in order; views index their arrays by the place in these lists. Layers count from 0. */
export interface LayerLists {
  kda: number[];
  mla: number[];
  moe: number[];
}

/**
 * What one token did to the model, for all layers: one record per token of the conversation, prompt included. Arrays are
 * [KDA layer, head] unless said otherwise. Definitions in docs/MATH.md.
 */
export interface TokenRecord {
  position: number;
  id: number;
  text: string;
  /** |u|: size of what was written. */
  written: Float32Array;
  /** beta, 0 to 1. */
  writeStrength: Float32Array;
  /** Cosine of what the memory held for this key and the value: 1 it knew, 0 news, below 0 a contradiction. */
  known: Float32Array;
  /** Median half-life over the key channels, in tokens. */
  halfLife: Float32Array;
  /** Frobenius norm of the memory after the token. */
  energy: Float32Array;
  /** [MoE layer, expertsUsed] chosen experts and their weights. */
  experts: Uint32Array;
  expertWeights: Float32Array;
  /** Best next tokens after this one, and the entropy of the distribution in nats; absent (empty, NaN) where no logits were made. */
  candidates: { id: number; text: string; logprob: number }[];
  entropy: number;
}

/** Recall of every token so far in one KDA layer after `position`: median over heads, or one head's. [position + 1] */
export interface RecallFrame {
  layer: number;
  head: number | 'median';
  position: number;
  recall: Float32Array;
}

/** What is recorded while the model runs. Nothing is, and nothing costs, while no one watches. */
export interface Watch {
  /** The KDA layer whose recall is followed. */
  layer: number;
  head: number | 'median';
  /** Bytes that the recording may take; the oldest details are recomputed when asked for. */
  budgetBytes: number;
}

/** What a watcher is sent: newest wins, arrays are transferred. */
export type Frame =
  | { kind: 'tokens'; records: TokenRecord[] }
  | { kind: 'recall'; frame: RecallFrame }
  /** [KDA layer, head, 8, 8] root mean squares of blocks of each memory, as after `position`. */
  | { kind: 'thumbnails'; position: number; cells: Float32Array }
  | { kind: 'forgotten'; from: number } // records from this position on no longer hold: the conversation went back
  | { kind: 'budget'; bytes: number };

/** A question about the recorded conversation at a token; answered exactly, by replay from a snapshot where needed. */
export type Inquiry =
  | { kind: 'gates'; layer: number; from: number; to: number }
  | { kind: 'memory'; layer: number; head: number; position: number }
  | { kind: 'thumbnails'; position: number }
  | { kind: 'recall'; layer: number; head: number | 'median'; position: number }
  | { kind: 'reach'; layer: number; head: number; position: number }
  | { kind: 'router'; layer: number; position: number }
  | { kind: 'lens'; position: number };

/** Answers, by the kind of inquiry. */
export interface Answers {
  /** [tokens, heads, keys] half-lives in tokens; Infinity where a channel does not forget. */
  gates: { halfLife: Float32Array; tokens: number };
  /** [keys, values] after the token; what the token changed; singular values, largest first. */
  memory: {
    cells: Float32Array;
    change: Float32Array;
    energy: number;
    effectiveRank: number;
    singularValues: Float32Array;
  };
  /** [KDA layer, head, 8, 8] root mean squares of blocks of the memory. */
  thumbnails: { cells: Float32Array };
  /**
   * [position + 1] each. `overwrittenBy` is the later token whose write took most away, by the mean over heads for the
   * median; `loss` is what it took of the recall (above 0); -1 and 0 where none took anything.
   */
  recall: {
    recall: Float32Array;
    ink: Float32Array;
    overwrittenBy: Int32Array;
    loss: Float32Array;
  };
  /** [position + 1] weight with which this token reads each earlier value: signed for KDA, softmax for MLA. */
  reach: { weights: Float32Array };
  /** [experts] sigmoid scores, selection bias, and the chosen ones. */
  router: { scores: Float32Array; bias: Float32Array; chosen: Uint32Array; weights: Float32Array };
  /** Three best tokens after each layer. */
  lens: { layers: { id: number; text: string; probability: number }[][] };
}

/** A change to the recurrence from a token on, in some heads of some KDA layers. Neutral settings change nothing, bit for bit. */
export type Intervention = { layers: number[]; heads: number[]; from: number } & (
  | { kind: 'hold' } // the memory stays as it is
  | { kind: 'zero' } // emptied once, at `from`
  | { kind: 'forgetting'; factor: number } // g <- factor g; 0 never forgets, 1 is neutral
  | { kind: 'deaf' } // beta <- 0
  | { kind: 'forget'; token: number } // one delta step with that token's key and value 0, at `from`
  | { kind: 'swap'; branch: number } // take these layers' memory from another branch, at `from`
);

/** One line of a conversation: it shares its past with its parent up to `forkedAt`. */
export interface Branch {
  id: number;
  parent: number | null;
  forkedAt: number;
  ids: number[];
  interventions: Intervention[];
}

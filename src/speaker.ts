/**
 * Whoever answers behind the chat: the engine of this page on the GPU, llama.cpp on this computer's processor, or an
 * endpoint elsewhere. Of the last two nothing is known but what they say.
 */
import type {
  BenchApi,
  BookmarkApi,
  DeviceReport,
  Loaded,
  LoadProgress,
  Manifest,
  MemoryApi,
  ModelReport,
  Prompt,
  Sampling,
  Stop,
} from '../workers/protocol.ts';
import type { Endpoint } from './remote/endpoint.ts';

/** Who is to answer. `why` says why the processor does where nobody chose it; '' where a person did. */
export type EngineChoice =
  { kind: 'gpu' } | { kind: 'cpu'; why: string } | { kind: 'remote'; endpoint: Endpoint };

/** A part of an answer as it arrives. What the speaker does not say is null, or absent of the candidates. */
export interface Piece {
  id: number | null;
  position: number | null;
  text: string;
  /** Natural log of its probability. */
  logprob: number | null;
  candidates: { text: string; logprob: number }[];
}

/** What is known of a speaker that cannot be looked into. */
export interface Elsewhere {
  kind: 'cpu' | 'remote';
  /** The model, as the speaker calls it. */
  name: string;
  /** Where it computes, in words. */
  place: string;
  mode: ModelReport['mode'];
  /** Tokens; null where it is not said. */
  contextLimit: number | null;
}

/** How an answer from elsewhere ended: its text and figures. Its tokens are not this page's to feed back. */
export interface Told extends Omit<Stop, 'ids' | 'promptIds' | 'memory'> {
  tokens: number;
  promptTokens: number;
  /** Token by token, as far as the speaker told; empty where it told none. */
  pieces: Piece[];
}

/** What the chat asks of whoever answers. Every call fails as its kind of speaker says, and when it is destroyed. */
export interface Speaker {
  /** The GPU that a load will take; null where none is used. */
  device(): Promise<DeviceReport | null>;
  /** What is to be fetched; null where nothing is. */
  describe(model: string): Promise<Manifest | null>;
  load(model: string, report: (p: LoadProgress) => void): Promise<Loaded | Elsewhere>;
  generate(prompt: Prompt, sampling: Sampling, onPiece: (p: Piece) => void): Promise<Stop | Told>;
  stop(): void;
  reset(): Promise<void>;
  /** Resolves with the reason when the speaker goes away; never otherwise. */
  lost(): Promise<string>;
  /** To be looked into; null where nothing is to be seen. */
  readonly memory: MemoryApi | null;
  /** Where its conversation is stored over a reload; absent where it is not. */
  readonly bookmark?: BookmarkApi;
  /** Measures how fast it is; absent where that is not known. */
  readonly bench?: BenchApi;
  destroy(reason: Error): void;
}

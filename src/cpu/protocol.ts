/**
 * The line between the page and the frame in which llama.cpp computes. The frame has a policy of its own: WebAssembly
 * and workers from blob: addresses, which the page does without.
 */
import type { LoadProgress } from '../../workers/protocol.ts';
import type { Request } from '../remote/dialect.ts';

/** The one message to the frame's window, with a port that speaks ProcessorApi in the frame. */
export const greeting = 'palimpsest-cpu';

/** A model as llama.cpp has it. */
export interface Processed {
  name: string;
  /** False where the file has no chat template: it continues raw text alone. */
  chat: boolean;
  contextLimit: number;
  threads: number;
  /** llama.cpp's own version. */
  version: string;
}

export interface ProcessorApi {
  /** Load a model through `weights` (a MessagePort that speaks WeightsApi). Fails: as WeightsApi, Unsupported, OutOfMemory. */
  load(model: string, weights: MessagePort, report: (p: LoadProgress) => void): Promise<Processed>;
  /**
   * Answer a request in llama.cpp's dialect. `onChunk` is called with each chunk. Resolves with true when the answer was
   * stopped. Fails: ContextFull, BadNumbers, Refused.
   */
  complete(request: Request, onChunk: (chunk: unknown) => unknown): Promise<boolean>;
  /** End the answer under way after the token in flight. */
  stop(): void;
}

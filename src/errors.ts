/**
 * What the page says and offers for every way things fail: one row a name, no guessing from messages.
 * Of an error that came over Comlink only `name`, `message` and `stack` are left, so the name is the code.
 */
import type { ErrorName } from '../workers/protocol.ts';

/**
 * A failure as the page keeps it. `Unexpected` stands for every error that is none of ours, a fault in this program;
 * `Interrupted` for an answer that the end of its page broke off. Neither is ever thrown.
 */
export interface Failure {
  name: ErrorName | 'Unexpected' | 'Interrupted';
  message: string;
}

/**
 * What a reader can do about a failure, as one button:
 * load: load the model, again if it was loaded; answer: try the same prompt again;
 * conversation: begin another conversation; page: reload the page.
 */
export type Remedy = 'load' | 'answer' | 'conversation' | 'page';

export interface Explanation {
  title: string;
  /** What to do, in general; the failure's own message has the numbers. */
  advice: string;
  remedy: Remedy;
}

export const explanations: Record<Failure['name'], Explanation> = {
  NoWebGPU: {
    title: 'No WebGPU here',
    advice:
      'The model computes on the graphics card through WebGPU, so without it nothing is fetched. If this browser should have it, see that hardware acceleration is on in its settings.',
    remedy: 'load',
  },
  LimitTooSmall: {
    title: 'The model does not fit this GPU',
    advice: 'Choose a smaller model, or open the page where there is a larger GPU.',
    remedy: 'load',
  },
  OutOfMemory: {
    title: 'The GPU has no memory left',
    advice: 'Close other tabs and programs that use the GPU, then load the model again.',
    remedy: 'load',
  },
  DeviceLost: {
    title: 'The GPU went away',
    advice:
      'The browser or the system took it back: after sleep, a driver update, or too long a computation. The conversation is still here; load the model again to go on.',
    remedy: 'load',
  },
  DownloadFailed: {
    title: 'The model could not be fetched',
    advice: 'Look at the connection and try again.',
    remedy: 'load',
  },
  ShardCorrupt: {
    title: 'A part of the model arrived damaged',
    advice:
      'Its bytes are not the published ones, so they are not used. Try again to fetch that part anew.',
    remedy: 'load',
  },
  QuotaExceeded: {
    title: 'The browser has no room for the model',
    advice:
      'What has arrived is kept. Delete a model under Storage, or free room on the disk, then try again. Private windows have little room.',
    remedy: 'load',
  },
  ContextFull: {
    title: 'The text is longer than the model can take',
    advice: 'Shorten the message, edit an earlier turn, or begin another conversation.',
    remedy: 'conversation',
  },
  BadModel: {
    title: 'This model file contradicts itself',
    advice: 'It is damaged or not what it says it is. Choose another model.',
    remedy: 'load',
  },
  Unsupported: {
    title: 'This kind of model is not supported',
    advice: 'Choose a Kimi Linear model in a GGUF encoding that the message does not refuse.',
    remedy: 'load',
  },
  BadNumbers: {
    title: 'The computation broke down',
    advice:
      'Numbers overflowed, so there is no next token to trust. Try again; if it happens twice, load the model again and report the prompt.',
    remedy: 'answer',
  },
  RemoteFailed: {
    title: 'The remote model answered with an error',
    advice: 'Look at its address and key, and try again.',
    remedy: 'answer',
  },
  EngineTaken: {
    title: 'Another tab has the engine',
    advice:
      'Wait until that tab is closed, or load the model here besides: it then takes GPU memory twice.',
    remedy: 'load',
  },
  Refused: {
    title: 'That is not possible now',
    advice: 'Wait for the running answer or stop it, then try again.',
    remedy: 'answer',
  },
  Interrupted: {
    title: 'This answer was broken off',
    advice: 'What was written of it is here. Have it written anew, or go on with another message.',
    remedy: 'answer',
  },
  Unexpected: {
    title: 'A fault in this program',
    advice: 'This should not happen. Reload the page; please report the message.',
    remedy: 'page',
  },
};

const neverThrown = new Set<string>(['Unexpected', 'Interrupted']);

/** What is thrown, as the page keeps it. */
export function toFailure(thrown: unknown): Failure {
  if (!(thrown instanceof Error)) return { name: 'Unexpected', message: String(thrown) };
  if (Object.hasOwn(explanations, thrown.name) && !neverThrown.has(thrown.name)) {
    return { name: thrown.name as ErrorName, message: thrown.message };
  }
  return { name: 'Unexpected', message: `${thrown.name}: ${thrown.message}` };
}

/**
 * The processor as the chat's speaker: llama.cpp in WebAssembly reads the same file that the GPU would. It lives in a
 * frame of its own, made when a model is to be loaded; removing the frame ends it, whatever it is doing.
 */
import { proxy, transfer, wrap, type Remote } from 'comlink';
import { PalimpsestError } from '../../workers/protocol.ts';
import type { Weights } from '../client.ts';
import { hear, requestOf } from '../remote/dialect.ts';
import type { Elsewhere, Speaker, Told } from '../speaker.ts';
import { greeting, type ProcessorApi } from './protocol.ts';

/** Alternatives told with each token. */
const alternatives = 5;

/** Start a speaker that computes here, on the processor. Nothing is fetched before `load`. */
export function startProcessor(weights: Weights): Speaker {
  let frame: HTMLIFrameElement | null = null;
  let engine: Promise<Remote<ProcessorApi>> | null = null;
  let ended: Error | null = null;
  const waiting = new Set<(reason: Error) => void>();
  const used = new Set<string>();
  void weights.ended.then((reason) => end(reason));

  function end(reason: Error): void {
    ended ??= reason;
    for (const reject of waiting) reject(ended);
    waiting.clear();
    frame?.remove();
    frame = null;
  }

  /** A frame that is gone answers nothing more, so whoever waits is told by `end`. */
  function ask<T>(work: () => Promise<T>): Promise<T> {
    if (ended) return Promise.reject(ended);
    return new Promise<T>((resolve, reject) => {
      waiting.add(reject);
      void work()
        .then(resolve, reject)
        .then(() => waiting.delete(reject));
    });
  }

  async function open(): Promise<Remote<ProcessorApi>> {
    const made = document.createElement('iframe');
    frame = made;
    made.title = 'llama.cpp on the processor';
    made.hidden = true;
    made.src = new URL('cpu.html', document.baseURI).href;
    await new Promise((loaded) => {
      made.addEventListener('load', loaded, { once: true });
      document.body.append(made);
    });
    const { port1, port2 } = new MessageChannel();
    made.contentWindow?.postMessage(greeting, location.origin, [port2]);
    return wrap<ProcessorApi>(port1);
  }

  return {
    device: () => Promise.resolve(null),
    describe: (model) => weights.describe(model),
    load: (model, report): Promise<Elsewhere> =>
      ask(async () => {
        used.add(model);
        const processor = await (engine ??= open());
        const port = await weights.port();
        const { name, chat, contextLimit, threads, version } = await processor.load(
          model,
          transfer(port, [port]),
          proxy(report),
        );
        return {
          kind: 'cpu',
          name: name || 'the model',
          place: `this computer’s processor, ${threads === 1 ? 'one thread' : `${threads} threads`}, llama.cpp ${version}`,
          mode: chat ? 'chat' : 'raw',
          contextLimit,
        };
      }),
    generate: (prompt, sampling, onPiece): Promise<Told> =>
      ask(async () => {
        if (!engine) throw new PalimpsestError('Refused', 'No model is loaded. Load one first.');
        const processor = await engine;
        const request = requestOf(prompt, sampling, 'llamacpp', alternatives);
        const heard = hear(sampling, () => performance.now(), onPiece);
        const take = (chunk: unknown) => heard.take(chunk as Parameters<typeof heard.take>[0]);
        const stopped = await processor.complete(request, proxy(take));
        return heard.end(stopped);
      }),
    stop: () => void engine?.then((processor) => processor.stop()).catch(() => {}),
    reset: () => Promise.resolve(),
    lost: () => new Promise(() => {}),
    memory: null,
    destroy(reason) {
      end(reason);
      for (const model of used) weights.close(model).catch(() => {}); // with its worker it is closed
    },
  };
}

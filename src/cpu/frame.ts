/**
 * The frame's side: takes a model's verified bytes from the weights worker, hands them to llama.cpp in WebAssembly
 * (@wllama/wllama), and passes its chunks on. Nothing is fetched here but llama.cpp's own code, from this page's folder.
 */
import { expose, proxy, wrap } from 'comlink';
import { LoggerWithoutDebug, Wllama } from '@wllama/wllama';
import wasm from '@wllama/wllama/esm/wasm/wllama.wasm?url';
import { PalimpsestError, type LoadProgress, type WeightsApi } from '../../workers/protocol.ts';
import { allowBlobWorkers } from './blobWorkers.ts';
import { greeting, type Processed, type ProcessorApi } from './protocol.ts';

/** What one read of the weights takes. */
const readBytes = 8 * 2 ** 20;
/** More context than this costs more memory than a tab on a processor should take. */
const mostContext = 8192;

// wllama starts its worker by a string; this frame's policy lets nothing else pass.
allowBlobWorkers();

let engine: Wllama | null = null;
let abort: AbortController | null = null;

/** The shards as files in memory. Browsers put large blobs on disk themselves. */
async function shardsOf(
  model: string,
  weights: MessagePort,
  report: (p: LoadProgress) => void,
): Promise<Blob[]> {
  const api = wrap<WeightsApi>(weights);
  const shards = await api.open(model, proxy(report));
  const totalBytes = shards.reduce((sum, { bytes }) => sum + bytes, 0);
  const blobs: Blob[] = [];
  let doneBytes = 0;
  for (const [index, { file, bytes }] of shards.entries()) {
    const parts: Blob[] = [];
    for (let offset = 0; offset < bytes; offset += readBytes) {
      const part = await api.read(model, index, offset, Math.min(readBytes, bytes - offset));
      parts.push(new Blob([part]));
      doneBytes += part.byteLength;
      report({ phase: 'upload', doneBytes, totalBytes, note: file });
    }
    // The name tells llama.cpp which shard it is.
    blobs.push(new File(parts, file));
  }
  return blobs;
}

/** WebAssembly with addresses of 64 bits; the other build of llama.cpp would have to come from elsewhere. */
function has64Bits(): boolean {
  try {
    return Boolean(
      new WebAssembly.Memory({
        address: 'i64',
        initial: 1n,
      } as unknown as WebAssembly.MemoryDescriptor),
    );
  } catch {
    return false;
  }
}

const api: ProcessorApi = {
  async load(model, weights, report): Promise<Processed> {
    if (!has64Bits()) {
      throw new PalimpsestError(
        'Unsupported',
        'This browser’s WebAssembly has no memory of 64 bits, which llama.cpp is built for. Take a current Chrome, Edge or Firefox.',
      );
    }
    await engine?.exit();
    engine = null;
    const blobs = await shardsOf(model, weights, report);
    const started = new Wllama(
      { default: new URL(wasm, document.baseURI).href },
      { suppressNativeLog: true, logger: { ...LoggerWithoutDebug, ...quiet } },
    );
    started.setCompat(null);
    try {
      await started.loadModel(blobs, {
        n_ctx: mostContext,
        n_gpu_layers: 0,
        n_parallel: 1,
        jinja: true,
        warmup: false,
        reasoning_format: 'none',
      });
    } catch (thrown) {
      await started.exit();
      throw inWords(thrown);
    }
    engine = started;
    const { n_ctx, metadata } = started.getLoadedContextInfo();
    return {
      name: metadata['general.name'] ?? '',
      chat: started.getChatTemplate() !== null && started.getChatTemplate() !== undefined,
      contextLimit: n_ctx,
      threads: started.isMultithread() ? started.getNumThreads() : 1,
      version: Wllama.getLibllamaVersion(),
    };
  },
  async complete(request, onChunk): Promise<boolean> {
    const running = engine;
    if (!running) throw new PalimpsestError('Refused', 'No model is loaded. Load one first.');
    if (abort) throw new PalimpsestError('Refused', 'An answer is under way. Stop it first.');
    const mine = (abort = new AbortController());
    // Chunks and this call's result go through different ports: the last chunk must have arrived before the result goes.
    let arrived: unknown;
    const how = {
      abortSignal: mine.signal,
      onData: (chunk: unknown) => (arrived = onChunk(chunk)),
    };
    try {
      // The request is llama.cpp's own: the package's types know less of it than it takes.
      if ('messages' in request) {
        await running.createChatCompletion({ ...request, ...how } as never);
      } else {
        await running.createCompletion({ ...request, ...how } as never);
      }
    } catch (thrown) {
      if (!mine.signal.aborted) throw inWords(thrown);
    } finally {
      abort = null;
      await arrived;
    }
    return mine.signal.aborted;
  },
  stop() {
    abort?.abort();
  },
};

/** llama.cpp's complaints come as errors too; in the console they would look like faults of the page. */
const quiet = { log() {}, warn() {}, error() {} };

function inWords(thrown: unknown): Error {
  if (!(thrown instanceof Error)) return new Error(String(thrown));
  const { message } = thrown;
  if (/context size|exceed/i.test(message)) {
    return new PalimpsestError(
      'ContextFull',
      `llama.cpp has no room for this conversation: ${message}. Shorten it, or begin another one.`,
    );
  }
  if (/memory|allocat|OOM/i.test(message)) {
    return new PalimpsestError(
      'OutOfMemory',
      `WebAssembly got no memory for the model: ${message}. Close other tabs, or choose a smaller model.`,
    );
  }
  return new PalimpsestError('Unsupported', `llama.cpp does not take this: ${message}`);
}

/** The page that made this frame, and nobody else, may speak to it, once. */
addEventListener('message', function greet({ source, origin: from, data, ports }: MessageEvent) {
  const [port] = ports;
  if (source !== parent || from !== location.origin || data !== greeting || !port) return;
  removeEventListener('message', greet);
  expose(api, port);
});

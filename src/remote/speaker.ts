/**
 * An endpoint as the chat's speaker. The `openai` package does the protocol and is fetched when first used. Nothing but
 * the endpoint that a person named is ever asked, and its key goes there alone.
 */
import type OpenAI from 'openai';
import type * as Openai from 'openai';
import { PalimpsestError } from '../../workers/protocol.ts';
import type { Elsewhere, Speaker, Told } from '../speaker.ts';
import { hear, requestOf, servedOf } from './dialect.ts';
import { dialectNames, type Address, type Endpoint, type Served } from './endpoint.ts';
import { explainAnswer, explainCut, explainSilence, type Reach } from './explain.ts';

/** Alternatives asked for with each token. */
const alternatives = 5;

type Library = typeof Openai;

async function connect({ base, key }: Address): Promise<{ client: OpenAI; library: Library }> {
  const library = await import('openai');
  const client = new library.OpenAI({
    baseURL: base,
    apiKey: key || 'none',
    dangerouslyAllowBrowser: true, // the key is the reader's own, for an endpoint that the reader named
    maxRetries: 0, // a failure is told, not repeated behind the reader's back
    logLevel: 'off',
    fetch: (address, init) => {
      const headers = new Headers(init?.headers);
      // What the package tells of this machine is nobody's business, and each such header would need the server's leave.
      for (const name of [...headers.keys()]) {
        if (name.startsWith('x-stainless-')) headers.delete(name);
      }
      if (key === '') headers.delete('authorization');
      return fetch(address, {
        ...init,
        headers,
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        cache: 'no-store',
      });
    },
  });
  return { client, library };
}

/** Why a request got no answer: a server that is there answers a request whose answer nobody reads. */
async function reach(base: string): Promise<Reach> {
  if (!navigator.onLine) return 'offline';
  try {
    await fetch(`${base}/models`, {
      mode: 'no-cors',
      credentials: 'omit',
      referrerPolicy: 'no-referrer',
      cache: 'no-store',
    });
    return 'cors';
  } catch {
    return 'unreachable';
  }
}

/** What `thrown` means for someone who asked this endpoint. */
async function explain(
  thrown: unknown,
  library: Library,
  address: Address,
  model: string,
): Promise<Error> {
  const page = new URL(location.href);
  if (thrown instanceof PalimpsestError) return thrown;
  if (thrown instanceof library.APIConnectionError) {
    return explainSilence(address, await reach(address.base), page);
  }
  if (thrown instanceof library.APIError && typeof thrown.status === 'number') {
    const body = thrown.error as { message?: unknown; type?: unknown } | string | undefined;
    const message =
      typeof body === 'object' && typeof body.message === 'string' ? body.message : thrown.message;
    return explainAnswer(address, model, {
      status: thrown.status,
      message: message.replace(/^\d{3} (status code \(no body\))?/, '').slice(0, 600),
      code: `${thrown.code ?? ''} ${thrown.type ?? ''}`.trim(),
      retryAfter: (thrown.headers as Headers | undefined)?.get('retry-after') ?? null,
    });
  }
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** The models that an endpoint lists. Fails: RemoteFailed. */
export async function listModels(address: Address): Promise<Served[]> {
  const { client, library } = await connect(address);
  try {
    const served: Served[] = [];
    for await (const listed of client.models.list()) {
      if (typeof listed.id === 'string') served.push(servedOf(listed));
    }
    if (served.length === 0) {
      throw new PalimpsestError(
        'RemoteFailed',
        `${address.base} lists no models. Start one there, then connect again.`,
      );
    }
    return served;
  } catch (thrown) {
    throw await explain(thrown, library, address, 'list of models');
  }
}

/** A speaker for one model of an endpoint. Fails: RemoteFailed, ContextFull, Refused. */
export function startEndpoint(endpoint: Endpoint): Speaker {
  const { base, model, probabilities } = endpoint;
  const running = new Set<AbortController>();
  let ended: Error | null = null;

  return {
    device: () => Promise.resolve(null),
    describe: () => Promise.resolve(null),
    load(): Promise<Elsewhere> {
      return Promise.resolve({
        kind: 'remote',
        name: model.id,
        place: `${new URL(base).host}, ${dialectNames[model.dialect]}`,
        mode: 'chat',
        contextLimit: model.contextLimit,
      });
    },
    async generate(prompt, sampling, onPiece): Promise<Told> {
      const request = requestOf(
        prompt,
        sampling,
        model.dialect,
        probabilities ? alternatives : null,
      );
      const abort = new AbortController();
      running.add(abort);
      const { client, library } = await connect(endpoint);
      const heard = hear(sampling, () => performance.now(), onPiece);
      try {
        const path = 'messages' in request ? '/chat/completions' : '/completions';
        const stream = await client.post<AsyncIterable<Parameters<typeof heard.take>[0]>>(path, {
          body: { ...request, model: model.id },
          stream: true,
          signal: abort.signal,
        });
        for await (const chunk of stream) {
          heard.take(chunk);
          if (abort.signal.aborted) break;
        }
      } catch (thrown) {
        if (ended) throw ended;
        if (!abort.signal.aborted) {
          if (heard.tokens > 0 && !(thrown instanceof PalimpsestError)) {
            throw explainCut(endpoint, heard.tokens, ownWords(thrown, library));
          }
          throw await explain(thrown, library, endpoint, model.id);
        }
      } finally {
        running.delete(abort);
      }
      if (ended) throw ended;
      if (!abort.signal.aborted && !heard.finished) throw explainCut(endpoint, heard.tokens, '');
      return heard.end(abort.signal.aborted);
    },
    stop() {
      for (const abort of running) abort.abort();
    },
    reset: () => Promise.resolve(),
    lost: () => new Promise(() => {}),
    memory: null,
    destroy(reason) {
      ended = reason;
      for (const abort of running) abort.abort();
    },
  };
}

/** What the server itself said in the middle of a stream; '' where it was only cut. */
function ownWords(thrown: unknown, library: Library): string {
  return thrown instanceof library.APIError && !(thrown instanceof library.APIConnectionError)
    ? thrown.message
    : '';
}

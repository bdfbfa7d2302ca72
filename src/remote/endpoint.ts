/** An OpenAI-compatible endpoint as a person names it: its address, its key, and what it serves. */
import { PalimpsestError } from '../../workers/protocol.ts';
import { forget, recall, remember } from '../settings.ts';

/** Whose server it is, by what it says of itself: settings beyond OpenAI's protocol have other names in each. */
export type Dialect = 'vllm' | 'sglang' | 'llamacpp' | 'openai';

/** Where to ask, and with which key. '' is no key. */
export interface Address {
  /** Without a slash at the end, e.g. "http://localhost:8000/v1". */
  base: string;
  key: string;
}

/** A model that an endpoint offers. */
export interface Served {
  id: string;
  dialect: Dialect;
  /** Tokens; null where the endpoint does not say. */
  contextLimit: number | null;
}

export interface Endpoint extends Address {
  model: Served;
  /** Ask for the probabilities of its tokens. */
  probabilities: boolean;
}

export const dialectNames: Record<Dialect, string> = {
  vllm: 'vLLM',
  sglang: 'SGLang',
  llamacpp: 'llama.cpp',
  openai: 'an OpenAI-compatible server',
};

const local = /^(localhost|127\.0\.0\.1)$/;

/**
 * The base address that a person means: "localhost:8000" is http, all others https, and without a path it is "/v1".
 * Fails: Refused for what is no address, holds a key or a password, or may not be asked from this page.
 */
export function readBase(text: string, page: URL): string {
  const typed = text.trim();
  const bare = /^[a-z][a-z+.-]*:\/\//i.test(typed)
    ? typed
    : `${/^(localhost|127\.0\.0\.1)(?=[:/]|$)/.test(typed) ? 'http' : 'https'}://${typed}`;
  if (typed === '' || !URL.canParse(bare)) {
    throw new PalimpsestError(
      'Refused',
      `“${typed}” is no address. One looks like http://localhost:8000/v1.`,
    );
  }
  const url = new URL(bare);
  if (url.username || url.password || url.search || url.hash) {
    throw new PalimpsestError(
      'Refused',
      'An address with a name, a password or a query in it would keep them where addresses are shown. Give the address alone, and the key in its own field.',
    );
  }
  const allowed =
    url.protocol === 'https:' ||
    (url.protocol === 'http:' && (local.test(url.hostname) || url.origin === page.origin));
  if (!allowed) {
    throw new PalimpsestError(
      'Refused',
      `This page may ask ${url.protocol}//${url.hostname} nothing: https anywhere, http only on localhost and 127.0.0.1. Put the server behind https, or forward its port to this computer (ssh -L 8000:localhost:8000 host).`,
    );
  }
  const path = url.pathname
    .replace(/\/+$/, '')
    .replace(/\/(chat\/completions|completions|models)$/, '');
  return url.origin + (path || '/v1');
}

const stored = 'endpoint';

/** The address that was kept in this browser; null if none was. */
export function keptAddress(): Address | null {
  return recall(stored, (value) => {
    if (typeof value !== 'object' || value === null) return null;
    const { base, key } = value as Partial<Address>;
    return typeof base === 'string' && typeof key === 'string' ? { base, key } : null;
  });
}

/** Keep the address and its key in this browser; null removes what was kept. */
export function keepAddress(address: Address | null): void {
  if (address) remember(stored, { base: address.base, key: address.key });
  else forget(stored);
}

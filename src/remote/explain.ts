/** What goes wrong at an endpoint, in words: what happened, with its numbers, and what to do. */
import { PalimpsestError } from '../../workers/protocol.ts';
import type { Address } from './endpoint.ts';

/** An error answer, as far as it could be read. */
export interface Answered {
  status: number;
  /** The server's own words; '' if it had none. */
  message: string;
  /** Its own name for the error, e.g. "context_length_exceeded". */
  code: string;
  /** The header of that name; null without one. */
  retryAfter: string | null;
}

/** What a request that failed without an answer was refused by. */
export type Reach = 'cors' | 'unreachable' | 'offline';

const contextWords =
  /context[ _-]?(length|size|window)|maximum context|max_model_len|exceed_context|longer than the model|too (long|many tokens)/i;

/** The endpoint answered with an error. */
export function explainAnswer({ base, key }: Address, model: string, answer: Answered): Error {
  const { status, code, retryAfter } = answer;
  const message = withoutKey(answer.message, key);
  const said = message ? ` It says: ${message}` : '';
  const failed = (words: string) => new PalimpsestError('RemoteFailed', words);
  if (status === 400 || status === 413 || status === 422) {
    if (contextWords.test(`${code} ${message}`)) {
      return new PalimpsestError(
        'ContextFull',
        `${base} has no room for this conversation (status ${status}).${said} Shorten it, allow fewer tokens for the answer, or have the server started with a longer context.`,
      );
    }
    const logprobs = /logprob/i.test(message)
      ? ' Untick the probabilities under Model and ask again.'
      : '';
    return failed(`${base} does not take the request (status ${status}).${said}${logprobs}`);
  }
  if (status === 401 || status === 403) {
    const which = key === '' ? 'It wants a key, and none was given' : 'It does not accept the key';
    return failed(
      `${base} refuses (status ${status}).${said} ${which}: give the right one under Model.`,
    );
  }
  if (status === 404) {
    return failed(
      `${base} knows no “${model}”, or this is not its address (status 404).${said} The address usually ends in /v1; connect again for its list of models.`,
    );
  }
  if (status === 429) {
    return failed(
      `${base} is asked too much (status 429).${said} ${whenAgain(retryAfter)}, or ask who runs it about your quota.`,
    );
  }
  if (status >= 500) {
    return failed(
      `${base} failed (status ${status}).${said} The fault is there: ${retryAfter ? whenAgain(retryAfter).toLowerCase() : 'try again later'}, or look into the server’s log.`,
    );
  }
  return failed(`${base} answered with status ${status}.${said}`);
}

function whenAgain(retryAfter: string | null): string {
  if (retryAfter === null) return 'It does not say for how long: wait a little and try again';
  const seconds = Number(retryAfter);
  if (Number.isFinite(seconds)) return `Try again in ${Math.ceil(seconds)} s`;
  return `Try again after ${retryAfter}`;
}

/** No answer came that this page may read. */
export function explainSilence({ base }: Address, reach: Reach, page: URL): Error {
  const words: Record<Reach, string> = {
    offline: `This computer is offline, so ${base} cannot be asked. Connect it and try again.`,
    unreachable: `Nothing answers at ${base}. See that the server runs, that its port is right, and that a firewall or a private-network prompt of the browser does not stand between.`,
    cors: `${base} is there, but does not let this page (${page.origin}) read its answers. Start it so that it allows this origin: vLLM with --allowed-origins '["${page.origin}"]', others by their CORS setting.`,
  };
  return new PalimpsestError('RemoteFailed', words[reach]);
}

/** The connection ended in the middle of an answer. */
export function explainCut({ base, key }: Address, tokens: number, message: string): Error {
  const said = message ? ` It says: ${withoutKey(message, key)}` : '';
  return new PalimpsestError(
    'RemoteFailed',
    `The answer of ${base} broke off after ${tokens} ${tokens === 1 ? 'token' : 'tokens'}: the connection ended before the server said it was done.${said} What arrived is kept; try again.`,
  );
}

/** Some servers repeat the key that they refuse. It is nobody's to see, not even in an error. */
function withoutKey(text: string, key: string): string {
  return key === '' ? text : text.replaceAll(key, '…');
}

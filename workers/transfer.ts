/**
 * Asking a server for a range of a file, and asking again: what each answer means, how long to wait, when to give up.
 */
import { PalimpsestError } from './protocol.ts';

/** What sites have in common. Neither call ever fails: what does not work is as if it were not there. */
export interface CommonStorage {
  /** The file of this SHA-256, in hex, if it is there with so many bytes. Its hash is the caller's to look at. */
  read(sha256: string, bytes: number): Promise<ArrayBuffer | null>;
  /** Have a file kept for all sites. */
  write(sha256: string, file: ArrayBuffer): Promise<void>;
}

/** Time, so that tests need not wait. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Resolves after `ms`, or as soon as `signal` is aborted; never fails. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** Web Locks, as far as we need them: held over all tabs of the origin, released when a tab dies. */
export interface Locks {
  request<T>(
    name: string,
    options: LockOptions,
    work: (lock: Lock | null) => Promise<T>,
  ): Promise<T>;
}

/** What downloads need from the world around them. */
export interface World {
  fetch: (address: string, init: RequestInit) => Promise<Response>;
  clock: Clock;
  locks: Locks;
  /** Uniform in [0, 1): keeps the retries of many from falling together. */
  random(): number;
  /** Files that sites have in common; null where the browser has no place for them. */
  common: CommonStorage | null;
  estimate(): Promise<StorageEstimate>;
  persisted(): Promise<boolean>;
}

export interface Limits {
  /** Largest value stored. */
  pieceBytes: number;
  /** Finished ranges are stored in this size; what a connection loses when the browser dies is less than two of them. */
  partBytes: number;
  connections: number;
  /** Failures of one piece in a row, without progress between, that end a download. */
  attempts: number;
  /** A connection on which nothing arrives for so long is given up. */
  stallMs: number;
  /** The most weights kept in memory where there is no storage. */
  memoryBytes: number;
  /** What of a piece is read and hashed at a time: whole leaves (sha256.ts). */
  spanBytes: number;
  /** Spans in memory, read ahead or at hand: with a range that was asked for they shall be less than two pieces. */
  spans: number;
}

/** Chromium keeps six connections to a host; two are left for the page. 256 KiB: see `partBytes`. */
export const limits: Limits = {
  pieceBytes: 16 * 1024 * 1024,
  partBytes: 256 * 1024,
  connections: 4,
  attempts: 8,
  stallMs: 30_000,
  memoryBytes: 1024 * 1024 * 1024,
  spanBytes: 4 * 1024 * 1024,
  spans: 3,
};

/** Failures are waited out for 0.5 s, 1 s, 2 s, ... at most 30 s; a server's Retry-After is followed up to ten minutes. */
const firstWaitMs = 500;
const longestWaitMs = 30_000;
const longestRetryAfterMs = 600_000;
/** A failure after less than this much has arrived counts as one in a row. */
const progressBytes = 64 * 1024;

/** Something that may go better the next time. */
export interface Setback {
  kind: 'setback';
  why: string;
  /** Wait at least so long. */
  waitMs: number;
}

/** Bytes of a file, from `position` on. */
export interface Answer {
  kind: 'bytes';
  /** Where the body begins: where it was asked to, or 0 from a server without ranges. */
  position: number;
  ranged: boolean;
  body: ReadableStream<Uint8Array>;
  /** Length of the whole file, if the server says it. */
  totalBytes: number | null;
  /** ETag or Last-Modified, if the server gives one. */
  validator: string | null;
}

/** Ask for bytes [from, until) of a file. Fails: DownloadFailed, if asking again would not help. */
export async function ask(
  world: World,
  stallMs: number,
  address: string,
  from: number,
  until: number,
  stop: AbortController,
): Promise<Answer | Setback> {
  const setback = (why: string, waitMs = 0): Setback => {
    stop.abort();
    return { kind: 'setback', why, waitMs };
  };
  // no-store: the HTTP cache would keep a second copy of what the store keeps.
  const asked = world.fetch(address, {
    headers: { Range: `bytes=${from}-${until - 1}` },
    cache: 'no-store',
    signal: stop.signal,
  });
  let response: Response | typeof silence;
  try {
    response = await unlessSilent(asked, world.clock, stallMs);
  } catch (cause) {
    return setback(`${address} cannot be reached (${said(cause)})`);
  }
  if (response === silence) return setback(`${address} did not answer in ${stallMs / 1000} s`);

  const { status, headers, body } = response;
  const validator = headers.get('etag')?.replace(/^W\//, '') ?? headers.get('last-modified');
  if (status === 206 && body) {
    // Content-Range may be hidden from us on another origin; then the status is all there is to believe.
    const [, first, , total] =
      headers.get('content-range')?.match(/^bytes (\d+)-(\d+)\/(\d+|\*)$/) ?? [];
    if (first !== undefined && Number(first) !== from) {
      return setback(`${address} answered from byte ${first} instead of ${from}`);
    }
    const totalBytes = total === undefined || total === '*' ? null : Number(total);
    return { kind: 'bytes', position: from, ranged: true, body, totalBytes, validator };
  }
  if (status === 200 && body) {
    const length = headers.get('content-encoding') ? null : headers.get('content-length');
    const totalBytes = length === null ? null : Number(length);
    return { kind: 'bytes', position: 0, ranged: false, body, totalBytes, validator };
  }
  if (status === 416) return setback(`${address} has no byte ${from} (416)`);
  if (status === 408 || status === 425 || status === 429 || status >= 500 || body === null) {
    const waitMs = retryAfterMs(headers.get('retry-after'), world.clock.now());
    return setback(`${address} answered ${status}`, waitMs);
  }
  stop.abort();
  const why =
    status === 401 || status === 403
      ? 'access is restricted. If the model asks for its licence to be accepted, download it yourself and open the files'
      : status === 404 || status === 410
        ? 'there is no such file. Check the address'
        : 'which is not an answer to go on with. Check the address';
  throw new PalimpsestError('DownloadFailed', `${address} answered ${status}: ${why}.`);
}

/** Retry-After in milliseconds from now: seconds or an HTTP date; 0 if there is none. */
function retryAfterMs(header: string | null, nowMs: number): number {
  if (header === null) return 0;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - nowMs;
  return Math.min(Math.max(ms || 0, 0), longestRetryAfterMs);
}

export const silence: unique symbol = Symbol('silence');

/** A file as its server describes it. */
export interface Described {
  totalBytes: number | null;
  validator: string | null;
  ranged: boolean;
}

/** What a server says of a file, nothing of it fetched. Fails: DownloadFailed. */
export async function probe(
  world: World,
  stallMs: number,
  address: string,
  signal: AbortSignal,
): Promise<Described | Setback> {
  const stop = stoppedBy(signal);
  try {
    const answer = await ask(world, stallMs, address, 0, 1, stop);
    if (isSetback(answer) || answer.totalBytes !== null) return answer;
    // Another origin hides Content-Range unless it is told not to, but never Content-Length.
    const head = await unlessSilent(
      world.fetch(address, { method: 'HEAD', cache: 'no-store', signal: stop.signal }),
      world.clock,
      stallMs,
    );
    const length = head !== silence && head.ok ? head.headers.get('content-length') : null;
    return { ...answer, totalBytes: length === null ? null : Number(length) };
  } catch (cause) {
    if (cause instanceof PalimpsestError) throw cause;
    return { kind: 'setback', why: `${address} cannot be reached (${said(cause)})`, waitMs: 0 };
  } finally {
    stop.abort();
  }
}

/** A small text file, whole. Fails: DownloadFailed. */
export async function fetchText(
  world: World,
  stallMs: number,
  address: string,
  mostBytes: number,
  signal: AbortSignal,
): Promise<{ text: string } | Setback> {
  const stop = stoppedBy(signal);
  try {
    const answer = await ask(world, stallMs, address, 0, mostBytes, stop);
    if (isSetback(answer)) return answer;
    const decoder = new TextDecoder();
    const reader = answer.body.getReader();
    let text = '';
    let bytes = 0;
    for (;;) {
      const chunk = await unlessSilent(reader.read(), world.clock, stallMs);
      if (chunk === silence || bytes > mostBytes) break;
      if (chunk.done) {
        if (bytes !== (answer.totalBytes ?? bytes)) break;
        return { text: text + decoder.decode() };
      }
      bytes += chunk.value.length;
      text += decoder.decode(chunk.value, { stream: true });
    }
    return { kind: 'setback', why: `${address} did not arrive whole`, waitMs: 0 };
  } catch (cause) {
    if (cause instanceof PalimpsestError) throw cause;
    return { kind: 'setback', why: `${address} broke off (${said(cause)})`, waitMs: 0 };
  } finally {
    stop.abort();
  }
}

/** What `promise` gives, or `silence` if that takes longer than `ms`. */
export async function unlessSilent<T>(
  promise: Promise<T>,
  clock: Clock,
  ms: number,
): Promise<T | typeof silence> {
  const awake = new AbortController();
  try {
    const asleep = clock.sleep(ms, awake.signal).then((): typeof silence => silence);
    return await Promise.race<T | typeof silence>([promise, asleep]);
  } finally {
    awake.abort();
    promise.catch(() => {}); // nobody waits for it any more
  }
}

/**
 * What `attempt` gives, once it gives more than a setback: each is waited out, longer each time.
 * `gainedBytes` counts what has arrived, for as long as something does there is no giving up. `tell` is told of each
 * setback, and '' when it is over. Fails: DownloadFailed.
 */
export async function patiently<T>(
  world: World,
  limits: Limits,
  signal: AbortSignal,
  attempt: () => Promise<T | Setback>,
  tell: (note: string) => void,
  gainedBytes = () => 0,
): Promise<T> {
  let failures = 0;
  let before = gainedBytes();
  for (;;) {
    const outcome = await attempt();
    signal.throwIfAborted();
    if (!isSetback(outcome)) {
      if (failures > 0) tell('');
      return outcome;
    }
    if (gainedBytes() - before >= progressBytes) failures = 0;
    before = gainedBytes();
    if (++failures >= limits.attempts) {
      throw new PalimpsestError(
        'DownloadFailed',
        `${outcome.why}, at the last of ${failures} attempts. What has arrived is kept; try again.`,
      );
    }
    const backOffMs = Math.min(firstWaitMs * 2 ** (failures - 1), longestWaitMs);
    const waitMs = Math.max(outcome.waitMs, backOffMs * (0.5 + world.random() / 2));
    tell(`${outcome.why}; trying again in ${Math.ceil(waitMs / 1000)} s`);
    await world.clock.sleep(waitMs, signal);
    signal.throwIfAborted();
  }
}

export function isSetback(outcome: unknown): outcome is Setback {
  return (outcome as { kind?: unknown } | null)?.kind === 'setback';
}

/** A controller that is aborted with `signal`, or on its own. */
export function stoppedBy(signal: AbortSignal): AbortController {
  const stop = new AbortController();
  if (signal.aborted) stop.abort();
  else signal.addEventListener('abort', () => stop.abort(), { signal: stop.signal });
  return stop;
}

export function said(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** "26.1 GB", "940 kB": powers of ten, as shops and browsers count. */
export function inUnits(bytes: number): string {
  for (const [unit, size] of [
    ['GB', 1e9],
    ['MB', 1e6],
  ] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`;
  }
  return `${Math.ceil(bytes / 1e3)} kB`;
}

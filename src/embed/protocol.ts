/**
 * What passes between a widget's frame and the page around it: the types, and for each a reader that takes nothing else.
 *
 * 1. The page makes the frame; its address carries, in the fragment, the page's origin and a key made for this frame.
 * 2. The frame posts one `Hello` with a MessagePort, to that origin and no other. It never listens to window messages.
 * 3. The page takes it if the window, the origin, the version and the key are those of its frame, and that once.
 * 4. All else goes through the port: `Request`s one way, `Reply`s the other, each read by the functions below.
 *
 * A reader answers a copy with the fields it names, and refuses any other field, so nothing rides along into the program.
 */
import { PalimpsestError } from '../../workers/protocol.ts';

export const version = 2;

/** What a single message may hold, and how many may come. */
export const limits = {
  textLength: 65_536,
  addressLength: 2_048,
  turns: 256,
  idsPerTurn: 16_384,
  /** Of a state in a snapshot: some 1,500 tokens of the embedded model. */
  stateBytes: 16_777_216,
  /** Requests a second on average, and at once. */
  requestsPerSec: 20,
  requestBurst: 60,
  /** Replies a second on average, and at once: tokens come faster than requests. */
  repliesPerSec: 500,
  replyBurst: 2_000,
  /** Messages that were refused, after which nothing more is heard. */
  strikes: 8,
  /** Requests that wait for an answer. */
  pending: 16,
} as const;

export const views = [
  'text',
  'writes',
  'reach',
  'memory',
  'gates',
  'experts',
  'logits',
  'bytes',
] as const;
/** What is shown beside or below the text; 'text' shows the words in the ink that the memory has left of them. */
export type View = (typeof views)[number];

export const themes = ['auto', 'light', 'dark'] as const;
export type Theme = (typeof themes)[number];

// ---------------------------------------------------------------------------------------------- types

/** The frame's one message to the window around it; a port comes with it. */
export interface Hello {
  palimpsest: 'hello';
  version: number;
  /** From the frame's own address: only who made the frame knows it. */
  key: string;
}

/** How tokens are chosen; what is left out is as the playground's defaults have it: the most probable token each time. */
export interface Draw {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  repetitionWindow?: number;
  /** Unsigned 32 bits. */
  seed?: number;
  maxTokens?: number;
  stop?: string[];
}

/** Where to look: a view, and in it a layer, a head and a token. */
export interface Look {
  view?: View;
  layer?: number;
  head?: number | 'median';
  /** A position in the text, or the newest. */
  token?: number | 'newest';
}

export interface WidgetTurn {
  role: 'system' | 'user' | 'assistant';
  content: string;
  /** The tokens an answer was written as: with them it goes on exactly. */
  ids?: number[];
}

/** A conversation as it was: another widget with the same model goes on from it with the same tokens. */
export interface Snapshot {
  format: 'palimpsest-snapshot';
  version: 1;
  model: string;
  turns: WidgetTurn[];
  draw: Draw;
  look: Look;
  /** What the model's memory held, so that nothing is computed again; absent where it is too large, or nothing was said. */
  state?: ArrayBuffer;
}

export type Request = { id: number } & (
  | { call: 'load' }
  /** `begin`: in a conversation of its own, rather than after what was said. */
  | { call: 'generate'; prompt: string; begin: boolean; draw: Draw }
  | { call: 'stop' }
  | { call: 'snapshot' }
  | { call: 'restore'; snapshot: Snapshot }
  | { call: 'look'; look: Look }
  | { call: 'theme'; theme: Theme }
);
export type Call = Request['call'];

export interface WidgetModel {
  name: string;
  parameters: number;
  /** null where llama.cpp has the model: it does not say. */
  layers: number | null;
  contextLimit: number;
  /** gpu: this program, on WebGPU; cpu: llama.cpp in WebAssembly, on the processor, where there is no WebGPU. */
  engine: 'gpu' | 'cpu';
}

export interface WidgetToken {
  /** Its number and its place; null where llama.cpp writes: it tells of text alone. */
  id: number | null;
  position: number | null;
  text: string;
  logprob: number | null;
}

export interface Outcome {
  text: string;
  /** None where llama.cpp wrote. */
  ids: number[];
  reason: 'end' | 'stop' | 'length' | 'context' | 'stopped';
  promptTokens: number;
  firstTokenMs: number;
  decodeMs: number;
  /** What it was drawn with. */
  seed: number;
}

/** poster: nothing is fetched yet; asking: a person must agree in the frame first; replay: a recording is shown. */
export interface Status {
  state: 'poster' | 'asking' | 'loading' | 'ready' | 'writing' | 'replay' | 'failed';
  /** Of the load; 0 of 0 while there is none. */
  doneBytes: number;
  totalBytes: number;
  /** Why it failed, or what is asked; '' if nothing. */
  note: string;
}

/**
 * own: this site's own storage; partitioned: storage that only pages of the surrounding site share; memory: none, the
 * weights are gone with the frame.
 */
export interface StorageStatus {
  place: 'own' | 'partitioned' | 'memory';
  note: string;
}

/** What calls answer. */
export interface Answers {
  load: WidgetModel;
  generate: Outcome;
  stop: null;
  snapshot: Snapshot;
  restore: null;
  look: null;
  theme: null;
}

/** What a widget tells unasked, by name. */
export interface Events {
  status: Status;
  storage: StorageStatus;
  look: Look;
  /** CSS pixels that the frame would fill. */
  size: { height: number };
}

export type Reply =
  | { reply: 'value'; id: number; value: unknown }
  | { reply: 'token'; id: number; token: WidgetToken }
  | { reply: 'failed'; id: number; name: string; message: string }
  | { reply: 'event'; name: keyof Events; value: unknown };

// -------------------------------------------------------------------------------------------- readers

/** Answers a copy of `value` if it is a T. Fails: Refused, naming `what`. */
export type Read<T> = (value: unknown, what: string) => T;

export function refuse(what: string): never {
  throw new PalimpsestError('Refused', `${what}.`);
}

const text =
  (most: number): Read<string> =>
  (value, what) =>
    typeof value === 'string' && value.length <= most
      ? value
      : refuse(`${what} is no text of at most ${most} characters`);

const between =
  (least: number, most: number, whole = false): Read<number> =>
  (value, what) =>
    typeof value === 'number' &&
    value >= least &&
    value <= most &&
    (!whole || Number.isInteger(value))
      ? value
      : refuse(`${what} is no ${whole ? 'whole ' : ''}number from ${least} to ${most}`);

const natural = (most = 0xffffffff) => between(0, most, true);

const oneOf =
  <const T>(...words: readonly T[]): Read<T> =>
  (value, what) =>
    words.includes(value as T) ? (value as T) : refuse(`${what} is not among ${words.join(', ')}`);

const either =
  <A, B>(a: Read<A>, b: Read<B>): Read<A | B> =>
  (value, what) =>
    typeof value === 'string' ? b(value, what) : a(value, what);

const orNull =
  <T>(read: Read<T>): Read<T | null> =>
  (value, what) =>
    value === null ? null : read(value, what);

const list =
  <T>(item: Read<T>, most: number): Read<T[]> =>
  (value, what) =>
    Array.isArray(value) && value.length <= most
      ? Array.from(value, (one) => item(one, what))
      : refuse(`${what} is no list of at most ${most}`);

const buffer =
  (most: number): Read<ArrayBuffer> =>
  (value, what) =>
    value instanceof ArrayBuffer && value.byteLength <= most
      ? value
      : refuse(`${what} is no buffer of at most ${most} bytes`);

const flag: Read<boolean> = (value, what) =>
  typeof value === 'boolean' ? value : refuse(`${what} is neither true nor false`);

const nothing: Read<null> = (value, what) =>
  value === null ? null : refuse(`${what} is not null`);

type Shape = Record<string, Read<unknown>>;
type Of<S extends Shape> = { [K in keyof S]: ReturnType<S[K]> };

/** An object with all fields of `needed`, any of `optional`, and no others. */
function record<N extends Shape, O extends Shape>(
  needed: N,
  optional: O,
): Read<Of<N> & Partial<Of<O>>>;
function record<N extends Shape>(needed: N): Read<Of<N>>;
function record(needed: Shape, optional: Shape = {}): Read<unknown> {
  return (value, what) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      refuse(`${what} is no object`);
    const given = value as Record<string, unknown>;
    const copy: Record<string, unknown> = {};
    for (const key of Object.keys(given)) {
      if (!Object.hasOwn(needed, key) && !Object.hasOwn(optional, key))
        refuse(`${what} has a field too many`);
    }
    for (const key in needed) {
      if (!Object.hasOwn(given, key)) refuse(`${what} has no ${key}`);
      copy[key] = needed[key]!(given[key], key);
    }
    for (const key in optional) {
      if (Object.hasOwn(given, key) && given[key] !== undefined)
        copy[key] = optional[key]!(given[key], key);
    }
    return copy;
  };
}

const longText = text(limits.textLength);
const theme = oneOf(...themes);

const draw: Read<Draw> = record(
  {},
  {
    temperature: between(0, 2),
    topK: natural(200),
    topP: between(0.05, 1),
    minP: between(0, 0.5),
    repetitionPenalty: between(1, 2),
    repetitionWindow: natural(1024),
    seed: natural(),
    maxTokens: between(1, 2048, true),
    stop: list(text(256), 8),
  },
);

const look: Read<Look> = record(
  {},
  {
    view: oneOf(...views),
    layer: natural(999),
    head: either(natural(999), oneOf('median')),
    token: either(natural(), oneOf('newest')),
  },
);

const snapshot: Read<Snapshot> = record(
  {
    format: oneOf('palimpsest-snapshot'),
    version: oneOf(1),
    model: text(limits.addressLength),
    turns: list(
      record(
        { role: oneOf('system', 'user', 'assistant'), content: longText },
        { ids: list(natural(), limits.idsPerTurn) },
      ),
      limits.turns,
    ),
    draw,
    look,
  },
  { state: buffer(limits.stateBytes) },
);

const id = natural();
const calls: { [C in Call]: Read<object> } = {
  load: record({}),
  generate: record({ prompt: longText, begin: flag, draw }),
  stop: record({}),
  snapshot: record({}),
  restore: record({ snapshot }),
  look: record({ look }),
  theme: record({ theme }),
};

/** A message of the page around, as the frame takes it. Fails: Refused. */
export const readRequest: Read<Request> = (value, what) => {
  if (typeof value !== 'object' || value === null) refuse(`${what} is no object`);
  const { id: number, call: name, ...rest } = value as Record<string, unknown>;
  if (typeof name !== 'string' || !Object.hasOwn(calls, name))
    refuse(`${what} calls nothing known`);
  return { id: id(number, 'id'), call: name, ...calls[name as Call](rest, name) } as Request;
};

/** What a frame says first, as the page takes it. Fails: Refused. */
export const readHello: Read<Hello> = record({
  palimpsest: oneOf('hello'),
  version: natural(),
  key: text(64),
});

const status: Read<Status> = record({
  state: oneOf('poster', 'asking', 'loading', 'ready', 'writing', 'replay', 'failed'),
  doneBytes: between(0, 1e15),
  totalBytes: between(0, 1e15),
  note: text(2_000),
});

const events: { [E in keyof Events]: Read<Events[E]> } = {
  status,
  storage: record({ place: oneOf('own', 'partitioned', 'memory'), note: text(2_000) }),
  look,
  size: record({ height: between(0, 20_000) }),
};

const answers: { [C in Call]: Read<Answers[C]> } = {
  load: record({
    name: text(200),
    parameters: between(0, 1e15),
    layers: orNull(natural(9_999)),
    contextLimit: natural(),
    engine: oneOf('gpu', 'cpu'),
  }),
  generate: record({
    text: text(1e6),
    ids: list(natural(), limits.idsPerTurn),
    reason: oneOf('end', 'stop', 'length', 'context', 'stopped'),
    promptTokens: natural(),
    firstTokenMs: between(0, 1e9),
    decodeMs: between(0, 1e9),
    seed: natural(),
  }),
  stop: nothing,
  snapshot,
  restore: nothing,
  look: nothing,
  theme: nothing,
};

const token: Read<WidgetToken> = record({
  id: orNull(id),
  position: orNull(natural()),
  text: text(1_000),
  logprob: orNull(between(-Infinity, 0.001)),
});

/** The answer to a call. Fails: Refused. */
export function readAnswer<C extends Call>(call: C, value: unknown): Answers[C] {
  return answers[call](value, call) as Answers[C];
}

const replies: Record<string, Read<object>> = {
  value: record({ reply: oneOf('value'), id, value: (value) => value }),
  token: record({ reply: oneOf('token'), id, token }),
  failed: record({ reply: oneOf('failed'), id, name: text(40), message: text(4_000) }),
  event: (value, what) => {
    const read = record({
      reply: oneOf('event'),
      name: oneOf('status', 'storage', 'look', 'size'),
      value: (inner) => inner,
    })(value, what);
    return { ...read, value: events[read.name](read.value, read.name) };
  },
};

/** A message of the frame, as the page takes it; a call's own answer is read by `readAnswer`. Fails: Refused. */
export const readReply: Read<Reply> = (value, what) => {
  const kind = (value as { reply?: unknown } | null)?.reply;
  if (typeof kind !== 'string' || !Object.hasOwn(replies, kind)) refuse(`${what} is no reply`);
  return replies[kind]!(value, what) as Reply;
};

// ---------------------------------------------------------------------------------------------- rates

/** Counts what comes: false once it comes too fast. Time in milliseconds. */
export function meter(perSec: number, burst: number, now: () => number): () => boolean {
  let room = burst;
  let last = now();
  return () => {
    const time = now();
    room = Math.min(burst, room + ((time - last) * perSec) / 1000);
    last = time;
    room -= 1;
    return room >= 0;
  };
}

/**
 * Recordings: what a running engine was seen to do, as one JSON file that a page shows without WebGPU and without the
 * model. A recording answers the inquiries that were put to the engine when it was made, and no others.
 *
 * Arrays are base64 of little-endian numbers: `f32`, `u32`, `i32` as they are, `f16` rounded to half precision (11 bits),
 * `i8` to 127ths of the largest, which `scale` gives.
 */
import {
  PalimpsestError,
  type Answers,
  type Inquiry,
  type LayerLists,
  type MemoryReport,
  type ModelReport,
  type TokenRecord,
  type Turn,
} from '../workers/protocol.ts';

export interface Recording {
  /** What is seen, in one line. */
  title: string;
  /** What it was made with: the engine, the adapter, the command. */
  source: string;
  model: ModelReport;
  memory: MemoryReport;
  lists: LayerLists;
  /** The conversation, with the answer that was recorded as its last turn. */
  turns: Turn[];
  /** Tokens before the answer. */
  promptTokens: number;
  /** One record a token, in order of position. */
  records: TokenRecord[];
  /** Where to begin to look: a KDA layer and one of its heads, for which most was recorded. */
  start: { layer: number; head: number };
  answers: RecordedAnswer[];
  /** What is said from a token on, in order; `{a-b}` stands for the mean recall of tokens a to b at the moment looked at. */
  notes?: { position: number; text: string }[];
}

export type RecordedAnswer = {
  [K in Inquiry['kind']]: { inquiry: Extract<Inquiry, { kind: K }>; answer: Answers[K] };
}[Inquiry['kind']];

const format = 'palimpsest-recording';
const version = 1;

/** An inquiry as a word: two that ask the same are equal. */
export function inquiryKey(inquiry: Inquiry): string {
  return Object.entries(inquiry)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

// -------------------------------------------------------------------------------------------- arrays

type Numbers = Float32Array | Uint32Array | Int32Array;
type Kind = 'f32' | 'u32' | 'i32' | 'f16' | 'i8';

interface Packed {
  type: Kind;
  length: number;
  scale?: number;
  base64: string;
}

function toBase64(bytes: Uint8Array): string {
  let text = '';
  // In pieces: arguments of one call are limited.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

/** By a loop: `from` with a function goes through an iterator, which the opening page would wait for. */
function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Numbers packed as `type`. Infinity survives f16 and f32, not i8. */
export function pack(values: Numbers, type: Kind): Packed {
  const { length } = values;
  if (type === 'f16') {
    const bytes = new Uint8Array(Uint16Array.from(values, toHalf).buffer);
    return { type, length, base64: toBase64(bytes) };
  }
  if (type === 'i8') {
    let largest = 0;
    for (const value of values) largest = Math.max(largest, Math.abs(value));
    const scale = largest / 127;
    const bytes = Int8Array.from(values, (value) => (scale ? Math.round(value / scale) : 0));
    return { type, length, scale, base64: toBase64(new Uint8Array(bytes.buffer)) };
  }
  const { buffer, byteOffset, byteLength } = values;
  return { type, length, base64: toBase64(new Uint8Array(buffer, byteOffset, byteLength)) };
}

function unpack(packed: Packed): Numbers {
  const bytes = fromBase64(packed.base64);
  const size = { f32: 4, u32: 4, i32: 4, f16: 2, i8: 1 }[packed.type];
  if (size === undefined || bytes.length !== packed.length * size) {
    throw bad(`an array of ${packed.length} ${packed.type} has ${bytes.length} bytes`);
  }
  switch (packed.type) {
    case 'f32':
      return new Float32Array(bytes.buffer);
    case 'u32':
      return new Uint32Array(bytes.buffer);
    case 'i32':
      return new Int32Array(bytes.buffer);
    case 'f16':
      return fromHalves(new Uint16Array(bytes.buffer));
    case 'i8': {
      const scale = packed.scale ?? 1;
      return new Float32Array(new Int8Array(bytes.buffer)).map((value) => value * scale);
    }
    default:
      return packed.type satisfies never;
  }
}

const single = new Float32Array(1);
const bits = new Uint32Array(single.buffer);

/** The nearest half-precision number's 16 bits. */
function toHalf(value: number): number {
  single[0] = value;
  const word = bits[0]!;
  const sign = (word >>> 16) & 0x8000;
  const exponent = ((word >>> 23) & 0xff) - 112;
  const fraction = word & 0x7fffff;
  if (exponent >= 31) return sign | 0x7c00 | (Number.isNaN(value) ? 0x200 : 0);
  if (exponent <= 0) return sign | Math.round(Math.abs(value) * 2 ** 24);
  // A fraction that rounds up to the next power of two carries into the exponent, as it should.
  return sign | ((exponent << 10) + Math.round(fraction / 0x2000));
}

/** Half-precision numbers, by their bits. */
function fromHalves(halves: Uint16Array): Float32Array {
  const values = new Float32Array(halves.length);
  const words = new Uint32Array(values.buffer);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i]!;
    const exponent = (half >>> 10) & 31;
    const fraction = half & 0x3ff;
    if (exponent === 0) values[i] = fraction * 2 ** -24;
    else words[i] = ((exponent === 31 ? 255 : exponent + 112) << 23) | (fraction << 13);
    words[i]! |= (half & 0x8000) << 16;
  }
  return values;
}

// ---------------------------------------------------------------------------------------------- file

/** How each array of an answer or a record is stored; what is not listed stays as JSON has it. */
const kinds: Record<string, Kind> = {
  written: 'f16',
  writeStrength: 'f16',
  known: 'f16',
  halfLife: 'f16',
  energy: 'f16',
  experts: 'u32',
  expertWeights: 'f16',
  cells: 'i8',
  change: 'i8',
  singularValues: 'f16',
  recall: 'f16',
  ink: 'f16',
  overwrittenBy: 'i32',
  loss: 'f16',
  weights: 'f16',
  scores: 'f16',
  bias: 'f16',
  chosen: 'u32',
};

/** A recording as a file's text. */
export function packRecording(recording: Recording): string {
  return JSON.stringify({ format, version, ...recording }, (name, value: unknown) => {
    if (ArrayBuffer.isView(value)) {
      return pack(value as Numbers, kinds[name] ?? 'f32');
    }
    return typeof value === 'number' && Number.isNaN(value) ? null : value;
  });
}

/** What JSON gave, its arrays unpacked in place: sooner done than by `parse` with a function, which is called for every number. */
function unpackAll(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (isPacked(value)) return unpack(value);
  for (const [key, part] of Object.entries(value)) {
    const own = unpackAll(part);
    if (own !== part) (value as Record<string, unknown>)[key] = own;
  }
  return value;
}

/** A recording from a file's text. Fails: BadModel for a file that is not a recording, or not whole; Unsupported for another version. */
export function readRecording(text: string): Recording {
  let read: unknown;
  try {
    read = unpackAll(JSON.parse(text));
  } catch (thrown) {
    if (thrown instanceof PalimpsestError) throw thrown;
    throw bad('it is not JSON');
  }
  if (!isObject(read) || read.format !== format) throw bad(`it does not say "${format}"`);
  if (read.version !== version) {
    throw new PalimpsestError(
      'Unsupported',
      `This recording is of version ${String(read.version)}, and this page reads version ${version}. Record it again.`,
    );
  }
  const recording = read as unknown as Recording;
  check(recording);
  for (const record of recording.records) record.entropy ??= NaN;
  return recording;
}

function check(recording: Recording): void {
  const { lists, model, records, turns, answers, promptTokens, start, notes = [] } = recording;
  const counts = [lists?.kda, lists?.mla, lists?.moe, records, turns, answers, model?.layers];
  if (!counts.every(Array.isArray)) throw bad('a part is missing');
  const said = [
    recording.title,
    recording.source,
    model?.name,
    ...turns.map((turn) => turn?.content),
  ];
  if (!said.every((text) => typeof text === 'string')) throw bad('it has no words');
  if (!Array.isArray(notes) || !notes.every(isNote)) throw bad('its notes are none');
  if (!(promptTokens > 0 && promptTokens <= records.length)) {
    throw bad(`${records.length} tokens with a prompt of ${promptTokens}`);
  }
  if (!lists.kda.includes(start?.layer))
    throw bad(`it begins at layer ${start?.layer}, which is not KDA`);
  const heads = lists.kda.length * model.heads;
  records.forEach((record, at) => {
    const sizes = [
      record.written,
      record.writeStrength,
      record.known,
      record.halfLife,
      record.energy,
    ];
    if (record.position !== at || !sizes.every((values) => values?.length === heads)) {
      throw bad(`token ${at} is not ${lists.kda.length} layers of ${model.heads} heads`);
    }
  });
  for (const recorded of answers) {
    if (!isObject(recorded?.inquiry) || !isObject(recorded.answer))
      throw bad('an answer is missing');
    const past = 'position' in recorded.inquiry ? recorded.inquiry.position : 0;
    if (!(past >= 0 && past < records.length))
      throw bad(`an answer at token ${past} of ${records.length}`);
    if (!isWhole(recorded, recording)) throw bad(`an answer about ${recorded.inquiry.kind} is cut`);
  }
}

/** Whether an answer has as many numbers as what was asked has. */
function isWhole({ inquiry, answer }: RecordedAnswer, { model, lists }: Recording): boolean {
  const { heads, keys, values, experts } = model;
  const long = (array: { length: number } | undefined, length: number) => array?.length === length;
  switch (inquiry.kind) {
    case 'gates': {
      const { halfLife, tokens } = answer as Answers['gates'];
      return tokens === inquiry.to - inquiry.from && long(halfLife, tokens * heads * keys);
    }
    case 'memory': {
      const { cells, change, singularValues } = answer as Answers['memory'];
      const most = Math.min(keys, values);
      return [cells, change].every((c) => long(c, keys * values)) && long(singularValues, most);
    }
    case 'thumbnails':
      return long((answer as Answers['thumbnails']).cells, lists.kda.length * heads * 64);
    case 'recall': {
      const { recall, ink, overwrittenBy, loss } = answer as Answers['recall'];
      return [recall, ink, overwrittenBy, loss].every((row) => long(row, inquiry.position + 1));
    }
    case 'reach':
      return long((answer as Answers['reach']).weights, inquiry.position + 1);
    case 'router': {
      const { scores, bias, chosen, weights } = answer as Answers['router'];
      return long(scores, experts) && long(bias, experts) && long(chosen, weights?.length);
    }
    case 'lens':
      return long((answer as Answers['lens']).layers, model.layers.length);
    default:
      return false;
  }
}

function isNote(note: unknown): boolean {
  return isObject(note) && Number.isInteger(note.position) && typeof note.text === 'string';
}

function bad(what: string): PalimpsestError {
  return new PalimpsestError(
    'BadModel',
    `This recording cannot be read: ${what}. Record it again.`,
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function isPacked(value: unknown): value is Packed {
  return isObject(value) && typeof value.base64 === 'string' && typeof value.type === 'string';
}

// -------------------------------------------------------------------------------------------- looking

/** A note with its figures: `{21-24}` becomes the mean recall of tokens 21 to 24, in percent; … while it is not known. */
export function noteText(text: string, recall: Float32Array | null): string {
  return text.replaceAll(/\{(\d+)-(\d+)\}/g, (_, first: string, last: string) => {
    const of = recall?.subarray(Number(first), Number(last) + 1);
    if (!of || of.length <= Number(last) - Number(first)) return '…';
    const mean = of.reduce((sum, value) => sum + value, 0) / of.length;
    return `${Math.round(100 * mean)} %`;
  });
}

/** What a recording says when asked. Fails: Refused for what was not recorded. */
export function askRecording(
  recording: Recording,
): <K extends Inquiry['kind']>(inquiry: Extract<Inquiry, { kind: K }>) => Promise<Answers[K]> {
  const answers = new Map(recording.answers.map((a) => [inquiryKey(a.inquiry), a.answer]));
  return (inquiry) => {
    const answer = answers.get(inquiryKey(inquiry));
    if (answer) return Promise.resolve(answer as never);
    return Promise.reject(
      new PalimpsestError(
        'Refused',
        'This is not in the recording. Load the model to look anywhere.',
      ),
    );
  };
}

/** A recording that lies on the page's own server; null where there is none. Fails as `readRecording`. */
export async function fetchRecording(address: URL): Promise<Recording | null> {
  let response: Response;
  try {
    response = await fetch(address);
  } catch {
    return null;
  }
  // A server of single-page applications answers with a page where nothing is.
  if (!response.ok || !response.headers.get('content-type')?.includes('json')) return null;
  return readRecording(await response.text());
}

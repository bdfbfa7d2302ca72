/**
 * JSON that a stranger wrote, read within limits: bytes, depth and number of values are counted before anything is made of
 * them. And its fields, read with their types.
 */
import type { ByteSource } from './gguf.ts';
import { PalimpsestError } from './protocol.ts';

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json;
}

export interface JsonLimits {
  bytes: number;
  /** Brackets inside brackets. */
  depth: number;
  /** Numbers, texts, lists, objects and keys together, roughly: each takes some tens of bytes of memory. */
  values: number;
}

/** A whole file of bytes. Fails: BadModel where it is larger than `mostBytes`, and as the source does. */
export async function readWhole(source: ByteSource, mostBytes: number): Promise<Uint8Array> {
  if (source.byteLength > mostBytes) {
    bad(source.name, `has ${source.byteLength} bytes; ${mostBytes} are the most`);
  }
  const bytes = await source.read(0, source.byteLength);
  if (bytes.byteLength !== source.byteLength) {
    bad(source.name, `gave ${bytes.byteLength} of its ${source.byteLength} bytes`);
  }
  return bytes;
}

/** A file that holds one JSON object. Fails: BadModel, and as the source does. */
export async function readJson(source: ByteSource, limits: JsonLimits): Promise<JsonObject> {
  return parseJson(await readWhole(source, limits.bytes), source.name, limits);
}

/** Bytes that hold one JSON object; `what` names them in messages. Fails: BadModel. */
export function parseJson(bytes: Uint8Array, what: string, limits: JsonLimits): JsonObject {
  checkSize(bytes, what, limits);
  let parsed: Json;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Json;
  } catch (cause) {
    return bad(what, `is not JSON (${cause instanceof Error ? cause.message : String(cause)})`);
  }
  return isObject(parsed) ? parsed : bad(what, 'is not a JSON object');
}

/** Counts what would be made of the bytes. Structure is ASCII, whatever stands in the texts. */
function checkSize(bytes: Uint8Array, what: string, limits: JsonLimits): void {
  if (bytes.length > limits.bytes) {
    bad(what, `has ${bytes.length} bytes; ${limits.bytes} are the most`);
  }
  let depth = 0;
  let values = 1;
  let inText = false;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (inText) {
      if (byte === 0x5c) at++;
      else if (byte === 0x22) inText = false;
    } else if (byte === 0x22) inText = true;
    else if (byte === 0x2c || byte === 0x3a) values++;
    else if (byte === 0x5b || byte === 0x7b) {
      values++;
      if (++depth > limits.depth) bad(what, `is nested more than ${limits.depth} deep`);
    } else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  if (values > limits.values) bad(what, `has ${values} values; ${limits.values} are the most`);
}

function bad(what: string, why: string): never {
  throw new PalimpsestError(
    'BadModel',
    `${what} ${why}. The file is damaged or not what its name says; get it again.`,
  );
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// ------------------------------------------------------------------------------------------------- fields

/** The fields of an object by type. `where` names it in messages. All fail with BadModel. */
export class Fields {
  readonly #object: JsonObject;
  readonly #where: string;

  constructor(object: JsonObject, where: string) {
    this.#object = object;
    this.#where = where;
  }

  /** What is there; null where nothing is, or null. */
  get(key: string): Json {
    return Object.hasOwn(this.#object, key) ? this.#object[key] : null;
  }

  #wrong(key: string, wanted: string): never {
    const value = this.get(key);
    const shown = JSON.stringify(value);
    const found = value === null ? 'is missing' : `is ${shown.slice(0, 60)}`;
    return bad(this.#where, `has no usable ${key}: it ${found}, and ${wanted} is needed`);
  }

  /** A whole number from 1 to 2^31, or `absent` where nothing is there. */
  size(key: string, absent?: number): number {
    const value = this.get(key) ?? absent;
    const sound = typeof value === 'number' && Number.isInteger(value);
    return sound && value >= 1 && value <= 2 ** 31 ? value : this.#wrong(key, 'a size');
  }

  /** A whole number from 0 to 2^31, or `absent` where nothing is there. */
  amount(key: string, absent?: number): number {
    return (this.get(key) ?? absent) === 0 ? 0 : this.size(key, absent);
  }

  /** A finite number. */
  real(key: string): number {
    const value = this.get(key);
    return typeof value === 'number' && Number.isFinite(value)
      ? value
      : this.#wrong(key, 'a number');
  }

  flag(key: string, absent: boolean): boolean {
    const value = this.get(key) ?? absent;
    return typeof value === 'boolean' ? value : this.#wrong(key, 'true or false');
  }

  /** A text, or '' where nothing is there. */
  text(key: string): string {
    const value = this.get(key) ?? '';
    return typeof value === 'string' ? value : this.#wrong(key, 'a text');
  }

  /** An object, empty where nothing is there. */
  object(key: string): JsonObject {
    const value = this.get(key) ?? {};
    return isObject(value) ? value : this.#wrong(key, 'an object');
  }

  /** A list, empty where nothing is there. */
  list(key: string): Json[] {
    const value = this.get(key) ?? [];
    return Array.isArray(value) ? value : this.#wrong(key, 'a list');
  }
}

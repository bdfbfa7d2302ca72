/** Seeded damage to bytes and to JSON-like values, and the watch over what a parser does with it. */
import { expect } from 'vitest';
import type { ByteSource } from '../../workers/gguf.ts';
import { PalimpsestError } from '../../workers/protocol.ts';

/** Uniform in [0, 1). */
export type Random = () => number;

export const below = (random: Random, n: number): number => Math.floor(random() * n);
const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)];

// ------------------------------------------------------------------------------------------------- bytes

/** What length fields, counts, offsets and types are set to. */
const extremes = [
  0n,
  1n,
  2n,
  7n,
  8n,
  9n,
  12n,
  13n,
  31n,
  32n,
  255n,
  0x7fffn,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  2n ** 32n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
  2n ** 64n - 32n,
] as const;

/** Places of little-endian u64 fields that hold a small number: where lengths and counts lie. */
function lengthFields(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: number[] = [];
  for (let at = 0; at + 8 <= bytes.length; at++) {
    if (view.getUint32(at + 4, true) === 0 && view.getUint32(at, true) < 65_536) found.push(at);
  }
  return found;
}

/** Damages bytes, up to `most` times: some of flips, extremes, spans doubled, crossed, moved or cut out, truncation. */
export function byteMutator(sound: Uint8Array, most = 4): (random: Random) => Uint8Array {
  const base = new Uint8Array(sound); // of a Buffer, slice() would be no copy
  const fields = lengthFields(base);
  const anywhere = (random: Random, bytes: Uint8Array) => below(random, bytes.length);
  /** A span of up to 64 bytes, mostly short. */
  const span = (random: Random, bytes: Uint8Array): [from: number, until: number] => {
    const from = anywhere(random, bytes);
    return [from, Math.min(bytes.length, from + 1 + below(random, 1 << below(random, 7)))];
  };
  const joined = (...parts: Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
  const set = (random: Random, bytes: Uint8Array, at: number, width: 1 | 4 | 8): Uint8Array => {
    const out = bytes.slice();
    if (at + width > out.length) return out;
    const view = new DataView(out.buffer);
    const now = width === 8 ? view.getBigUint64(at, true) : BigInt(out[at]);
    const near = now + BigInt(below(random, 5) - 2);
    const value = BigInt.asUintN(8 * width, random() < 0.3 ? near : pick(random, extremes));
    if (width === 8) view.setBigUint64(at, value, true);
    else if (width === 4) view.setUint32(at, Number(value), true);
    else out[at] = Number(value);
    return out;
  };
  const damages: ((random: Random, bytes: Uint8Array) => Uint8Array)[] = [
    (random, bytes) => {
      const out = bytes.slice();
      for (let i = 1 + below(random, 8); i > 0; i--)
        out[anywhere(random, out)] ^= 1 << below(random, 8);
      return out;
    },
    (random, bytes) => set(random, bytes, pick(random, fields.length ? fields : [0]), 8),
    (random, bytes) => set(random, bytes, anywhere(random, bytes), pick(random, [1, 4, 8])),
    (random, bytes) => bytes.slice(0, anywhere(random, bytes) + 1),
    (random, bytes) => {
      const [from, until] = span(random, bytes);
      const to = anywhere(random, bytes);
      return joined(bytes.subarray(0, to), bytes.subarray(from, until), bytes.subarray(to));
    },
    (random, bytes) => {
      const [from, until] = span(random, bytes);
      return joined(bytes.subarray(0, from), bytes.subarray(until));
    },
    (random, bytes) => {
      const out = bytes.slice();
      const [from, until] = span(random, bytes);
      out.copyWithin(anywhere(random, bytes), from, until);
      return out;
    },
    (random, bytes) => {
      const out = bytes.slice();
      const [from, until] = span(random, bytes);
      for (let at = from; at < until; at++) out[at] = below(random, 256);
      return out;
    },
  ];
  return (random) => {
    let bytes: Uint8Array = base;
    const times = 1 + below(random, most);
    for (let i = 0; i < times && bytes.length > 0; i++)
      bytes = pick(random, damages)(random, bytes);
    return bytes;
  };
}

// ------------------------------------------------------------------------------------------------ values

const oddValues: unknown[] = [
  null,
  true,
  false,
  0,
  -0,
  -1,
  1,
  0.5,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  -(2 ** 53),
  1e308,
  -1e308,
  '',
  'a',
  '\u0000',
  '\ud800',
  '__proto__',
  '0',
  'F32',
  'BF16',
  'I64',
  'x'.repeat(5000),
  [],
  {},
  [[]],
  [null],
  [0, 0],
  [8, 0],
  [0, 2 ** 53],
  { a: {} },
];

/** Damages a value as JSON holds them: some of its parts replaced, moved, doubled or left out. Shares nothing with it. */
export function mutateValue(random: Random, value: unknown): unknown {
  const root = { value: structuredClone(value) };
  const times = 1 + below(random, 3);
  for (let i = 0; i < times; i++) {
    const [holder, key] = anyPlace(random, root);
    const held = holder as Record<string, unknown>;
    const damage = below(random, 8);
    if (damage === 0) delete held[key];
    else if (damage === 1) held[key] = structuredClone(anyValue(random, root));
    else if (damage === 2 && Array.isArray(held[key])) held[key].push(...held[key].slice(0, 4));
    else if (damage === 3 && typeof held[key] === 'string')
      held[key] = damagedText(random, held[key]);
    else if (damage === 4 && typeof held[key] === 'number') held[key] += below(random, 5) - 2;
    else if (damage === 5 && !Array.isArray(holder))
      held[pick(random, ['__metadata__', 'a', key + 'x'])] = held[key];
    else held[key] = structuredClone(pick(random, oddValues));
  }
  return root.value;
}

/** A text with something put into it, or over a part of it. */
export function damagedText(random: Random, text: string): string {
  const at = below(random, text.length + 1);
  const piece = pick(random, [
    '',
    ' ',
    '\u0000',
    '{{',
    '%}',
    '\u{1f999}',
    '\udc00',
    text.slice(0, 8),
    'é',
  ]);
  return text.slice(0, at) + piece + text.slice(at + below(random, 4));
}

function anyPlace(random: Random, root: object): [holder: object, key: string] {
  let holder: object = root;
  for (;;) {
    const keys = Object.keys(holder);
    const key = pick(random, keys);
    const next: unknown = (holder as Record<string, unknown>)[key];
    const isHolder = typeof next === 'object' && next !== null && Object.keys(next).length > 0;
    if (!isHolder || random() < (holder === root ? 0.04 : 0.2)) return [holder, key];
    holder = next;
  }
}

function anyValue(random: Random, root: object): unknown {
  const [holder, key] = anyPlace(random, root);
  return (holder as Record<string, unknown>)[key];
}

// ------------------------------------------------------------------------------------------------- watch

/** What one parser may use on one input. */
export interface Bounds {
  /** The longest it may take. */
  ms: number;
  /** The most it may allocate outside V8's heap while it runs, and on it. */
  bufferBytes: number;
  heapBytes: number;
}

/** Of many runs: how many were refused, by the error's name, and how many came through. */
export type Outcomes = Record<string, number>;

/**
 * Run a parser on `runs` damaged inputs. Fails with the number of the run when anything but a PalimpsestError comes out,
 * or a bound is broken. Memory is what the process holds more after a run than before; a collection in between hides
 * some, never adds.
 */
export async function storm(
  runs: number,
  seed: number,
  randomOf: (seed: number) => Random,
  bounds: Bounds,
  run: (random: Random) => Promise<void> | void,
): Promise<Outcomes> {
  const outcomes: Outcomes = { sound: 0 };
  let before = process.memoryUsage();
  for (let i = 0; i < runs; i++) {
    const where = `run ${i} of seed ${seed}`;
    const started = performance.now();
    const busy = process.cpuUsage();
    try {
      await run(randomOf(seed * 1_000_003 + i));
      outcomes.sound++;
    } catch (cause) {
      if (!(cause instanceof PalimpsestError)) throw new Error(`${where} failed`, { cause });
      expect(cause.message.length, `${where}: ${cause.message.slice(0, 200)}`).toBeLessThan(4000);
      outcomes[cause.name] = (outcomes[cause.name] ?? 0) + 1;
    }
    // On a machine that others load the clock runs on while this process waits for its turn.
    const { user, system } = process.cpuUsage(busy);
    const tookMs = Math.min(performance.now() - started, (user + system) / 1000);
    const after = process.memoryUsage();
    if (tookMs > bounds.ms) throw new Error(`${where} took ${tookMs} ms`);
    if (after.arrayBuffers - before.arrayBuffers > bounds.bufferBytes) {
      throw new Error(`${where} took ${after.arrayBuffers - before.arrayBuffers} bytes of buffers`);
    }
    if (after.heapUsed - before.heapUsed > bounds.heapBytes) {
      throw new Error(`${where} took ${after.heapUsed - before.heapUsed} bytes of heap`);
    }
    before = after;
  }
  return outcomes;
}

/** A file that refuses to be read outside itself, or in larger ranges than allowed, or more often than twice. */
export function guardedSource(name: string, bytes: Uint8Array, mostBytes: number): ByteSource {
  let readBytes = 0;
  return {
    name,
    byteLength: bytes.byteLength,
    read(offset, byteLength) {
      readBytes += byteLength;
      const inside = offset >= 0 && byteLength >= 0 && offset + byteLength <= bytes.byteLength;
      if (!inside || !Number.isSafeInteger(offset) || !Number.isSafeInteger(byteLength)) {
        throw new RangeError(
          `${byteLength} bytes at ${offset} of ${bytes.byteLength} were asked for`,
        );
      }
      if (byteLength > mostBytes || readBytes > 2 * bytes.byteLength) {
        throw new RangeError(`${byteLength} bytes, ${readBytes} in all, were asked for`);
      }
      return Promise.resolve(bytes.slice(offset, offset + byteLength));
    },
  };
}

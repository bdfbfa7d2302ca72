/**
 * Golden bundles of test/fixtures: NAME.json is an index, NAME.bin holds the arrays, little-endian, last axis fastest.
 * What each array means, and what made it, is in test/fixtures/README.md.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const dtypes = {
  float64: Float64Array,
  float32: Float32Array,
  int32: Int32Array,
  uint8: Uint8Array,
} as const;

export type Dtype = keyof typeof dtypes;

/** One array of a bundle. `axes` says in words what its axes are. */
export interface GoldenArray {
  dtype: Dtype;
  shape: number[];
  axes: string;
  values: Float64Array | Float32Array | Int32Array | Uint8Array;
}

/** An index with its arrays decoded. `index` holds what else the file says: tokens, greedy, ... */
export interface Golden {
  index: Record<string, unknown>;
  /** In the file's order. */
  names: string[];
  /** An array by name. Throws Error for a name the bundle does not have, with the names it has. */
  array(name: string): GoldenArray;
}

/** The path of a fixture file. */
export function fixture(file: string): string {
  return fileURLToPath(new URL(`../fixtures/${file}`, import.meta.url));
}

/** A JSON fixture, as the caller knows it. */
export function fixtureJson<Type>(file: string): Type {
  return JSON.parse(readFileSync(fixture(file), 'utf8')) as Type;
}

/** Load NAME.json and NAME.bin. */
export function loadGolden(name: string): Golden {
  const { arrays, ...index } = fixtureJson<{ arrays: Record<string, Entry> }>(`${name}.json`);
  const bytes = readFileSync(fixture(`${name}.bin`));
  return {
    index,
    names: Object.keys(arrays),
    array(wanted) {
      const entry = arrays[wanted];
      if (!entry)
        throw new Error(`${name} has no ${wanted}, but ${Object.keys(arrays).join(', ')}`);
      const { dtype, shape, axes, offset } = entry;
      const length = shape.reduce((a, b) => a * b, 1);
      const aligned = Uint8Array.from(
        bytes.subarray(offset, offset + length * dtypes[dtype].BYTES_PER_ELEMENT),
      );
      return { dtype, shape, axes, values: new dtypes[dtype](aligned.buffer) };
    },
  };
}

interface Entry {
  dtype: Dtype;
  shape: number[];
  axes: string;
  offset: number;
}

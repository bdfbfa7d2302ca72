import { describe, expect, test } from 'vitest';
import { metaNumbers, metaStrings, openGguf } from '../../workers/gguf.ts';
import { layOutGguf, type MetaEntry } from '../../workers/ggufFile.ts';
import { memorySource, writeGguf, type KeyRow } from './ggufWriter.ts';

const metadata: MetaEntry[] = [
  { key: 'general.architecture', type: 'string', value: 'kimi-linear' },
  { key: 'a.count', type: 'u32', value: 4_000_000_000 },
  { key: 'a.scale', type: 'f32', value: 2.446 },
  { key: 'a.flag', type: 'bool', value: true },
  { key: 'a.kinds', type: 'i32s', value: [1, -2, 3] },
  { key: 'a.none', type: 'i32s', value: [] },
  { key: 'a.texts', type: 'strings', value: ['', 'Ġthe', '漢字 🙂', 'x'.repeat(300)] },
];
const tensors = [
  { name: 'one', type: 'F32', ne: [3] },
  { name: 'two', type: 'Q4_0', ne: [64, 3] },
  { name: 'three', type: 'Q8_0', ne: [32, 2, 5] },
  { name: 'four', type: 'BF16', ne: [4, 1, 2, 1] },
] as const;
const byteLengths = [12, 108, 340, 16];

describe('a file laid out', () => {
  const layout = layOutGguf(metadata, tensors);
  const bodies = byteLengths.map((bytes, i) => new Uint8Array(bytes).fill(i + 1));
  const bytes = new Uint8Array(layout.byteLength);
  bytes.set(layout.header);
  layout.tensors.forEach(({ offset }, i) => bytes.set(bodies[i], offset));

  test("is, byte for byte, that of the tests' own writer", () => {
    const types = { F32: 0, Q4_0: 2, Q8_0: 8, BF16: 30 };
    const keys = metadata.map(({ key, type, value }): KeyRow => {
      if (type === 'i32s') return [key, ['i32'], value];
      if (type === 'strings') return [key, ['string'], value];
      return [key, type, value];
    });
    const rows = tensors.map(({ name, type, ne }, i) => ({
      name,
      ne: [...ne],
      type: types[type],
      bytes: bodies[i],
      offset: null,
    }));
    expect(Buffer.compare(bytes, writeGguf(keys, rows))).toBe(0);
  });

  test('opens with every key and tensor', async () => {
    const file = await openGguf([memorySource('laid.gguf', bytes)]);
    expect(file.metadata.get('a.count')).toBe(4_000_000_000);
    expect(file.metadata.get('a.scale')).toBe(Math.fround(2.446));
    expect(file.metadata.get('a.flag')).toBe(true);
    expect(metaNumbers(file.metadata, 'a.kinds')).toEqual([1, -2, 3]);
    expect(metaNumbers(file.metadata, 'a.none')).toEqual([]);
    expect(metaStrings(file.metadata, 'a.texts')).toEqual(metadata.at(-1)!.value);
    for (const [i, { name, type, ne }] of tensors.entries()) {
      const entry = file.tensors.get(name)!;
      expect(entry).toMatchObject({ type, ne, offset: layout.tensors[i].offset });
      expect(await file.read(entry)).toEqual(bodies[i]);
    }
  });

  test('begins tensors at multiples of 32, and ends at one', () => {
    expect(layout.tensors.map(({ byteLength }) => byteLength)).toEqual(byteLengths);
    for (const { offset } of layout.tensors) expect(offset % 32).toBe(0);
    expect(layout.header.length).toBe(layout.tensors[0].offset);
    expect(layout.byteLength % 32).toBe(0);
  });

  test('takes no rows that are no whole number of blocks', () => {
    const odd = [{ name: 'odd', type: 'Q8_0', ne: [48, 2] }] as const;
    expect(() => layOutGguf([], odd)).toThrow(/Rows of 48 columns cannot be Q8_0/);
  });

  test('grows with its header', async () => {
    const long = Array.from({ length: 50_000 }, (_, i) => `token ${i}`);
    const { header } = layOutGguf([{ key: 'tokens', type: 'strings', value: long }], []);
    const file = await openGguf([memorySource('long.gguf', header)]);
    expect(metaStrings(file.metadata, 'tokens')).toEqual(long);
  });
});

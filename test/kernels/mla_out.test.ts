import { expect, test } from 'vitest';
import { blockSpan, matrixOf, mlaOut } from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { sums } from '../gpu.ts';
import { checkMlaOut, checkMlaWhole, type MlaOutCase, type MlaWholeCase } from './attend.ts';
import { TREE_64 } from './layers.ts';
import { FORMATS, OTHER_FORMATS } from './matrices.ts';

const plain: MlaOutCase = {
  ...{ H: 3, L: 64, V: 32, D: 96, slices: 5, empty: [1], formats: ['F32', 'Q4_0'] },
  ...{ partTo: 2, sum: TREE_64 },
};
/** The widths of the embedded model, with fewer heads. */
const embedded = { H: 3, L: 192, V: 64, D: 576, slices: 32 };

async function expectClose(c: MlaOutCase, name: string): Promise<void> {
  expect(await checkMlaOut(mlaOut, c), name).toBeLessThan(1e-6);
}

test('mla_out: every sum library and number of lanes', async () => {
  for (const library of await sums()) {
    await expectClose({ ...plain, sum: { library, lanes: 128 } }, `${library.name}, half`);
    await expectClose({ ...plain, ...embedded, sum: { library, lanes: 256 } }, library.name);
  }
});

test.each<[MlaOutCase['formats'], number, number[]]>([
  [['F32', 'F32'], 1, []],
  [['Q4_0', 'Q8_0'], 8, [1, 2, 3, 4, 5, 6, 7]],
  [['Q8_0', 'F16'], 9, []],
  [['F16', 'Q4_0'], 17, [0, 4, 8, 12, 16]],
])('mla_out: matrices in %s; %i slices, of which nothing saw [%s]', async (...c) => {
  const [formats, slices, empty] = c;
  await expectClose({ ...plain, formats, slices, empty }, `${formats}`);
});

test.each<TensorType>(['Q3_K', 'Q4_K', 'Q6_K'])(
  'mla_out: heads as narrow as blocks of %s allow; slices enough for every lane',
  async (format) => {
    const V = blockSpan(format);
    const [slices, empty] = [32, [0, 1, 2, 31]];
    const many = { ...plain, slices, empty, sum: { ...TREE_64, lanes: 256 } };
    await expectClose({ ...many, H: 512 / V, V, formats: ['F32', format] }, format);
  },
);

test('mla_out: one head, more rows than lanes, a large model’s heads', async () => {
  const few = { ...TREE_64, lanes: 4 };
  await expectClose({ ...plain, H: 1, L: 32, D: 20, partTo: 0, sum: few }, 'odd');
  const large: MlaOutCase = { ...plain, H: 2, L: 512, V: 128, D: 1024, slices: 32 };
  await expectClose({ ...large, sum: { ...TREE_64, lanes: 256 } }, 'large');
});

const whole: MlaWholeCase = {
  ...{ H: 3, K: 32, R: 32, L: 64, V: 32, D: 96, formats: ['F32', 'Q4_0'], partTo: 2 },
  ...{ sum: { ...TREE_64, lanes: 128 }, rows: 100, segment: 130, cache: 'f32', size: 3 },
};

test.each([1, 2, 7, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512])(
  'mla_out: a head goes through %i rows of a cache itself, whatever lies after them',
  async (rows) => {
    for (const cache of ['f32', 'f16'] as const) {
      const figure = await checkMlaWhole(mlaOut, { ...whole, rows, segment: rows + 9, cache });
      expect(figure, cache).toBeLessThan(1e-6);
    }
  },
);

test('mla_out: the embedded model’s heads, by every sum library; few lanes; wide rows', async () => {
  const shape = { K: 64, R: 32, L: 192, V: 64, D: 576, formats: ['Q8_0', 'Q4_0'] } as const;
  for (const library of await sums()) {
    const sum = { library, lanes: 256 };
    const own: MlaWholeCase = { ...whole, ...shape, formats: ['Q8_0', 'Q4_0'], sum };
    for (const rows of [40, 200]) {
      expect(
        await checkMlaWhole(mlaOut, { ...own, rows, segment: 201 }),
        library.name,
      ).toBeLessThan(1e-6);
    }
  }
  const [odd, wide] = [
    { ...whole, L: 32, R: 4, K: 32, sum: { ...TREE_64, lanes: 16 } },
    { ...whole, H: 2, L: 256, R: 64, K: 128, V: 128, sum: { ...TREE_64, lanes: 256 } },
  ];
  expect(await checkMlaWhole(mlaOut, odd), 'odd').toBeLessThan(1e-6);
  expect(await checkMlaWhole(mlaOut, wide), 'wide').toBeLessThan(1e-6);
});

/** quad() of a type's library, as it stands there. */
function quadOf(type: TensorType): (b: number, i: number) => number {
  const body = /fn quad\(b: u32, i: u32\) -> u32 \{([^}]*)\}/.exec(matrixOf(type).source)![1]!;
  const script = body
    .replace(/\(b \/ (\d+u)\)/g, 'Math.floor(b / $1)')
    .replace(/\bword \/ (\d+u)/g, 'Math.floor(word / $1)')
    .replace(/(\d)u\b/g, '$1');
  return new Function('b', 'i', script) as (b: number, i: number) => number;
}

test.each<TensorType>([...FORMATS, ...OTHER_FORMATS])(
  'blockSpan: so many columns of %s have blocks of their own, half as many have not',
  (type) => {
    const span = blockSpan(type);
    const strays = (columns: number) => {
      const blocks = Array.from({ length: 512 / 8 }, (_, b) => b);
      return blocks.some((b) =>
        [0, 1].some(
          (i) => Math.floor((4 * quadOf(type)(b, i)) / columns) !== Math.floor((8 * b) / columns),
        ),
      );
    };
    expect(strays(span)).toBe(false);
    if (span > 32) expect(strays(span / 2)).toBe(true);
  },
);

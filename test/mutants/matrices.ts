/** Known bugs of the library that reads matrices of signed bytes: row by row, and four rows at once. */
import { embed, matrixOf, matvec } from '../../workers/kernels.ts';
import { checkEmbed, checkMatvec, TREE_64, type EmbedCase } from '../kernels/layers.ts';
import { libraryMutant, type Mutant } from './mutant.ts';

const bytes = matrixOf('Q8_0');

// 96 columns: three groups, so that the scales of four rows are filled up to a pair.
const rows: EmbedCase = {
  ...{ format: 'Q8_0', D: 96, position: 0, stride: 1 },
  tokens: [0, 1, 2, 3, 4, 22, 23, 38, 39],
};
const product: Parameters<typeof checkMatvec>[1] = {
  ...{ format: 'Q8_0', rows: 12, cols: 96, T: 2, batch: 2 },
  ...{ sharedX: false, apart: true, add: false, each: 4 },
};

const row = (why: string, find: string, replace: string) =>
  libraryMutant(bytes, why, find, replace, (library) => checkEmbed(embed, { ...rows, library }));
const four = (why: string, find: string, replace: string) =>
  libraryMutant(bytes, why, find, replace, (library) =>
    checkMatvec(matvec, { ...product, library }, TREE_64),
  );
const eight = (why: string, find: string, replace: string) =>
  libraryMutant(bytes, why, find, replace, (library) =>
    checkMatvec(matvec, { ...product, rows: 16, each: 8, library }, TREE_64),
  );

export const matrixMutants: Mutant[] = [
  eight('four rows twice', 'ask_four(row + 4u, b)', 'ask_four(row, b)'),
  eight('one product for both fours', 'asked_four(asked.lower', 'asked_four(asked.upper'),
  eight('four of eight rows left out', 'mat2x4f(asked_four', 'mat2x4f(0.0 * asked_four'),
  row('the codes of the first row of four for all', '[row % 4u]', '[0]'),
  row('the scales of two rows for four', ' | ((row / 2u) & 1u)', ''),
  row('a row scaled as the one before', '(row & 1u) == 1u', 'false'),
  row('one scale for two groups', '((b / 2u) & 2u) | ', ''),
  row('one of an odd number of groups without a scale', '(COLS / 32u + 1u) / 2u', 'COLS / 64u'),
  row('four columns twice', 'codes[at + 2u * b + 1u]', 'codes[at + 2u * b]'),
  row('bytes without their sign', '^ vec4u(0x3fc00000u)', '| vec4u(0x3f800000u)'),
  row('sign bits as they are', '0x3fc00000u', '0x3f800000u'),
  row(
    'the first column in the highest byte',
    'word << 15u, word << 7u, word >> 1u, word >> 9u',
    'word >> 9u, word >> 1u, word << 7u, word << 15u',
  ),
  row('what a mantissa has too much left in', ' - 1.5', ''),
  row('half a byte', '0x7f8000u', '0x780000u'),
  row('scales left as they are stored', '0x1p-2f * select', '0x1p8f * select'),

  four('the scales of the neighbouring group', '(b & 4u) != 0u', '(b & 4u) == 0u'),
  four('the first scales for all groups', 'COLS / 4u + b / 8u', 'COLS / 4u'),
  four(
    'two rows scaled as the other two',
    'vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y))',
    'vec4f(unpack2x16float(pair.y), unpack2x16float(pair.x))',
  ),
  four('scales left as they are stored', '0x1p-2f * vec4f', '0x1p8f * vec4f'),
  four('the first word of a row for both', 'byte_codes(high.z)', 'byte_codes(low.z)'),
];

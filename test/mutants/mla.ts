/** Known bugs of latent attention. */
import {
  latentRow,
  mlaAppend,
  mlaAttend,
  mlaAttendToken,
  mlaMerge,
  mlaToken,
  mlaValue,
  slices as slicesLibrary,
} from '../../workers/kernels.ts';
import { TREE_64 } from '../kernels/layers.ts';
import {
  checkMlaAppend,
  checkMlaAttend,
  checkMlaAttendToken,
  checkMlaMerge,
  checkMlaToken,
  checkMlaValue,
  type AppendCase,
  type AttendCase,
  type MlaTokenCase,
  type MlaValueCase,
} from '../kernels/mla.ts';
import { libraryMutant, mutant, type Mutant } from './mutant.ts';

const rows: AppendCase = {
  L: 64,
  R: 32,
  T: 5,
  position: 12,
  first: 8,
  segment: 16,
  cache: 'f32',
  sum: TREE_64,
  eps: 1e-5,
  size: 1e-2,
};
const attended: AttendCase = {
  H: 3,
  K: 16,
  R: 8,
  L: 32,
  T: 9,
  position: 150,
  segment: 512,
  slices: 2,
  cache: 'f32',
  size: 3,
};
const slices = { H: 2, L: 64, T: 3, slices: 5, empty: [1] };
const one: MlaTokenCase = {
  ...{ H: 3, K: 32, R: 16, L: 64, group: 16, format: 'Q8_0' },
  ...{ position: 12, first: 8, segment: 9, cache: 'f32', sum: TREE_64, eps: 1e-5, size: 1e-2 },
};
const values: MlaValueCase = {
  ...{ H: 3, L: 64, V: 28, slices: 5, empty: [1], group: 16, format: 'F32' },
  sum: { ...TREE_64, lanes: 16 },
};
const token = (why: string, find: string, replace: string) =>
  mutant(mlaToken, why, find, replace, (k) => checkMlaToken(k, one));
const value = (why: string, find: string, replace: string) =>
  mutant(mlaValue, why, find, replace, (k) => checkMlaValue(k, values));
const row = (why: string, find: string, replace: string, c: Partial<AppendCase> = {}) =>
  libraryMutant(latentRow, why, find, replace, (library) =>
    checkMlaAppend(mlaAppend, { ...rows, ...c }, library),
  );
const joined = (why: string, find: string, replace: string, c: Partial<MlaValueCase> = {}) =>
  libraryMutant(slicesLibrary, why, find, replace, (library) =>
    checkMlaValue(mlaValue, { ...values, ...c }, library),
  );
const attend = (why: string, find: string, replace: string, c: Partial<AttendCase> = {}) =>
  mutant(mlaAttend, why, find, replace, (k) => checkMlaAttend(k, { ...attended, ...c }));
const alone = (why: string, find: string, replace: string, c: Partial<AttendCase> = {}) =>
  mutant(mlaAttendToken, why, find, replace, (k) => checkMlaAttendToken(k, { ...attended, ...c }));

export const mlaMutants: Mutant[] = [
  row(
    'eps outside the root',
    'inverseSqrt(total / f32(LATENT) + EPS)',
    '1.0 / (sqrt(total / f32(LATENT)) + EPS)',
  ),
  row('the shared key normalised, too', 'if (i < LATENT / 4u)', 'if (true)'),
  row('a segment written as if it were the first', 'position - FIRST', 'position'),
  mutant(
    mlaAppend,
    'every call written from the first row',
    'step.position + group.x',
    'group.x',
    (k) => checkMlaAppend(k, rows),
  ),
  attend('a token that does not see itself', '> visible', '>= visible'),
  attend('a token that sees the next one', 'HEADS;\n  let own_four', 'HEADS + 1u;\n  let own_four'),
  attend('sums not brought to a larger top', 'exp(tops[lane] - top)', 'vec4f(1.0)', {
    ...{ slices: 1, position: 400 },
  }),
  attend('a row past the last for all that are there', 'row + 1u >= end', 'row + 1u >= end - 1u'),
  attend('a row weighed as its neighbour', 'tile[at + 3u * FOURS]', 'tile[at + 2u * FOURS]'),
  attend('the last row weighed more than once', 'vec4<bool>(row >= end)', 'vec4<bool>(false)', {
    segment: 90,
  }),
  attend('every other column left out', 'column += SHARERS', 'column += 2u * SHARERS'),
  attend('the scores of one group of lanes for all', 'turn == 0u', 'true'),
  attend('some columns counted more than once', 'column = share_column;', 'column = 0u;'),
  attend('a row for its neighbour', 'at + 2u * FOURS, s2', 'at + 3u * FOURS, s2'),
  attend("the head's own key part for the shared one", '+ NOPE / 4u', ''),
  attend('scores of every other row unscaled', 'SCALE * tile[at_pair],', 'tile[at_pair],'),
  attend('each segment on its own', 'FIRST == 0u ||', 'true ||', { segment: 64 }),
  alone('a token that does not see itself', 'step.position + 1u', 'step.position'),
  alone('sums not brought to a larger top', 'exp(last - top)', 'vec4f(1.0)', { slices: 1 }),
  alone(
    'two heads brought to the top of two others',
    'select(rescale.zw, rescale.xy',
    'select(rescale.xy, rescale.xy',
    { slices: 1 },
  ),
  alone('the last row weighed more than once', 'lane < rows);', 'true);'),
  alone('queries that go on past the end of a row', 'if (i < WIDTH)', 'if (true)'),
  alone('two heads weighed as two others', 'pair * ROWS + r', 'r'),
  alone('a number for its neighbour', 'vec4f(c.z)', 'vec4f(c.y)'),
  alone("the head's own key part for the shared one", '+ NOPE / 4u', ''),
  alone('each segment on its own', 'FIRST == 0u ||', 'true ||', { segment: 64 }),
  alone('what was before counted by every row', 'said[1], lane == 0u', 'said[1], true', {
    segment: 64,
  }),
  token('one head’s keys for all', 'four(head * LATENT + 4u', 'four(4u'),
  token('queries without their shared part', '((COLS + SHARED) / 4u)', '(COLS / 4u)'),
  token('queries for the latent row', 'LATENT_AT / 4u, lane', '0u, lane'),
  token('the rows of the first group for all', 'group.x % GROUPS * FOURS', '0u'),
  token('a block past the end counted', 'b < BLOCKS;\n  let x0', 'true;\n  let x0'),
  joined('slices added as they are', 'exp(near_stats[0] - top)', 'vec4f(1.0)'),
  joined('slices not brought to a larger top', 'acc * exp(before - top)', 'acc', { slices: 40 }),
  joined(
    'lanes with tops of their own added as they are',
    'exp(said[0] - highest(said[0]))',
    'vec4f(1.0)',
    {
      slices: 32,
      sum: { ...TREE_64, lanes: 128 },
    },
  ),
  joined('the part of a slice that saw nothing', 'sums.y != 0.0', 'true'),
  joined('slices not divided by their sum', '/ dot(weights, said[1])', ''),
  joined('the last slice once more', 'own < vec4u(SLICES)', 'vec4<bool>(true)'),
  value('one head’s values for all', 'group.y * VALUES + 4u * own', '4u * own'),
  value(
    'the rows of the first group for all',
    'first + lane.index / SHARERS',
    'lane.index / SHARERS',
  ),
  value('only the block that was asked for early', 'b < BLOCKS', 'false'),
  mutant(mlaMerge, 'slices added as they are', 'exp(b.top - top)', '1.0', (k) =>
    checkMlaMerge(k, slices),
  ),
  mutant(mlaMerge, 'half of the shares left out', 'half > 0u', 'half > 1u', (k) =>
    checkMlaMerge(k, slices),
  ),
  mutant(mlaMerge, 'the part of a slice that saw nothing', 'slice.y != 0.0', 'true', (k) =>
    checkMlaMerge(k, slices),
  ),
];

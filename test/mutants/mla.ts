/** Known bugs of latent attention. */
import { mlaAppend, mlaAttend, mlaMerge, mlaToken, mlaValue } from '../../workers/kernels.ts';
import { TREE_64 } from '../kernels/layers.ts';
import {
  checkMlaAppend,
  checkMlaAttend,
  checkMlaMerge,
  checkMlaToken,
  checkMlaValue,
  type AppendCase,
  type AttendCase,
  type MlaTokenCase,
  type MlaValueCase,
} from '../kernels/mla.ts';
import { mutant, type Mutant } from './mutant.ts';

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
  queries: 16,
  cache: 'f32',
  size: 3,
};
const slices = { H: 2, L: 64, T: 3, slices: 5, empty: [1] };
const one: MlaTokenCase = {
  ...{ H: 3, K: 32, R: 16, L: 64, format: 'Q8_0' },
  ...{ position: 12, first: 8, segment: 9, cache: 'f32', sum: TREE_64, eps: 1e-5, size: 1e-2 },
};
const values: MlaValueCase = {
  ...{ H: 3, L: 64, V: 30, slices: 5, empty: [1], group: 16, format: 'F32', sum: TREE_64 },
};
const token = (why: string, find: string, replace: string) =>
  mutant(mlaToken, why, find, replace, (k) => checkMlaToken(k, one));
const value = (why: string, find: string, replace: string) =>
  mutant(mlaValue, why, find, replace, (k) => checkMlaValue(k, values));
const attend = (why: string, find: string, replace: string, c: Partial<AttendCase> = {}) =>
  mutant(mlaAttend, why, find, replace, (k) => checkMlaAttend(k, { ...attended, ...c }));

export const mlaMutants: Mutant[] = [
  mutant(
    mlaAppend,
    'eps outside the root',
    'inverseSqrt(total / f32(LATENT) + EPS)',
    '1.0 / (sqrt(total / f32(LATENT)) + EPS)',
    (k) => checkMlaAppend(k, rows),
  ),
  mutant(mlaAppend, 'the shared key normalised, too', 'if (i < LATENT / 4u)', 'if (true)', (k) =>
    checkMlaAppend(k, rows),
  ),
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
  attend('the scores of one group of lanes for all', 'turn == 0u', 'true'),
  attend('some columns counted more than once', 'column = share_column;', 'column = 0u;'),
  attend('a row for its neighbour', 'at + 2u * FOURS, s2', 'at + 3u * FOURS, s2'),
  attend("the head's own key part for the shared one", '+ NOPE / 4u', ''),
  attend('scores of every other row unscaled', 'SCALE * tile[at_pair],', 'tile[at_pair],'),
  attend('each segment on its own', 'FIRST == 0u ||', 'true ||', { segment: 64 }),
  token('one head’s keys for all', 'four(head * LATENT + row', 'four(row'),
  token('queries without their shared part', '((COLS + SHARED) / 4u)', '(COLS / 4u)'),
  token('the row written from the beginning', 'step.position - FIRST', 'step.position'),
  token(
    'eps outside the root',
    'inverseSqrt(total / f32(LATENT) + EPS)',
    'inverseSqrt(total / f32(LATENT))',
  ),
  token('the shared key normalised, too', 'if (i < LATENT / 4u)', 'if (true)'),
  token('queries for the latent row', 'LATENT_AT / 4u + i', 'i'),
  value('slices added as they are', 'exp(slice.x - top)', '1.0'),
  value('the part of a slice that saw nothing', 'slice.y != 0.0', 'true'),
  value('one head’s values for all', 'block(head * VALUES + min', 'block(min'),
  value('groups but the first left out', '(group.x + 1u) * GROUP, VALUES', 'GROUP, VALUES'),
  value('slices not divided by their sum', 'acc / sum', 'acc'),
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

/** Known bugs of the kernels of latent attention that begin and end with the residual row. */
import { attendWhole, mlaOut, mlaQuery } from '../../workers/kernels.ts';
import {
  checkMlaOut,
  checkMlaQuery,
  checkMlaWhole,
  type MlaOutCase,
  type MlaQueryCase,
  type MlaWholeCase,
} from '../kernels/attend.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { libraryMutant, mutant, type Mutant } from './mutant.ts';

const asked: MlaQueryCase = {
  ...{ H: 3, K: 32, R: 32, L: 64, D: 96, formats: ['Q4_0', 'Q8_0', 'F32'], parts: 3 },
  ...{ position: 12, first: 8, segment: 9, cache: 'f32', sum: TREE_64, size: 1e-2 },
  eps: { norm: 1e-5, latent: 1e-5 },
};
const said: MlaOutCase = {
  ...{ H: 3, L: 64, V: 64, D: 96, slices: 5, empty: [1], formats: ['F32', 'Q4_0'] },
  ...{ partTo: 2, sum: TREE_64 },
};
const query = (why: string, find: string, replace: string, lanes = 64) =>
  mutant(mlaQuery, why, find, replace, (k) =>
    checkMlaQuery(k, { ...asked, sum: { ...TREE_64, lanes } }),
  );
const out = (why: string, find: string, replace: string, lanes = 128) =>
  mutant(mlaOut, why, find, replace, (k) =>
    checkMlaOut(k, { ...said, sum: { ...TREE_64, lanes } }),
  );

const read: MlaWholeCase = {
  ...{ H: 3, K: 32, R: 32, L: 64, V: 64, D: 96, formats: ['F32', 'Q4_0'], partTo: 2 },
  ...{ sum: { ...TREE_64, lanes: 128 }, rows: 99, segment: 110, cache: 'f32', size: 3 },
};
const whole = (why: string, find: string, replace: string, c: Partial<MlaWholeCase> = {}) =>
  libraryMutant(attendWhole, why, find, replace, (library) =>
    checkMlaWhole(mlaOut, { ...read, ...c }, library),
  );

export const attendMutants: Mutant[] = [
  whole('a row that is not there yet', 'start + row <= last;', 'start + row <= last + 1u;'),
  whole('a token that does not see itself', 'start + row <= last;', 'start + row < last;'),
  whole(
    'rows after the last weighed by 0',
    'n * READERS + reader, last) * WIDTH',
    'n * READERS + reader, last + 1u) * WIDTH',
  ),
  whole('rows of the next block in this one', 'row < ROWS &&', 'true &&', { L: 96 }),
  whole('the second half of a block’s rows forgotten', 'start + 2u * GROUPS > last', 'true'),
  whole('rows of but one group', 'start + GROUPS > last', 'true'),
  whole('one head’s queries for all', 'qa[head * COLUMN_FOURS', 'qa[0u'),
  whole('the head’s own key part for the shared one', '+ NOPE / 4u', ''),
  whole('scores not scaled', 'SCALE * (near', '(near'),
  whole('readers’ tops for one', 'exp(near[0] - most)', 'vec4f(1.0)'),
  whole('blocks not brought to a larger top', 'acc *= exp(before - top)', 'acc *= 1.0'),
  whole('the sum of blocks not brought to it', 'sum *= exp(before - top)', 'sum *= 1.0'),
  whole('wide rows cut off', '8u * SCORERS) {', '99u * SCORERS) {', { L: 256 }),
  query('a residual row that nobody leaves', 'head == HEADS', 'false'),
  query('the norm’s scale left out of the queries', 'scale * together(f, Q', 'together(f, Q'),
  query('the norm’s scale left out of the latent row', 'scale * together(f, R', 'together(f, R'),
  query('the norm’s weights for the latent’s', 'constants[D / 4u + i]', 'constants[i]'),
  query('one head’s queries for all', '(head * QUERY_FOURS + t', '(t'),
  query('one head’s keys for all', '(head * KEY_FOURS + t', '(t'),
  query('the last block once more', 'there = b < BLOCKS;', 'there = true;'),
  query('the last block of the latent row once more', 'there = b < BLOCKS_b;', 'there = true;'),
  query('the last block of a query once more', 'there = b < BLOCKS_c;', 'there = true;', 32),
  query(
    'a block of the queries in the wrong place',
    'normed[quad(at, 1u)]',
    'normed[quad(at, 0u) + 1u]',
  ),
  query('the latent row where the queries are', 'inputs[LATENT_AT / 4u + f]', 'inputs[f]'),
  query('every row written first', 'append_latent(step.position', 'append_latent(FIRST'),
  out('one head’s slices for all', 'take_context(head', 'take_context(0u'),
  out('one head’s values for all', '(head * VALUE_FOURS + t', '(t'),
  out('one head’s columns for all', 'head * OWN_BLOCKS + min', 'min'),
  out('the last block once more', 'there = b < BLOCKS;', 'there = true;', 64),
  out('every head’s part in one row', 'PART_TO + head', 'PART_TO'),
  out(
    'half of a head’s columns',
    'j * OUT_SHARERS < OWN_BLOCKS;',
    'j * OUT_SHARERS < OWN_BLOCKS / 2u;',
  ),
];

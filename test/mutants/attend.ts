/** Known bugs of the kernels of latent attention that begin and end with the residual row. */
import { mlaOut, mlaQuery } from '../../workers/kernels.ts';
import {
  checkMlaOut,
  checkMlaQuery,
  type MlaOutCase,
  type MlaQueryCase,
} from '../kernels/attend.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { mutant, type Mutant } from './mutant.ts';

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

export const attendMutants: Mutant[] = [
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
  out('one head’s slices for all', 'join_slices(head', 'join_slices(0u'),
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

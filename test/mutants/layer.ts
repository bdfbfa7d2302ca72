/** Known bugs of moe_layer and of the libraries that it shares with others of its kind. */
import { moeLayer, residual, routerEarly, routerNone } from '../../workers/kernels.ts';
import { checkMoeLayer, type MoeLayerCase } from '../kernels/layer.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { libraryMutant, mutant, type Mutant } from './mutant.ts';

/** Two workgroups an expert, two rounds of blocks and lanes without one, experts that fill no four. */
const plain: MoeLayerCase = {
  ...{ experts: 6, top: 3, width: 64, sharedWidth: 64, D: 192, slices: 8, parts: 11 },
  ...{ gate: 'F16', up: 'F16', shared: 'Q4_0', down: 'F16', sharedDown: 'F16' },
  ...{ scale: 2.5, norm: true, grain: 0, eps: 1e-5, size: 1e-2, sum: TREE_64 },
};
/** Two lanes share four rows: fewer than are summed at once. */
const wide: MoeLayerCase = {
  ...{ ...plain, width: 96, sharedWidth: 96, D: 96, slices: 4 },
  sum: { ...TREE_64, lanes: 128 },
};
const long: MoeLayerCase = { ...plain, D: 640 };

const layer = (why: string, find: string, replace: string, c = plain) =>
  mutant(moeLayer, why, find, replace, (k) => checkMoeLayer(k, c));
const chosen = (why: string, find: string, replace: string, c = plain) =>
  libraryMutant(routerEarly, why, find, replace, (router) =>
    checkMoeLayer(moeLayer, c, { router }),
  );
const dense: MoeLayerCase = { ...plain, experts: 0, top: 0, slices: 2, shared: 'F16' };
const none = (why: string, find: string, replace: string) =>
  libraryMutant(routerNone, why, find, replace, (router) =>
    checkMoeLayer(moeLayer, dense, { router }),
  );
const taken = (why: string, find: string, replace: string, c = plain) =>
  libraryMutant(residual, why, find, replace, (library) =>
    checkMoeLayer(moeLayer, c, { residual: library }),
  );

export const layerMutants: Mutant[] = [
  layer(
    'gate and up exchanged',
    'silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up',
    'silu(up.x), silu(up.y), silu(up.z), silu(up.w)) * gate',
  ),
  layer('the shared gate for its up', 'select(SHARED + row, row, gates)', 'row'),
  layer('the best expert for every slot', 'choose(slot, ', 'choose(0u, '),
  layer('experts unweighted', 'weight_of(expert), lane', '1.0, lane'),
  layer('an expert’s first units for all', 'let row = first + 4u', 'let row = 4u'),
  layer('the input not normalised', 'kept_waiting(scale * sum', 'kept_waiting(sum'),
  layer('a block taken twice', 'gate_block(b2, share, j + 2u)', 'gate_block(b2, share, j)', wide),
  layer('what is read ahead leaves something', 'SLICES, group.y, lane', 'SLICES, 1u, lane', {
    ...plain,
    warmers: 2,
  }),
  layer('the last block once more', 'select(0.0, 1.0, b < COLS / BLOCK) * ', ''),
  layer('sums past the last', '< vec4u(SHARERS)', '< vec4u(4u)', wide),
  layer('one expert’s second layer for all', 'expert * D + 4u * n', '4u * n'),
  layer('the second layer’s first columns for all', 'return first / BLOCK_d + j', 'return j'),
  layer('act taken for all of an expert’s', 'quad_e(b, 1u) - first / 4u', 'quad_e(b, 1u)'),
  layer('every part in one row', 'PART_TO + g)', 'PART_TO)'),
  layer('a residual row that nobody leaves', 'take_residual(group.x == 0u', 'take_residual(false'),

  chosen('biased weights', 'select(0.0, score, ', 'select(0.0, biased[e], '),
  chosen('chosen without the bias', 'score + asked.bias', 'score'),
  chosen('the higher id first among equals', '< vec4u(e);', '> vec4u(e);', { ...plain, grain: 2 }),
  chosen('experts that are none before all', 'biased[e] = -3.4e38', 'biased[e] = 3.4e38'),
  chosen('scores of all experts in the sum', 'rank < TOP)', 'true)'),
  chosen('the input not normalised', '= scale * part', '= part'),
  chosen('the last four once more', 'select(0.0, 1.0, i < D / 4u) * ', ''),
  chosen(
    'the end of a long row forgotten',
    'share + 12u * ROUTER_SHARERS; i < D / 4u',
    'share + 12u * ROUTER_SHARERS; false',
    long,
  ),
  chosen('the best expert’s weight for all', 'weight_of(ranked[i])', 'weight_of(ranked[0])'),

  none('an expert where there is none', 'const TOP = 0u', 'const TOP = 1u'),
  none(
    'a choice that nobody made',
    'tell_choice(lane: Lane) {',
    'tell_choice(lane: Lane) { chosen[0] = 0u;',
  ),

  taken('parts past the last', 'select(0.0, 1.0, n <= PARTS) * ', '', wide),
  taken('four terms and no more', 'TERMS > 4u', 'false'),
  taken(
    'a part more than once',
    'residual_term(first + 3u * ADDERS',
    'residual_term(first + 2u * ADDERS',
  ),
  taken('what other lanes added forgotten', 'x += added_by_others(i);', '', wide),
  taken('the row left as it came', '+ i] = x;', '+ i] = rows[FROM * (D / 4u) + i];'),
  taken('the norm’s weight left out', 'normed[i] = weight * x', 'normed[i] = x'),
  taken('eps outside the root', '/ f32(D) + NORM_EPS)', '/ f32(D)) * (1.0 - NORM_EPS)'),
];

/** Known bugs of the mixture of experts. */
import {
  expertGroup,
  expertMatmul,
  expertMatvec,
  expertSum,
  route,
} from '../../workers/kernels.ts';
import { TREE_64 } from '../kernels/layers.ts';
import {
  checkExpertGroup,
  checkExpertMatmul,
  checkExpertMatvec,
  checkExpertSum,
  checkRoute,
  scattered,
  type ExpertCase,
  type RouteCase,
} from '../kernels/moe.ts';
import { mutant, type Mutant } from './mutant.ts';

const routed: RouteCase = {
  experts: 32,
  top: 4,
  T: 20,
  scale: 2.446,
  bias: 1,
  grain: 0,
  norm: true,
};
const router = (why: string, find: string, replace: string, c: Partial<RouteCase> = {}) =>
  mutant(route, why, find, replace, (k) => checkRoute(k, { ...routed, ...c }));
const experts: ExpertCase = {
  format: 'F32',
  experts: 8,
  top: 3,
  T: 40,
  rows: 12,
  cols: 32,
  assign: scattered(8, 3, [], 1),
  parts: [0, 5],
  perSlot: true,
};
const tile = { TILE_ROWS: 32, TILE_TOKENS: 32 } as const;

export const moeMutants: Mutant[] = [
  router(
    'biased router weights',
    'chosen[rank] = sigmoid(logits[group.x * EXPERTS + e]);',
    'chosen[rank] = own;',
  ),
  router('a choice that does not see the bias', '+ bias[e]', ''),
  router('swish for sigmoid', 'sigmoid(', 'silu('),
  router('equal scores to the higher index', 'other < e', 'other > e', { grain: 1, bias: 0 }),
  router('weights of all experts shared out', 'i < TOP; i++', 'i < 1u; i++'),
  mutant(
    expertMatvec,
    'the best expert for every slot',
    '* TOP + group.y] - FIRST',
    '* TOP] - FIRST',
    (k) => checkExpertMatvec(k, { ...experts, T: 2 }, TREE_64),
  ),
  mutant(expertMatvec, 'a part of the experts read as all', '] - FIRST;', '];', (k) =>
    checkExpertMatvec(k, { ...experts, T: 2 }, TREE_64),
  ),
  mutant(
    expertGroup,
    'the last tile of an expert full',
    'min(count - i, TILE_TOKENS)',
    'TILE_TOKENS',
    (k) => checkExpertGroup(k, experts, 32),
  ),
  mutant(expertGroup, 'tiles of an earlier call left in place', 'tiles[i] = vec4u();', '', (k) =>
    checkExpertGroup(k, experts, 32),
  ),
  mutant(expertMatmul, "a token's slots on top of each other", '+ pair % TOP * Y_BATCH', '', (k) =>
    checkExpertMatmul(k, experts, tile),
  ),
  mutant(expertMatmul, 'a part of the experts read as all', 'tile.x - FIRST', 'tile.x', (k) =>
    checkExpertMatmul(k, experts, tile),
  ),
  mutant(expertSum, 'experts unweighted', 'weights[slot] * down', 'down', (k) =>
    checkExpertSum(k, { D: 64, top: 3, T: 4 }),
  ),
  mutant(
    expertSum,
    'the shared expert forgotten',
    'always[group.y * (D / 4u) + i]',
    'vec4f()',
    (k) => checkExpertSum(k, { D: 64, top: 3, T: 4 }),
  ),
];

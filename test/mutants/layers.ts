/** Known bugs of the dense layers. */
import { addNorm, embed, matmul, matvec, norm, swiglu } from '../../workers/kernels.ts';
import {
  checkAddNorm,
  checkEmbed,
  checkMatmul,
  checkMatvec,
  checkNorm,
  checkSwiglu,
  TREE_64,
  type EmbedCase,
  type ProductCase,
} from '../kernels/layers.ts';
import { mutant, type Mutant } from './mutant.ts';

const small = { D: 64, T: 3, eps: 1e-5, size: 1e-2, sum: TREE_64 };
const tokens: EmbedCase = { format: 'F32', D: 64, tokens: [3, 30, 3], position: 9, stride: 1 };
const stack: ProductCase = {
  format: 'F32',
  rows: 35,
  cols: 64,
  T: 33,
  batch: 2,
  sharedX: false,
  apart: true,
};
const onTop = { ...stack, add: true, each: 4 } as const;
const eights = { ...onTop, rows: 36, each: 8 } as const;
// 80 blocks of 64 lanes: two at once, of which most lanes' second is past the last.
const ragged = { ...onTop, format: 'Q4_0', rows: 12, cols: 640, T: 1 } as const;
const tile = { TILE_ROWS: 32, TILE_TOKENS: 32 } as const;
const act = { width: 64, slots: 2, T: 3, halves: false, size: 3 };

export const layerMutants: Mutant[] = [
  mutant(
    embed,
    'a part of the rows read as the whole',
    'let row = token - FIRST;',
    'let row = token;',
    (k) => checkEmbed(k, tokens),
  ),
  mutant(embed, 'position 0 remembered as never', 'group.x + 1u', 'group.x', (k) =>
    checkEmbed(k, tokens),
  ),
  mutant(
    norm,
    'eps outside the root',
    'inverseSqrt(total / f32(D) + EPS)',
    '1.0 / (sqrt(total / f32(D)) + EPS)',
    (k) => checkNorm(k, small),
  ),
  mutant(norm, 'the sum for the mean', 'total / f32(D)', 'total', (k) => checkNorm(k, small)),
  mutant(
    addNorm,
    'eps outside the root',
    'inverseSqrt(total / f32(D) + EPS)',
    '1.0 / (sqrt(total / f32(D)) + EPS)',
    (k) => checkAddNorm(k, { ...small, last: false }),
  ),
  mutant(addNorm, 'the sum not kept for the next block', 'x[first + i] = v;', '', (k) =>
    checkAddNorm(k, { ...small, last: false }),
  ),
  mutant(addNorm, 'the first token for the last', 'step.tokens - 1u', '0u', (k) =>
    checkAddNorm(k, { ...small, last: true }),
  ),
  mutant(matvec, 'the first matrix of a stack for all', 'group.y * ROWS + row;', 'row;', (k) =>
    checkMatvec(k, onTop, TREE_64),
  ),
  mutant(matvec, 'the last columns left out', 'b < BLOCKS;', 'b < BLOCKS - 1u;', (k) =>
    checkMatvec(k, onTop, TREE_64),
  ),
  mutant(matvec, 'blocks past the last counted', ' && b + SUM_LANES < BLOCKS', '', (k) =>
    checkMatvec(k, ragged, TREE_64),
  ),
  mutant(
    matvec,
    'one of the blocks asked for twice',
    'product(b1, x_first',
    'product(b0, x_first',
    (k) => checkMatvec(k, ragged, TREE_64),
  ),
  mutant(matvec, 'a slice read from the first row', 'W_FIRST + group.y', 'group.y', (k) =>
    checkMatvec(k, onTop, TREE_64),
  ),
  mutant(matvec, 'what y held is lost', 'before + sums', 'sums', (k) =>
    checkMatvec(k, onTop, TREE_64),
  ),
  mutant(matvec, 'the upper rows’ own for the lower', 'row + EACH - 4u, lane', 'row, lane', (k) =>
    checkMatvec(k, eights, TREE_64),
  ),
  mutant(matvec, 'the lower rows not made', 'keep(at, row + 4u', 'keep(at, row', (k) =>
    checkMatvec(k, eights, TREE_64),
  ),
  mutant(matvec, 'rows past the last written', ' && row + lane < ROWS', '', (k) =>
    checkMatvec(k, eights, TREE_64),
  ),
  mutant(matvec, 'what y held is always added to', 'ADD == 1u', 'true', (k) =>
    checkMatvec(k, { ...onTop, add: false }, TREE_64),
  ),
  mutant(matmul, 'a slice read from the first row', 'W_FIRST + matrix', 'matrix', (k) =>
    checkMatmul(k, stack, tile),
  ),
  mutant(matmul, 'the first matrix of a stack for all', 'matrix * ROWS + row', 'row', (k) =>
    checkMatmul(k, stack, tile),
  ),
  mutant(
    matmul,
    'rows past the last written over what follows',
    'min(ROWS - row, TILE_ROWS)',
    'TILE_ROWS',
    (k) => checkMatmul(k, stack, tile),
  ),
  mutant(swiglu, 'sigmoid for silu', 'g * vec4f(', 'vec4f(', (k) => checkSwiglu(k, act)),
  mutant(swiglu, 'gate and up exchanged', 'let g = gate[(GATE_FIRST', 'let g = up[(UP_FIRST', (k) =>
    checkSwiglu(k, act),
  ),
];

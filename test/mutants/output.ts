/** Known bugs of the kernels that read the logits. */
import { argmax, argmaxMerge, topLogits } from '../../workers/kernels.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { checkArgmax, checkTopLogits, type ArgmaxCase, type TopCase } from '../kernels/output.ts';
import { mutant, type Mutant } from './mutant.ts';

const small: ArgmaxCase = { vocabulary: 500, T: 3, slices: 7, set: [], grain: 0 };
const row: TopCase = {
  vocabulary: 500,
  slices: 4,
  best: 16,
  position: 300,
  factor: 1.3,
  window: 100,
  spread: 2,
  grain: 0,
  set: [[77, Infinity]],
  sum: TREE_64,
};
const top = (why: string, find: string, replace: string, c: Partial<TopCase> = {}) =>
  mutant(topLogits, why, find, replace, (k) => checkTopLogits(k, { ...row, ...c }));

export const outputMutants: Mutant[] = [
  mutant(argmax, 'the last token of a slice never read', 'vec4u(end)', 'vec4u(end - 1u)', (k) =>
    checkArgmax(k, { ...small, set: [[499, 9]] }),
  ),
  mutant(
    argmaxMerge,
    "the first token's slices for all",
    'slices[group.x * SLICES + s]',
    'slices[s]',
    (k) => checkArgmax(argmax, small, k),
  ),
  top(
    'a penalty that favours negative logits',
    'select(logit * penalty.factor, logit / penalty.factor, logit > 0.0)',
    'logit / penalty.factor',
    { best: 125 },
  ),
  top('a penalty without a window', '|| since >= penalty.window', ''),
  top(
    'infinity let through',
    '(bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u',
    'logit != logit',
  ),
  top('equal logits to the higher id', '& lower', '& !lower', { grain: 3, factor: 1 }),
  top(
    'the softmax of the penalised logits for that of the model',
    'exp(logit - top.y)',
    'exp(value - top.y)',
  ),
];

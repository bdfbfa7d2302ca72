/** Known bugs of Kimi Delta Attention: the recurrence, the chunk form, and what feeds and follows them. */
import {
  kdaChunkPairs,
  kdaChunkScan,
  kdaChunkSolve,
  kdaGate,
  kdaOut,
  kdaStep,
  shortConv,
} from '../../workers/kernels.ts';
import {
  checkKdaGate,
  checkKdaOut,
  checkKdaStep,
  checkShortConv,
  type RecurrenceCase,
} from '../kernels/kda.ts';
import { checkKdaChunkPairs, checkKdaChunkScan, checkKdaChunkSolve } from '../kernels/kda_chunk.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { mutant, type Mutant } from './mutant.ts';

const conv = { T: 20, channels: 70, taps: 4 };
const gate = { T: 3, H: 3, K: 64, V: 32, eps: 1e-5, size: 1, sum: TREE_64 };
const short = { ...gate, size: 1e-3 };
const out = { T: 3, H: 3, V: 64, eps: 1e-5, size: 1, sum: TREE_64 };
const some: RecurrenceCase = {
  ...{ T: 80, H: 3, K: 64, V: 32 },
  ...{ decay: 'gentle', beta: 'open', keys: 'random' },
};
const steps = { ...some, T: 20, parts: 8 };
const chunks = { ...some, columns: 16 };

export const kdaMutants: Mutant[] = [
  mutant(
    shortConv,
    'newest tap first',
    'tap[j] = w[c * TAPS + j]',
    'tap[j] = w[c * TAPS + TAPS - 1u - j]',
    (k) => checkShortConv(k, conv),
  ),
  mutant(
    shortConv,
    'tails keep the call’s first inputs',
    'input(step.tokens + j, c)',
    'input(j, c)',
    (k) => checkShortConv(k, conv),
  ),
  mutant(shortConv, 'no activation', 'silu(fma(', '(fma(', (k) => checkShortConv(k, conv)),

  mutant(
    kdaGate,
    'eps outside the root',
    'sqrt(workgroup_sum(squares, lane) + EPS)',
    'sqrt(workgroup_sum(squares, lane)) + EPS',
    (k) => checkKdaGate(k, short),
  ),
  mutant(
    kdaGate,
    'eps added to the mean, not the sum',
    'lane) + EPS',
    'lane) + EPS * f32(K)',
    (k) => checkKdaGate(k, short),
  ),
  mutant(kdaGate, 'q not scaled', ' * sqrt(f32(K))', '', (k) => checkKdaGate(k, gate)),
  mutant(
    kdaGate,
    'softplus by a plain logarithm',
    'softplus(g[g_first + d] + dt[h * K + d])',
    'log(1.0 + exp(g[g_first + d] + dt[h * K + d]))',
    (k) => checkKdaGate(k, gate),
  ),
  mutant(kdaGate, 'the bias before another head', 'dt[h * K + d]', 'dt[d]', (k) =>
    checkKdaGate(k, gate),
  ),

  mutant(kdaStep, 'V-first memory', '(h * K + d) * V + e', '(h * V + e) * K + d', (k) =>
    checkKdaStep(k, steps),
  ),
  mutant(kdaStep, 'read before write', 'total.y + total.z * u', 'total.y', (k) =>
    checkKdaStep(k, steps),
  ),
  mutant(
    kdaStep,
    'decay after write',
    'memory[i] *= row.x;',
    'if (t > 0u) { memory[i] *= row.x; }',
    (k) => checkKdaStep(k, steps),
  ),
  mutant(kdaStep, 'surprise against nothing held', '(v - total.x)', 'v', (k) =>
    checkKdaStep(k, steps),
  ),
  mutant(kdaStep, 'a write as strong for every head', 'beta[t * H + h]', 'beta[t * H]', (k) =>
    checkKdaStep(k, steps),
  ),
  mutant(
    kdaStep,
    'one decay for all channels of a head',
    'exp(g[(t * H + h) * K + at])',
    'exp(g[(t * H + h) * K])',
    (k) => checkKdaStep(k, steps),
  ),

  mutant(
    kdaChunkPairs,
    'a token does not read what it writes',
    'k.x * vec4f(1.0, e.y,',
    'k.x * vec4f(0.0, e.y,',
    (k) => checkKdaChunkPairs(k, some),
  ),
  mutant(
    kdaChunkPairs,
    'a token’s own decay left out',
    'return vec4f(e.x, xy, xy * e.z, xy * e.z * e.w);',
    'return vec4f(1.0, e.y, e.y * e.z, e.y * e.z * e.w);',
    (k) => checkKdaChunkPairs(k, some),
  ),
  mutant(
    kdaChunkPairs,
    'a key decayed at its own token, too',
    'return vec4f(e.y * zw, zw, e.w, 1.0);',
    'return vec4f(e.x * e.y * zw, e.y * zw, zw, e.w);',
    (k) => checkKdaChunkPairs(k, some),
  ),
  mutant(
    kdaChunkPairs,
    'rows past the last taken for tokens',
    'if (t < step.tokens) {',
    'if (t < 100000u) {',
    (k) => checkKdaChunkPairs(k, some),
  ),
  mutant(
    kdaChunkPairs,
    'of two blocks between two rows one does not decay',
    'blocks.y * blocks.z;',
    'blocks.y;',
    (k) => checkKdaChunkPairs(k, some),
  ),

  mutant(
    kdaChunkSolve,
    'write strengths left out of the inverse',
    'let s = strengths(start + 4u * row, h);',
    'let s = vec4f(1.0);',
    (k) => checkKdaChunkSolve(k, some),
  ),
  mutant(
    kdaChunkSolve,
    'write strengths left out of what is written',
    'let s = strengths(start + 4u * column, h);',
    'let s = vec4f(1.0);',
    (k) => checkKdaChunkSolve(k, some),
  ),
  mutant(kdaChunkSolve, 'blocks below taken as they are', 'X[place] = -y;', '', (k) =>
    checkKdaChunkSolve(k, some),
  ),

  mutant(
    kdaChunkScan,
    'V-first memory',
    '(h * K + 4u * s_quad) * (V / 4u) + group.x * FOURS + s_four',
    '(h * (V / 4u) + group.x * FOURS + s_four) * K + 4u * s_quad',
    (k) => checkKdaChunkScan(k, chunks),
  ),
  mutant(
    kdaChunkScan,
    'the memory not decayed',
    'let decay = whole[matrix * (K / 4u) + s_quad];',
    'let decay = vec4f(1.0);',
    (k) => checkKdaChunkScan(k, chunks),
  ),
  mutant(kdaChunkScan, 'written whole, not against what is held', 'v - said', 'v', (k) =>
    checkKdaChunkScan(k, chunks),
  ),
  mutant(
    kdaChunkScan,
    'a row writes without those before it',
    'u = add_four(u, ROWS_AT',
    'if (i < quad) { continue; } u = add_four(u, ROWS_AT',
    (k) => checkKdaChunkScan(k, chunks),
  ),
  mutant(
    kdaChunkScan,
    'queries taken for keys',
    'let own_rows = quad + (part % 2u) * QUADS;',
    'let own_rows = quad + QUADS;',
    (k) => checkKdaChunkScan(k, chunks),
  ),
  mutant(
    kdaChunkScan,
    'what a chunk writes is not read in it',
    'said = add_four(said, ROWS_AT + 4u * i * FOURS + four, near);',
    '',
    (k) => checkKdaChunkScan(k, chunks),
  ),
  mutant(
    kdaChunkScan,
    'a token does not read what it writes',
    'var i = o_part; i <= quad',
    'var i = o_part; i < quad',
    (k) => checkKdaChunkScan(k, chunks),
  ),

  mutant(
    kdaOut,
    'swish for sigmoid',
    '* sigmoid(gate[first + e])',
    '* silu(gate[first + e])',
    (k) => checkKdaOut(k, out),
  ),
  mutant(
    kdaOut,
    'eps outside the root',
    'inverseSqrt(workgroup_sum(squares, lane).x / f32(V) + EPS)',
    '1.0 / (sqrt(workgroup_sum(squares, lane).x / f32(V)) + EPS)',
    (k) => checkKdaOut(k, { ...out, size: 1e-3 }),
  ),
  mutant(kdaOut, 'one weight for all columns', 'w[e]', 'w[0]', (k) => checkKdaOut(k, out)),
];

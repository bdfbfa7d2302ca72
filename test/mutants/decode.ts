/** Known bugs of the kernels that only one token takes. */
import {
  expertDown,
  expertSwiglu,
  kdaLayer,
  kdaToken,
  kdaWatched,
  project,
  routerLogits,
  routerOwn,
} from '../../workers/kernels.ts';
import {
  checkExpertDown,
  checkExpertSwiglu,
  checkKdaLayer,
  checkKdaToken,
  checkProject,
  type ExpertDownCase,
  type ExpertSwigluCase,
  type LayerCase,
  type ProjectCase,
  type TokenCase,
} from '../kernels/decode.ts';
import { TREE_64 } from '../kernels/layers.ts';
import { NO_CHANGE } from '../kernels/probes.ts';
import { libraryMutant, mutant, type Mutant } from './mutant.ts';

const rows: ProjectCase = {
  a: { format: 'F32', rows: 21, first: 4, at: 10 },
  b: { format: 'Q4_0', rows: 10, first: 8, at: 0 },
  ...{ cols: 96, eps: 1e-5, size: 1e-2, each: 8, sum: TREE_64 },
};
const token: TokenCase = {
  ...{ T: 4, H: 3, K: 64, V: 32, taps: 4, rank: 32 },
  ...{ F: 'F32', G: 'Q8_0', first: { F: 4, G: 8 } },
  ...{ decay: 'strong', beta: 'open', eps: 1e-5, size: 1, sum: TREE_64 },
  watched: null,
};
const short = { ...token, size: 1e-2 };
const three = { ...token, taps: 3 };
const chosen = { experts: 9, parts: [0, 4], ids: [7, 0, 8, 3], sum: TREE_64 };
const open: ExpertSwigluCase = {
  ...chosen,
  ...{ gate: 'F32', up: 'Q4_0', shared: 'Q8_0', width: 12, sharedWidth: 16, cols: 96, each: 4 },
  ...{ eps: 1e-5, size: 1e-2, router: null },
};
const down: ExpertDownCase = {
  ...chosen,
  ...{ down: 'F32', shared: 'Q4_0', rows: 16, cols: 64 },
  ...{ sharedCols: 96, sharedWith: 0 },
};

// 80 blocks of 64 lanes: two at once, of which most lanes' second is past the last.
const deep = {
  ...rows,
  ...{ a: { ...rows.a, format: 'Q8_0' as const }, cols: 640, each: 8 as const },
};
const projected = (why: string, find: string, replace: string, c = rows) =>
  mutant(project, why, find, replace, (k) => checkProject(k, c));
const head = (why: string, find: string, replace: string, c: TokenCase = token) =>
  mutant(kdaToken, why, find, replace, (k) => checkKdaToken(k, c));
const layer: LayerCase = {
  ...{ ...token, T: 1, K: 32, H: 5, sum: { ...TREE_64, lanes: 256 } },
  ...{ D: 96, parts: 3, wide: 'F32', low: 'Q8_0', out: 'Q4_0', before: { wide: 4, low: 8 } },
};
const whole = (why: string, find: string, replace: string, c: LayerCase = layer) =>
  mutant(kdaLayer, why, find, replace, (k) => checkKdaLayer(k, c));
const changes = [
  [NO_CHANGE, { factor: 0.5, strength: 0.25, from: 2 }, NO_CHANGE],
  [NO_CHANGE, { factor: 3, strength: 1, from: 0 }, { factor: 1, strength: 0, from: 3 }],
];
const gently: TokenCase = { ...token, decay: 'gentle' };
const told = (why: string, find: string, replace: string) =>
  libraryMutant(kdaWatched, why, find, replace, (library) =>
    checkKdaToken(kdaToken, { ...gently, watched: { library, changes } }),
  );
const deepOpen = { ...open, cols: 640 };
const eights: ExpertSwigluCase = { ...open, width: 24, each: 8 };
const opened = (why: string, find: string, replace: string, c = open) =>
  mutant(expertSwiglu, why, find, replace, (k) => checkExpertSwiglu(k, c));
const routed = (why: string, find: string, replace: string, grain = 0) =>
  libraryMutant(routerOwn, why, find, replace, (library) =>
    checkExpertSwiglu(expertSwiglu, {
      ...open,
      router: { library, scale: 2.5, norm: true, grain },
    }),
  );
const among: ExpertSwigluCase = {
  ...{ ...open, experts: 256, ids: [0, 0, 0, 0, 0, 0, 0, 0], parts: [0] },
  ...{ width: 4, sharedWidth: 4, cols: 32, sum: { ...TREE_64, lanes: 32 } },
};
const few = { ...among, experts: 33, ids: Array<number>(33).fill(0) };
const heard = (why: string, find: string, replace: string, grain = 0, c = among) =>
  libraryMutant(routerLogits, why, find, replace, (library) =>
    checkExpertSwiglu(expertSwiglu, {
      ...c,
      router: { library, scale: 2.5, norm: true, grain },
    }),
  );
// 80 blocks of 64 lanes, as above.
const deepDown = { ...down, cols: 160 };
const closed = (why: string, find: string, replace: string, c = down) =>
  mutant(expertDown, why, find, replace, (k) => checkExpertDown(k, c));

export const decodeMutants: Mutant[] = [
  projected(
    'eps outside the root',
    'inverseSqrt(sums.one / f32(COLS) + EPS)',
    '(1.0 / (sqrt(sums.one / f32(COLS)) + EPS))',
  ),
  projected('the sum for the mean', '/ f32(COLS)', ''),
  projected('the norm’s weight left out for one matrix', 'x1 * w[j]', 'x1'),
  projected(
    'columns in the order of the other matrix',
    'normed(quad_b(b, 0u)',
    'normed(quad(b, 0u)',
  ),
  projected('blocks past the last counted', ' && b + SUM_LANES < A_BLOCKS', '', deep),
  projected('the squares of a block twice', 'take_b(b1, b', 'take_b(b0, b', deep),
  projected('a slice read from the first row', 'B_FIRST + row;', 'row;'),
  projected('a four written in the place of another', 'row + 4u, rows', 'row, rows'),
  projected('rows past the last written over what follows', 'at + lane < rows', 'true'),

  head('newest tap first', 'w.w * x.w + w.x * x.x', 'w.x * x.w + w.w * x.x'),
  head('tails not shifted', 'tails[c] = x.y;', ''),
  head('the newest input not kept', 'tails[2u * C + c] = x.w;', ''),
  head('no activation after the convolution', 'return silu(w.w', 'return (w.w'),
  head(
    'newest of three taps first',
    'constant(c * TAPS + j)',
    'constant(c * TAPS + 1u - j)',
    three,
  ),
  head('two tails not shifted', 'tails[(j - 1u) * C + c] = x;', '', three),
  head('the newest of three not kept', 'tails[(TAPS - 2u) * C + c] = last;', '', three),
  head('no activation after three taps', 'return silu(sum);', 'return sum;', three),
  head('q not scaled', '(total.x + EPS) * f32(K)', 'total.x + EPS'),
  head(
    'eps outside the root of a key’s length',
    'inverseSqrt(total.y + EPS)',
    '1.0 / (sqrt(total.y) + EPS)',
    { ...short, size: 1e-3 },
  ),
  head('the length of the query for the key', 'total.y + EPS', 'total.x + EPS'),
  head('softplus left out', 'softplus(', '('),
  head('decay without its exponential', '= exp(g)', '= g'),
  head('one bias for all heads', 'C * TAPS + h * K + r', 'C * TAPS + r'),
  head('one strength of decay for all heads', 'C * TAPS + H * K + h)', 'C * TAPS + H * K)'),
  head('gates of a slice read from the first row', 'F_FIRST + h', 'h'),
  head(
    'the out gate made of the forget gate’s half',
    'low[RANK / 4u + quad_b(b, 0u)]',
    'low[quad_b(b, 0u)]',
  ),
  head('swish for sigmoid in the out gate', '= sigmoid(sum)', '= silu(sum)'),
  head('V-first memory', '* FOURS + columns] = written', '+ columns * K] = written'),
  head('the memory not decayed', 'decay[min(d, K - 1u)]', '1.0'),
  head('read before decay', 'take(r0, d,', 'take(S[(h * K + d) * FOURS + columns], d,'),
  head('one of the blocks asked for twice', 'asked_four(far, c', 'asked_four(near, b'),
  head('decay after write', 'before + mixed', 'before + decay[d] * mixed'),
  head('read before write', 'found + total.z', 'found + 0.0 * total.z'),
  head('surprise against nothing held', ' - held)', ')'),
  head('a write as strong for every head', '2u * RANK + h]', '2u * RANK]'),
  head('a write strength past its sigmoid', 'apply(sigmoid(strength', 'apply((strength'),
  head('eps outside the root of the norm', '/ f32(V) + EPS)', '/ f32(V)) * (1.0 - EPS)', short),
  head('the norm over all lanes’ copies', 'select(0.0, dot(o, o), part == 0u)', 'dot(o, o)'),
  head('one norm weight for all columns', 'H * K + H + 4u * columns', 'H * K + H'),

  whole('newest tap first', 'constant(c * TAPS + j)', 'constant(c * TAPS + TAPS - 2u - j)'),
  whole('tails not shifted', 'tails[(j - 1u) * C + c] = x;', ''),
  whole('the newest input not kept', 'tails[(TAPS - 2u) * C + c] = last;', ''),
  whole('no activation after the convolution', 'return silu(sum);', 'return sum;'),
  whole('q not scaled', '(total.x + EPS) * f32(K)', 'total.x + EPS'),
  whole(
    'eps outside the root of a key’s length',
    'inverseSqrt(total.y + EPS)',
    '1.0 / (sqrt(total.y) + EPS)',
    { ...layer, size: 1e-3 },
  ),
  whole('the length of the query for the key', 'total.y + EPS', 'total.x + EPS'),
  whole('softplus left out', 'softplus(', '('),
  whole('decay without its exponential', '= exp(g)', '= g'),
  whole('one bias for all heads', 'C * TAPS + h * K + ', 'C * TAPS + '),
  whole('one strength of decay for all heads', 'C * TAPS + H * K + h)', 'C * TAPS + H * K)'),
  whole('gates of a slice read from the first row', 'F_FIRST + h', 'h'),
  whole(
    'the out gate made of the forget gate’s half',
    'RANK + 4u * quad_b(b, 0u)',
    '4u * quad_b(b, 0u)',
  ),
  whole('swish for sigmoid in the out gate', '= sigmoid(sum)', '= silu(sum)'),
  whole('V-first memory', '* FOURS + columns] = written', '+ columns * K] = written'),
  whole('the memory not decayed', 'decay[min(d, K - 1u)]', '1.0'),
  whole('read before decay', 'take(r0, ', 'take(asked.rows[0], '),
  whole('rows of other strands forgotten', ' + (bundle(2u, n) + bundle(3u, n))', ''),
  whole('an older input for the newest but one', 'vec3f(near.y, far.y', 'vec3f(far.y, far.y'),
  whole('decay after write', 'before + mixed', 'before + decay[d] * mixed'),
  whole('read before write', 'found + total.z', 'found + 0.0 * total.z'),
  whole('surprise against nothing held', ' - held)', ')'),
  whole('a write strength past its sigmoid', 'apply(sigmoid(strength', 'apply((strength'),
  whole('eps outside the root of the norm', '/ f32(V) + EPS)', '/ f32(V)) * (1.0 - EPS)', {
    ...layer,
    size: 1e-2,
  }),
  whole('the norm over all lanes’ copies', 'select(0.0, dot(o, o), part == 0u)', 'dot(o, o)'),
  whole('one norm weight for all columns', 'H * K + H + 4u * (lane.index % FOURS)', 'H * K + H'),

  whole(
    'low ranks of a row that has no norm',
    'norm_scale * row_together(SUM_LANES + (r',
    'row_together(SUM_LANES + (r',
  ),
  whole('projections of a row that has no norm', 'norm_scale * row_together((i', 'row_together((i'),
  whole('the first head’s projections for all', 'IN_FOURS - 1u), h)', 'IN_FOURS - 1u), 0u)'),
  whole('another head’s write strength', 'LOW_SHARERS, h & 3u', 'LOW_SHARERS, 0u'),
  whole('write strengths of the first four heads', '2u * RANK + (h & ~3u)', '2u * RANK'),
  whole('blocks past the last counted', 'select(0.0, 1.0, there) * asked_four_c', 'asked_four_c'),
  whole('low ranks read from the first row', 'LOW_FIRST + select', 'select'),
  whole('queries read from the first row', 'Q_FIRST + channel', 'channel'),
  whole('the first head’s columns of the output', 'h * OUT_BLOCKS + min', 'min'),
  whole('parts over one another', '(PART_TO + h)', 'PART_TO'),
  whole('shares of the output forgotten', ' + (share_of(n, 2u) + share_of(n, 3u))', ''),

  told('a change from the beginning on', 'step.position >= change.z', 'true'),
  told('a change a token late', '>= change.z', '> change.z'),
  told('the last change instead of all', 'factors *= bitcast', 'factors = bitcast'),
  told('the first head’s changes for all', 'changes[i * H + h]', 'changes[i * H]'),
  told('gates unchanged', 'return value * factor;', 'return value;'),
  told('keys told before they have unit length', 'k_scale, i < 2u * K', '1.0, i < 2u * K'),
  told('queries told unscaled', 'q_scale, i < K', 'k_scale, i < K'),
  told('heads told over one another', 'U_AT + h * V', 'U_AT'),
  told('decays told for their logarithms', '+ d] = g;', '+ d] = exp(g);'),
  told('sums over every lane’s copy of a column', 'products, first)', 'products, true)'),
  told('energy of one lane', 'workgroup_sum(vec4f(energy), lane).x', 'energy'),

  opened('sigmoid for silu', 'silu(gates', 'sigmoid(gates'),
  opened('gate and up exchanged', 'silu(gates[i]) * ups[i]', 'silu(ups[i]) * gates[i]'),
  opened('eps outside the root', '/ f32(COLS) + EPS)', '/ f32(COLS)) * (1.0 - EPS)'),
  opened(
    'the norm’s weight left out for one matrix',
    'asked.up, b, normed(quad_b(b, 0u))',
    'asked.up, b, x[quad_b(b, 0u)]',
  ),
  opened('the best expert for every slot', 'choose(slot, ', 'choose(0u, '),
  opened('the shared gate for its up', 'SHARED + row, b', 'row, b'),
  opened(
    'the shared expert over a slot',
    'leave(slot * WIDTH + row,',
    'leave(slot % TOP * WIDTH + row,',
  ),
  opened('a part of the experts read as all', ' - FIRST;', ';'),
  opened('experts of other parts taken for these', 'expert >= COUNT', 'false'),
  opened('blocks past the last counted', ' && b + SUM_LANES < BLOCKS', '', deepOpen),
  opened('one of the blocks asked for twice', 'take(b1, b', 'take(b0, b', deepOpen),
  opened('four numbers in the place of others', 'row + 4u, scale', 'row, scale', eights),
  opened(
    'four rows of the gate for eight',
    'row, at, EACH == 8u), ask',
    'row, at, false), ask',
    eights,
  ),
  opened(
    'four rows of the shared expert for eight',
    '(row, b, EACH == 8u)',
    '(row, b, false)',
    eights,
  ),

  routed('biased weights', 'SCALE * scores', 'SCALE * biased'),
  routed('chosen without the bias', 'biased[other] > biased[e]', 'scores[other] > scores[e]'),
  routed('the higher index first among equals', '&& other < e', '&& other > e', 3),
  routed('scores of all experts in the sum', 'i < TOP; i++', 'i < EXPERTS; i++'),
  routed('the factor left out', 'SCALE * scores', 'scores'),
  routed('softmax’s exponential for sigmoid', '= sigmoid(total', '= exp(total'),
  routed('the input not normalised', '= scale * workgroup_sum(acc', '= workgroup_sum(acc'),
  routed('the norm’s weight left out', 'let h = normed(i);', 'let h = x[i];'),
  routed('the best expert for every slot', '&ranked[slot]', '&ranked[0]'),

  heard('biased weights', 'taken[i] = router_score(ranked[i])', 'taken[i] = biased[ranked[i]]'),
  heard('chosen without the bias', ' + constants[(COLS + there) / 4u][(COLS + there) % 4u]', ''),
  heard('the norm’s weights for the bias', '(COLS + there)', '(there)'),
  heard('the higher id first among equals', 'other < id', 'other > id', 32),
  heard('the higher of equal leaders first', 'leaders[i] < id', 'leaders[i] > id', 31),
  heard('the last four of a group forgotten', 'vec4u(16u, 32u, 64u, 128u), last', 'vec4u(), last'),
  heard('scores of all experts in the sum', 'i < TOP; i++', 'i < TOP - 1u; i++'),
  heard('the factor left out', 'SCALE * taken', 'taken'),
  heard(
    'logits for their sigmoid',
    'return sigmoid(bitcast<f32>(chosen[128u + e]))',
    'return bitcast<f32>(chosen[128u + e])',
  ),
  heard('experts past the last', 'e < EXPERTS)', 'true)', 0, few),
  heard('the best expert for every slot', '&ranked[slot]', '&ranked[0]'),

  closed('experts unweighted', 'weights[slot] * asked_four', 'asked_four'),
  closed('the best expert’s weight for all', 'chosen[64u + slot]', 'chosen[64u]'),
  closed('the best expert’s input for all', 'let first = slot * (COLS / 4u);', 'let first = 0u;'),
  closed('a part of the experts read as all', ' - FIRST;', ';'),
  closed('the shared expert with every part', 'SHARED == 1u', 'true'),
  closed('the shared expert forgotten', 'SHARED == 1u', 'false'),
  closed(
    'a slot’s input for the shared expert’s',
    'let first = TOP * (COLS / 4u);',
    'let first = 0u;',
  ),
  closed('x overwritten', 'before + total[', 'total['),
  closed('blocks past the last counted', ' && n + SUM_LANES < BLOCKS', '', deepDown),
  closed('one of the blocks asked for twice', 'product(b1, n', 'product(b0, n', deepDown),
  closed('the shared expert’s past the last counted', '|| b < SHARED_BLOCKS', '|| true'),
];

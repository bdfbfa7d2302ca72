/** Known bugs of the kernels that lay the memory open. */
import {
  intervene,
  probeAppend,
  probeChoice,
  probeKeep,
  probeLogits,
  probeOverwrite,
  probeRecall,
  probeRow,
  probeState,
  probeToken,
  probeTrace,
} from '../../workers/kernels.ts';
import {
  checkIntervene,
  checkProbeAppend,
  checkProbeChoice,
  checkProbeKeep,
  checkProbeLogits,
  checkProbeOverwrite,
  checkProbeRecall,
  checkProbeRow,
  checkProbeState,
  checkProbeToken,
  checkProbeTrace,
} from '../kernels/probes.ts';
import { mutant, type Mutant } from './mutant.ts';

const heads = { H: 2, K: 44, V: 36 };

const traced = (why: string, find: string, replace: string) =>
  mutant(probeTrace, why, find, replace, (k) => checkProbeTrace(k, { T: 3, ...heads, parts: 8 }));
const token = (why: string, find: string, replace: string) =>
  mutant(probeToken, why, find, replace, (k) => checkProbeToken(k, { layers: 2, ...heads }));
const appended = (why: string, find: string, replace: string, position = 6) =>
  mutant(probeAppend, why, find, replace, (k) => checkProbeAppend(k, { words: 300, position }));
const kept = (why: string, find: string, replace: string) =>
  mutant(probeKeep, why, find, replace, (k) => checkProbeKeep(k, { T: 3, ...heads }));
const recalled = (why: string, find: string, replace: string) =>
  mutant(probeRecall, why, find, replace, (k) =>
    checkProbeRecall(k, { T: 9, ...heads, first: 30 }),
  );
const overwritten = (why: string, find: string, replace: string, head: 'mean' | 1 = 'mean') =>
  mutant(probeOverwrite, why, find, replace, (k) =>
    checkProbeOverwrite(k, { T: 30, ...heads, head }),
  );
const pictured = (why: string, find: string, replace: string) =>
  mutant(probeState, why, find, replace, (k) => checkProbeState(k, heads));
const chosen = (why: string, find: string, replace: string) =>
  mutant(probeChoice, why, find, replace, (k) => checkProbeChoice(k, { T: 10, top: 3 }));
const outlook = (why: string, find: string, replace: string) =>
  mutant(probeLogits, why, find, replace, (k) =>
    checkProbeLogits(k, { T: 10, vocabulary: 1000, slices: 7 }),
  );
const row = (why: string, find: string, replace: string) =>
  mutant(probeRow, why, find, replace, (k) => checkProbeRow(k, { T: 3, width: 100 }));
const changed = (why: string, find: string, replace: string) =>
  mutant(intervene, why, find, replace, (k) => checkIntervene(k, { T: 20, K: 70 }));

export const probeMutants: Mutant[] = [
  traced('the memory not decayed', 'memory[i] *= row.x;', ''),
  traced('surprise against nothing held', '(v - held)', 'v'),
  traced('the surprise told unscaled', 'strength * (v - held)', '(v - held)'),
  traced('energy before the write', 'memory[i] += row.y * surprise;', ''),
  traced('columns past the last counted', ', own && part == 0u)', ', part == 0u)'),
  traced('sums over every part’s copy', ', own && part == 0u)', ', own)'),
  traced('the lower middle twice', 'rank == K / 2u', 'rank == (K - 1u) / 2u'),
  traced('records of one token over another', '(step.position + t) % RING', 'step.position % RING'),

  token('every layer’s row the first', 'let first = group.y * WATCHED;', 'let first = 0u;'),
  token('layers told over one another', '(group.y * H + h) * (SUMS', 'h * (SUMS'),
  token('the ring forgotten', 'step.position % RING', 'step.position'),
  token('sums of one head for all', 'BETA + H + SUMS * h + i', 'BETA + H + i'),
  token('old sums left in the other blocks', 'i < SUMS * BLOCKS; i +=', 'i < SUMS; i +='),
  token('one write strength for all heads', 'BETA + h]', 'BETA]'),
  token('equals without an order', ' && other < d', ' && other != d'),
  token('the lower middle twice', 'rank == K / 2u', 'rank == (K - 1u) / 2u'),

  appended('rows from the conversation’s beginning', 'step.position - FIRST', 'step.position'),
  appended(
    'a token of another segment taken for this',
    'step.position - FIRST',
    '(step.position - FIRST) % SEGMENT',
    4,
  ),
  appended('sums kept as history', 'id.x < ROW', 'true'),

  kept('rows from the conversation’s beginning', 'step.position + t - FIRST', 'step.position + t'),
  kept('one token’s gates for all', 'g[t * G + i - C]', 'g[i - C]'),
  kept('values for surprises', 'u[t * U + i - C - G]', 'mixed[t * C + C - U + i - C - G]'),

  recalled('V-first memory', '(h * K + d) * V + e', '(h * V + e) * K + d'),
  recalled('queries for keys', '(H + h) * K + d]', 'h * K + d]'),
  recalled('not by the value’s own square', 'along / whole', 'along'),
  recalled('one head’s values for all', '2u * H * K + h * V + e', '2u * H * K + e'),

  overwritten('earlier tokens, too', 'max(FIRST + i + 1u, LATER_FIRST)', 'LATER_FIRST'),
  overwritten(
    'what was added for what was taken',
    'if (-change[n] > loss)',
    'if (change[n] > loss)',
  ),
  overwritten('the sum of heads for their mean', ' / f32(asked.z)', ''),
  overwritten(
    'the first head for every one',
    'var h = asked.y; h < asked.y + asked.z',
    'var h = 0u; h < asked.z',
    1,
  ),
  overwritten('segments before forgotten', 'var winner = found[i];', 'var winner = vec2u();'),

  pictured('sums for means', 'total / f32(rows * columns)', 'total'),
  pictured(
    'blocks turned',
    'i / columns) * V + left + i % columns',
    'i % columns) * V + left + i / columns',
  ),
  pictured('every layer’s picture the first', 'cells[FIRST + h', 'cells[h'),

  chosen('one token’s choice for all', 'ids[t * TOP + i]', 'ids[i]'),
  chosen('the ring forgotten', '(step.position + t) % RING', 't'),
  chosen('weights before ids', 'records[out + TOP + i]', 'records[out + i]'),

  outlook('the best again and again', 'n == 0u || after', 'true'),
  outlook('the higher id first among equals', 'i > last.x', 'i < last.x'),
  outlook('the entropy’s weights left out', 'vec2f(1.0, below)', 'vec2f(1.0, 1.0)'),
  outlook('every row the first', 'let row = group.y * VOCABULARY;', 'let row = 0u;'),

  row('the first row for the last', '(step.tokens - 1u) * WIDTH + id.x', 'id.x'),
  row('rows over one another', 'row[FIRST + id.x]', 'row[id.x]'),

  changed('from the beginning on', 'step.position + t >= change.from_position', 'true'),
  changed('a token late', '>= change.from_position', '> change.from_position'),
  changed('by the call’s first position', 'step.position + t >=', 'step.position >='),
  changed('one head’s change for all', 'i * H + h]', 'i * H]'),
  changed('strength for factor', '*= factors.x', '*= factors.y'),
];

/**
 * The kernels of few workgroups with more lanes than every device has, at the embedded model's sizes: checked where the device has
 * so many, compiled where it has not.
 */
import { expect, test } from 'vitest';
import {
  kdaLayer,
  kdaWatched,
  mlaOut,
  mlaQuery,
  moeLayer,
  sumSubgroup,
  sumTree,
} from '../../workers/kernels.ts';
import { FewerLanes, wideGpu } from '../gpu.ts';
import { checkMlaOut, checkMlaQuery, checkMlaWhole } from './attend.ts';
import { checkKdaLayer, type LayerCase } from './decode.ts';
import { checkMoeLayer } from './layer.ts';
import { NO_CHANGE } from './probes.ts';

const LANES = 512;
const D = 576;
const gpu = await wideGpu();
const library = gpu.has('subgroups') ? sumSubgroup : sumTree;
const sum = { library, lanes: LANES };

const head: LayerCase = {
  ...{ T: 1, H: 2, K: 64, V: 64, taps: 4, rank: 64, D, parts: 32 },
  ...{ F: 'Q8_0', G: 'Q8_0', first: { F: 0, G: 0 }, wide: 'Q4_0', low: 'Q8_0', out: 'Q4_0' },
  ...{ before: { wide: 0, low: 0 }, decay: 'gentle', beta: 'open', eps: 1e-5, size: 1 },
  ...{ sum, watched: null },
};
const watched = { library: kdaWatched, changes: [[NO_CHANGE, NO_CHANGE]] };
const expert = {
  ...{ experts: 8, top: 4, width: 128, sharedWidth: 512, D, slices: 32, parts: 9 },
  ...{ scale: 2.5, norm: true, grain: 0, eps: 1e-5, size: 1, sum },
} as const;
const q4 = { gate: 'Q4_0', up: 'Q4_0', shared: 'Q4_0', down: 'Q4_0', sharedDown: 'Q4_0' } as const;

const checks: [string, () => Promise<number>][] = [
  ['kda_layer', () => checkKdaLayer(kdaLayer, head)],
  ['kda_layer watched', () => checkKdaLayer(kdaLayer, { ...head, watched })],
  ['moe_layer', () => checkMoeLayer(moeLayer, { ...expert, ...q4 })],
  [
    'mla_query',
    () =>
      checkMlaQuery(mlaQuery, {
        ...{ H: 2, K: 64, R: 32, L: 192, D, formats: ['Q4_0', 'Q8_0', 'Q8_0'], parts: 32 },
        ...{ position: 5, first: 0, segment: 9, cache: 'f32', sum, size: 1 },
        eps: { norm: 1e-5, latent: 1e-6 },
      }),
  ],
  [
    'mla_out',
    () =>
      checkMlaOut(mlaOut, {
        ...{ H: 2, L: 192, V: 64, D, slices: 32, empty: [1], formats: ['Q8_0', 'Q4_0'] },
        ...{ partTo: 2, sum },
      }),
  ],
  [
    'mla_out of the cache itself',
    () =>
      checkMlaWhole(mlaOut, {
        ...{ H: 2, K: 64, R: 32, L: 192, V: 64, D, formats: ['Q8_0', 'Q4_0'], partTo: 2, sum },
        ...{ rows: 300, segment: 301, cache: 'f32', size: 3 },
      }),
  ],
];

test.each(checks)(`%s in ${LANES} lanes`, async (_, check) => {
  const figure = await check().catch((error: unknown) => {
    if (!(error instanceof FewerLanes)) throw error;
    expect(gpu.workgroup.lanes).toBeLessThan(LANES);
    return 0;
  });
  expect(figure).toBeLessThan(2e-6);
});

/**
 * The table of shaders: for each its source, what it binds, which constants a caller sets, and its grid.
 * One row per file of shaders/; libraries of shaders/lib/ fill slots (see each kernel's "Links").
 */
import activationSource from '../shaders/lib/activation.wgsl?raw';
import stepSource from '../shaders/lib/step.wgsl?raw';
import sumSubgroupSource from '../shaders/lib/sum_subgroup.wgsl?raw';
import sumTreeSource from '../shaders/lib/sum_tree.wgsl?raw';
import matvecSource from '../shaders/matvec.wgsl?raw';
import { kernel, type Library } from './gpu.ts';

// ------------------------------------------------------------------------------------------- libraries

export const activation: Library = { name: 'activation', source: activationSource };
export const step: Library = { name: 'step', source: stepSource };
export const sumTree: Library = { name: 'sum_tree', source: sumTreeSource };
export const sumSubgroup: Library = { name: 'sum_subgroup', source: sumSubgroupSource };

// ---------------------------------------------------------------------------------------- dense layers

export const matvec = kernel('matvec', matvecSource, {
  binds: ['x', 'y'],
  consts: ['ROWS', 'BATCH', 'X_FIRST', 'X_TOKEN', 'X_BATCH', 'Y_FIRST', 'Y_TOKEN', 'Y_BATCH'],
  grid: (c, tokens) => [Math.ceil(c.ROWS / 4), c.BATCH, tokens],
});

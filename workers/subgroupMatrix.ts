/** The optional feature with which prompts are read by products of whole matrices. */

/** Products of 16 x 16 f16 matrices with f32 sums, by subgroups of 32; an experiment of Chromium's, behind a flag there. */
export const SUBGROUP_MATRIX = 'chromium-experimental-subgroup-matrix' as GPUFeatureName;

/** Whether the matrices are of the shape that our kernels use, in subgroups of the size that they count on. */
export function hasOurMatrices({ info, features }: GPUAdapter): boolean {
  const { subgroupMatrixConfigs = [] } = info as GPUAdapterInfo & {
    subgroupMatrixConfigs?: Iterable<MatrixConfig>;
  };
  const fits = [...subgroupMatrixConfigs].some(
    ({ componentType, resultComponentType, M, N, K }) =>
      componentType === 'f16' && resultComponentType === 'f32' && M === 16 && N === 16 && K === 16,
  );
  const { subgroupMinSize, subgroupMaxSize } = info;
  return fits && features.has('shader-f16') && subgroupMinSize === 32 && subgroupMaxSize === 32;
}

interface MatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

/** What the page measures: enough for medians, little enough to be waited for. */
import type { BenchWish, Loaded } from '../../workers/protocol.ts';
import { budgetBytes } from '../memory.svelte.ts';

/** As the page watches when it opens: the middle one of the layers with a memory. */
function watchOf({ model }: Loaded): BenchWish['watch'] {
  const kda = model.layers.flatMap(({ kind }, layer) => (kind === 'kda' ? [layer] : []));
  const layer = kda[Math.floor(kda.length / 2)];
  return layer === undefined ? null : { layer, head: 'median', budgetBytes };
}

/** On a processor a figure takes as long as ten of a GPU's. */
export function wishFor(loaded: Loaded): BenchWish {
  const { software } = loaded.device;
  const { width } = loaded.model;
  const own: [number, number] = [4 * width, width];
  /** It fills any GPU. */
  const large: [number, number] = [16384, 2304];
  return {
    runs: software ? 3 : 10,
    tokens: software ? 16 : 128,
    products: software ? [own] : [large, own],
    prompts: software ? [32, 128] : [32, 512, 2048],
    contexts: software ? [] : [1024],
    watch: watchOf(loaded),
    profiledTokens: software ? 64 : 2048,
    streamBytes: 2 ** 29,
  };
}

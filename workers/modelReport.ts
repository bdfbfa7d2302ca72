/** What the page may know of a model. */
import type { ModelConfig } from './config.ts';
import type { ModelReport } from './protocol.ts';

/** The report of a model with room for `contextLimit` tokens. */
export function reportOf(c: ModelConfig, mode: 'chat' | 'raw', contextLimit: number): ModelReport {
  return {
    name: c.name,
    architecture: c.architecture,
    fileType: c.fileType,
    layers: c.layers,
    heads: c.heads,
    keys: c.kda.keys,
    values: c.kda.values,
    latent: c.mla.latent,
    sharedKey: c.mla.sharedKey,
    experts: c.moe.experts,
    expertsUsed: c.moe.expertsUsed,
    vocabulary: c.vocabulary,
    width: c.width,
    parameters: c.parameters,
    mode,
    contextLimit,
    contextTrained: c.contextTrained,
  };
}

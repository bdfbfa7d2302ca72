/** Shapes for measurements: that of Kimi-Linear-48B-A3B, the same with MLA in every layer, and a small one of the kind. */
import {
  ARCHITECTURE,
  expectedTensors,
  type LayerConfig,
  type ModelConfig,
} from '../workers/config.ts';

/** A model but for how many numbers it has. */
type Shape = Omit<ModelConfig, 'parameters'>;

/** Layers that are MLA: every fourth, and the last. */
const MLA = new Set([3, 7, 11, 15, 19, 23, 26]);

/** As its GGUF files state them (llama.cpp's converter), all matrices in Q4_0. */
const large: Shape = {
  name: 'Kimi Linear 48B A3B',
  architecture: ARCHITECTURE,
  fileType: 'Q4_0',
  layers: Array.from({ length: 27 }, (_, i): LayerConfig => ({
    kind: MLA.has(i) ? 'mla' : 'kda',
    ffn: i === 0 ? 'dense' : 'moe',
  })),
  width: 2304,
  heads: 32,
  eps: 1e-5,
  vocabulary: 163_840,
  contextTrained: 2 ** 20,
  tiedOutput: false,
  kda: { keys: 128, values: 128, taps: 4 },
  mla: { latent: 512, sharedKey: 64, ownKey: 128, query: 192, values: 128, joined: false },
  denseWidth: 9216,
  moe: {
    experts: 256,
    expertsUsed: 8,
    width: 1024,
    sharedWidth: 1024,
    scale: 2.446,
    normalised: true,
  },
};

/** The same with few and narrow layers: for the processor. */
const small: Shape = {
  ...large,
  name: 'a small shape of the kind',
  layers: (['kda', 'mla', 'kda'] as const).map((kind, i): LayerConfig => ({
    kind,
    ffn: i === 0 ? 'dense' : 'moe',
  })),
  width: 128,
  heads: 4,
  vocabulary: 512,
  kda: { keys: 32, values: 32, taps: 4 },
  mla: { latent: 64, sharedKey: 32, ownKey: 64, query: 96, values: 32, joined: false },
  denseWidth: 256,
  moe: { ...large.moe, experts: 32, expertsUsed: 4, width: 64, sharedWidth: 64 },
};

export const shape48B = counted(large);
export const shapeSmall = counted(small);

/** A shape with MLA in all layers. */
export function allMla(shape: ModelConfig): ModelConfig {
  const layers = shape.layers.map(({ ffn }): LayerConfig => ({ kind: 'mla', ffn }));
  return counted({ ...shape, name: `${shape.name}, MLA in all layers`, layers });
}

function counted(shape: Shape): ModelConfig {
  const numbers = [...expectedTensors({ ...shape, parameters: 0 }).values()].map(({ ne }) =>
    ne.reduce((a, b) => a * b),
  );
  return { ...shape, parameters: numbers.reduce((a, b) => a + b) };
}

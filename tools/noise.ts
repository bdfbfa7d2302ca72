/**
 * Numbers made on the GPU, for models of a shape that nobody has a file of: as many bytes as the real ones, in the same
 * places, of sizes at which activations stay what they are in a trained model. What comes out of such a model means nothing.
 */
import { expectedTensors, type ModelConfig } from '../workers/config.ts';
import type { Gpu, Tensor } from '../workers/gpu.ts';
import { kernel } from '../workers/link.ts';
import { PalimpsestError } from '../workers/protocol.ts';
import { packedRow } from '../workers/quant.ts';
import type { State } from '../workers/state.ts';
import type { MatrixPart, TensorShape, Wanted, WeightSource } from '../workers/weights.ts';
import noiseSource from './noise.wgsl?raw';

const noiseKernel = kernel('noise', noiseSource, {
  binds: ['fill', 'words'],
  consts: [],
  grid: (_, groups) => [groups, 1, 1],
});

/** Which bits of a word are noise, and what the others are. */
interface Bits {
  keep: number;
  set: number;
}

/** f32 of either sign, of magnitude 2^power up to twice that. */
const f32 = (power: number): Bits => ({ keep: 0x807fffff, set: (127 + power) << 23 });
/** Two such f16. */
const f16 = (power: number): Bits => ({ keep: 0x83ff83ff, set: ((15 + power) << 10) * 0x10001 });
const anything: Bits = { keep: 0xffffffff, set: 0 };

/** Most workgroups that a fill is spread over. */
const GROUPS = 4096;

/** Bits of a run of words, and of those that follow it, again and again. */
interface Pattern {
  split: number;
  bits: Bits;
  others: number;
  otherBits: Bits;
}

/** Fills buffers on the GPU, each with words of its own. */
export class Noise {
  readonly #gpu: Gpu;
  readonly #fill: Tensor;
  #seed = 1;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
    this.#fill = gpu.tensor('scratch', 'how to fill', [9]);
  }

  /** Words [first, first + count) of a tensor, all of one kind. */
  words(tensor: Tensor, first: number, count: number, bits: Bits): Promise<void> {
    return this.patterned(tensor, first, count, { split: 1, bits, others: 0, otherBits: bits });
  }

  /** The same in a pattern, which begins at `first`. */
  async patterned(words: Tensor, first: number, count: number, pattern: Pattern): Promise<void> {
    const { split, bits, others, otherBits } = pattern;
    const program = this.#gpu.program(noiseKernel, [], {});
    await this.#gpu.ready();
    const call = this.#gpu.bind(program, { fill: this.#fill, words });
    const masks = [bits.keep, bits.set, otherBits.keep, otherBits.set];
    const period = split + others;
    this.#gpu.write(
      this.#fill,
      0,
      Uint32Array.of(this.#seed++, first, count, period, split, ...masks),
    );
    this.#gpu.submit(this.#gpu.record([call], Math.min(GROUPS, Math.ceil(count / 256))));
  }
}

/** Weights for a shape: matrices in Q4_0, those of the routers in F32, and all else in f32. */
export class NoiseWeights implements WeightSource {
  readonly #noise: Noise;
  readonly #shapes: ReadonlyMap<string, TensorShape>;
  #random = 1;

  constructor(gpu: Gpu, config: ModelConfig) {
    this.#noise = new Noise(gpu);
    this.#shapes = shapesOf(config);
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    return [...this.#shapes.values()].reduce((sum, { type, ne }) => {
      const numbers = ne.reduce((a, b) => a * b);
      return sum + (type === 'F32' ? 4 * numbers : (18 * numbers) / 32);
    }, 0);
  }

  entry(name: string): TensorShape {
    const shape = this.#shapes.get(name);
    if (!shape) throw new PalimpsestError('BadModel', `No tensor ${name} belongs to this shape.`);
    return shape;
  }

  async bring(wanted: readonly Wanted[]): Promise<void> {
    for (const one of wanted) {
      if ('part' in one) await this.#fill(one.shape, one.part);
      else one.take(this.#values(one.shape));
    }
  }

  async #fill({ name, type, ne }: TensorShape, part: MatrixPart): Promise<void> {
    const [cols = 1] = ne;
    const { codeWords } = packedRow(type, cols);
    const [first, count] = [part.offset * codeWords, part.rows * codeWords];
    // An input of size 1 comes out as large: numbers of a row have the size cols^-1/2.
    const size = cols ** -0.5;
    if (type === 'F32') await this.#noise.words(part.codes, first, count, f32(power(size)));
    else if (type === 'Q4_0') {
      // The codes of four rows, then their scales, times 2^10: see repack in quant.ts.
      const split = cols / 2;
      const scales = f16(power(size / CODE_SIZE) + 10);
      const pattern = { split, bits: anything, others: 4 * codeWords - split, otherBits: scales };
      await this.#noise.patterned(part.codes, first, count, pattern);
    } else throw new Error(`${name} is ${type}: noise is made of F32 and Q4_0`);
  }

  /** Sizes as training leaves them: norms near 1, decays from slow to fast, a small bias of the router's. */
  #values({ name, ne }: TensorShape): Float32Array<ArrayBuffer> {
    const range = RANGES.find(([ending]) => name.endsWith(ending));
    if (!range) throw new Error(`${name} is a matrix, or of a kind that has no range here`);
    const [, least, most] = range;
    const values = new Float32Array(ne.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++) {
      this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
      values[i] = least + ((most - least) * this.#random) / 2 ** 32;
    }
    return values;
  }
}

/** Root of the mean square of q - 8 for codes q of 0 to 15. */
const CODE_SIZE = 21.5 ** 0.5;

/** The power of two whose `Bits` have numbers of about this size in the root of their mean square. */
const power = (size: number) => Math.round(Math.log2(size / 1.53));

/** Least and most of what is no matrix, by the ending of its name. */
const RANGES: [ending: string, least: number, most: number][] = [
  ['norm.weight', 0.75, 1.25],
  ['ssm_conv1d_q.weight', -0.5, 0.5],
  ['ssm_conv1d_k.weight', -0.5, 0.5],
  ['ssm_conv1d_v.weight', -0.5, 0.5],
  ['ssm_dt.bias', -7, -2],
  ['ssm_a', -8, -1],
  ['exp_probs_b.bias', -0.05, 0.05],
];

function shapesOf(config: ModelConfig): ReadonlyMap<string, TensorShape> {
  return new Map(
    [...expectedTensors(config)].map(([name, { ne, matrix }]) => {
      const type = matrix && !name.endsWith('ffn_gate_inp.weight') ? 'Q4_0' : 'F32';
      return [name, { name, type, ne }];
    }),
  );
}

/** A conversation's state with all rows of its latent caches that there is room for, and memories, as noise. */
export async function fillState(gpu: Gpu, state: State): Promise<void> {
  const noise = new Noise(gpu);
  for (const layer of state.layers) {
    if (layer.kind === 'kda') {
      await noise.words(layer.memory, 0, layer.memory.bytes / 4, f32(-4));
      await noise.words(layer.tails, 0, layer.tails.bytes / 4, f32(-1));
    } else {
      const bits = layer.numbers === 'f16' ? f16(-1) : f32(-1);
      for (const segment of layer.segments) await noise.words(segment, 0, segment.bytes / 4, bits);
    }
  }
}

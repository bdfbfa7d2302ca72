/**
 * A GGUF file's metadata -> one struct of sizes, and the check that every tensor the model needs is there in the right
 * shape. This is the one place that knows llama.cpp's key names for the architecture.
 * Source: llama.cpp src/models/kimi-linear.cpp (keys, defaults, shapes).
 */
import {
  metaBoolean,
  metaNumber,
  metaNumbers,
  metaString,
  type GgufFile,
  type TensorEntry,
} from './gguf.ts';
import { PalimpsestError } from './protocol.ts';
import { COLUMN_UNIT, type TensorType } from './quant.ts';

export const ARCHITECTURE = 'kimi-linear';

/** What a model is made of. Capitals are the sizes of docs/MATH.md. */
export interface ModelConfig {
  name: string;
  architecture: string;
  /** The file's encoding as llama.cpp names it, e.g. "Q4_0", "Q4_K_M". */
  fileType: string;
  /** Numbers in all tensors of the file; see `withoutOutputCopy`. */
  parameters: number;
  layers: LayerConfig[];
  /** D. */
  width: number;
  /** H: of KDA and MLA alike. */
  heads: number;
  /** Of every RMS norm, and of the l2 norm of q and k. */
  eps: number;
  vocabulary: number;
  /** Tokens of context that the file states. */
  contextTrained: number;
  /** True where the file has no output matrix: the embedding serves. */
  tiedOutput: boolean;
  kda: {
    /** K, V: rows and columns of one head's memory. */
    keys: number;
    values: number;
    /** Of the short convolutions, the token itself included. */
    taps: number;
  };
  mla: {
    /** L. */
    latent: number;
    /** R: the part of a key that all heads share. */
    sharedKey: number;
    /** The part of a key that each head makes from the latent. */
    ownKey: number;
    /** Of a query: ownKey + sharedKey; scores are scaled by its root. */
    query: number;
    values: number;
    /** True for old files: `attn_kv_b` in place of `attn_k_b` and `attn_v_b`; see `splitKvB`. */
    joined: boolean;
  };
  /** Width of the dense feed-forward; 0 where no layer has one. */
  denseWidth: number;
  /** All 0 where no layer has experts. */
  moe: {
    /** E. */
    experts: number;
    expertsUsed: number;
    width: number;
    /** Of all shared experts together; 0 without. */
    sharedWidth: number;
    /** Factor on the weights of the chosen experts. */
    scale: number;
    /** Whether the weights of the chosen experts are made to sum to 1 before that. */
    normalised: boolean;
  };
}

export interface LayerConfig {
  kind: 'kda' | 'mla';
  ffn: 'dense' | 'moe';
}

/**
 * Sizes of the model in a file, all tensors checked.
 * Fails: Unsupported (another architecture, or a variant of this one that we do not compute), BadModel (a key or tensor that
 * is missing, of the wrong shape, or contradicts another).
 */
export function modelConfig(file: GgufFile): ModelConfig {
  const { metadata, tensors } = file;
  const architecture = metadata.has('general.architecture')
    ? metaString(metadata, 'general.architecture')
    : 'unnamed';
  if (architecture !== ARCHITECTURE) {
    unsupported(
      `This file holds a model of the ${architecture} architecture; only ${ARCHITECTURE} runs here. Choose a Kimi Linear model.`,
    );
  }
  const keys = new Keys(file);

  const blocks = keys.size('block_count');
  if (blocks > tensors.size)
    bad(`${blocks} layers are stated, but there are only ${tensors.size} tensors`);
  const leadingDense = keys.amount('leading_dense_block_count', 0);
  const layers = layerKinds(file, keys, blocks).map((kind, i): LayerConfig => ({
    kind,
    ffn: i < leadingDense ? 'dense' : 'moe',
  }));
  const hasDense = layers.some((layer) => layer.ffn === 'dense');
  const hasMoe = layers.some((layer) => layer.ffn === 'moe');

  const keyValues = keys.size('kda.head_dim');
  const latent = keys.size('attention.kv_lora_rank');
  // Files from before the latent cache state a head's sizes without `_mla`.
  const mlaNamed = keys.has('attention.key_length_mla');
  const query = keys.size(mlaNamed ? 'attention.key_length_mla' : 'attention.key_length');
  const mlaValues = keys.size(mlaNamed ? 'attention.value_length_mla' : 'attention.value_length');
  const sharedKey = keys.has('rope.dimension_count')
    ? keys.size('rope.dimension_count')
    : sharedKeyOf(file, layers, latent);
  if (!(sharedKey > 0 && sharedKey < query)) {
    bad(`keys of ${query} with a shared part of ${sharedKey} leave no part of each head's own`);
  }

  const config: ModelConfig = {
    name: metadata.has('general.name')
      ? metaString(metadata, 'general.name')
      : file.shards[0]!.name,
    architecture,
    fileType: fileTypeOf(file),
    parameters: [...tensors.values()].reduce((sum, { ne }) => sum + product(ne), 0),
    layers,
    width: keys.size('embedding_length'),
    heads: keys.same('attention.head_count'),
    eps: keys.real('attention.layer_norm_rms_epsilon'),
    vocabulary: vocabularyOf(file, keys),
    contextTrained: keys.size('context_length'),
    tiedOutput: !tensors.has('output.weight'),
    kda: { keys: keyValues, values: keyValues, taps: keys.size('ssm.conv_kernel') },
    mla: {
      latent,
      sharedKey,
      ownKey: query - sharedKey,
      query,
      values: mlaValues,
      joined: layers.some(
        (layer, i) => layer.kind === 'mla' && !tensors.has(`blk.${i}.attn_k_b.weight`),
      ),
    },
    denseWidth: hasDense ? keys.same('feed_forward_length') : 0,
    moe: hasMoe
      ? moeOf(keys)
      : { experts: 0, expertsUsed: 0, width: 0, sharedWidth: 0, scale: 1, normalised: true },
  };
  refuseVariants(keys);
  checkTensors(file, config);
  return config;
}

/** Bytes of the embedding and the output matrix that are compared at a time. */
const COMPARED_BYTES = 4 * 1024 * 1024;

/**
 * The file without an output matrix that repeats the embedding byte for byte: one matrix stored twice, as llama.cpp wants it.
 * Reads both as far as they are equal, so of another output matrix next to nothing.
 */
export async function withoutOutputCopy(file: GgufFile): Promise<GgufFile> {
  const embedding = file.tensors.get('token_embd.weight');
  const output = file.tensors.get('output.weight');
  if (!embedding || !output) return file;
  if (embedding.type !== output.type || embedding.byteLength !== output.byteLength) return file;
  for (let at = 0; at < output.byteLength; at += COMPARED_BYTES) {
    const count = Math.min(COMPARED_BYTES, output.byteLength - at);
    const [a, b] = await Promise.all([
      file.read(embedding, at, count),
      file.read(output, at, count),
    ]);
    for (let i = 0; i < count; i++) if (a[i] !== b[i]) return file;
  }
  const tensors = new Map(file.tensors);
  tensors.delete(output.name);
  return { ...file, tensors };
}

function bad(what: string): never {
  throw new PalimpsestError(
    'BadModel',
    `The model contradicts itself: ${what}. Download it again, or convert it again with a current llama.cpp.`,
  );
}

function unsupported(what: string): never {
  throw new PalimpsestError('Unsupported', what);
}

const product = (ne: number[]): number => ne.reduce((a, b) => a * b, 1);

// ---------------------------------------------------------------------------------------------------- keys

/** Reads keys of the architecture, named without its prefix. */
class Keys {
  readonly #metadata: GgufFile['metadata'];

  constructor(file: GgufFile) {
    this.#metadata = file.metadata;
  }

  has(key: string): boolean {
    return this.#metadata.has(`${ARCHITECTURE}.${key}`);
  }

  real(key: string): number {
    const value = metaNumber(this.#metadata, `${ARCHITECTURE}.${key}`);
    if (!Number.isFinite(value) || value < 0) bad(`${ARCHITECTURE}.${key} is ${value}`);
    return value;
  }

  /** A whole number of 1 or more. */
  size(key: string): number {
    const value = this.real(key);
    if (!Number.isInteger(value) || value < 1 || value > 2 ** 31)
      bad(`${ARCHITECTURE}.${key} is ${value}`);
    return value;
  }

  /** A whole number, or what llama.cpp takes where the key is absent. */
  amount(key: string, absent: number): number {
    if (!this.has(key)) return absent;
    return this.real(key) === 0 ? 0 : this.size(key);
  }

  flag(key: string, absent: boolean): boolean {
    return this.has(key) ? metaBoolean(this.#metadata, `${ARCHITECTURE}.${key}`) : absent;
  }

  /** Whether a key is there and has a magnitude above this. */
  above(key: string, most: number): boolean {
    return this.has(key) && Math.abs(metaNumber(this.#metadata, `${ARCHITECTURE}.${key}`)) > most;
  }

  /** A number for each layer, where the key is an array; null where it is not. */
  perLayer(key: string): number[] | null {
    const value = this.#metadata.get(`${ARCHITECTURE}.${key}`);
    return typeof value === 'object' ? metaNumbers(this.#metadata, `${ARCHITECTURE}.${key}`) : null;
  }

  /** A size that may be written for each layer, but must be the same in all. */
  same(key: string): number {
    const each = this.perLayer(key);
    if (!each) return this.size(key);
    const [first] = each;
    if (first === undefined || !each.every((value) => value === first)) {
      unsupported(
        `${ARCHITECTURE}.${key} differs between layers (${each.slice(0, 8).join(', ')}); one size for all runs here. Choose another model.`,
      );
    }
    if (!Number.isInteger(first) || first < 1) bad(`${ARCHITECTURE}.${key} is ${first}`);
    return first;
  }
}

/** KDA where a layer has no key-value heads. Files without that key show it by their tensors. */
function layerKinds(file: GgufFile, keys: Keys, blocks: number): LayerConfig['kind'][] {
  const kind = (isKda: boolean): LayerConfig['kind'] => (isKda ? 'kda' : 'mla');
  const key = 'attention.head_count_kv';
  const each = keys.perLayer(key);
  if (each && each.length !== blocks) {
    bad(`${ARCHITECTURE}.${key} has ${each.length} entries for ${blocks} layers`);
  }
  if (each) return each.map((count) => kind(count === 0));
  const all = keys.has(key) ? keys.amount(key, 0) === 0 : null;
  return Array.from({ length: blocks }, (_, i) => kind(all ?? file.tensors.has(`blk.${i}.ssm_a`)));
}

/** By the tensor that makes it, for files that do not state it. */
function sharedKeyOf({ tensors }: GgufFile, layers: LayerConfig[], latent: number): number {
  const mla = layers.findIndex((layer) => layer.kind === 'mla');
  const entry = tensors.get(`blk.${mla}.attn_kv_a_mqa.weight`);
  return entry ? entry.ne[1]! - latent : 0;
}

function moeOf(keys: Keys): ModelConfig['moe'] {
  const gating = keys.size('expert_gating_func');
  if (gating !== 2) {
    unsupported(
      `The router's gating function is number ${gating}; only 2, the sigmoid, runs here. Choose another model.`,
    );
  }
  const experts = keys.size('expert_count');
  const expertsUsed = keys.size('expert_used_count');
  if (expertsUsed > experts) bad(`${expertsUsed} of ${experts} experts are used`);
  const width = keys.size('expert_feed_forward_length');
  return {
    experts,
    expertsUsed,
    width,
    sharedWidth: width * keys.amount('expert_shared_count', 0),
    // llama.cpp leaves the weights as they are where the factor is absent or 0, and normalises whatever the file says;
    // a file that says no is taken at its word here.
    scale: (keys.has('expert_weights_scale') && keys.real('expert_weights_scale')) || 1,
    normalised: keys.flag('expert_weights_norm', true),
  };
}

function vocabularyOf({ metadata }: GgufFile, keys: Keys): number {
  const tokens = metadata.get('tokenizer.ggml.tokens');
  return Array.isArray(tokens) ? tokens.length : keys.size('vocab_size');
}

/** Keys of related models that change what is computed. */
function refuseVariants(keys: Keys): void {
  const variants: [key: string, most: number, what: string][] = [
    ['attention.q_lora_rank', 0, 'queries through a low rank'],
    ['expert_group_count', 1, 'experts chosen by groups'],
    ['kda.gate_lower_bound', 0, 'a decay with a lower bound'],
    ['moe_latent_size', 0, 'experts of a latent width'],
    ['attn_res_block_size', 0, 'attention over residuals'],
    ['nextn_predict_layers', 0, 'layers that predict further tokens'],
  ];
  for (const [key, most, what] of variants) {
    if (keys.above(key, most)) {
      unsupported(
        `The model has ${what} (${ARCHITECTURE}.${key}), which does not run here. Choose another Kimi Linear model.`,
      );
    }
  }
}

// llama.cpp's file types (llama.h) whose tensors we read.
const FILE_TYPES: Record<number, string> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  7: 'Q8_0',
  8: 'Q5_0',
  9: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K_S',
  12: 'Q3_K_M',
  13: 'Q3_K_L',
  14: 'Q4_K_S',
  15: 'Q4_K_M',
  16: 'Q5_K_S',
  17: 'Q5_K_M',
  18: 'Q6_K',
  21: 'Q2_K_S',
  25: 'IQ4_NL',
  30: 'IQ4_XS',
  32: 'BF16',
};

/** What the file says, or else the type that takes the most bytes. */
function fileTypeOf({ metadata, tensors }: GgufFile): string {
  const stated = metadata.has('general.file_type')
    ? FILE_TYPES[metaNumber(metadata, 'general.file_type')]
    : undefined;
  if (stated) return stated;
  const bytes = new Map<TensorType, number>();
  for (const { type, byteLength } of tensors.values())
    bytes.set(type, (bytes.get(type) ?? 0) + byteLength);
  const [largest] = [...bytes].sort(([, a], [, b]) => b - a);
  return largest ? largest[0] : 'empty';
}

// ------------------------------------------------------------------------------------------------- tensors

export interface ExpectedTensor {
  /** ggml's order, fastest first. Extents of 1 say nothing: files differ in how many they keep. */
  ne: number[];
  /** A matrix that kernels read by rows of ne[0] columns; the rest becomes plain f32. */
  matrix: boolean;
}

/** Every tensor of a model, by name. */
export function expectedTensors(config: ModelConfig): Map<string, ExpectedTensor> {
  const expected = new Map<string, ExpectedTensor>();
  const matrix = (name: string, ...ne: number[]): unknown =>
    expected.set(`${name}.weight`, { ne, matrix: true });
  const plain = (name: string, ...ne: number[]): unknown =>
    expected.set(name, { ne, matrix: false });
  const { width: D, heads: H, vocabulary, kda, mla, moe, denseWidth } = config;

  matrix('token_embd', D, vocabulary);
  plain('output_norm.weight', D);
  if (!config.tiedOutput) matrix('output', D, vocabulary);
  for (const [i, layer] of config.layers.entries()) {
    const blk = `blk.${i}`;
    plain(`${blk}.attn_norm.weight`, D);
    plain(`${blk}.ffn_norm.weight`, D);
    if (layer.kind === 'kda') {
      matrix(`${blk}.attn_q`, D, H * kda.keys);
      matrix(`${blk}.attn_k`, D, H * kda.keys);
      matrix(`${blk}.attn_v`, D, H * kda.values);
      plain(`${blk}.ssm_conv1d_q.weight`, kda.taps, H * kda.keys);
      plain(`${blk}.ssm_conv1d_k.weight`, kda.taps, H * kda.keys);
      plain(`${blk}.ssm_conv1d_v.weight`, kda.taps, H * kda.values);
      matrix(`${blk}.ssm_f_a`, D, kda.keys);
      matrix(`${blk}.ssm_f_b`, kda.keys, H * kda.keys);
      matrix(`${blk}.ssm_g_a`, D, kda.values);
      matrix(`${blk}.ssm_g_b`, kda.values, H * kda.values);
      matrix(`${blk}.ssm_beta`, D, H);
      plain(`${blk}.ssm_a`, H);
      plain(`${blk}.ssm_dt.bias`, H * kda.keys);
      plain(`${blk}.ssm_norm.weight`, kda.values);
      matrix(`${blk}.attn_output`, H * kda.values, D);
    } else {
      matrix(`${blk}.attn_q`, D, H * mla.query);
      matrix(`${blk}.attn_kv_a_mqa`, D, mla.latent + mla.sharedKey);
      plain(`${blk}.attn_kv_a_norm.weight`, mla.latent);
      if (mla.joined) matrix(`${blk}.attn_kv_b`, mla.latent, H * (mla.ownKey + mla.values));
      else {
        matrix(`${blk}.attn_k_b`, mla.ownKey, mla.latent, H);
        matrix(`${blk}.attn_v_b`, mla.latent, mla.values, H);
      }
      matrix(`${blk}.attn_output`, H * mla.values, D);
    }
    if (layer.ffn === 'dense') {
      matrix(`${blk}.ffn_gate`, D, denseWidth);
      matrix(`${blk}.ffn_up`, D, denseWidth);
      matrix(`${blk}.ffn_down`, denseWidth, D);
    } else {
      matrix(`${blk}.ffn_gate_inp`, D, moe.experts);
      plain(`${blk}.exp_probs_b.bias`, moe.experts);
      matrix(`${blk}.ffn_gate_exps`, D, moe.width, moe.experts);
      matrix(`${blk}.ffn_up_exps`, D, moe.width, moe.experts);
      matrix(`${blk}.ffn_down_exps`, moe.width, D, moe.experts);
      if (moe.sharedWidth > 0) {
        matrix(`${blk}.ffn_gate_shexp`, D, moe.sharedWidth);
        matrix(`${blk}.ffn_up_shexp`, D, moe.sharedWidth);
        matrix(`${blk}.ffn_down_shexp`, moe.sharedWidth, D);
      }
    }
  }
  return expected;
}

function checkTensors({ tensors }: GgufFile, config: ModelConfig): void {
  const expected = expectedTensors(config);
  for (const [name, { ne, matrix }] of expected) {
    const entry = tensors.get(name);
    if (!entry) bad(`tensor ${name} [${ne.join(', ')}] is missing`);
    if (!sameShape(entry, ne)) {
      bad(
        `tensor ${name} should have the shape [${ne.join(', ')}] and has [${entry.ne.join(', ')}]`,
      );
    }
    if (matrix && ne[0]! % COLUMN_UNIT !== 0) {
      unsupported(
        `Tensor ${name} has rows of ${ne[0]} columns; rows of multiples of ${COLUMN_UNIT} run here. Choose another model.`,
      );
    }
  }
  for (const name of tensors.keys()) {
    // Some files keep the joined matrix beside the two it was split into.
    if (expected.has(name) || /^blk\.\d+\.attn_kv_b\.weight$/.test(name)) continue;
    unsupported(
      `The file has a tensor ${name}, which is no part of a Kimi Linear model as it is computed here; leaving it out would give wrong answers. Choose another file.`,
    );
  }
}

function sameShape({ ne }: TensorEntry, expected: number[]): boolean {
  const squeeze = (extents: number[]): string => extents.filter((n) => n !== 1).join();
  return squeeze(ne) === squeeze(expected);
}

// --------------------------------------------------------------------------------------------- what follows

/** Bytes of the recurrent state of one conversation: memories [H, K, V] and three convolution tails, f32. Constant. */
export function recurrentBytes({ layers, heads, kda }: ModelConfig): number {
  const memory = heads * kda.keys * kda.values;
  const tails = (kda.taps - 1) * heads * (2 * kda.keys + kda.values);
  return 4 * layers.filter((layer) => layer.kind === 'kda').length * (memory + tails);
}

/** Bytes that each token adds to the latent cache, at 4 (f32) or 2 (f16) bytes a number. */
export function latentBytesPerToken({ layers, mla }: ModelConfig, numberBytes: number): number {
  return (
    numberBytes *
    layers.filter((layer) => layer.kind === 'mla').length *
    (mla.latent + mla.sharedKey)
  );
}

/**
 * An old file's `attn_kv_b` [H (ownKey + values), L], decoded, as the two matrices of newer ones:
 * `attn_k_b` [H, L, ownKey], turned around so that it takes a query to the latent, and `attn_v_b` [H, values, L].
 */
export function splitKvB(
  { heads, mla }: ModelConfig,
  joined: Float32Array,
): { keys: Float32Array<ArrayBuffer>; values: Float32Array<ArrayBuffer> } {
  const { latent, ownKey, values: V } = mla;
  const keys = new Float32Array(heads * latent * ownKey);
  const values = new Float32Array(heads * V * latent);
  for (let h = 0; h < heads; h++) {
    const first = h * (ownKey + V) * latent;
    for (let p = 0; p < ownKey; p++) {
      for (let l = 0; l < latent; l++) {
        keys[(h * latent + l) * ownKey + p] = joined[first + p * latent + l]!;
      }
    }
    const from = first + ownKey * latent;
    values.set(joined.subarray(from, from + V * latent), h * V * latent);
  }
  return { keys, values };
}

/**
 * A Hugging Face checkpoint of Kimi Linear in GGUF's terms: config.json -> metadata, and for each tensor of the GGUF file
 * the numbers of the checkpoint it consists of. This is the one place that knows the checkpoint's names.
 *
 *   kv_b_proj [H (ownKey + values), L]   -> attn_k_b [H, L, ownKey], turned around, and attn_v_b [H, values, L]
 *   A_log                                -> ssm_a = -exp(A_log)
 *   experts.N.w1, w3, w2                 -> ffn_gate_exps, ffn_up_exps, ffn_down_exps, one expert after another
 *   conv weights [C, 1, taps], the rest  -> as they are
 *
 * Source: llama.cpp conversion/kimi_linear.py, conversion/base.py (names, shapes, keys; which tensors stay F32);
 * gguf-py tensor_mapping.py; MoonshotAI's config.json and modeling_kimi.py.
 */
import { ARCHITECTURE } from './config.ts';
import type { MetaEntry } from './ggufFile.ts';
import { Fields, isObject, type Json, type JsonLimits, type JsonObject } from './json.ts';
import { PalimpsestError } from './protocol.ts';
import { blockColumns, type WrittenType } from './quant.ts';
import type { SafeTensor } from './safetensors.ts';

const CHECKPOINT_FILE =
  /^(config\.json|tokenizer\.json|tokenizer_config\.json|tiktoken\.model|chat_template\.(jinja|json)|model[^/]*\.safetensors(\.index\.json)?)$/;

/** Whether a file of a repository or folder, by its path there, is part of its checkpoint. */
export function isCheckpointFile(path: string): boolean {
  return CHECKPOINT_FILE.test(path);
}

/** How the matrices of an imported model are stored. */
export type Encoding = 'F32' | WrittenType;

/** What config.json says, checked. Layers count from 0. Capitals as in docs/MATH.md. */
export interface CheckpointConfig {
  layers: { kind: 'kda' | 'mla'; ffn: 'dense' | 'moe' }[];
  vocabulary: number;
  context: number;
  /** D. */
  width: number;
  /** H. */
  heads: number;
  eps: number;
  tiedOutput: boolean;
  /** K = V: of a KDA head. */
  keys: number;
  taps: number;
  latent: number;
  sharedKey: number;
  ownKey: number;
  values: number;
  denseWidth: number;
  experts: number;
  expertsUsed: number;
  expertWidth: number;
  sharedExperts: number;
  scale: number;
  normalised: boolean;
  /** Ids by the checkpoint's word for them: bos, eos, pad. */
  tokenIds: Map<string, number>;
}

export const CONFIG_LIMITS: JsonLimits = { bytes: 1024 * 1024, depth: 16, values: 100_000 };
const MOST_LAYERS = 1024;
const MOST_TOKENS = 2 ** 20;
const MOST_EXPERTS = 8192;
const MOST_HEADS = 8192;

function bad(what: string): never {
  throw new PalimpsestError(
    'BadModel',
    `The checkpoint contradicts itself: ${what}. Get its files again, all of one revision.`,
  );
}

function unsupported(what: string): never {
  throw new PalimpsestError('Unsupported', `${what} Choose another Kimi Linear checkpoint.`);
}

/**
 * config.json, parsed.
 * Fails: Unsupported (another architecture, or a variant that we do not compute), BadModel (a field missing or impossible).
 */
export function readConfig(parsed: JsonObject): CheckpointConfig {
  const config = new Fields(parsed, 'config.json');
  refuseOthers(config);
  const linear = new Fields(config.object('linear_attn_config'), 'linear_attn_config');
  const blocks = config.size('num_hidden_layers');
  if (blocks > MOST_LAYERS) bad(`config.json states ${blocks} layers`);
  const vocabulary = config.size('vocab_size');
  if (vocabulary > MOST_TOKENS) bad(`config.json states ${vocabulary} tokens`);
  const leadingDense = config.amount('first_k_dense_replace', 0);
  const heads = config.size('num_attention_heads');
  if (heads > MOST_HEADS) bad(`config.json states ${heads} heads`);
  const experts = leadingDense < blocks ? config.size('num_experts') : 0;
  if (experts > MOST_EXPERTS) bad(`config.json states ${experts} experts`);

  return {
    layers: layerKinds(linear, blocks).map((kind, i) => ({
      kind,
      ffn: i < leadingDense ? 'dense' : 'moe',
    })),
    vocabulary,
    context: config.size(
      config.get('model_max_length') === null ? 'max_position_embeddings' : 'model_max_length',
    ),
    width: config.size('hidden_size'),
    heads,
    eps: config.real('rms_norm_eps'),
    tiedOutput: config.flag('tie_word_embeddings', false),
    keys: linear.size('head_dim'),
    taps: linear.size('short_conv_kernel_size'),
    latent: config.size('kv_lora_rank'),
    sharedKey: config.size('qk_rope_head_dim'),
    ownKey: config.size('qk_nope_head_dim'),
    values: config.size('v_head_dim'),
    denseWidth: config.size('intermediate_size'),
    experts,
    expertsUsed: experts > 0 ? config.size('num_experts_per_token') : 0,
    expertWidth: experts > 0 ? config.size('moe_intermediate_size') : 0,
    sharedExperts: config.amount('num_shared_experts', 0),
    scale: experts > 0 ? config.real('routed_scaling_factor') : 1,
    normalised: config.flag('moe_renormalize', true),
    tokenIds: tokenIds(config, vocabulary),
  };
}

function refuseOthers(config: Fields): void {
  const names = config.list('architectures');
  const kind = config.text('model_type');
  if (kind !== 'kimi_linear' && !names.includes('KimiLinearForCausalLM')) {
    throw new PalimpsestError(
      'Unsupported',
      `This checkpoint is of the type ${(kind || String(names[0] ?? 'unnamed')).slice(0, 60)}; only kimi_linear runs here. Choose a Kimi Linear model.`,
    );
  }
  if (isObject(config.get('quantization_config'))) {
    unsupported('The checkpoint is quantised; BF16, F16 and F32 ones are read.');
  }
  const heads = config.size('num_attention_heads');
  const linear = new Fields(config.object('linear_attn_config'), 'linear_attn_config');
  const required: [fields: Fields, key: string, only: Json[]][] = [
    [config, 'mla_use_nope', [true]],
    [config, 'q_lora_rank', [null]],
    [config, 'hidden_act', ['silu', null]],
    [config, 'moe_router_activation_func', ['sigmoid', null]],
    [config, 'num_expert_group', [1, null]],
    [config, 'moe_layer_freq', [1, null]],
    [config, 'num_nextn_predict_layers', [0, null]],
    [config, 'attention_bias', [false, null]],
    [config, 'mla_use_output_gate', [false, null]],
    [config, 'attn_res_block_size', [0, null]],
    [config, 'num_key_value_heads', [heads, null]],
    [linear, 'num_heads', [heads]],
  ];
  for (const [fields, key, only] of required) {
    const value = fields.get(key);
    if (only.includes(value)) continue;
    const shown = JSON.stringify(value).slice(0, 60);
    unsupported(`config.json has ${key} ${shown}; ${JSON.stringify(only[0])} runs here.`);
  }
}

/** The checkpoint lists layers from 1 on. */
function layerKinds(linear: Fields, blocks: number): ('kda' | 'mla')[] {
  const kda = new Set(linear.list('kda_layers'));
  const mla = new Set(linear.list('full_attn_layers'));
  return Array.from({ length: blocks }, (_, i) => {
    const [isKda, isMla] = [kda.has(i + 1), mla.has(i + 1)];
    if (isKda !== isMla) return isKda ? 'kda' : 'mla';
    return bad(
      `config.json lists layer ${i + 1} of ${blocks} in ${isKda ? 'both' : 'neither'} of kda_layers and full_attn_layers`,
    );
  });
}

/** A list of end ids counts by its first. */
function tokenIds(config: Fields, vocabulary: number): Map<string, number> {
  const ids = new Map<string, number>();
  for (const name of ['bos', 'eos', 'pad']) {
    const stated = config.get(`${name}_token_id`);
    const id = Array.isArray(stated) ? stated[0] : stated;
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabulary) {
      ids.set(name, id);
    }
  }
  return ids;
}

// ------------------------------------------------------------------------------------------------ metadata

/** llama.cpp's number for the encoding of most tensors (llama.h). */
const FILE_TYPES: Record<Encoding, number> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7, BF16: 32 };

/** Everything but the tokenizer. */
export function modelMetadata(
  config: CheckpointConfig,
  about: { name: string; license: string },
  encoding: Encoding,
): MetaEntry[] {
  const entries: MetaEntry[] = [];
  const text = (key: string, value: string): unknown =>
    entries.push({ key, type: 'string', value });
  const u32 = (key: string, value: number): unknown =>
    entries.push({ key: `${ARCHITECTURE}.${key}`, type: 'u32', value });
  const f32 = (key: string, value: number): unknown =>
    entries.push({ key: `${ARCHITECTURE}.${key}`, type: 'f32', value });

  text('general.architecture', ARCHITECTURE);
  text('general.type', 'model');
  text('general.name', about.name);
  if (about.license !== '') text('general.license', about.license);
  entries.push({ key: 'general.file_type', type: 'u32', value: FILE_TYPES[encoding] });
  entries.push({ key: 'general.quantization_version', type: 'u32', value: 2 });
  u32('block_count', config.layers.length);
  u32('context_length', config.context);
  u32('embedding_length', config.width);
  u32('feed_forward_length', config.denseWidth);
  u32('vocab_size', config.vocabulary);
  u32('attention.head_count', config.heads);
  entries.push({
    key: `${ARCHITECTURE}.attention.head_count_kv`,
    type: 'i32s',
    value: config.layers.map(({ kind }) => (kind === 'mla' ? 1 : 0)),
  });
  f32('attention.layer_norm_rms_epsilon', config.eps);
  // Of the cache: one head of latent and shared key. With `_mla`: of a head as it is trained.
  u32('attention.kv_lora_rank', config.latent);
  u32('attention.key_length', config.latent + config.sharedKey);
  u32('attention.value_length', config.latent);
  u32('attention.key_length_mla', config.ownKey + config.sharedKey);
  u32('attention.value_length_mla', config.values);
  u32('rope.dimension_count', config.sharedKey);
  u32('ssm.conv_kernel', config.taps);
  u32('kda.head_dim', config.keys);
  u32('leading_dense_block_count', config.layers.filter(({ ffn }) => ffn === 'dense').length);
  if (config.experts > 0) {
    u32('expert_count', config.experts);
    u32('expert_used_count', config.expertsUsed);
    u32('expert_feed_forward_length', config.expertWidth);
    u32('expert_shared_count', config.sharedExperts);
    f32('expert_weights_scale', config.scale);
    entries.push({
      key: `${ARCHITECTURE}.expert_weights_norm`,
      type: 'bool',
      value: config.normalised,
    });
    u32('expert_gating_func', 2); // the sigmoid
  }
  return entries;
}

// ------------------------------------------------------------------------------------------------- tensors

/** Consecutive rows of a tensor, made from one run of the checkpoint's numbers. */
export interface Slab {
  source: SafeTensor;
  /** Index of the first number in the source. */
  first: number;
  rows: number;
  /** `turned`: the run is [columns, rows] and becomes [rows, columns]. */
  change: 'none' | 'turned' | 'minusExp';
}

/** One tensor of the GGUF file. */
export interface TensorRecipe {
  name: string;
  /** ggml's order, fastest first. */
  ne: number[];
  /** Stored in the chosen encoding; the rest stays F32. */
  encoded: boolean;
  /** All its rows, in order. */
  slabs: Slab[];
}

/** In what type a tensor is stored: F16 where its rows are no whole number of blocks, as llama.cpp's converter does. */
export function storedType({ name, ne, encoded }: TensorRecipe, encoding: Encoding) {
  if (!encoded) return 'F32';
  // Four bits cost much where each number is a token's: llama.cpp keeps more for these two as well.
  const isVocabulary = name === 'token_embd.weight' || name === 'output.weight';
  const wanted = encoding === 'Q4_0' && isVocabulary ? 'Q8_0' : encoding;
  return ne[0] % blockColumns(wanted) === 0 ? wanted : 'F16';
}

/**
 * Every tensor of the GGUF file, in its order.
 * Fails: BadModel (a tensor missing or of the wrong shape), Unsupported (one that has no place in the model).
 */
export function tensorRecipes(
  config: CheckpointConfig,
  tensors: ReadonlyMap<string, SafeTensor>,
): TensorRecipe[] {
  const used = new Set<string>();
  const recipes: TensorRecipe[] = [];

  /** A tensor of the checkpoint that must have this shape, extents of 1 aside. */
  function take(name: string, ...shape: number[]): SafeTensor {
    const tensor = tensors.get(name);
    if (!tensor) bad(`tensor ${name} [${shape.join(', ')}] is missing`);
    if (squeezed(tensor.shape) !== squeezed(shape)) {
      bad(`tensor ${name} should be [${shape.join(', ')}] and is [${tensor.shape.join(', ')}]`);
    }
    used.add(name);
    return tensor;
  }
  const whole = (source: SafeTensor, rows: number): Slab => ({
    source,
    first: 0,
    rows,
    change: 'none',
  });
  function matrix(name: string, from: string, cols: number, rows: number): void {
    const slabs = [whole(take(`${from}.weight`, rows, cols), rows)];
    recipes.push({ name: `${name}.weight`, ne: [cols, rows], encoded: true, slabs });
  }
  function plain(name: string, from: string, ...ne: number[]): void {
    const rows = ne.slice(1).reduce((a, b) => a * b, 1);
    const slabs = [whole(take(from, ...ne.toReversed()), rows)];
    recipes.push({ name, ne, encoded: false, slabs });
  }

  const { width: D, heads: H, keys: K, taps, latent: L, ownKey, values, vocabulary } = config;
  matrix('token_embd', 'model.embed_tokens', D, vocabulary);
  plain('output_norm.weight', 'model.norm.weight', D);
  if (!config.tiedOutput || tensors.has('lm_head.weight'))
    matrix('output', 'lm_head', D, vocabulary);

  for (const [i, layer] of config.layers.entries()) {
    const blk = `blk.${i}`;
    const from = `model.layers.${i}`;
    const attention = `${from}.self_attn`;
    plain(`${blk}.attn_norm.weight`, `${from}.input_layernorm.weight`, D);
    if (layer.kind === 'kda') {
      for (const n of ['q', 'k', 'v']) {
        matrix(`${blk}.attn_${n}`, `${attention}.${n}_proj`, D, H * K);
        const conv = `${attention}.${n}_conv1d.weight`;
        plain(`${blk}.ssm_conv1d_${n}.weight`, conv, taps, 1, H * K, 1);
      }
      for (const n of ['f', 'g']) {
        matrix(`${blk}.ssm_${n}_a`, `${attention}.${n}_a_proj`, D, K);
        matrix(`${blk}.ssm_${n}_b`, `${attention}.${n}_b_proj`, K, H * K);
      }
      matrix(`${blk}.ssm_beta`, `${attention}.b_proj`, D, H);
      const decay = take(`${attention}.A_log`, H);
      recipes.push({
        name: `${blk}.ssm_a`,
        ne: [1, H, 1, 1],
        encoded: false,
        slabs: [{ source: decay, first: 0, rows: H, change: 'minusExp' }],
      });
      plain(`${blk}.ssm_dt.bias`, `${attention}.dt_bias`, H * K);
      plain(`${blk}.ssm_norm.weight`, `${attention}.o_norm.weight`, K);
      matrix(`${blk}.attn_output`, `${attention}.o_proj`, H * K, D);
    } else {
      matrix(`${blk}.attn_q`, `${attention}.q_proj`, D, H * (ownKey + config.sharedKey));
      matrix(`${blk}.attn_kv_a_mqa`, `${attention}.kv_a_proj_with_mqa`, D, L + config.sharedKey);
      plain(`${blk}.attn_kv_a_norm.weight`, `${attention}.kv_a_layernorm.weight`, L);
      const joined = take(`${attention}.kv_b_proj.weight`, H * (ownKey + values), L);
      const perHead = (first: number, rows: number, change: Slab['change']): Slab[] =>
        Array.from({ length: H }, (_, h) => ({
          source: joined,
          first: (h * (ownKey + values) + first) * L,
          rows,
          change,
        }));
      recipes.push({
        name: `${blk}.attn_k_b.weight`,
        ne: [ownKey, L, H],
        encoded: true,
        slabs: perHead(0, L, 'turned'),
      });
      recipes.push({
        name: `${blk}.attn_v_b.weight`,
        ne: [L, values, H],
        encoded: true,
        slabs: perHead(ownKey, values, 'none'),
      });
      matrix(`${blk}.attn_output`, `${attention}.o_proj`, H * values, D);
    }

    plain(`${blk}.ffn_norm.weight`, `${from}.post_attention_layernorm.weight`, D);
    if (layer.ffn === 'dense') {
      matrix(`${blk}.ffn_gate`, `${from}.mlp.gate_proj`, D, config.denseWidth);
      matrix(`${blk}.ffn_up`, `${from}.mlp.up_proj`, D, config.denseWidth);
      matrix(`${blk}.ffn_down`, `${from}.mlp.down_proj`, config.denseWidth, D);
      continue;
    }
    const moe = `${from}.block_sparse_moe`;
    const { experts, expertWidth: W, sharedExperts } = config;
    plain(`${blk}.ffn_gate_inp.weight`, `${moe}.gate.weight`, D, experts);
    plain(`${blk}.exp_probs_b.bias`, `${moe}.gate.e_score_correction_bias`, experts);
    for (const [n, w, cols, rows] of [
      ['gate', 'w1', D, W],
      ['up', 'w3', D, W],
      ['down', 'w2', W, D],
    ] as const) {
      recipes.push({
        name: `${blk}.ffn_${n}_exps.weight`,
        ne: [cols, rows, experts],
        encoded: true,
        slabs: Array.from({ length: experts }, (_, e) =>
          whole(take(`${moe}.experts.${e}.${w}.weight`, rows, cols), rows),
        ),
      });
    }
    if (sharedExperts > 0) {
      const shared = `${moe}.shared_experts`;
      matrix(`${blk}.ffn_gate_shexp`, `${shared}.gate_proj`, D, W * sharedExperts);
      matrix(`${blk}.ffn_up_shexp`, `${shared}.up_proj`, D, W * sharedExperts);
      matrix(`${blk}.ffn_down_shexp`, `${shared}.down_proj`, W * sharedExperts, D);
    }
  }

  for (const name of tensors.keys()) {
    // Rotary frequencies are computed, not learned; and nothing here is rotated.
    if (used.has(name) || name.endsWith('.rotary_emb.inv_freq')) continue;
    unsupported(
      `The checkpoint has a tensor ${name}, which is no part of a Kimi Linear model as it is computed here; leaving it out would give wrong answers.`,
    );
  }
  return recipes;
}

const squeezed = (shape: number[]): string => shape.filter((n) => n !== 1).join();

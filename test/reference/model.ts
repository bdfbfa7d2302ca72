/**
 * The whole Kimi Linear forward pass in float64, from a GGUF file: the numbers the engine is held to.
 *
 *   x = E[token]
 *   for each layer:  x += attention(rmsnorm(x))         KDA or MLA, as the file says
 *                    x += ffn(rmsnorm(x))               dense SwiGLU in the leading layers, experts after
 *   logits = W_out rmsnorm(x)
 *
 * Plain forms throughout: KDA token by token, MLA with unfolded keys and values. Weights are dequantised to float32,
 * which holds every stored value exactly, and multiplied in float64.
 */
import { argmax } from './compare.ts';
import { openGguf, type Gguf, type Tensor } from './gguf.ts';
import { emptyMemory, gates, outNorm, shortConv, step, writeStrengths } from './kda.ts';
import { add, each, matrix, rmsNorm, sigmoid, unit, type Product } from './layers.ts';
import { expanded, latentRows } from './mla.ts';
import { moe, route, swiglu, type Swiglu } from './moe.ts';
import { roundToInt8 } from './rounding.ts';

/** Sizes and constants, as the file's metadata gives them. Layers count from 0. */
export interface ModelConfig {
  layers: { kind: 'kda' | 'mla'; ffn: 'dense' | 'moe' }[];
  /** How many tokens there are: rows of the embedding, logits of a position. */
  vocabulary: number;
  /** D, the width of the residual stream. */
  width: number;
  /** H, the same for both kinds of layer. */
  heads: number;
  eps: number;
  kda: { K: number; V: number; taps: number };
  mla: { K: number; R: number; L: number; V: number };
  moe: { top: number; scale: number };
}

/** How a product's input is taken: as it is, or rounded the way ggml's CPU code rounds it for quantised weights. */
export type Activations = 'exact' | 'int8';

export interface Model {
  config: ModelConfig;
  file: Gguf;
  activations: Activations;
  /** A tensor by name, decoded once and kept. Throws Error for a name the file does not have. */
  weight(name: string): Float32Array;
}

/** What one sequence carries from call to call. Nothing in it is ever written to: `forward` makes the next one. */
export interface State {
  position: number;
  layers: (KdaState | MlaState)[];
}

/** memory [H, K, V]; tails: the last raw inputs of the three convolutions, each [taps-1, H K], oldest first. */
export interface KdaState {
  kind: 'kda';
  memory: Float64Array;
  tails: { q: Float64Array; k: Float64Array; v: Float64Array };
}

/** cache [position, L+R] */
export interface MlaState {
  kind: 'mla';
  cache: Float64Array;
}

/**
 * Every intermediate array of a pass by the name the golden bundles give it (test/fixtures/README.md):
 * layerN.input, q, k, v, g, beta, o, gate, state, conv, latent, experts, weights, router; final.
 *
 * Beside them layerN.attention and layerN.ffn [T, D], what the two halves add to the stream; layerN.held and u
 * [T, H, V] of KDA layers; layerN.q [T, H, K+R] of MLA layers. q of KDA layers is scaled, q of MLA layers is not.
 */
export type Trace = Map<string, Float64Array | Int32Array>;

export interface Pass {
  /** [T, vocabulary] */
  logits: Float64Array;
  state: State;
  trace: Trace;
}

/** Open a GGUF file, any shard of a split one, or the folder of one. Throws Error when it is not a Kimi Linear. */
export function openModel(path: string, activations: Activations = 'exact'): Model {
  const file = openGguf(path);
  const kept = new Map<string, Float32Array>();
  return {
    config: readConfig(file),
    file,
    activations,
    weight(name) {
      let values = kept.get(name);
      if (!values) {
        const tensor = tensorOf(file, name);
        values = tensor.read(
          0,
          tensor.shape.reduce((a, b) => a * b, 1),
        );
        kept.set(name, values);
      }
      return values;
    },
  };
}

function readConfig(file: Gguf): ModelConfig {
  const { metadata } = file;
  const architecture = metadata.get('general.architecture');
  if (architecture !== 'kimi-linear') {
    throw new Error(`architecture ${architecture}, not kimi-linear`);
  }
  const get = (key: string) => {
    const value = metadata.get(`kimi-linear.${key}`);
    if (value === undefined) throw new Error(`the file has no kimi-linear.${key}`);
    return value;
  };
  const number = (key: string) => Number(get(key));
  if (get('expert_weights_norm') !== true || number('expert_gating_func') !== 2) {
    throw new Error('the oracle routes by renormalised sigmoid scores only');
  }
  const keyHeads = get('attention.head_count_kv'); // per layer: 0 = KDA
  if (!Array.isArray(keyHeads)) throw new Error('head_count_kv is not given per layer');
  const [R, keyLength] = [number('rope.dimension_count'), number('attention.key_length_mla')];
  const headSize = number('kda.head_dim');
  return {
    layers: keyHeads.map((count, layer) => ({
      kind: count ? 'mla' : 'kda',
      ffn: layer < number('leading_dense_block_count') ? 'dense' : 'moe',
    })),
    vocabulary: tensorOf(file, 'token_embd.weight').shape[0],
    width: number('embedding_length'),
    heads: number('attention.head_count'),
    eps: number('attention.layer_norm_rms_epsilon'),
    kda: { K: headSize, V: headSize, taps: number('ssm.conv_kernel') },
    mla: {
      K: keyLength - R,
      R,
      L: number('attention.kv_lora_rank'),
      V: number('attention.value_length_mla'),
    },
    moe: { top: number('expert_used_count'), scale: number('expert_weights_scale') },
  };
}

/** The state before the first token. */
export function emptyState({ config: { layers, heads: H, kda } }: Model): State {
  const tail = () => new Float64Array((kda.taps - 1) * H * kda.K);
  return {
    position: 0,
    layers: layers.map(({ kind }) =>
      kind === 'kda'
        ? { kind, memory: emptyMemory({ H, ...kda }), tails: { q: tail(), k: tail(), v: tail() } }
        : { kind, cache: new Float64Array(0) },
    ),
  };
}

/** Logits at every position of `tokens`, which continue `state`, the state after them, and every array on the way. */
export function forward(model: Model, tokens: number[], state: State): Pass {
  const { layers, eps } = model.config;
  const trace: Trace = new Map();
  const next: State = { position: state.position + tokens.length, layers: [] };

  let x = embed(model, tokens);
  layers.forEach(({ ffn }, layer) => {
    const block = blockOf(model, layer, trace);
    block.keep('input', x);
    const before = state.layers[layer];
    const h = rmsNorm(x, block.weight('attn_norm.weight'), eps);
    const attention =
      before.kind === 'kda' ? kdaLayer(block, h, before) : mlaLayer(block, h, before);
    next.layers.push(attention.state);
    x = add(x, block.keep('attention', attention.y));

    const z = rmsNorm(x, block.weight('ffn_norm.weight'), eps);
    x = add(x, block.keep('ffn', ffn === 'dense' ? denseLayer(block, z) : moeLayer(block, z)));
  });
  const last = rmsNorm(x, model.weight('output_norm.weight'), eps);
  trace.set('final', last);
  const output = model.file.tensors.has('output.weight') ? 'output.weight' : 'token_embd.weight';
  return { logits: products(model, output)[0](last), state: next, trace };
}

/** The `count` token ids that follow `pass`, each the best of its logits, fed back one at a time. */
export function greedy(model: Model, pass: Pass, count: number): number[] {
  const ids: number[] = [];
  let last = pass;
  while (ids.length < count) {
    if (ids.length) last = forward(model, ids.slice(-1), last.state);
    ids.push(argmax(last.logits.subarray(-model.config.vocabulary)));
  }
  return ids;
}

// ---------------------------------------------------------------------------------------------- layers

function kdaLayer(block: Block, x: Float64Array, before: KdaState) {
  const { heads: H, width, eps, kda } = block.config;
  const { K, V, taps } = kda;
  const T = x.length / width;

  const convolve = (n: 'q' | 'k' | 'v') =>
    shortConv(
      block.product(`attn_${n}`)(x),
      block.weight(`ssm_conv1d_${n}.weight`),
      before.tails[n],
      taps,
    );
  const [convQ, convK, convV] = [convolve('q'), convolve('k'), convolve('v')];
  const decay = block.product('ssm_f_b')(block.product('ssm_f_a')(x));
  const inputs = {
    q: block.keep('q', unit(convQ.y, K, eps, K ** -0.5)), // the file's eps, as llama.cpp does
    k: block.keep('k', unit(convK.y, K, eps, 1)),
    v: block.keep('v', convV.y),
    g: block.keep('g', gates(decay, block.weight('ssm_dt.bias'), block.weight('ssm_a'))),
    beta: block.keep('beta', writeStrengths(block.product('ssm_beta')(x))),
  };
  const { o, u, held, S } = step({ T, H, K, V }, inputs, before.memory);
  block.keep('held', held);
  block.keep('u', u);
  block.keep('o', o);
  block.keep('state', S);
  block.keep('conv', joined(convQ.tail, convK.tail, convV.tail));

  const outGate = block.product('ssm_g_b')(block.product('ssm_g_a')(x));
  block.keep('gate', each(outGate, sigmoid));
  const y = block.product('attn_output')(outNorm(o, block.weight('ssm_norm.weight'), outGate, eps));
  const tails = { q: convQ.tail, k: convK.tail, v: convV.tail };
  return { y, state: { kind: 'kda', memory: S, tails } satisfies KdaState };
}

function mlaLayer(block: Block, x: Float64Array, before: MlaState) {
  const { heads: H, width, eps, mla } = block.config;
  const T = x.length / width;
  const q = block.keep('q', block.product('attn_q')(x));
  const c = block.product('attn_kv_a_mqa')(x);
  const rows = latentRows(c, block.weight('attn_kv_a_norm.weight'), mla.R, eps);
  const cache = joined(before.cache, block.keep('latent', rows));
  const [Wk, Wv] = [block.weight('attn_k_b.weight'), block.weight('attn_v_b.weight')];
  const o = block.keep('o', expanded({ T, H, ...mla }, { q, cache, Wk, Wv }));
  return { y: block.product('attn_output')(o), state: { kind: 'mla', cache } satisfies MlaState };
}

function denseLayer(block: Block, x: Float64Array): Float64Array {
  return swiglu(networks(block, '')[0], x);
}

function moeLayer(block: Block, x: Float64Array): Float64Array {
  const { top, scale } = block.config.moe;
  const logits = block.product('ffn_gate_inp')(x);
  const routing = route(logits, block.weight('exp_probs_b.bias'), top, scale);
  block.keep('router', routing.scores);
  block.keep('experts', routing.experts);
  block.keep('weights', routing.weights);
  return moe(networks(block, '_exps'), networks(block, '_shexp')[0], routing, x);
}

/** The feed-forward networks of a layer, by suffix: '' dense, '_shexp' shared (one each), '_exps' the experts. */
function networks(block: Block, suffix: string): Swiglu[] {
  const [gate, up, down] = ['gate', 'up', 'down'].map((n) => block.stack(`ffn_${n}${suffix}`));
  return gate.map((_, e) => ({ gate: gate[e], up: up[e], down: down[e] }));
}

// --------------------------------------------------------------------------------------------- weights

/** One layer's part of the model and of the trace; names are those of the file without `blk.N.`. */
interface Block {
  config: ModelConfig;
  weight(name: string): Float32Array;
  /** The product with matrix `NAME.weight`. */
  product(name: string): Product;
  /** The products with each matrix of the stack `NAME.weight`. */
  stack(name: string): Product[];
  /** Put an array into the trace and hand it on. */
  keep<Kept extends Float64Array | Int32Array>(name: string, array: Kept): Kept;
}

function blockOf(model: Model, layer: number, trace: Trace): Block {
  const full = (name: string) => `blk.${layer}.${name}`;
  return {
    config: model.config,
    weight: (name) => model.weight(full(name)),
    product: (name) => products(model, full(`${name}.weight`))[0],
    stack: (name) => products(model, full(`${name}.weight`)),
    keep(name, array) {
      trace.set(`layer${layer}.${name}`, array);
      return array;
    },
  };
}

/** The matrices of a tensor [rows, cols] or [matrices, rows, cols], as products. */
function products(model: Model, name: string): Product[] {
  const { shape, type } = tensorOf(model.file, name);
  const [rows, cols] = shape.slice(-2);
  const values = model.weight(name);
  const rounded = model.activations === 'int8' && type !== 'F32';
  if (rounded && (type === 'F16' || type === 'BF16')) {
    throw new Error(
      `${name} is ${type}: ggml multiplies that without int8, and so must the oracle`,
    );
  }
  return Array.from({ length: values.length / (rows * cols) }, (_, m) => {
    const product = matrix(values.subarray(m * rows * cols, (m + 1) * rows * cols), rows, cols);
    return rounded ? (x) => product(roundToInt8(x)) : product;
  });
}

/** Rows of the embedding, decoded as they are asked for: [T, D]. */
function embed({ file, config }: Model, tokens: number[]): Float64Array {
  const D = config.width;
  const E = tensorOf(file, 'token_embd.weight');
  const x = new Float64Array(tokens.length * D);
  tokens.forEach((token, t) => {
    if (!(token >= 0 && token < config.vocabulary)) {
      throw new RangeError(`no token ${token} of ${config.vocabulary}`);
    }
    x.set(E.read(token * D, D), t * D);
  });
  return x;
}

function tensorOf(file: Gguf, name: string): Tensor {
  const tensor = file.tensors.get(name);
  if (!tensor) throw new Error(`the file has no tensor ${name}`);
  return tensor;
}

function joined(...arrays: Float64Array[]): Float64Array {
  const out = new Float64Array(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

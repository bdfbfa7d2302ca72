/** The activations of a call, and how large a call may be. */
import type { ModelConfig } from './config.ts';
import { type Gpu, PART_ELEMENTS } from './gpu.ts';
import * as K from './kernels.ts';
import { TILE, type Tuning } from './plan.ts';

/** Most tokens of one score call, which keeps the logits of all of them. */
export const SCORE_TOKENS = 64;
/** Parts of each cache segment attended side by side, so that one token's few heads fill a GPU: least and most. A piece of tokens has fewer. A processor is full with one. */
export const SLICES = { least: 32, most: 256, piece: 2 };
/** Parts of the vocabulary searched side by side. */
export const VOCABULARY_SLICES = 64;
/** Tokens handed to the sampler: what top-k users ask for, and as many as may be reported. */
export const CANDIDATES = 64;

/** Bytes that the widest activation of a prefill call may take. */
const WIDEST_BYTES = 64 * 1024 * 1024;

/**
 * Most tokens of one prefill call: rows enough to fill a GPU, while the widest activation stays small and no dispatch runs
 * long. A power of two and so a multiple of the chunk.
 */
export function prefillTokensFor(c: ModelConfig, tuning: Tuning): number {
  const { keys, values } = c.kda;
  const widest = Math.max(
    c.heads * (2 * keys + values),
    c.moe.expertsUsed * c.width,
    SLICES.piece * c.heads * c.mla.latent,
  );
  let tokens = tuning === 'gpu' ? 2048 : 128;
  while (tokens > 64 && 4 * tokens * widest > WIDEST_BYTES) tokens /= 2;
  return tokens;
}

/** f32 from one KDA layer's row of `watched` to the next. */
export function watchedStride({ heads: H, kda: { keys, values } }: ModelConfig): number {
  return aligned(K.watchedWords({ H, K: keys, V: values }));
}

/** Words from one MoE layer's row of `chosen` to the next. */
export function chosenStride({ moe }: ModelConfig): number {
  return K.CHOSEN.logits + aligned(moe.experts);
}

/** Where one token's latent row begins in `inputs`, after its queries. */
export function latentAt({ heads, mla }: ModelConfig): number {
  return aligned(heads * mla.query);
}

function aligned(elements: number): number {
  return Math.ceil(elements / PART_ELEMENTS) * PART_ELEMENTS;
}

/** A table of changes, see kernels.ts, that changes nothing. */
function noChanges(H: number): Float32Array {
  return Float32Array.from({ length: 4 * H }, (_, i) => (i % 4 < 2 ? 1 : 0));
}

/** The activations of one call of T tokens at most; layers use them one after another. Capitals as in docs/MATH.md. */
export type Scratch = ReturnType<typeof scratchFor>;

/** Buffers for calls of up to T tokens. */
export function scratchFor(gpu: Gpu, c: ModelConfig, T: number) {
  const D = c.width;
  const H = c.heads;
  const { keys, values } = c.kda;
  const C = H * (2 * keys + values);
  const { query, latent: L, sharedKey: R, values: V } = c.mla;
  const slots = T * Math.max(1, c.moe.expertsUsed);
  const ffn = Math.max(c.denseWidth, c.moe.sharedWidth);
  const routers = c.layers.filter((l) => l.ffn === 'moe').length;
  const recurrent = c.layers.filter((l) => l.kind === 'kda').length;
  const attended = Math.max(SLICES.most, T * SLICES.piece) * H;
  const f32 = (name: string, ...shape: number[]) => gpu.tensor('scratch', name, shape);
  return {
    step: f32('step', 4), // tokens, position
    tokens: f32('tokens', T), // u32
    best: f32('best', 4), // id, logit, bad, sum: decode reads its token here, so a step may follow before the CPU knows it
    seen: f32('seen', c.vocabulary), // u32: 1 + the last position of a token
    x: f32('x', T, D), // the residual stream
    h: f32('h', T, D), // normalised for the next block
    y: f32('y', T, D), // what a block adds
    qkv: f32('qkv', T, C),
    mixed: f32('mixed', T, C), // after convolution
    low: f32('low', T, keys + values), // between the two halves of the gates
    g: f32('g', T, H * keys),
    beta: f32('beta', T, H),
    chunk: mapValues(K.chunkScratch(T, { H, K: keys }), (elements, name) =>
      f32(`chunk ${name}`, elements),
    ),
    outGate: f32('out gate', T, H * values),
    o: f32('o', T, H * Math.max(values, V)),
    gated: f32('gated', T, H * values),
    query: f32('query', T, H * query),
    latentRow: f32('latent row', T, L + R),
    latentQuery: f32('latent query', T, H, L),
    stats: f32('attention stats', attended, 2),
    parts: f32('attention parts', attended, L),
    context: f32('context', T, H, L),
    inputs: f32(
      'inputs of one token',
      Math.max(C + 2 * Math.max(keys, values) + H, latentAt(c) + L + R, 2 * c.denseWidth),
    ),
    watched: f32('what a token did', recurrent, watchedStride(c)), // a row per KDA layer, as kda_watched leaves it
    unchanged: gpu.upload('scratch', 'no changes', [1, H, 4], noChanges(H)),
    chosen: f32('choices of a token', Math.max(1, routers), chosenStride(c)), // u32, a row per MoE layer: see kernels.ts
    opened: f32('experts act of one token', c.moe.expertsUsed * c.moe.width + c.moe.sharedWidth),
    scores: f32('router scores', T, Math.max(1, c.moe.experts)),
    ids: f32('expert ids', slots), // u32
    list: f32('pairs by expert', Math.max(1, c.moe.experts), T), // u32
    tiles: f32(
      'tiles by expert',
      K.expertTiles(c.moe.experts, c.moe.expertsUsed, TILE.TILE_TOKENS, T),
      4,
    ), // u32
    routed: f32('expert weights', slots),
    gateUp: f32('ffn gate and up', T, 2 * ffn),
    act: f32('ffn act', T, ffn),
    always: f32('shared expert', T, D),
    expertGate: f32('experts gate', slots, c.moe.width),
    expertUp: f32('experts up', slots, c.moe.width),
    expertAct: f32('experts act', slots, c.moe.width),
    expertDown: f32('experts down', slots, D),
    logits: f32('logits', SCORE_TOKENS, c.vocabulary),
    slices: f32('best of slices', VOCABULARY_SLICES, 4),
    penalty: f32('penalty', 4), // f32 factor, u32 window
    top: f32(
      'candidates of slices',
      VOCABULARY_SLICES,
      K.TOP_LOGITS_HEADER + K.TOP_LOGITS_WORDS * CANDIDATES,
    ),
  };
}

function mapValues<Key extends string, From, To>(
  record: Record<Key, From>,
  change: (value: From, key: Key) => To,
): Record<Key, To> {
  const entries = Object.entries(record) as [Key, From][];
  return Object.fromEntries(entries.map(([key, value]) => [key, change(value, key)])) as Record<
    Key,
    To
  >;
}

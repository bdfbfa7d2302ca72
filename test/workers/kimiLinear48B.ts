/** The 48B model as a file that has a header and no tensor data: zeros are read in its place. */
import type { ByteSource } from '../../workers/gguf.ts';
import { writeGguf, type KeyRow, type TensorRow } from './ggufWriter.ts';

/**
 * Kimi-Linear-48B-A3B as llama.cpp's converter writes it, matrices in Q4_K: 27 layers and 610 tensors, or the first layers
 * of them alone.
 */
export function kimiLinear48B(layers = 27): ByteSource {
  const isMla = (i: number): boolean => [3, 7, 11, 15, 19, 23, 26].includes(i);
  const rows: TensorRow[] = [];
  let next = 0;
  const add = (name: string, type: 0 | 12, ...ne: number[]): void => {
    rows.push({ name, ne, type, bytes: new Uint8Array(0), offset: next });
    const elements = ne.reduce((a, b) => a * b, 1);
    next += Math.ceil((type === 0 ? elements * 4 : (elements / 256) * 144) / 32) * 32;
  };
  const [F32, Q4_K] = [0, 12] as const;
  add('output.weight', Q4_K, 2304, 163840);
  add('token_embd.weight', Q4_K, 2304, 163840);
  add('output_norm.weight', F32, 2304);
  for (let i = 0; i < layers; i++) {
    const blk = (name: string, type: 0 | 12, ...ne: number[]): void =>
      add(`blk.${i}.${name}`, type, ...ne);
    blk('attn_norm.weight', F32, 2304);
    blk('ffn_norm.weight', F32, 2304);
    if (isMla(i)) {
      blk('attn_q.weight', Q4_K, 2304, 6144);
      blk('attn_kv_a_mqa.weight', Q4_K, 2304, 576);
      blk('attn_kv_a_norm.weight', F32, 512);
      blk('attn_k_b.weight', F32, 128, 512, 32);
      blk('attn_v_b.weight', Q4_K, 512, 128, 32);
      blk('attn_output.weight', Q4_K, 4096, 2304);
    } else {
      for (const x of ['q', 'k', 'v']) {
        blk(`attn_${x}.weight`, Q4_K, 2304, 4096);
        blk(`ssm_conv1d_${x}.weight`, F32, 4, 1, 4096, 1);
      }
      for (const x of ['f', 'g']) {
        blk(`ssm_${x}_a.weight`, Q4_K, 2304, 128);
        blk(`ssm_${x}_b.weight`, F32, 128, 4096);
      }
      blk('ssm_beta.weight', Q4_K, 2304, 32);
      blk('ssm_a', F32, 1, 32);
      blk('ssm_dt.bias', F32, 4096);
      blk('ssm_norm.weight', F32, 128);
      blk('attn_output.weight', Q4_K, 4096, 2304);
    }
    if (i === 0) {
      blk('ffn_gate.weight', Q4_K, 2304, 9216);
      blk('ffn_up.weight', Q4_K, 2304, 9216);
      blk('ffn_down.weight', Q4_K, 9216, 2304);
    } else {
      blk('ffn_gate_inp.weight', F32, 2304, 256);
      blk('exp_probs_b.bias', F32, 256);
      for (const x of ['gate', 'up']) {
        blk(`ffn_${x}_exps.weight`, Q4_K, 2304, 1024, 256);
        blk(`ffn_${x}_shexp.weight`, Q4_K, 2304, 1024);
      }
      blk('ffn_down_exps.weight', Q4_K, 1024, 2304, 256);
      blk('ffn_down_shexp.weight', Q4_K, 1024, 2304);
    }
  }
  const u32 = (key: string, value: number): KeyRow => [`kimi-linear.${key}`, 'u32', value];
  const keys: KeyRow[] = [
    ['general.architecture', 'string', 'kimi-linear'],
    ['general.name', 'string', 'Kimi Linear 48B A3B Instruct'],
    ['general.file_type', 'u32', 15],
    u32('block_count', layers),
    u32('context_length', 1048576),
    u32('embedding_length', 2304),
    u32('feed_forward_length', 9216),
    u32('vocab_size', 163840),
    u32('attention.head_count', 32),
    [
      'kimi-linear.attention.head_count_kv',
      ['i32'],
      Array.from({ length: layers }, (_, i) => Number(isMla(i))),
    ],
    ['kimi-linear.attention.layer_norm_rms_epsilon', 'f32', 1e-5],
    u32('attention.kv_lora_rank', 512),
    u32('attention.key_length', 576),
    u32('attention.value_length', 512),
    u32('attention.key_length_mla', 192),
    u32('attention.value_length_mla', 128),
    u32('rope.dimension_count', 64),
    u32('ssm.conv_kernel', 4),
    u32('kda.head_dim', 128),
    u32('expert_count', 256),
    u32('expert_used_count', 8),
    u32('expert_feed_forward_length', 1024),
    u32('expert_shared_count', 1),
    u32('leading_dense_block_count', 1),
    ['kimi-linear.expert_weights_scale', 'f32', 2.446],
    ['kimi-linear.expert_weights_norm', 'bool', true],
    u32('expert_gating_func', 2),
  ];
  const header = writeGguf(keys, rows);
  return {
    name: 'kimi-linear-48b.gguf',
    byteLength: header.length + next,
    read: readHeader,
  };

  function readHeader(offset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(byteLength);
    bytes.set(header.subarray(offset, offset + byteLength));
    return Promise.resolve(bytes);
  }
}

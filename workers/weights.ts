/**
 * Tensors of a file -> matrices and vectors on the GPU. A tensor is read in ranges of rows, so no more than one range of it
 * is in memory; a matrix too large for one binding becomes several parts.
 */
import { type ModelConfig, splitKvB } from './config.ts';
import type { GgufFile, TensorEntry } from './gguf.ts';
import type { Gpu, Tensor } from './gpu.ts';
import { PalimpsestError } from './protocol.ts';
import { dequantize, packedRow, repack, rowBytes, type TensorType } from './quant.ts';

/** Rows [firstRow, firstRow + rows) of a matrix, in the GPU's layout (quant.ts). */
export interface MatrixPart {
  firstRow: number;
  rows: number;
  codes: Tensor;
  /** null for F32, F16 and BF16. */
  scales: Tensor | null;
}

/** A weight matrix, or a stack of `batch` of them (heads, experts) with `rows` rows each. */
export interface Matrix {
  name: string;
  type: TensorType;
  batch: number;
  rows: number;
  cols: number;
  parts: MatrixPart[];
}

/** Bytes of a tensor read at a time: at most one shard's worth. */
const READ_BYTES = 8 * 1024 * 1024;

/** Loads what it is asked for and tells how many bytes of the file that were. */
export class WeightLoader {
  readonly #gpu: Gpu;
  readonly #file: GgufFile;
  readonly #read: (bytes: number) => void;

  constructor(gpu: Gpu, file: GgufFile, read: (bytes: number) => void) {
    this.#gpu = gpu;
    this.#file = file;
    this.#read = read;
  }

  /** A tensor [ne1, ne0] as a matrix, or [ne2, ne1, ne0] as a stack; parts hold whole matrices of a stack. */
  async matrix(name: string): Promise<Matrix> {
    const entry = this.#entry(name);
    const [cols = 1, rows = 1, batch = 1] = entry.ne;
    const unit = batch > 1 ? rows : 8; // parts and ranges are whole matrices, or whole groups of rows
    const parts = this.#parts(name, entry.type, rows * batch, cols, unit);
    const rowFileBytes = rowBytes(entry.type, cols);
    const rangeRows = Math.max(1, Math.floor(READ_BYTES / rowFileBytes));
    const { codeWords, scaleWords } = packedRow(entry.type, cols);
    for (const part of parts) {
      for (let row = 0; row < part.rows; row += rangeRows) {
        const count = Math.min(rangeRows, part.rows - row);
        const bytes = await this.#bytes(
          entry,
          (part.firstRow + row) * rowFileBytes,
          count * rowFileBytes,
        );
        const packed = repack(entry.type, bytes, count, cols);
        this.#gpu.write(part.codes, row * codeWords, packed.codes);
        if (packed.scales) this.#gpu.write(part.scales!, row * scaleWords, packed.scales);
      }
    }
    return { name, type: entry.type, batch, rows, cols, parts };
  }

  /** A small tensor as f32 values on the GPU, several one after another where names are several. */
  async vector(...names: string[]): Promise<Tensor> {
    const pieces = await Promise.all(names.map((name) => this.values(name)));
    const all = new Float32Array(pieces.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const piece of pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return this.#gpu.upload('weights', names[0]!, [all.length], all);
  }

  /** A whole tensor, decoded here. */
  async values(name: string): Promise<Float32Array<ArrayBuffer>> {
    const entry = this.#entry(name);
    const count = entry.ne.reduce((a, b) => a * b, 1);
    return dequantize(entry.type, await this.#bytes(entry, 0, entry.byteLength), count);
  }

  /** A stack [batch, rows, cols] of f32 matrices made here. */
  stack(
    name: string,
    batch: number,
    rows: number,
    cols: number,
    values: Float32Array<ArrayBuffer>,
  ): Matrix {
    const parts = this.#parts(name, 'F32', rows * batch, cols, rows);
    for (const part of parts) {
      const from = part.firstRow * cols;
      this.#gpu.write(part.codes, 0, values.subarray(from, from + part.rows * cols));
    }
    return { name, type: 'F32', batch, rows, cols, parts };
  }

  /** Buffers for all rows, as few as bindings allow; each begins at a multiple of `unit` rows. */
  #parts(name: string, type: TensorType, rows: number, cols: number, unit: number): MatrixPart[] {
    const { codeWords, scaleWords } = packedRow(type, cols);
    const fit = Math.floor(
      this.#gpu.report.maxBindingBytes / (4 * Math.max(codeWords, scaleWords)),
    );
    const most = Math.floor(fit / unit) * unit;
    if (most === 0) {
      throw new PalimpsestError(
        'LimitTooSmall',
        `${unit} rows of ${name} need a binding of ${4 * unit * codeWords} bytes, this GPU allows ${this.#gpu.report.maxBindingBytes}. Choose a smaller model.`,
      );
    }
    const parts: MatrixPart[] = [];
    for (let firstRow = 0; firstRow < rows; firstRow += most) {
      const count = Math.min(most, rows - firstRow);
      parts.push({
        firstRow,
        rows: count,
        codes: this.#gpu.tensor('weights', `${name} codes`, [count, codeWords]),
        scales:
          scaleWords > 0
            ? this.#gpu.tensor('weights', `${name} scales`, [count, scaleWords])
            : null,
      });
    }
    return parts;
  }

  async #bytes(entry: TensorEntry, offset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = await this.#file.read(entry, offset, byteLength);
    this.#read(byteLength);
    return bytes;
  }

  #entry(name: string): TensorEntry {
    const entry = this.#file.tensors.get(name);
    if (!entry)
      throw new PalimpsestError(
        'BadModel',
        `The file has no tensor ${name}, which this model needs.`,
      );
    return entry;
  }
}

// -------------------------------------------------------------------------------------- the model's weights

/** A KDA layer: projections, short convolutions, gates, and the norm of what is read. */
export interface KdaWeights {
  kind: 'kda';
  norm: Tensor; // [D]
  q: Matrix; // [H K, D]
  k: Matrix; // [H K, D]
  v: Matrix; // [H V, D]
  conv: Tensor; // [C, taps], C = q | k | v channels, oldest tap first
  forgetA: Matrix; // [K, D]
  forgetB: Matrix; // [H K, K]
  a: Tensor; // [H] = -exp(A_log)
  dt: Tensor; // [H K]
  writeStrength: Matrix; // [H, D]
  outGateA: Matrix; // [V, D]
  outGateB: Matrix; // [H V, V]
  outNorm: Tensor; // [V]
  output: Matrix; // [D, H V]
}

/** An MLA layer in absorbed form. */
export interface MlaWeights {
  kind: 'mla';
  norm: Tensor; // [D]
  q: Matrix; // [H (nope + R), D]
  latent: Matrix; // [L + R, D]
  latentNorm: Tensor; // [L]
  keyUp: Matrix; // H x [L, nope]: a query's key part -> the latent's terms
  valueUp: Matrix; // H x [V, L]: latent -> value
  output: Matrix; // [D, H V]
}

/** A SwiGLU network: down(silu(gate x) * up x). */
export interface Ffn {
  gate: Matrix;
  up: Matrix;
  down: Matrix;
}

export interface DenseWeights extends Ffn {
  kind: 'dense';
  norm: Tensor; // [D]
}

export interface MoeWeights {
  kind: 'moe';
  norm: Tensor; // [D]
  router: Matrix; // [E, D]
  bias: Tensor; // [E], steers the choice alone
  experts: Ffn; // stacks of E
  shared: Ffn;
}

export interface LayerWeights {
  mixer: KdaWeights | MlaWeights;
  ffn: DenseWeights | MoeWeights;
}

export interface ModelWeights {
  embedding: Matrix; // [vocabulary, D]
  layers: LayerWeights[];
  outputNorm: Tensor; // [D]
  output: Matrix; // [vocabulary, D]; the embedding itself where the file ties them
}

/** All weights of a model, in the order of its layers. */
export async function loadWeights(load: WeightLoader, config: ModelConfig): Promise<ModelWeights> {
  const embedding = await load.matrix('token_embd.weight');
  const layers: LayerWeights[] = [];
  for (const [i, layer] of config.layers.entries()) {
    layers.push({
      mixer:
        layer.kind === 'kda'
          ? await loadKda(load, `blk.${i}.`)
          : await loadMla(load, config, `blk.${i}.`),
      ffn:
        layer.ffn === 'dense'
          ? await loadDense(load, `blk.${i}.`)
          : await loadMoe(load, `blk.${i}.`),
    });
  }
  return {
    embedding,
    layers,
    outputNorm: await load.vector('output_norm.weight'),
    output: config.tiedOutput ? embedding : await load.matrix('output.weight'),
  };
}

async function loadKda(load: WeightLoader, b: string): Promise<KdaWeights> {
  return {
    kind: 'kda',
    norm: await load.vector(`${b}attn_norm.weight`),
    q: await load.matrix(`${b}attn_q.weight`),
    k: await load.matrix(`${b}attn_k.weight`),
    v: await load.matrix(`${b}attn_v.weight`),
    conv: await load.vector(
      `${b}ssm_conv1d_q.weight`,
      `${b}ssm_conv1d_k.weight`,
      `${b}ssm_conv1d_v.weight`,
    ),
    forgetA: await load.matrix(`${b}ssm_f_a.weight`),
    forgetB: await load.matrix(`${b}ssm_f_b.weight`),
    a: await load.vector(`${b}ssm_a`),
    dt: await load.vector(`${b}ssm_dt.bias`),
    writeStrength: await load.matrix(`${b}ssm_beta.weight`),
    outGateA: await load.matrix(`${b}ssm_g_a.weight`),
    outGateB: await load.matrix(`${b}ssm_g_b.weight`),
    outNorm: await load.vector(`${b}ssm_norm.weight`),
    output: await load.matrix(`${b}attn_output.weight`),
  };
}

async function loadMla(load: WeightLoader, config: ModelConfig, b: string): Promise<MlaWeights> {
  return {
    kind: 'mla',
    norm: await load.vector(`${b}attn_norm.weight`),
    q: await load.matrix(`${b}attn_q.weight`),
    latent: await load.matrix(`${b}attn_kv_a_mqa.weight`),
    latentNorm: await load.vector(`${b}attn_kv_a_norm.weight`),
    ...(await loadLatentUp(load, config, b)),
    output: await load.matrix(`${b}attn_output.weight`),
  };
}

/** Older files keep both directions in one matrix [H (nope + V), L]: its key rows are turned around here. */
async function loadLatentUp(
  load: WeightLoader,
  config: ModelConfig,
  b: string,
): Promise<{ keyUp: Matrix; valueUp: Matrix }> {
  if (!config.mla.joined) {
    return {
      keyUp: await load.matrix(`${b}attn_k_b.weight`),
      valueUp: await load.matrix(`${b}attn_v_b.weight`),
    };
  }
  const { heads: H, mla } = config;
  const { keys, values } = splitKvB(config, await load.values(`${b}attn_kv_b.weight`));
  return {
    keyUp: load.stack(`${b}attn_k_b.weight`, H, mla.latent, mla.ownKey, keys),
    valueUp: load.stack(`${b}attn_v_b.weight`, H, mla.values, mla.latent, values),
  };
}

async function loadDense(load: WeightLoader, b: string): Promise<DenseWeights> {
  return {
    kind: 'dense',
    norm: await load.vector(`${b}ffn_norm.weight`),
    ...(await loadFfn(load, b, '')),
  };
}

async function loadMoe(load: WeightLoader, b: string): Promise<MoeWeights> {
  return {
    kind: 'moe',
    norm: await load.vector(`${b}ffn_norm.weight`),
    router: await load.matrix(`${b}ffn_gate_inp.weight`),
    bias: await load.vector(`${b}exp_probs_b.bias`),
    experts: await loadFfn(load, b, '_exps'),
    shared: await loadFfn(load, b, '_shexp'),
  };
}

async function loadFfn(load: WeightLoader, b: string, suffix: string): Promise<Ffn> {
  return {
    gate: await load.matrix(`${b}ffn_gate${suffix}.weight`),
    up: await load.matrix(`${b}ffn_up${suffix}.weight`),
    down: await load.matrix(`${b}ffn_down${suffix}.weight`),
  };
}

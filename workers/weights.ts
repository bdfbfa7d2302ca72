/**
 * Tensors of a source, a file as a rule -> matrices and vectors on the GPU. A file's tensor is read in ranges of rows, so no
 * more than one range of it is in memory; a matrix too large for one binding becomes several parts.
 */
import { type ModelConfig, splitKvB } from './config.ts';
import type { GgufFile, TensorEntry } from './gguf.ts';
import type { Gpu, Tensor } from './gpu.ts';
import { FEW_EXPERTS } from './kernels.ts';
import { PalimpsestError } from './protocol.ts';
import { dequantize, packedRow, repack, rowBytes, rowUnit, type TensorType } from './quant.ts';

/** Rows [firstRow, firstRow + rows) of a matrix, in the GPU's layout (quant.ts). */
export interface MatrixPart {
  firstRow: number;
  rows: number;
  /** Row of the buffers at which these rows begin: matrices of one bundle share buffers. */
  offset: number;
  codes: Tensor;
  /** null where no scales lie apart: F32, F16, BF16, Q4_0 and Q8_0. */
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

/** Matrices of one input, with those that follow one another in a bundle as one; `first` counts the rows before. */
export function adjoining(...matrices: Matrix[]): { matrix: Matrix; first: number }[] {
  const joined: { matrix: Matrix; first: number }[] = [];
  let first = 0;
  for (const next of matrices) {
    const last = joined.at(-1)?.matrix;
    const [a, b] = [last?.parts[0], next.parts[0]!];
    if (last && a && a.codes === b.codes && a.offset + a.rows === b.offset) {
      const rows = last.rows + next.rows;
      joined.at(-1)!.matrix = { ...last, rows, parts: [{ ...a, rows }] };
    } else joined.push({ matrix: next, first });
    first += next.rows;
  }
  return joined;
}

/** Where the tensors of a model come from: what there is, and how its numbers reach the GPU. */
export interface WeightSource {
  /** Fails: BadModel, where there is no such tensor. */
  entry(name: string): TensorShape;
  /** Rows [firstRow, firstRow + rows) of a tensor into the part's buffers, from row `offset` on. */
  fill(shape: TensorShape, part: MatrixPart): Promise<void>;
  /** A whole tensor, decoded. */
  values(name: string): Promise<Float32Array<ArrayBuffer>>;
}

export type TensorShape = Pick<TensorEntry, 'name' | 'type' | 'ne'>;

/** Bytes of a tensor read at a time: at most one shard's worth. */
const READ_BYTES = 8 * 1024 * 1024;

/** The tensors of a file; tells how many bytes of it were read. */
export class FileWeights implements WeightSource {
  readonly #gpu: Gpu;
  readonly #file: GgufFile;
  readonly #read: (bytes: number) => void;

  constructor(gpu: Gpu, file: GgufFile, read: (bytes: number) => void) {
    this.#gpu = gpu;
    this.#file = file;
    this.#read = read;
  }

  entry(name: string): TensorEntry {
    const entry = this.#file.tensors.get(name);
    if (!entry)
      throw new PalimpsestError(
        'BadModel',
        `The file has no tensor ${name}, which this model needs.`,
      );
    return entry;
  }

  async fill({ name, type, ne }: TensorShape, part: MatrixPart): Promise<void> {
    const entry = this.entry(name);
    const cols = ne[0]!;
    const rowFileBytes = rowBytes(type, cols);
    const unit = rowUnit(type);
    const rangeRows = unit * Math.max(1, Math.floor(READ_BYTES / rowFileBytes / unit));
    const { codeWords, scaleWords } = packedRow(type, cols);
    for (let row = 0; row < part.rows; row += rangeRows) {
      const count = Math.min(rangeRows, part.rows - row);
      const from = (part.firstRow + row) * rowFileBytes;
      const bytes = await this.#bytes(entry, from, count * rowFileBytes);
      const packed = repack(type, bytes, count, cols);
      this.#gpu.write(part.codes, (part.offset + row) * codeWords, packed.codes);
      if (packed.scales) {
        this.#gpu.write(part.scales!, (part.offset + row) * scaleWords, packed.scales);
      }
    }
  }

  async values(name: string): Promise<Float32Array<ArrayBuffer>> {
    const entry = this.entry(name);
    const count = entry.ne.reduce((a, b) => a * b, 1);
    return dequantize(entry.type, await this.#bytes(entry, 0, entry.byteLength), count);
  }

  async #bytes(entry: TensorEntry, offset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = await this.#file.read(entry, offset, byteLength);
    this.#read(byteLength);
    return bytes;
  }
}

/** Makes the buffers of matrices and vectors, and has a source fill them. */
class WeightLoader {
  readonly #gpu: Gpu;
  readonly #source: WeightSource;

  constructor(gpu: Gpu, source: WeightSource) {
    this.#gpu = gpu;
    this.#source = source;
  }

  /** A tensor [ne1, ne0] as a matrix, or [ne2, ne1, ne0] as a stack; parts hold whole matrices of a stack. */
  async matrix(name: string): Promise<Matrix> {
    const entry = this.#source.entry(name);
    const [cols = 1, rows = 1, batch = 1] = entry.ne;
    if (batch > 1 && rows % rowUnit(entry.type) !== 0) {
      throw new PalimpsestError(
        'Unsupported',
        `${name} has ${batch} matrices of ${rows} rows in ${entry.type}: rows are read in fours. Choose a file that has this tensor in another type.`,
      );
    }
    const unit = batch > 1 ? rows : 8; // parts are whole matrices, or whole groups of rows
    const parts = this.#parts(name, entry.type, rows * batch, cols, unit);
    for (const part of parts) await this.#source.fill(entry, part);
    return { name, type: entry.type, batch, rows, cols, parts };
  }

  /**
   * Tensors with the same columns, for products with the same input: neighbours of one type share buffers and make a run,
   * which ends with a tensor whose rows make no whole fours.
   * `slices` are the tensors one by one, in the order of `names`.
   */
  async bundle(...names: string[]): Promise<{ runs: Matrix[]; slices: Matrix[] }> {
    const entries = names.map((name) => this.#source.entry(name));
    const runs: Matrix[] = [];
    const slices: Matrix[] = [];
    for (let first = 0; first < entries.length;) {
      const { type, name } = entries[first]!;
      let end = first + 1;
      const fours = (at: number) => (entries[at]!.ne[1] ?? 1) % 4 === 0;
      while (end < entries.length && entries[end]!.type === type && fours(end - 1)) end++;
      const own = entries.slice(first, end);
      const cols = own[0]!.ne[0]!;
      const rows = own.reduce((sum, e) => sum + (e.ne[1] ?? 1), 0);
      const [whole, ...more] = this.#parts(name, type, rows, cols, rows);
      if (more.length > 0) throw new Error(`${name}: a bundle has one part`);
      runs.push({ name, type, batch: 1, rows, cols, parts: [whole!] });
      let offset = 0;
      for (const entry of own) {
        const part = { ...whole!, rows: entry.ne[1] ?? 1, offset };
        await this.#source.fill(entry, part);
        slices.push({ name: entry.name, type, batch: 1, rows: part.rows, cols, parts: [part] });
        offset += part.rows;
      }
      first = end;
    }
    return { runs, slices };
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

  /** A whole tensor, decoded. */
  values(name: string): Promise<Float32Array<ArrayBuffer>> {
    return this.#source.values(name);
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
      const filled = Math.ceil(count / rowUnit(type)) * rowUnit(type);
      parts.push({
        firstRow,
        rows: count,
        offset: 0,
        codes: this.#gpu.tensor('weights', `${name} codes`, [filled, codeWords]),
        scales:
          scaleWords > 0
            ? this.#gpu.tensor('weights', `${name} scales`, [count, scaleWords])
            : null,
      });
    }
    return parts;
  }
}

// -------------------------------------------------------------------------------------- the model's weights

/** A KDA layer: projections, short convolutions, gates, and the norm of what is read. */
export interface KdaWeights {
  kind: 'kda';
  norm: Tensor; // [D]
  /** q | k | v | forgetA | outGateA | writeStrength in runs of one type: what decode takes at once. */
  inputs: Matrix[];
  /** norm | conv | dt | a | outNorm: what decode takes at once. */
  constants: Tensor;
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
  /** norm | latentNorm: what one token takes at once. */
  constants: Tensor;
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
  /** gate | up in runs of one type. */
  inputs: Matrix[];
}

export interface MoeWeights {
  kind: 'moe';
  norm: Tensor; // [D]
  /** norm, and where experts are few router | bias after it: what decode takes at once. */
  constants: Tensor;
  router: Matrix; // [E, D]
  /** shared gate | shared up in runs of one type. */
  sharedInputs: Matrix[];
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
export async function loadWeights(
  gpu: Gpu,
  source: WeightSource,
  config: ModelConfig,
): Promise<ModelWeights> {
  const load = new WeightLoader(gpu, source);
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
          : await loadMoe(load, config, `blk.${i}.`),
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
  const constants = [
    `${b}ssm_conv1d_q.weight`,
    `${b}ssm_conv1d_k.weight`,
    `${b}ssm_conv1d_v.weight`,
    `${b}ssm_dt.bias`,
    `${b}ssm_a`,
    `${b}ssm_norm.weight`,
  ];
  const { runs, slices } = await load.bundle(
    `${b}attn_q.weight`,
    `${b}attn_k.weight`,
    `${b}attn_v.weight`,
    `${b}ssm_f_a.weight`,
    `${b}ssm_g_a.weight`,
    `${b}ssm_beta.weight`,
  );
  const [q, k, v, forgetA, outGateA, writeStrength] = slices as [
    Matrix,
    Matrix,
    Matrix,
    Matrix,
    Matrix,
    Matrix,
  ];
  return {
    kind: 'kda',
    norm: await load.vector(`${b}attn_norm.weight`),
    inputs: runs,
    constants: await load.vector(`${b}attn_norm.weight`, ...constants),
    q,
    k,
    v,
    conv: await load.vector(...constants.slice(0, 3)),
    forgetA,
    forgetB: await load.matrix(`${b}ssm_f_b.weight`),
    a: await load.vector(`${b}ssm_a`),
    dt: await load.vector(`${b}ssm_dt.bias`),
    writeStrength,
    outGateA,
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
    constants: await load.vector(`${b}attn_norm.weight`, `${b}attn_kv_a_norm.weight`),
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
  const { runs, slices } = await load.bundle(`${b}ffn_gate.weight`, `${b}ffn_up.weight`);
  return {
    kind: 'dense',
    norm: await load.vector(`${b}ffn_norm.weight`),
    inputs: runs,
    gate: slices[0]!,
    up: slices[1]!,
    down: await load.matrix(`${b}ffn_down.weight`),
  };
}

async function loadMoe(load: WeightLoader, config: ModelConfig, b: string): Promise<MoeWeights> {
  const choice = [`${b}ffn_gate_inp.weight`, `${b}exp_probs_b.bias`];
  const { runs, slices } = await load.bundle(
    `${b}ffn_gate_shexp.weight`,
    `${b}ffn_up_shexp.weight`,
  );
  return {
    kind: 'moe',
    norm: await load.vector(`${b}ffn_norm.weight`),
    constants: await load.vector(
      `${b}ffn_norm.weight`,
      ...(config.moe.experts <= FEW_EXPERTS ? choice : []),
    ),
    router: await load.matrix(`${b}ffn_gate_inp.weight`),
    sharedInputs: runs,
    bias: await load.vector(`${b}exp_probs_b.bias`),
    experts: {
      gate: await load.matrix(`${b}ffn_gate_exps.weight`),
      up: await load.matrix(`${b}ffn_up_exps.weight`),
      down: await load.matrix(`${b}ffn_down_exps.weight`),
    },
    shared: {
      gate: slices[0]!,
      up: slices[1]!,
      down: await load.matrix(`${b}ffn_down_shexp.weight`),
    },
  };
}

/**
 * Tensors of a source, a file as a rule -> matrices and vectors on the GPU. There is room for all of them, and plans are made,
 * before the first byte is read; a matrix too large for one binding becomes several parts.
 */
import { type ModelConfig, splitKvB } from './config.ts';
import type { TensorEntry } from './gguf.ts';
import { type Gpu, PART_ELEMENTS, type Tensor } from './gpu.ts';
import { FEW_EXPERTS } from './kernels.ts';
import { PalimpsestError } from './protocol.ts';
import { packedRow, rowUnit, type TensorType } from './quant.ts';

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
  /** Bring all of these, in whatever order suits the source. */
  bring(wanted: readonly Wanted[]): Promise<void>;
}

export type TensorShape = Pick<TensorEntry, 'name' | 'type' | 'ne'>;

/** What is wanted of a tensor: rows [firstRow, firstRow + rows) in a part's buffers, from row `offset` on, or all values, decoded. */
export type Wanted = { shape: TensorShape } & (
  { part: MatrixPart } | { take: (values: Float32Array<ArrayBuffer>) => void }
);

/**
 * Bytes of a buffer that small tensors share, and of the largest that goes into one: what a call costs the processor grows with the
 * different buffers that it binds.
 */
const SHELF_BYTES = 8 * 1024 * 1024;
const SMALL_BYTES = SHELF_BYTES / 8;

/** Makes the buffers of matrices and vectors, and puts down what is wanted in them. */
class WeightLoader {
  readonly wanted: Wanted[] = [];
  readonly #gpu: Gpu;
  readonly #source: WeightSource;
  #shelf: { whole: Tensor; taken: number } | null = null;

  constructor(gpu: Gpu, source: WeightSource) {
    this.#gpu = gpu;
    this.#source = source;
  }

  /** A tensor [ne1, ne0] as a matrix, or [ne2, ne1, ne0] as a stack; parts hold whole matrices of a stack. */
  matrix(name: string): Matrix {
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
    for (const part of parts) this.wanted.push({ shape: entry, part });
    return { name, type: entry.type, batch, rows, cols, parts };
  }

  /**
   * Tensors with the same columns, for products with the same input: neighbours of one type share buffers and make a run,
   * which ends with a tensor whose rows make no whole fours.
   * `slices` are the tensors one by one, in the order of `names`.
   */
  bundle(...names: string[]): { runs: Matrix[]; slices: Matrix[] } {
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
        this.wanted.push({ shape: entry, part });
        slices.push({ name: entry.name, type, batch: 1, rows: part.rows, cols, parts: [part] });
        offset += part.rows;
      }
      first = end;
    }
    return { runs, slices };
  }

  /** A small tensor as f32 values on the GPU, several one after another where names are several. */
  vector(...names: string[]): Tensor {
    const shapes = names.map((name) => this.#source.entry(name));
    const counts = shapes.map(({ ne }) => ne.reduce((a, b) => a * b, 1));
    const sum = (some: number[]) => some.reduce((a, b) => a + b, 0);
    const tensor = this.#tensor(names[0]!, [sum(counts)]);
    shapes.forEach((shape, i) => {
      const at = sum(counts.slice(0, i));
      this.wanted.push({ shape, take: (values) => this.#gpu.write(tensor, at, values) });
    });
    return tensor;
  }

  /** Have all values of a tensor, decoded, once they are here. */
  values(name: string, take: (values: Float32Array<ArrayBuffer>) => void): void {
    this.wanted.push({ shape: this.#source.entry(name), take });
  }

  /** A stack [batch, rows, cols] of f32 matrices that are made here, and how to fill it. */
  stack(name: string, batch: number, rows: number, cols: number) {
    const parts = this.#parts(name, 'F32', rows * batch, cols, rows);
    const matrix: Matrix = { name, type: 'F32', batch, rows, cols, parts };
    const fill = (values: Float32Array<ArrayBuffer>) => {
      for (const part of parts) {
        const from = part.firstRow * cols;
        this.#gpu.write(part.codes, 0, values.subarray(from, from + part.rows * cols));
      }
    };
    return { matrix, fill };
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
        codes: this.#tensor(`${name} codes`, [filled, codeWords]),
        scales: scaleWords > 0 ? this.#tensor(`${name} scales`, [count, scaleWords]) : null,
      });
    }
    return parts;
  }

  /** A tensor of weights, never to be released: a buffer of its own, or where it is small a place in one. */
  #tensor(name: string, shape: readonly number[]): Tensor {
    const own = shape.reduce((a, b) => a * b, 1);
    const elements = 4 * Math.ceil(own / 4); // bindings end with a whole vec4
    if (4 * elements > SMALL_BYTES) return this.#gpu.tensor('weights', name, shape);
    if (!this.#shelf || 4 * (this.#shelf.taken + elements) > SHELF_BYTES) {
      const whole = this.#gpu.tensor('weights', 'small weights', [SHELF_BYTES / 4]);
      this.#shelf = { whole, taken: 0 };
    }
    const { whole, taken } = this.#shelf;
    this.#shelf.taken = PART_ELEMENTS * Math.ceil((taken + elements) / PART_ELEMENTS);
    return this.#gpu.part(whole, name, taken, own === elements ? shape : [elements]);
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
  /** norm | router, where experts are few | bias: what decode takes at once. */
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

/** Room for all weights of a model, in the order of its layers, and what is wanted there. */
export function layOutWeights(
  gpu: Gpu,
  source: WeightSource,
  config: ModelConfig,
): { weights: ModelWeights; wanted: readonly Wanted[] } {
  const load = new WeightLoader(gpu, source);
  const embedding = load.matrix('token_embd.weight');
  const layers: LayerWeights[] = [];
  for (const [i, layer] of config.layers.entries()) {
    layers.push({
      mixer: layer.kind === 'kda' ? loadKda(load, `blk.${i}.`) : loadMla(load, config, `blk.${i}.`),
      ffn:
        layer.ffn === 'dense' ? loadDense(load, `blk.${i}.`) : loadMoe(load, config, `blk.${i}.`),
    });
  }
  const weights: ModelWeights = {
    embedding,
    layers,
    outputNorm: load.vector('output_norm.weight'),
    output: config.tiedOutput ? embedding : load.matrix('output.weight'),
  };
  return { weights, wanted: load.wanted };
}

function loadKda(load: WeightLoader, b: string): KdaWeights {
  const constants = [
    `${b}ssm_conv1d_q.weight`,
    `${b}ssm_conv1d_k.weight`,
    `${b}ssm_conv1d_v.weight`,
    `${b}ssm_dt.bias`,
    `${b}ssm_a`,
    `${b}ssm_norm.weight`,
  ];
  const { runs, slices } = load.bundle(
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
    norm: load.vector(`${b}attn_norm.weight`),
    inputs: runs,
    constants: load.vector(`${b}attn_norm.weight`, ...constants),
    q,
    k,
    v,
    conv: load.vector(...constants.slice(0, 3)),
    forgetA,
    forgetB: load.matrix(`${b}ssm_f_b.weight`),
    a: load.vector(`${b}ssm_a`),
    dt: load.vector(`${b}ssm_dt.bias`),
    writeStrength,
    outGateA,
    outGateB: load.matrix(`${b}ssm_g_b.weight`),
    outNorm: load.vector(`${b}ssm_norm.weight`),
    output: load.matrix(`${b}attn_output.weight`),
  };
}

function loadMla(load: WeightLoader, config: ModelConfig, b: string): MlaWeights {
  return {
    kind: 'mla',
    norm: load.vector(`${b}attn_norm.weight`),
    q: load.matrix(`${b}attn_q.weight`),
    latent: load.matrix(`${b}attn_kv_a_mqa.weight`),
    latentNorm: load.vector(`${b}attn_kv_a_norm.weight`),
    constants: load.vector(`${b}attn_norm.weight`, `${b}attn_kv_a_norm.weight`),
    ...loadLatentUp(load, config, b),
    output: load.matrix(`${b}attn_output.weight`),
  };
}

/** Older files keep both directions in one matrix [H (nope + V), L]: its key rows are turned around here. */
function loadLatentUp(
  load: WeightLoader,
  config: ModelConfig,
  b: string,
): { keyUp: Matrix; valueUp: Matrix } {
  if (!config.mla.joined) {
    return {
      keyUp: load.matrix(`${b}attn_k_b.weight`),
      valueUp: load.matrix(`${b}attn_v_b.weight`),
    };
  }
  const { heads: H, mla } = config;
  const keyUp = load.stack(`${b}attn_k_b.weight`, H, mla.latent, mla.ownKey);
  const valueUp = load.stack(`${b}attn_v_b.weight`, H, mla.values, mla.latent);
  load.values(`${b}attn_kv_b.weight`, (joined) => {
    const { keys, values } = splitKvB(config, joined);
    keyUp.fill(keys);
    valueUp.fill(values);
  });
  return { keyUp: keyUp.matrix, valueUp: valueUp.matrix };
}

function loadDense(load: WeightLoader, b: string): DenseWeights {
  const { runs, slices } = load.bundle(`${b}ffn_gate.weight`, `${b}ffn_up.weight`);
  return {
    kind: 'dense',
    norm: load.vector(`${b}ffn_norm.weight`),
    inputs: runs,
    gate: slices[0]!,
    up: slices[1]!,
    down: load.matrix(`${b}ffn_down.weight`),
  };
}

function loadMoe(load: WeightLoader, config: ModelConfig, b: string): MoeWeights {
  const router = config.moe.experts <= FEW_EXPERTS ? [`${b}ffn_gate_inp.weight`] : [];
  const { runs, slices } = load.bundle(`${b}ffn_gate_shexp.weight`, `${b}ffn_up_shexp.weight`);
  return {
    kind: 'moe',
    norm: load.vector(`${b}ffn_norm.weight`),
    constants: load.vector(`${b}ffn_norm.weight`, ...router, `${b}exp_probs_b.bias`),
    router: load.matrix(`${b}ffn_gate_inp.weight`),
    sharedInputs: runs,
    bias: load.vector(`${b}exp_probs_b.bias`),
    experts: {
      gate: load.matrix(`${b}ffn_gate_exps.weight`),
      up: load.matrix(`${b}ffn_up_exps.weight`),
      down: load.matrix(`${b}ffn_down_exps.weight`),
    },
    shared: {
      gate: slices[0]!,
      up: slices[1]!,
      down: load.matrix(`${b}ffn_down_shexp.weight`),
    },
  };
}

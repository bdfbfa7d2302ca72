/**
 * Collects the calls of one pass over a piece of tokens, in the order of execution. Chooses what links: the sum that the
 * device has, lanes that fit the columns, the library of a matrix's type; and cuts a matrix of several parts into calls.
 */
import type { Call, Copy, Gpu, Tensor } from './gpu.ts';
import type { Kernel, Library } from './link.ts';
import * as K from './kernels.ts';
import type { KdaState, MlaState } from './state.ts';
import type {
  DenseWeights,
  KdaWeights,
  Matrix,
  MatrixPart,
  MlaWeights,
  MoeWeights,
} from './weights.ts';

/**
 * decode: one token, and the best after it. draw: one token, and the candidates after it. Both once more for a token whose
 * context is short. prefill: a piece of tokens. score: a small piece, with the logits of every token.
 */
export type Phase = 'decode' | 'shortDecode' | 'draw' | 'shortDraw' | 'prefill' | 'score';

/**
 * What plans are made for: 'gpu' has few calls and wide workgroups and takes prompts in chunks; 'cpu', for adapters that
 * compute on a processor, has few barriers and takes prompts token by token, since a barrier costs more than it saves there.
 */
export type Tuning = 'gpu' | 'cpu';

/**
 * Where a visitor may look, with the tensor that holds it for all tokens of the call: `input` x [T, D] of the layer, and
 * after the last one, layer = number of layers, what the layers leave; KDA `mixed` [T, C] (q scaled, k, v), `g` [T, H K],
 * `beta` [T, H], `o` [T, H V], `outGate` [T, H V] before its sigmoid; MLA `query` [T, H (ownKey + R)], `latentRow` [T, L + R]
 * before its norm, `latentQuery` [T, H, L], `o`; MoE `scores` [T, E] before their sigmoid, `bias` [E], `ids` and `routed`
 * [T, top]; `final` h [T, D] and, in phases that have them, `logits` [T, vocabulary], layer = number of layers.
 * A token that goes through in few calls has no `g`, `beta`, `outGate` and `final`, a KDA layer no `o`; instead, after the
 * layer, `token`: the row that kda_watched leaves, of which `mixed` is the beginning; after the last one those of all KDA layers,
 * and `chosen`: the rows of router_own, of which a layer's `ids`, `routed` and `scores` are parts, of all MoE layers.
 */
export type Site =
  | 'input'
  | 'mixed'
  | 'g'
  | 'beta'
  | 'o'
  | 'outGate'
  | 'token'
  | 'chosen'
  | 'query'
  | 'latentRow'
  | 'latentQuery'
  | 'scores'
  | 'bias'
  | 'ids'
  | 'routed'
  | 'final'
  | 'logits';

/** Called while a plan is built; what it adds to the plan runs at that place. */
export type Tap = (site: Site, layer: number, tensor: Tensor, plan: Plan) => void;

/** Who looks in, and who changes gates: of a KDA layer the table [n, H] of (f32 factor, f32 strength, u32 from, 0). */
export interface Visitors {
  tap: Tap | null;
  changes: ((layer: number) => Tensor | null) | null;
}

/** Where the rows of a product lie, in f32 units: x of (token t, matrix n) at xFirst + t xToken + n xBatch, y likewise. */
export interface Place {
  xFirst?: number;
  xToken?: number;
  xBatch?: number;
  yFirst?: number;
  yToken?: number;
  yBatch?: number;
  /** Add to what y holds; in a plan of single tokens only. */
  add?: boolean;
}

/** The chosen experts of a call's tokens, and the same sorted by expert for prefill (expert_group). */
export interface Routing {
  ids: Tensor; // [T, TOP] u32
  list: Tensor; // [E, T] u32
  tiles: Tensor; // [most tiles, 4] u32
  TOP: number;
}

/** The norm before a product. */
export interface Norm {
  w: Tensor; // [D]
  eps: number;
}

/** Half layers of one token. `input` is told the residual row as a mixer finds it, before what runs next may change it. */
export interface Blocks {
  /** `watch`: where to tell what the token did, and the changes [n, H, 4] of the layer's gates. */
  kda: (
    w: KdaWeights,
    state: KdaState,
    watch: { row: Tensor; changes: Tensor } | null,
    input: (x: Tensor) => void,
  ) => void;
  mla: (w: MlaWeights, cache: MlaState, input: (x: Tensor) => void) => void;
  /** `next` is what comes after the layer; so in `moe`. */
  dense: (w: DenseWeights, next: KdaWeights | MlaWeights | null) => void;
  /** `chosen` is the layer's row of `scratch.chosen`; returns the scores before their sigmoid. */
  moe: (w: MoeWeights, next: KdaWeights | MlaWeights | null, chosen: Tensor) => Tensor;
  /** After the last layer: the residual row is whole, in row 0 of `scratch.x`. */
  end: () => void;
}

/** How a kernel names what it reads of its first matrix, its second and so on. */
const PLACES = [
  { ending: '', library: (matrix: Library) => matrix },
  { ending: '_b', library: K.second },
  { ending: '_c', library: K.third },
  { ending: '_d', library: K.fourth },
  { ending: '_e', library: K.fifth },
];

/** Rows and tokens of one tile of a matrix product. */
export const TILE = { TILE_ROWS: 64, TILE_TOKENS: 32 };

/** Rows of a product that fill a GPU with a subgroup for eight of them. */
const MANY_ROWS = 32_768;
/** Fewer than these fill it better with four to a workgroup than with eight. */
const FEW_ROWS = 4096;

export class Plan {
  readonly calls: (Call | Copy)[] = [];
  readonly phase: Phase;
  /** One token at a time: matrix-vector products and the recurrence, instead of matrix products and the chunk form. */
  readonly single: boolean;
  /** One token with `Plans.shortRows` rows of context at most, itself included. */
  readonly short: boolean;
  /** One token in few calls (decode.ts). */
  readonly few: boolean;
  readonly #gpu: Gpu;
  readonly #step: Tensor;

  constructor(gpu: Gpu, phase: Phase, step: Tensor, few = false) {
    this.#gpu = gpu;
    this.phase = phase;
    this.few = few;
    this.short = phase === 'shortDecode' || phase === 'shortDraw';
    this.single = this.short || phase === 'decode' || phase === 'draw';
    this.#step = step;
  }

  /** One kernel that reads no matrix. */
  run<B extends string, C extends string>(
    kernel: Kernel<B, C>,
    consts: Record<C, number>,
    tensors: Record<B, Tensor>,
    libraries: Library[] = [],
    libraryConsts: Record<string, number> = {},
  ): void {
    const program = this.#gpu.program(kernel, libraries, consts, libraryConsts);
    const step = program.lines.some((l) => l.name === 'step') ? { step: this.#step } : {};
    this.calls.push(this.#gpu.bind(program, { ...tensors, ...step }));
  }

  /** One kernel on one part of a matrix. */
  runMatrix<B extends string, C extends string>(
    kernel: Kernel<B, C>,
    consts: Record<C, number>,
    tensors: Record<B, Tensor>,
    matrix: Matrix,
    part: MatrixPart,
    libraries: Library[] = [],
    libraryConsts: Record<string, number> = {},
  ): void {
    const weights = part.scales
      ? { codes: part.codes, scales: part.scales }
      : { codes: part.codes };
    this.run(kernel, consts, { ...tensors, ...weights }, [K.matrixOf(matrix.type), ...libraries], {
      COLS: matrix.cols,
      ...libraryConsts,
    });
  }

  /** y = W x for every token; a stack multiplies matrix n with the n-th batch of x. */
  linear(w: Matrix, x: Tensor, y: Tensor, place: Place = {}): void {
    const { xFirst = 0, xToken = w.cols * w.batch, xBatch = w.cols } = place;
    const { yFirst = 0, yToken = w.rows * w.batch, yBatch = w.rows } = place;
    for (const part of w.parts) {
      const before = w.batch > 1 ? part.firstRow / w.rows : 0;
      const consts = {
        ROWS: w.batch > 1 ? w.rows : part.rows,
        BATCH: w.batch > 1 ? part.rows / w.rows : 1,
        W_FIRST: part.offset,
        X_FIRST: xFirst + before * xBatch,
        X_TOKEN: xToken,
        X_BATCH: xBatch,
        Y_FIRST: yFirst + (w.batch > 1 ? before * yBatch : part.firstRow),
        Y_TOKEN: yToken,
        Y_BATCH: yBatch,
      };
      if (this.single) {
        const rows = w.rows * w.batch;
        const own = { ...consts, ADD: place.add ? 1 : 0, EACH: rows >= MANY_ROWS ? 8 : 4 };
        const lanes = this.rowLanes(rows, w.cols);
        this.runMatrix(K.matvec, own, { x, y }, w, part, [this.sum], lanes);
      } else {
        this.runMatrix(K.matmul, { ...consts, ...TILE }, { x, y }, w, part, [
          K.outer,
          K.tile,
          K.step,
        ]);
      }
    }
  }

  /** y[at ..] = A norm(x) and y[b.at ..] = B norm(x) of one token: two matrices of one input in one call. */
  project(
    a: Matrix,
    at: number,
    b: { matrix: Matrix; at: number } | null,
    norm: Norm,
    x: Tensor,
    y: Tensor,
  ): void {
    const [A] = a.parts;
    const [B] = (b?.matrix ?? a).parts;
    const consts = {
      A_ROWS: a.rows,
      B_ROWS: b ? b.matrix.rows : 0,
      A_FIRST: A!.offset,
      B_FIRST: B!.offset,
      A_AT: at,
      B_AT: b?.at ?? 0,
      EPS: norm.eps,
      EACH: a.rows >= FEW_ROWS ? 8 : 4,
    };
    this.runMatrices(
      K.project,
      consts,
      { x, w: norm.w, y },
      [
        { matrix: a, part: A! },
        { matrix: b?.matrix ?? a, part: B! },
      ],
      [this.sum],
      this.lanesOfEights(a.rows, a.cols),
    );
  }

  /** Kernels that read several matrices: the second's names end in _b, the third's in _c and so on. */
  runMatrices<Bind extends string, C extends string>(
    kernel: Kernel<Bind, C>,
    consts: Record<C, number>,
    tensors: Record<Bind, Tensor>,
    matrices: { matrix: Matrix; part: MatrixPart }[],
    libraries: Library[],
    libraryConsts: Record<string, number>,
  ): void {
    const weights: Record<string, Tensor> = {};
    const own: Library[] = [];
    const cols: Record<string, number> = {};
    matrices.forEach(({ matrix, part }, i) => {
      const { ending, library } = PLACES[i]!;
      weights[`codes${ending}`] = part.codes;
      if (part.scales) weights[`scales${ending}`] = part.scales;
      own.push(library(K.matrixOf(matrix.type)));
      cols[`COLS${ending}`] = matrix.cols;
    });
    const linked = [...own, ...libraries];
    this.run(kernel, consts, { ...tensors, ...weights }, linked, { ...cols, ...libraryConsts });
  }

  /** y[t, j] = W[e] x[t] for each chosen expert e = ids[t, j], or of x[t, j] where every slot has an input of its own. */
  experts(w: Matrix, routing: Routing, x: Tensor, y: Tensor, input: 'token' | 'slot'): void {
    const { ids, list, tiles, TOP } = routing;
    for (const part of w.parts) {
      const consts = {
        ROWS: w.rows,
        TOP,
        FIRST: part.firstRow / w.rows,
        COUNT: part.rows / w.rows,
        X_FIRST: 0,
        X_TOKEN: input === 'token' ? w.cols : TOP * w.cols,
        X_BATCH: input === 'token' ? 0 : w.cols,
        Y_FIRST: 0,
        Y_TOKEN: TOP * w.rows,
        Y_BATCH: w.rows,
      };
      if (this.single) {
        this.runMatrix(
          K.expertMatvec,
          consts,
          { ids, x, y },
          w,
          part,
          [this.sum],
          this.rowLanes(w.rows * TOP, w.cols),
        );
      } else {
        const grouped = { ...consts, ...TILE, EXPERTS: w.batch };
        this.runMatrix(K.expertMatmul, grouped, { list, tiles, x, y }, w, part, [K.outer, K.tile]);
      }
    }
  }

  /** The sum library that this device runs best. */
  get sum(): Library {
    return this.#gpu.has('subgroups') ? K.sumSubgroup : K.sumTree;
  }

  /** Lanes for four rows of a product: a subgroup's where rows are many or short, more where few workgroups must read much. */
  rowLanes(rows: number, cols: number): { SUM_LANES: number } {
    if (this.#gpu.report.software) return this.lanes(cols / 8);
    if (cols < 2048 || rows >= MANY_ROWS) return { SUM_LANES: 32 };
    return { SUM_LANES: rows >= FEW_ROWS ? 64 : rows >= 1024 ? 128 : 256 };
  }

  /** The same for eight rows: three subgroups of 32 where that gives all lanes as much to do. */
  lanesOfEights(rows: number, cols: number): { SUM_LANES: number } {
    const { software } = this.#gpu.report;
    const { subgroup } = this.#gpu.workgroup;
    const three = rows >= FEW_ROWS && rows < MANY_ROWS && cols >= 2048 && (cols / 8) % 96 === 0;
    const whole = subgroup > 0 && 96 % subgroup === 0;
    return !software && three && whole ? { SUM_LANES: 96 } : this.rowLanes(rows, cols);
  }

  /** As many lanes as there is work for, 64 at most; few on a processor, where a barrier costs more than the work it shares. */
  lanes(work: number): { SUM_LANES: number } {
    const most = this.#gpu.report.software ? 4 : 64;
    let lanes = 4;
    while (lanes < most && lanes < work) lanes *= 2;
    return { SUM_LANES: lanes };
  }
}

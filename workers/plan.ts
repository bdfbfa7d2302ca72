/**
 * Collects the calls of one pass over a piece of tokens, in the order of execution. Chooses what links: the sum that the
 * device has, lanes that fit the columns, the library of a matrix's type; and cuts a matrix of several parts into calls.
 */
import type { Call, Copy, Gpu, Kernel, Library, Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import type { Matrix, MatrixPart } from './weights.ts';

/**
 * decode: one token, and the best after it. draw: one token, and the candidates after it. prefill: a piece of tokens.
 * score: a small piece, with the logits of every token.
 */
export type Phase = 'decode' | 'draw' | 'prefill' | 'score';

/** Where the rows of a product lie, in f32 units: x of (token t, matrix n) at xFirst + t xToken + n xBatch, y likewise. */
export interface Place {
  xFirst?: number;
  xToken?: number;
  xBatch?: number;
  yFirst?: number;
  yToken?: number;
  yBatch?: number;
}

/** The chosen experts of a call's tokens, and the same sorted by expert for prefill (expert_group). */
export interface Routing {
  ids: Tensor; // [T, TOP] u32
  list: Tensor; // [E, T] u32
  tiles: Tensor; // [most tiles, 4] u32
  TOP: number;
}

/** Rows and tokens of one tile of a matrix product. */
export const TILE = { TILE_ROWS: 64, TILE_TOKENS: 32 };

export class Plan {
  readonly calls: (Call | Copy)[] = [];
  readonly phase: Phase;
  /** One token at a time: matrix-vector products and the recurrence, instead of matrix products and the chunk form. */
  readonly single: boolean;
  readonly #gpu: Gpu;
  readonly #step: Tensor;

  constructor(gpu: Gpu, phase: Phase, step: Tensor) {
    this.#gpu = gpu;
    this.phase = phase;
    this.single = phase === 'decode' || phase === 'draw';
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
        X_FIRST: xFirst + before * xBatch,
        X_TOKEN: xToken,
        X_BATCH: xBatch,
        Y_FIRST: yFirst + (w.batch > 1 ? before * yBatch : part.firstRow),
        Y_TOKEN: yToken,
        Y_BATCH: yBatch,
      };
      if (this.single) {
        this.runMatrix(K.matvec, consts, { x, y }, w, part, [this.sum], this.lanes(w.cols / 8));
      } else {
        this.runMatrix(K.matmul, { ...consts, ...TILE }, { x, y }, w, part, [
          K.outer,
          K.tile,
          K.step,
        ]);
      }
    }
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
          this.lanes(w.cols / 8),
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

  /** As many lanes as there is work for, 64 at most; few on a processor, where a barrier costs more than the work it shares. */
  lanes(work: number): { SUM_LANES: number } {
    const most = this.#gpu.report.software ? 4 : 64;
    let lanes = 4;
    while (lanes < most && lanes < work) lanes *= 2;
    return { SUM_LANES: lanes };
  }
}

/** How moe_layer, and with it residual and router_early, is checked; see layers.ts. */
import type { Library } from '../../workers/link.ts';
import {
  activation,
  ahead,
  CHOSEN,
  residual,
  routerEarly,
  routerNone,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import type { TensorType } from '../../workers/quant.ts';
import { dispatch, randomValues } from '../gpu.ts';
import { linear, matrix, rmsNorm, type Reals } from '../reference/layers.ts';
import { moe, route, swiglu, type Swiglu } from '../reference/moe.ts';
import { several } from './decode.ts';
import { rms, rmsWhereWritten, same, type Sum } from './layers.ts';
import { randomMatrix } from './matrices.ts';

export interface MoeLayerCase {
  /** 0: a dense layer, of which gate, up and down have no tensors; `top` is 0 as well. */
  experts: number;
  top: number;
  width: number;
  sharedWidth: number;
  D: number;
  /** Workgroups. */
  slices: number;
  /** Parts that x still lacks. */
  parts: number;
  gate: TensorType;
  up: TensorType;
  /** Gate and up of the shared expert. */
  shared: TensorType;
  down: TensorType;
  sharedDown: TensorType;
  scale: number;
  norm: boolean;
  /** Rows of the router that differ, with equal biases: a few make ties. 0: all do, biases too. */
  grain: number;
  eps: number;
  /** Size of the residual row: a small one lets eps speak. */
  size: number;
  sum: Sum;
  /** Workgroups that read what comes next; none where it is not said. */
  warmers?: number;
}

/** Some of the rows of a matrix [.., cols], and some of their columns. */
function cut(
  values: Reals,
  cols: number,
  rows: { from: number; count: number },
  columns = { from: 0, count: cols },
) {
  const part = Float64Array.from({ length: rows.count * columns.count }, (_, i) => {
    const row = rows.from + Math.floor(i / columns.count);
    return values[row * cols + columns.from + (i % columns.count)]!;
  });
  return matrix(part, rows.count, columns.count);
}

/** Every row of `rows` that is not said to be written must stay as it was; where one may not be read, there is NaN. */
export async function checkMoeLayer(
  kernel: typeof kernels.moeLayer,
  c: MoeLayerCase,
  own: { residual?: Library; router?: Library } = {},
): Promise<number> {
  const { experts, top, width, sharedWidth, D, slices, parts, eps } = c;
  const dense = experts === 0;
  const C = randomMatrix(c.shared, 3, 2 * sharedWidth, D);
  const S = randomMatrix(c.sharedDown, 5, D, sharedWidth);
  const G = dense ? C : randomMatrix(c.gate, 1, experts * width, D);
  const U = dense ? C : randomMatrix(c.up, 2, experts * width, D);
  const E = dense ? S : randomMatrix(c.down, 4, experts * D, width);
  const w = randomValues(6, D);
  const R = randomMatrix('F32', 7, experts, D).values.map((value, i, all) =>
    c.grain > 0 ? all[i % (D * c.grain)]! : value,
  );
  const bias = randomValues(8, experts).map((b, _, all) => (c.grain > 0 ? all[0]! : b));

  // left | given | nobody's | parts given | nobody's | parts made | nobody's
  const [TO, FROM, PART_FROM] = [0, 1, 3];
  const PART_TO = PART_FROM + parts + 1;
  const before = new Float32Array((PART_TO + slices + 1) * D).fill(NaN);
  before.set(randomValues(9, D, c.size), FROM * D);
  before.set(randomValues(10, parts * D, c.size), PART_FROM * D);
  const rowOf = (n: number) => before.subarray(n * D, (n + 1) * D);
  const x = Float64Array.from(rowOf(FROM));
  for (let p = 0; p < parts; p++) rowOf(PART_FROM + p).forEach((part, i) => (x[i]! += part));

  const weights = several(G, U, C, E, S);
  const out = await dispatch({
    kernel,
    libraries: [
      ...weights.libraries,
      activation,
      own.residual ?? residual,
      own.router ?? (dense ? routerNone : routerEarly),
      ahead,
      c.sum.library,
    ],
    consts: { SLICES: slices, PART_TO, WARMERS: c.warmers ?? 0 },
    libraryConsts: {
      ...{ COLS: D, COLS_b: D, COLS_c: D },
      ...{ COLS_d: dense ? sharedWidth : width, COLS_e: sharedWidth },
      ...{ D, FROM, TO, PARTS: parts, PART_FROM, NORM_EPS: eps, SUM_LANES: c.sum.lanes },
      ...(dense ? {} : { EXPERTS: experts, TOP: top, SCALE: c.scale, NORM: c.norm ? 1 : 0 }),
    },
    inputs: {
      ...weights.inputs,
      rows: before,
      constants: Float32Array.from([...w, ...R, ...bias]),
      chosen: new Uint32Array(CHOSEN.logits + experts + 1).fill(99),
      ahead: new Uint32Array(4 * 1001).fill(0xffffffff),
    },
    outputs: {},
    tokens: 1,
  });

  const h = rmsNorm(x, w, eps);
  const logits = linear(R, h, experts, D);
  const nothing = { scores: new Float64Array(), weights: new Float64Array() };
  const routing = dense
    ? { ...nothing, experts: new Int32Array() }
    : route(logits, bias, top, c.scale);
  const ids = [...routing.experts];
  if (!c.norm) routing.weights.set(ids.map((e) => c.scale * routing.scores[e]!));

  const expected = new Float64Array(before.length).fill(NaN);
  expected.set(x, TO * D);
  const units = (top * width + sharedWidth) / slices;
  for (let g = 0; g < slices; g++) {
    const slot = Math.min(Math.floor((g * units) / width), top);
    const from = g * units - slot * width;
    const some = { from, count: units };
    const said =
      slot < top
        ? swiglu(
            {
              gate: cut(G.values, D, { from: ids[slot]! * width + from, count: units }),
              up: cut(U.values, D, { from: ids[slot]! * width + from, count: units }),
              down: cut(E.values, width, { from: ids[slot]! * D, count: D }, some),
            },
            h,
          ).map((value) => routing.weights[slot]! * value)
        : swiglu(
            {
              gate: cut(C.values, D, some),
              up: cut(C.values, D, { from: sharedWidth + from, count: units }),
              down: cut(S.values, sharedWidth, { from: 0, count: D }, some),
            },
            h,
          );
    expected.set(said, (PART_TO + g) * D);
  }
  const always: Swiglu = {
    gate: cut(C.values, D, { from: 0, count: sharedWidth }),
    up: cut(C.values, D, { from: sharedWidth, count: sharedWidth }),
    down: matrix(S.values, D, sharedWidth),
  };
  const each = Array.from({ length: experts }, (_, e): Swiglu => {
    const rows = { from: e * width, count: width };
    const down = cut(E.values, width, { from: e * D, count: D });
    return { gate: cut(G.values, D, rows), up: cut(U.values, D, rows), down };
  });
  const whole = dense ? swiglu(always, h) : moe(each, always, routing, h);
  const sum = new Float64Array(D);
  out.rows!.subarray(PART_TO * D, (PART_TO + slices) * D).forEach((part, i) => {
    sum[i % D]! += part;
  });

  const chosen = new Uint32Array(out.chosen!.buffer);
  const numbers = (from: number, count: number) => out.chosen!.subarray(from, from + count);
  const told = [...numbers(CHOSEN.weights, top), ...numbers(CHOSEN.logits, experts)]; // one logit alone may be next to nothing
  const others = [...chosen.keys()].filter(
    (i) =>
      (i >= top && i < CHOSEN.weights) ||
      (i >= CHOSEN.weights + top && i < CHOSEN.logits) ||
      i >= CHOSEN.logits + experts,
  );
  return Math.max(
    rmsWhereWritten(out.rows!, expected, before),
    rms(out.rows!.subarray(TO * D, (TO + 1) * D), x),
    rms(sum, whole),
    same(chosen.subarray(0, top), ids),
    dense ? 0 : rms(told, [...routing.weights, ...logits]),
    others.every((i) => chosen[i] === 99) ? 0 : Infinity,
  );
}

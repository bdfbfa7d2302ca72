/**
 * Mixture of experts in float64: a sigmoid router with a bias that only steers the choice, SwiGLU experts,
 * and a shared expert that every token passes.
 *
 *   s = sigmoid(W_router x)                      one score per expert; they need not sum to one
 *   I = the `top` largest of s + bias            the bias balances load, and is not part of any weight
 *   w_i = scale s_i / sum_I s                    unbiased, renormalised over the chosen
 *   y = sum_I w_i swiglu_i(x) + swiglu_shared(x)
 *
 * Shapes  x, y [T, D]   scores [T, E]   experts, weights [T, top]
 */
import { add, expectLength, sigmoid, silu, type Product, type Reals } from './layers.ts';

/** Which experts each token takes, best first, and how much of each. */
export interface Routing {
  /** [T, E], without the bias */
  scores: Float64Array;
  /** [T, top] */
  experts: Int32Array;
  /** [T, top], scale included */
  weights: Float64Array;
}

/** A SwiGLU network: gate and up [F, D], down [D, F], each as the product with it. */
export interface Swiglu {
  gate: Product;
  up: Product;
  down: Product;
}

/** Choose experts: logits [T, E] from the router, bias [E]. Higher biased score first; of equals the lower index. */
export function route(logits: Reals, bias: Reals, top: number, scale: number): Routing {
  const E = bias.length;
  const T = logits.length / E;
  expectLength('route: logits', logits, Math.floor(T) * E);
  const scores = Float64Array.from(logits, sigmoid);
  const experts = new Int32Array(T * top);
  const weights = new Float64Array(T * top);
  for (let t = 0; t < T; t++) {
    const score = scores.subarray(t * E, (t + 1) * E);
    const order = [...score.keys()].sort((a, b) => score[b] + bias[b] - (score[a] + bias[a]));
    const chosen = order.slice(0, top); // Array.sort is stable: equals keep their order
    const sum = chosen.reduce((total, e) => total + score[e], 0);
    experts.set(chosen, t * top);
    weights.set(
      chosen.map((e) => (scale * score[e]) / sum),
      t * top,
    );
  }
  return { scores, experts, weights };
}

/** down( silu(gate x) * (up x) ): x [T, D] -> [T, D]. */
export function swiglu({ gate, up, down }: Swiglu, x: Reals): Float64Array {
  const u = up(x);
  return down(gate(x).map((value, i) => silu(value) * u[i]));
}

/** The chosen experts' outputs, weighted and summed: x [T, D] -> [T, D]. An expert runs once, on all its tokens. */
export function routedSum(experts: Swiglu[], routing: Routing, x: Reals): Float64Array {
  const T = routing.scores.length / experts.length;
  const D = x.length / T;
  const top = routing.experts.length / T;
  const y = new Float64Array(T * D);
  experts.forEach((expert, e) => {
    const slots = [...routing.experts.keys()].filter((slot) => routing.experts[slot] === e);
    const tokens = slots.map((slot) => Math.floor(slot / top));
    const out = swiglu(expert, gatherRows(x, tokens, D));
    slots.forEach((slot, i) => {
      for (let d = 0; d < D; d++) y[tokens[i] * D + d] += routing.weights[slot] * out[i * D + d];
    });
  });
  return y;
}

/** The whole layer: routed experts plus the shared one, x [T, D] -> [T, D]. */
export function moe(experts: Swiglu[], shared: Swiglu, routing: Routing, x: Reals): Float64Array {
  return add(routedSum(experts, routing, x), swiglu(shared, x));
}

/** How close a choice came to flipping: the least distance of the last chosen biased score from the first rejected. */
export function smallestMargin(routing: Routing, bias: Reals): number {
  const E = bias.length;
  const T = routing.scores.length / E;
  const top = routing.experts.length / T;
  let margin = Infinity;
  for (let t = 0; t < T; t++) {
    const biased = Float64Array.from(bias, (b, e) => routing.scores[t * E + e] + b)
      .sort()
      .reverse();
    margin = Math.min(margin, biased[top - 1] - biased[top]);
  }
  return margin;
}

function gatherRows(x: Reals, rows: number[], D: number): Float64Array {
  const out = new Float64Array(rows.length * D);
  rows.forEach((row, i) => out.set(x.subarray(row * D, (row + 1) * D), i * D));
  return out;
}

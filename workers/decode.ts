/**
 * The forward pass of one token, in as few calls as there are true dependencies: norms ride in the products that follow
 * them, everything a head does is one call, and what a block adds goes straight into the residual row. Same numbers as the
 * plans of model.ts up to rounding.
 */
import type { ModelConfig } from './config.ts';
import type { Gpu, Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import { mlaToken } from './attention.ts';
import { chosenStride, latentAt, type Scratch, watchedStride } from './scratch.ts';
import { isNarrow, narrowBlocks } from './narrow.ts';
import { type Blocks, type Phase, Plan, type Site, type Visitors } from './plan.ts';
import type { KdaState, MlaState, State } from './state.ts';
import type { DenseWeights, KdaWeights, Matrix, ModelWeights, MoeWeights } from './weights.ts';

type Look = (site: Site, tensor: Tensor) => void;

/** Lanes of the one workgroup that a head has. */
const HEAD_LANES = { SUM_LANES: 256 };

/**
 * Can this model's token go this way? Its heads must fit a workgroup, and matrices that are taken together must lie in one
 * buffer each (an adapter with small bindings splits large ones), or be cut at the same experts.
 */
export function decodesInFewCalls({ kda }: ModelConfig, weights: ModelWeights): boolean {
  const { keys, values, taps } = kda;
  const lanes = HEAD_LANES.SUM_LANES;
  const fits = values % 8 === 0 && lanes % (values / 4) === 0 && (keys + values) / 4 <= lanes;
  const whole = (...matrices: Matrix[]) => matrices.every((m) => m.parts.length === 1);
  const alike = (a: Matrix, b: Matrix) =>
    a.parts.length === b.parts.length && a.parts.every((part, i) => part.rows === b.parts[i]!.rows);
  return (
    fits &&
    keys % 8 === 0 &&
    taps >= 2 &&
    weights.layers.every(({ mixer, ffn }) => {
      const mixed =
        mixer.kind === 'kda'
          ? whole(mixer.forgetB, mixer.outGateB) && mixer.forgetB.cols === mixer.outGateB.cols
          : whole(mixer.q, mixer.latent, mixer.keyUp, mixer.valueUp);
      return (
        mixed &&
        (ffn.kind === 'dense' ||
          (whole(ffn.router, ffn.shared.down) &&
            ffn.sharedInputs.length === 1 &&
            alike(ffn.experts.gate, ffn.experts.up)))
      );
    })
  );
}

/**
 * Embedding, layers and logits of the token in `scratch.best`. Visitors see of a KDA layer only what it did, afterwards
 * (`token`), and change its gates inside its one call; without them nothing is added.
 */
export function oneToken(
  gpu: Gpu,
  phase: Phase,
  config: ModelConfig,
  weights: ModelWeights,
  s: Scratch,
  state: State,
  visitors: Visitors,
): Plan {
  const p = new Plan(gpu, phase, s.step, true);
  let recurrent = 0;
  let routers = 0;
  for (const part of weights.embedding.parts) {
    const consts = { FIRST: part.firstRow, COUNT: part.rows, STRIDE: 4 };
    p.runMatrix(
      K.embed,
      consts,
      { tokens: s.best, x: s.x, seen: s.seen },
      weights.embedding,
      part,
      [K.step],
    );
  }
  const make = isNarrow(config, weights, s) ? narrowBlocks : wideBlocks;
  const blocks = make(p, gpu, config, state, s);
  weights.layers.forEach(({ mixer, ffn }, i) => {
    const memory = state.layers[i]!;
    const look: Look = (site, tensor) => visitors.tap?.(site, i, tensor, p);
    const input = (x: Tensor) => look('input', x);
    if (mixer.kind === 'kda') {
      const first = recurrent++ * watchedStride(config);
      const row = gpu.part(s.watched, `what a token did in layer ${i}`, first, [
        watchedStride(config),
      ]);
      const changes = visitors.changes?.(i) ?? null;
      const watch = visitors.tap || changes ? { row, changes: changes ?? s.unchanged } : null;
      blocks.kda(mixer, memory as KdaState, watch, input);
      look('mixed', row);
      look('token', row);
    } else {
      const { latent, sharedKey } = config.mla;
      const at = latentAt(config);
      blocks.mla(mixer, memory as MlaState, input);
      look('query', s.inputs);
      look('latentRow', gpu.part(s.inputs, 'latent row of one token', at, [latent + sharedKey]));
      look('latentQuery', s.latentQuery);
      look('o', s.o);
    }
    const next = weights.layers[i + 1]?.mixer ?? null;
    if (ffn.kind === 'dense') blocks.dense(ffn, next);
    else {
      const stride = chosenStride(config);
      const row = gpu.part(s.chosen, `choice of layer ${i}`, routers++ * stride, [stride]);
      const scores = blocks.moe(ffn, next, row);
      const { expertsUsed: TOP } = config.moe;
      look('scores', scores);
      look('bias', ffn.bias);
      look('ids', gpu.part(row, 'ids', 0, [TOP]));
      look('routed', gpu.part(row, 'weights', K.CHOSEN.weights, [TOP]));
    }
  });
  blocks.end();
  visitors.tap?.('input', weights.layers.length, s.x, p);
  visitors.tap?.('chosen', weights.layers.length, s.chosen, p);
  visitors.tap?.('token', weights.layers.length, s.watched, p);
  if (weights.output.parts.length === 1) {
    p.project(weights.output, 0, null, { w: weights.outputNorm, eps: config.eps }, s.x, s.logits);
  } else {
    const consts = { D: config.width, EPS: config.eps };
    p.run(
      K.norm,
      consts,
      { x: s.x, w: weights.outputNorm, h: s.h },
      [p.sum],
      p.lanes(config.width / 4),
    );
    p.linear(weights.output, s.h, s.logits);
  }
  visitors.tap?.('logits', weights.layers.length, s.logits, p);
  return p;
}

/** Blocks that add to row 0 of `scratch.x` in place, each call with as many workgroups as its matrices have rows. */
function wideBlocks(p: Plan, gpu: Gpu, c: ModelConfig, state: State, s: Scratch): Blocks {
  return {
    kda: (w, memory, watch, input) => {
      input(s.x);
      kda(p, c, w, memory, s, watch);
    },
    mla: (w, cache, input) => {
      input(s.x);
      const norm = { w: w.norm, eps: c.eps };
      p.project(w.q, 0, { matrix: w.latent, at: latentAt(c) }, norm, s.x, s.inputs);
      mlaToken(p, gpu, c, w, cache, state.segments, s);
      p.linear(w.output, s.o, s.x, { add: true });
    },
    dense: (w) => dense(p, c, w, s),
    moe: (w, _next, chosen) => moe(p, gpu, c, w, s, chosen),
    end: () => {},
  };
}

function kda(
  p: Plan,
  c: ModelConfig,
  w: KdaWeights,
  state: KdaState,
  s: Scratch,
  watch: { row: Tensor; changes: Tensor } | null,
): void {
  const { keys, values: V, taps: TAPS } = c.kda;
  projectAll(p, w.inputs, w.norm, c.eps, s.x, s.inputs);
  const [F] = w.forgetB.parts;
  const [G] = w.outGateB.parts;
  const consts = {
    H: c.heads,
    K: keys,
    V,
    TAPS,
    BEFORE: c.width,
    F_FIRST: F!.offset,
    G_FIRST: G!.offset,
    EPS: c.eps,
  };
  const { memory: S, tails } = state;
  const tensors = { inputs: s.inputs, constants: w.constants, tails, S, y: s.gated };
  const visited = watch && { watched: watch.row, changes: watch.changes };
  p.runMatrices(
    K.kdaToken,
    consts,
    { ...tensors, ...visited },
    [
      { matrix: w.forgetB, part: F! },
      { matrix: w.outGateB, part: G! },
    ],
    [K.activation, p.sum, ...(watch ? [K.kdaWatched, K.step] : [K.kdaUnwatched])],
    watch ? { ...HEAD_LANES, CHANGES: watch.changes.shape[0]! } : HEAD_LANES,
  );
  p.linear(w.output, s.gated, s.x, { add: true });
}

function dense(p: Plan, c: ModelConfig, w: DenseWeights, s: Scratch): void {
  const WIDTH = w.gate.rows;
  projectAll(p, w.inputs, w.norm, c.eps, s.x, s.inputs);
  const consts = { WIDTH, SLOTS: 1, GATE_FIRST: 0, UP_FIRST: WIDTH, STRIDE: 0 };
  p.run(K.swiglu, consts, { gate: s.inputs, up: s.inputs, act: s.act }, [K.activation]);
  p.linear(w.down, s.act, s.x, { add: true });
}

/** `row` is the layer's of `scratch.chosen`. */
function moe(p: Plan, gpu: Gpu, c: ModelConfig, w: MoeWeights, s: Scratch, row: Tensor): Tensor {
  const { experts: EXPERTS, expertsUsed: TOP, scale: SCALE, normalised, width: WIDTH } = c.moe;
  const own = EXPERTS <= K.FEW_EXPERTS;
  const scores = gpu.part(row, 'logits', K.CHOSEN.logits, [EXPERTS]);
  if (!own) logits(p, c, w, s.x, scores);
  const chooser = own ? K.routerOwn : K.routerLogits;
  const chooserConsts = { EXPERTS, SCALE, NORM: normalised ? 1 : 0 };
  const [inputs] = w.sharedInputs as [Matrix];
  const EACH = WIDTH % 8 === 0 && inputs.rows % 16 === 0 ? 8 : 4;
  const rows = TOP * WIDTH;
  const lanes = EACH === 8 ? p.lanesOfEights(rows, c.width) : p.rowLanes(rows, c.width);
  w.experts.gate.parts.forEach((part, i) => {
    const chooses = i === 0; // and tells the other parts
    const consts = {
      WIDTH,
      SHARED: inputs.rows / 2,
      FIRST: part.firstRow / WIDTH,
      COUNT: part.rows / WIDTH,
      TOP,
      EPS: c.eps,
      EACH,
    };
    const tensors = { x: s.x, constants: w.constants, act: s.opened, chosen: row };
    p.runMatrices(
      K.expertSwiglu,
      consts,
      tensors,
      [
        { matrix: w.experts.gate, part },
        { matrix: w.experts.up, part: w.experts.up.parts[i]! },
        { matrix: inputs, part: inputs.parts[0]! },
      ],
      [K.activation, p.sum, chooses ? chooser : K.routerGiven],
      {
        ...(own ? p.lanes(c.width / 8) : lanes),
        ...(chooses ? chooserConsts : {}),
      },
    );
  });
  w.experts.down.parts.forEach((part, i) => {
    const consts = {
      ROWS: c.width,
      FIRST: part.firstRow / c.width,
      COUNT: part.rows / c.width,
      TOP,
      SHARED: i === 0 ? 1 : 0,
    };
    p.runMatrices(
      K.expertDown,
      consts,
      { chosen: row, act: s.opened, x: s.x },
      [
        { matrix: w.experts.down, part },
        { matrix: w.shared.down, part: w.shared.down.parts[0]! },
      ],
      [p.sum],
      p.rowLanes(c.width, TOP * WIDTH),
    );
  });
  return scores;
}

/** What the router says of a token: few rows, so that a workgroup makes four and no more, by as many lanes as have work. */
function logits(p: Plan, c: ModelConfig, w: MoeWeights, x: Tensor, y: Tensor): void {
  const router = { matrix: w.router, part: w.router.parts[0]! };
  const { offset } = router.part;
  const consts = {
    ...{ A_ROWS: w.router.rows, A_FIRST: offset, A_AT: 0 },
    ...{ B_ROWS: 0, B_FIRST: offset, B_AT: 0 },
    ...{ EPS: c.eps, EACH: 4 },
  };
  p.runMatrices(
    K.project,
    consts,
    { x, w: w.norm, y },
    [router, router],
    [p.sum],
    p.rowLanes(w.router.rows, c.width),
  );
}

/** norm(x) through runs of matrices, one after another in y; two to a call. */
function projectAll(
  p: Plan,
  runs: Matrix[],
  norm: Tensor,
  eps: number,
  x: Tensor,
  y: Tensor,
): void {
  let next = 0;
  const places = runs.map((matrix) => {
    const at = next;
    next += matrix.rows;
    return { matrix, at };
  });
  for (let i = 0; i < places.length; i += 2) {
    const [a, b] = [places[i]!, places[i + 1] ?? null];
    p.project(a.matrix, a.at, b, { w: norm, eps }, x, y);
  }
}

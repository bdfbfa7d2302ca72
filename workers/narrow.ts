/**
 * One token through a model of few small heads and experts: half a layer is one call of few workgroups, each of which adds up the
 * residual row for itself from what the call before left beside it (shaders/lib/residual.wgsl). Such a model is not bound by
 * what a GPU can read, but by what lies between two calls.
 */
import type { ModelConfig } from './config.ts';
import { attendOne, numbersOf } from './attention.ts';
import { type Gpu, PART_ELEMENTS, type Tensor } from './gpu.ts';
import { FLOOR } from './limits.ts';
import * as K from './kernels.ts';
import type { Library } from './link.ts';
import type { Blocks, Plan } from './plan.ts';
import { latentAt, type Scratch } from './scratch.ts';
import type { MlaState, State } from './state.ts';
import type {
  DenseWeights,
  KdaWeights,
  Matrix,
  MlaWeights,
  ModelWeights,
  MoeWeights,
} from './weights.ts';

/**
 * Lanes of a workgroup of each kernel where the device has so many and room for what they share; else half as many, down to 256,
 * which every device has. With so few workgroups each is alone on its part of the GPU: its lanes are all that hides its waits.
 */
const MOST_LANES = { kda: 512, moe: 256, query: 512, out: 512, settle: 512 };
type Mixer = KdaWeights | MlaWeights;
const LEAST_LANES: number = FLOOR.invocations;

/** `most` lanes, or as many as the device grants and has the bytes of workgroup memory for. */
function lanesFor({ workgroup, report }: Gpu, most: number, bytes: (lanes: number) => number) {
  let lanes = report.software ? LEAST_LANES : most;
  while (lanes > LEAST_LANES && (lanes > workgroup.lanes || bytes(lanes) > workgroup.bytes)) {
    lanes /= 2;
  }
  return { SUM_LANES: lanes };
}

/** Rows of context that a head goes through in the call that makes its values: more are sooner read by several workgroups. */
const SHORT_ROWS = 512;

/** Where parts begin in `scratch.x`, whose first two rows hold the residual row in turn: a mixer's, of each head one. */
const MIXER_PARTS = 2;

/** And those of the experts, after them. */
function expertParts({ heads }: ModelConfig): number {
  return MIXER_PARTS + heads;
}

/**
 * Hidden units that one workgroup of moe_layer has, of `choices` the first that cuts networks of these widths evenly, and how many
 * workgroups that makes: as many as there are rows for their parts.
 */
function slicesOf(c: ModelConfig, scratch: Scratch, widths: number[], choices: number[]) {
  const total = widths.reduce((a, b) => a + b, 0);
  const rows = scratch.x.shape[0]! - expertParts(c);
  const fits = (units: number) => widths.every((w) => w % units === 0) && total / units <= rows;
  const units = choices.find(fits) ?? 0;
  return { units, slices: units && total / units };
}

function expertSlices(c: ModelConfig, scratch: Scratch) {
  const { width, sharedWidth, expertsUsed } = c.moe;
  return slicesOf(c, scratch, [...Array<number>(expertsUsed).fill(width), sharedWidth], [32, 64]);
}

/** A dense network is wide: fewer workgroups leave fewer parts. */
function denseSlices(c: ModelConfig, scratch: Scratch) {
  return slicesOf(c, scratch, [c.denseWidth], [64, 32]);
}

/**
 * Workgroups that bring what comes next into the cache. It pays where the cache holds a layer's weights until they are read and
 * the GPU has more multiprocessors than the call has workgroups, which was measured on NVIDIA's; elsewhere weights might be
 * read from memory twice.
 */
const WARMERS = 24;

function warmersFor({ report }: Gpu, next: Mixer | null): number {
  return next && /\bnvidia\b/i.test(report.name) ? WARMERS : 0;
}

/** Where the weights of a mixer begin and end, as far as they lie in one buffer: that of its first matrix. */
function aheadOf(next: Mixer | null): Tensor | null {
  if (!next) return null;
  const matrices =
    next.kind === 'kda'
      ? [next.q, next.forgetA, next.forgetB, next.outGateB, next.output]
      : [next.q, next.latent, next.keyUp, next.valueUp, next.output];
  const all = [...matrices.map(({ parts }) => parts[0]!.codes), next.constants];
  const own = all.filter(({ buffer }) => buffer === all[0]!.buffer);
  const offset = Math.min(...own.map((t) => t.offset));
  const bytes = Math.max(...own.map((t) => t.offset + t.bytes)) - offset;
  return { ...all[0]!, name: 'weights of the next layer', bytes, offset, kind: 'scratch' };
}

/** A matrix in one buffer: with five of them a kernel's other bindings are as many as any device has. */
function single({ parts }: Matrix): boolean {
  return parts.length === 1 && parts[0]!.scales === null;
}

function fromFirstRow(matrix: Matrix): boolean {
  return single(matrix) && matrix.parts[0]!.offset === 0;
}

/** Do the matrices lie one after another in one buffer? */
function adjoin(...matrices: Matrix[]): boolean {
  return matrices.every(({ parts: [part] }, i) => {
    const before = matrices[i - 1]?.parts[0];
    return (
      !before || (part!.codes === before.codes && part!.offset === before.offset + before.rows)
    );
  });
}

/** Can a token of this model go this way? What must hold besides is what decodesInFewCalls says. */
export function isNarrow(c: ModelConfig, weights: ModelWeights, scratch: Scratch): boolean {
  const D = c.width;
  const { keys, values } = c.kda;
  const lanes = LEAST_LANES;
  const kdaFits = ({ forgetB, outGateB, output, ...w }: KdaWeights) =>
    [w.q, w.k, w.v, w.forgetA, w.outGateA, w.writeStrength, forgetB, outGateB].every(single) &&
    fromFirstRow(output) &&
    adjoin(w.q, w.k, w.v) &&
    adjoin(w.forgetA, w.outGateA, w.writeStrength) &&
    values % K.blockSpan(output.type) === 0 &&
    (2 * keys + values) / 4 <= lanes &&
    forgetB.cols / 2 + 1 <= lanes &&
    K.kdaLayerBytes({ D, K: keys, V: values, RANK: forgetB.cols, lanes }) <= FLOOR.workgroupBytes;
  const mlaFits = (w: MlaWeights) =>
    [w.q, w.latent, w.keyUp, w.valueUp, w.output].every(fromFirstRow) &&
    c.mla.values % K.blockSpan(w.output.type) === 0;
  const { units } = expertSlices(c, scratch);
  const EXPERTS = c.moe.experts;
  const moeFits = ({ experts, shared, sharedInputs }: MoeWeights) =>
    [experts.gate, experts.up, experts.down, shared.down, ...sharedInputs].every(fromFirstRow) &&
    EXPERTS <= K.FEW_EXPERTS &&
    units > 0 &&
    Math.max(K.blockSpan(experts.down.type), K.blockSpan(shared.down.type)) === 32 &&
    K.moeLayerBytes({ D, EXPERTS, units, lanes }) <= FLOOR.workgroupBytes;
  const dense = denseSlices(c, scratch);
  const denseFits = ({ inputs, down }: DenseWeights) =>
    inputs.length === 1 &&
    [...inputs, down].every(fromFirstRow) &&
    dense.units > 0 &&
    K.blockSpan(down.type) === 32 &&
    K.moeLayerBytes({ D, EXPERTS: 0, units: dense.units, lanes }) <= FLOOR.workgroupBytes;
  return (
    D % PART_ELEMENTS === 0 &&
    weights.layers.every(
      ({ mixer, ffn }) =>
        (mixer.kind === 'kda' ? kdaFits(mixer) : mlaFits(mixer)) &&
        (ffn.kind === 'dense' ? denseFits(ffn) : moeFits(ffn)),
    )
  );
}

/**
 * Rows of context, its own included, up to which a token of this model has shorter plans: all in the first segment. 0 where a
 * head's workgroup has no room to go through them.
 */
export function shortRows(c: ModelConfig, weights: ModelWeights, s: Scratch, state: State): number {
  const { width: D, mla } = c;
  const lanes = LEAST_LANES;
  const context = K.attendWholeBytes({ LATENT: mla.latent, lanes });
  const fits =
    isNarrow(c, weights, s) &&
    mla.latent / 4 <= lanes &&
    K.mlaOutBytes({ D, VALUES: mla.values, lanes, context }) <= FLOOR.workgroupBytes;
  return fits ? Math.min(SHORT_ROWS, state.segments[0]!.rows) : 0;
}

/** The halves of layers in few workgroups. */
export function narrowBlocks(p: Plan, gpu: Gpu, c: ModelConfig, state: State, s: Scratch): Blocks {
  const { heads: H, width: D } = c;
  let parts = { PARTS: 0, PART_FROM: 0 };
  /** What residual is to read and write: mixers take row 0 to row 1, experts row 1 to row 0. */
  const residual = (FROM: number, TO: number) => ({
    ...{ D, FROM, TO, NORM_EPS: c.eps },
    ...parts,
  });
  const mixed = gpu.part(s.x, 'residual row of one token', D, [1, D]);
  const { latent: LATENT, sharedKey: SHARED, ownKey: NOPE, query } = c.mla;
  /** How mla_out comes by what a head reads of a cache: joined from what calls of their own left, or by itself. */
  const attendSlices = (w: MlaWeights, cache: MlaState): Reads => ({
    libraries: [K.slices],
    consts: { SLICES: attendOne(p, gpu, c, w, cache, state.segments, s) },
    tensors: { stats: s.stats, parts: s.parts },
    bytes: () => K.slicesBytes({ LATENT }),
  });
  const attendWhole = (cache: MlaState): Reads => ({
    libraries: [K.attendWhole, numbersOf(cache), K.step],
    consts: { SHARED, NOPE, SCALE: query ** -0.5 },
    tensors: { qa: s.latentQuery, q: s.inputs, cache: cache.segments[0]! },
    bytes: (lanes) => K.attendWholeBytes({ LATENT, lanes }),
  });
  return {
    kda: (w, { memory: S, tails }, watch, input) => {
      const { keys, values: V, taps: TAPS } = c.kda;
      const RANK = w.forgetB.cols;
      const lanes = lanesFor(gpu, MOST_LANES.kda, (l) =>
        K.kdaLayerBytes({ D, K: keys, V, RANK, lanes: l }),
      );
      const consts = {
        ...{ H, K: keys, V, TAPS, BEFORE: D, EPS: c.eps },
        ...{ F_FIRST: w.forgetB.parts[0]!.offset, G_FIRST: w.outGateB.parts[0]!.offset },
        ...{ Q_FIRST: w.q.parts[0]!.offset, LOW_FIRST: w.forgetA.parts[0]!.offset },
        PART_TO: MIXER_PARTS,
      };
      const visited = watch && { watched: watch.row, changes: watch.changes };
      p.runMatrices(
        K.kdaLayer,
        consts,
        { rows: s.x, constants: w.constants, tails, S, ...visited },
        [w.forgetB, w.outGateB, w.q, w.forgetA, w.output].map(whole),
        [
          ...[K.activation, p.sum, K.residual],
          ...(watch ? [K.kdaWatched, K.step] : [K.kdaUnwatched]),
        ],
        {
          ...residual(0, 1),
          ...lanes,
          ...(watch && { CHANGES: watch.changes.shape[0]! }),
        },
      );
      parts = { PARTS: H, PART_FROM: MIXER_PARTS };
      input(mixed);
    },
    mla: (w, cache, input) => {
      const { values: VALUES } = c.mla;
      const { first: FIRST, rows: SEGMENT } = state.segments[0]!;
      const LATENT_AT = latentAt(c);
      const consts = { HEADS: H, LATENT, SHARED, LATENT_AT, EPS: c.eps, FIRST, SEGMENT };
      p.runMatrices(
        K.mlaQuery,
        consts,
        {
          ...{ rows: s.x, constants: w.constants, inputs: s.inputs, qa: s.latentQuery },
          cache: cache.segments[0]!,
        },
        [w.q, w.latent, w.keyUp].map(whole),
        [K.residual, K.shares, K.latentRow, numbersOf(cache), K.step, p.sum],
        {
          ...residual(0, 1),
          ...lanesFor(gpu, MOST_LANES.query, (l) =>
            K.mlaQueryBytes({ D, LATENT, SHARED, NOPE: w.keyUp.cols, lanes: l }),
          ),
        },
      );
      const read = p.short ? attendWhole(cache) : attendSlices(w, cache);
      p.runMatrices(
        K.mlaOut,
        { HEADS: H, VALUES, D, PART_TO: MIXER_PARTS },
        { ...read.tensors, o: s.o, rows: s.x },
        [w.valueUp, w.output].map(whole),
        [...read.libraries, K.shares, p.sum],
        {
          ...read.consts,
          ...lanesFor(gpu, MOST_LANES.out, (lanes) =>
            K.mlaOutBytes({ D, VALUES, lanes, context: read.bytes(lanes) }),
          ),
        },
      );
      parts = { PARTS: H, PART_FROM: MIXER_PARTS };
      input(mixed);
    },
    dense: (w, next) => {
      const { units, slices: SLICES } = denseSlices(c, s);
      const PART_TO = expertParts(c);
      const lanes = lanesFor(gpu, MOST_LANES.moe, (l) =>
        K.moeLayerBytes({ D, EXPERTS: 0, units, lanes: l }),
      );
      const [inputs] = w.inputs as [Matrix];
      p.runMatrices(
        K.moeLayer,
        { SLICES, PART_TO, WARMERS: warmersFor(gpu, next) },
        { rows: s.x, constants: w.norm, chosen: s.chosen, ahead: aheadOf(next) ?? w.norm },
        [inputs, inputs, inputs, w.down, w.down].map(whole),
        [K.activation, K.residual, K.routerNone, K.ahead, p.sum],
        { ...residual(1, 0), ...lanes },
      );
      parts = { PARTS: SLICES, PART_FROM: PART_TO };
    },
    moe: (w, next, chosen) => {
      const { experts: EXPERTS, expertsUsed: TOP, scale: SCALE, normalised } = c.moe;
      const { units, slices: SLICES } = expertSlices(c, s);
      const PART_TO = expertParts(c);
      const lanes = lanesFor(gpu, MOST_LANES.moe, (l) =>
        K.moeLayerBytes({ D, EXPERTS, units, lanes: l }),
      );
      p.runMatrices(
        K.moeLayer,
        { SLICES, PART_TO, WARMERS: warmersFor(gpu, next) },
        { rows: s.x, constants: w.constants, chosen, ahead: aheadOf(next) ?? w.constants },
        [w.experts.gate, w.experts.up, w.sharedInputs[0]!, w.experts.down, w.shared.down].map(
          whole,
        ),
        [K.activation, K.residual, K.routerEarly, K.ahead, p.sum],
        { ...residual(1, 0), EXPERTS, TOP, SCALE, NORM: normalised ? 1 : 0, ...lanes },
      );
      parts = { PARTS: SLICES, PART_FROM: PART_TO };
      return gpu.part(chosen, 'logits', K.CHOSEN.logits, [EXPERTS]);
    },
    end: () => {
      const lanes = lanesFor(gpu, MOST_LANES.settle, (l) => K.residualBytes({ D, lanes: l }));
      p.run(K.settle, {}, { rows: s.x }, [K.residual, p.sum], { ...residual(0, 0), ...lanes });
    },
  };
}

/** A library that says what a head has read, with what it needs. */
interface Reads {
  libraries: Library[];
  consts: Record<string, number>;
  tensors: Record<string, Tensor>;
  /** Of workgroup memory. */
  bytes: (lanes: number) => number;
}

/** All of a matrix that has one part. */
function whole(matrix: Matrix): { matrix: Matrix; part: Matrix['parts'][number] } {
  return { matrix, part: matrix.parts[0]! };
}

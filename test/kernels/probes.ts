/**
 * How the probes are checked: dispatched, and compared with the float64 views or the definition. Every function takes the
 * kernel as an argument, so that one with a known bug can be put in its place, and gives the relative RMS.
 */
import {
  best,
  CHOSEN,
  historyWords,
  PROBE_SUMS,
  probeWords,
  step,
  sumTree,
  watchedWords,
} from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import { dispatch, randomValues } from '../gpu.ts';
import { step as stepByStep, type KdaSizes } from '../reference/kda.ts';
import { overwrittenBy, recall as recallOf } from '../reference/views.ts';
import { recurrence } from './kda.ts';
import { rms, same } from './layers.ts';

const RING = 256;
const POSITION = 250; // so that a call of ten wraps around the ring

/** q, k, v, g, beta of a case, what the recurrence makes of them, and the same as rows of history. */
export function written({ T, H, K, V }: KdaSizes) {
  const c = { T, H, K, V, decay: 'gentle', beta: 'open', keys: 'random' } as const;
  const { inputs, buffers } = recurrence(c);
  const exact = stepByStep(c, inputs, buffers.S);
  const u = Float32Array.from(exact.u);
  const words = historyWords(c);
  const C = H * (2 * K + V);
  const rows = new Float32Array(T * words);
  for (let t = 0; t < T; t++) {
    const part = (x: Float32Array, width: number) => x.subarray(t * width, (t + 1) * width);
    rows.set(part(buffers.mixed, C), t * words);
    rows.set(part(buffers.g, H * K), t * words + C);
    rows.set(part(u, H * V), t * words + C + H * K);
    rows.set(part(buffers.beta, H), t * words + C + H * K + H * V);
  }
  return { inputs, buffers, exact, u, rows, words };
}

/** The largest of the figures of u, the sums, beta and the middle g of every token, in a ring that wraps around. */
export async function checkProbeTrace(
  kernel: typeof kernels.probeTrace,
  { T, H, K, V, parts: PARTS }: KdaSizes & { parts: number },
): Promise<number> {
  const { inputs, buffers, exact } = written({ T, H, K, V });
  const per = probeWords(V);
  const [ROW, FIRST] = [7 + H * per + 3, 7];
  const blocks = Math.ceil(V / 32);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { H, K, V, PARTS, RING, ROW, FIRST },
    inputs: { ...buffers },
    outputs: { u: T * H * V, records: RING * ROW },
    tokens: T,
    position: POSITION,
  });
  const seen: number[] = [];
  const wanted: number[] = [];
  let middles = 0;
  for (let t = 0; t < T; t++) {
    const { S } = stepByStep({ T: t + 1, H, K, V }, upTo(inputs, t + 1, { H, K, V }), buffers.S);
    for (let h = 0; h < H; h++) {
      const at = ((POSITION + t) % RING) * ROW + FIRST + h * per;
      for (let b = 0; b < blocks; b++) {
        const sums = [0, 0, 0, 0, 0];
        for (let e = 32 * b; e < Math.min(V, 32 * b + 32); e++) {
          const i = (t * H + h) * V + e;
          const [u, held, v] = [exact.u[i]!, exact.held[i]!, inputs.v[i]!];
          sums[0]! += u * u;
          sums[1]! += held * v;
          sums[2]! += held * held;
          sums[3]! += v * v;
          for (let d = 0; d < K; d++) sums[4]! += S[(h * K + d) * V + e]! ** 2;
        }
        wanted.push(...sums);
        seen.push(...out.records!.subarray(at + 5 * b, at + 5 * b + 5));
      }
      const g = Array.from(buffers.g.subarray((t * H + h) * K, (t * H + h + 1) * K)).sort(
        (a, b) => a - b,
      );
      const middle = [buffers.beta[t * H + h]!, g[(K - 1) >> 1]!, g[K >> 1]!];
      middles = Math.max(middles, same(out.records!.subarray(at + 5 * blocks, at + per), middle));
    }
  }
  return Math.max(
    rms(out.u!, exact.u),
    rms(seen, wanted),
    middles,
    same(out.S ?? buffers.S, buffers.S),
  );
}

function upTo<T extends Record<'q' | 'k' | 'v' | 'g' | 'beta', Float32Array | Float64Array>>(
  { q, k, v, g, beta }: T,
  tokens: number,
  { H, K, V }: Omit<KdaSizes, 'T'>,
) {
  const keys = (x: Float32Array | Float64Array) => x.slice(0, tokens * H * K);
  return {
    q: keys(q),
    k: keys(k),
    g: keys(g),
    v: v.slice(0, tokens * H * V),
    beta: beta.slice(0, tokens * H),
  };
}

/** Rows land where their positions say, in the segment that holds them; others are left. 0 or Infinity. */
export async function checkProbeKeep(
  kernel: typeof kernels.probeKeep,
  sizes: KdaSizes,
): Promise<number> {
  const { T, H, K, V } = sizes;
  const { buffers, u, rows, words } = written(sizes);
  const { mixed, g, beta } = buffers;
  const SEGMENT = T + 4;
  let worst = 0;
  for (const FIRST of [5, 5 + T - 2]) {
    // Of the second segment's view, the first T - 2 tokens lie before it.
    const history = new Float32Array(SEGMENT * words).fill(-7);
    const out = await dispatch({
      kernel,
      libraries: [step],
      consts: { H, K, V, FIRST, SEGMENT },
      inputs: { mixed, g, u, beta, history },
      outputs: {},
      tokens: T,
      position: 7,
    });
    const wanted = history.slice();
    for (let t = 0; t < T; t++) {
      const row = 7 + t - FIRST;
      if (row >= 0 && row < SEGMENT)
        wanted.set(rows.subarray(t * words, (t + 1) * words), row * words);
    }
    worst = Math.max(worst, same(out.history!, wanted));
  }
  return worst;
}

/** What every layer's row says of a token lands where its record has it, in a ring that wraps around. 0 or Infinity. */
export async function checkProbeToken(
  kernel: typeof kernels.probeToken,
  { layers: LAYERS, H, K, V }: Omit<KdaSizes, 'T'> & { layers: number },
): Promise<number> {
  const WATCHED = watchedWords({ H, K, V }) + 7;
  const per = probeWords(V);
  const BLOCKS = Math.ceil(V / 32);
  const [ROUTERS, TOP, STRIDE, CHOICES] = [3, 5, CHOSEN.logits + 8, LAYERS * H * per + 2];
  const ROW = CHOICES + ROUTERS * 2 * TOP + 3;
  const watched = randomValues(3, LAYERS * WATCHED).map((x) => Math.round(20 * x) + 0.5); // with equals
  const chosen = Uint32Array.from({ length: ROUTERS * STRIDE }, (_, i) => 3 * i + 1);
  const records = new Uint32Array(RING * ROW).fill(7);
  const position = RING + 3;
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: {
      ...{ LAYERS, H, K, V, WATCHED, BLOCKS, RING, ROW },
      ...{ ROUTERS, CHOSEN: STRIDE, TOP, CHOICES },
    },
    inputs: { watched, chosen, records },
    outputs: {},
    tokens: 1,
    position,
  });
  const beta = historyWords({ H, K, V }) - H;
  for (let layer = 0; layer < LAYERS; layer++) {
    for (let h = 0; h < H; h++) {
      const from = (at: number, count: number) =>
        watched.subarray(layer * WATCHED + at, layer * WATCHED + at + count);
      const g = from(H * (2 * K + V) + h * K, K).toSorted();
      const record = new Float32Array(per);
      record.set(from(beta + H + PROBE_SUMS * h, PROBE_SUMS));
      record.set([from(beta + h, 1)[0]!, g[(K - 1) >> 1]!, g[K >> 1]!], PROBE_SUMS * BLOCKS);
      records.set(new Uint32Array(record.buffer), (position % RING) * ROW + (layer * H + h) * per);
    }
  }
  for (let n = 0; n < ROUTERS; n++) {
    const part = (from: number) => chosen.subarray(n * STRIDE + from, n * STRIDE + from + TOP);
    const at = (position % RING) * ROW + CHOICES + n * 2 * TOP;
    records.set(part(0), at);
    records.set(part(CHOSEN.weights), at + TOP);
  }
  return same(new Uint32Array(out.records!.buffer), records);
}

/** A row lands where its position says, in the segment that holds it; another is left. 0 or Infinity. */
export async function checkProbeAppend(
  kernel: typeof kernels.probeAppend,
  { words: ROW, position }: { words: number; position: number },
): Promise<number> {
  const [FIRST, SEGMENT] = [5, 3];
  const watched = randomValues(2, ROW + 9);
  const history = new Float32Array(SEGMENT * ROW).fill(-7);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { ROW, FIRST, SEGMENT },
    inputs: { watched, history },
    outputs: {},
    tokens: 1,
    position,
  });
  const row = position - FIRST;
  if (row >= 0 && row < SEGMENT) history.set(watched.subarray(0, ROW), row * ROW);
  return same(out.history!, history);
}

/** Recall of the positions of one segment. */
export async function checkProbeRecall(
  kernel: typeof kernels.probeRecall,
  { T, H, K, V, first: FIRST }: KdaSizes & { first: number },
): Promise<number> {
  const { inputs, exact, rows } = written({ T, H, K, V });
  const S = Float32Array.from(exact.S);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { H, K, V, FIRST, SEGMENT: T },
    inputs: { history: rows, S },
    outputs: { recall: T * H },
    tokens: FIRST + T,
  });
  return rms(out.recall!, recallOf({ T, H, K, V }, inputs, S));
}

/** Who overwrote whom, over two segments; of one head or by the mean. Infinity if a name is wrong. */
export async function checkProbeOverwrite(
  kernel: typeof kernels.probeOverwrite,
  { T, H, K, V, head }: KdaSizes & { head: number | 'mean' },
): Promise<number> {
  const { inputs, u, rows, words } = written({ T, H, K, V });
  const cut = Math.floor(T / 3);
  const parts = [
    { first: 0, rows: rows.slice(0, cut * words) },
    { first: cut, rows: rows.slice(cut * words) },
  ];
  const asked = Uint32Array.of(T, head === 'mean' ? 0 : head, head === 'mean' ? H : 1, 0);
  const by: number[] = [];
  const loss: number[] = [];
  for (const [i, kept] of parts.entries()) {
    const length = kept.rows.length / words;
    let found = new Uint32Array(2 * length);
    for (const later of parts.slice(i)) {
      const consts = {
        ...{ H, K, V, FIRST: kept.first, SEGMENT: length },
        ...{ LATER_FIRST: later.first, LATER_SEGMENT: later.rows.length / words },
      };
      const out = await dispatch({
        kernel,
        libraries: [],
        consts,
        inputs: { asked, kept: kept.rows, later: later.rows, found },
        outputs: {},
        tokens: T,
      });
      found = new Uint32Array(out.found!.buffer);
    }
    const losses = new Float32Array(found.buffer);
    for (let n = 0; n < length; n++) {
      by.push(found[2 * n]! - 1);
      loss.push(losses[2 * n + 1]!);
    }
  }
  const kvu = { k: inputs.k, v: inputs.v, u };
  const changes = (i: number, s: number) => {
    const heads = head === 'mean' ? [...Array(H).keys()] : [head];
    return (
      heads.map((h) => changeOf({ H, K, V }, kvu, i, s, h)).reduce((a, b) => a + b) / heads.length
    );
  };
  const wanted = { by: Array<number>(T).fill(-1), loss: Array<number>(T).fill(0) };
  if (head === 'mean') {
    for (let i = 0; i < T; i++) {
      for (let s = i + 1; s < T; s++) {
        if (-changes(i, s) > wanted.loss[i]!) [wanted.by[i], wanted.loss[i]] = [s, -changes(i, s)];
      }
    }
  } else {
    const exact = overwrittenBy({ T, H, K, V }, kvu);
    wanted.by = wanted.by.map((_, i) => exact.by[i * H + head]!);
    wanted.loss = wanted.loss.map((_, i) => -exact.change[i * H + head]!);
  }
  return Math.max(same(by, wanted.by), rms(loss, wanted.loss));
}

function changeOf(
  { H, K, V }: Omit<KdaSizes, 'T'>,
  { k, v, u }: Record<'k' | 'v' | 'u', ArrayLike<number>>,
  i: number,
  s: number,
  h: number,
): number {
  const along = (x: ArrayLike<number>, y: ArrayLike<number>, a: number, b: number, n: number) => {
    let sum = 0;
    for (let d = 0; d < n; d++) sum += x[(a * H + h) * n + d]! * y[(b * H + h) * n + d]!;
    return sum;
  };
  return (along(k, k, i, s, K) * along(u, v, s, i, V)) / along(v, v, i, i, V);
}

/** Root mean squares of 8 by 8 blocks, of sides that 8 does not divide too. */
export async function checkProbeState(
  kernel: typeof kernels.probeState,
  { H, K, V }: Omit<KdaSizes, 'T'>,
): Promise<number> {
  const S = randomValues(5, H * K * V);
  const cells = new Float32Array(64 + H * 64).fill(-1);
  const out = await dispatch({
    kernel,
    libraries: [sumTree],
    consts: { H, K, V, FIRST: 64 },
    libraryConsts: { SUM_LANES: 16 },
    inputs: { S, cells },
    outputs: {},
    tokens: 1,
  });
  const wanted = Array.from(cells);
  for (let i = 0; i < H * 64; i++) {
    const [h, a, b] = [i >> 6, (i >> 3) & 7, i & 7];
    let [squares, count] = [0, 0];
    for (let d = Math.floor((a * K) / 8); d < Math.floor(((a + 1) * K) / 8); d++) {
      for (let e = Math.floor((b * V) / 8); e < Math.floor(((b + 1) * V) / 8); e++) {
        squares += S[(h * K + d) * V + e]! ** 2;
        count++;
      }
    }
    wanted[64 + i] = Math.sqrt(squares / count);
  }
  return rms(out.cells!, wanted);
}

/** Ids and weights of every token in its row of the ring. 0 or Infinity. */
export async function checkProbeChoice(
  kernel: typeof kernels.probeChoice,
  { T, top: TOP }: { T: number; top: number },
): Promise<number> {
  const [ROW, FIRST] = [2 * TOP + 5, 3];
  const ids = Uint32Array.from({ length: T * TOP }, (_, i) => (i * 7) % 64);
  const weights = randomValues(3, T * TOP);
  const records = new Uint32Array(RING * ROW).fill(9);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { TOP, RING, ROW, FIRST },
    inputs: { ids, weights, records },
    outputs: {},
    tokens: T,
    position: POSITION,
  });
  const bits = new Uint32Array(weights.buffer);
  for (let t = 0; t < T; t++) {
    const at = ((POSITION + t) % RING) * ROW + FIRST;
    records.set(ids.subarray(t * TOP, (t + 1) * TOP), at);
    records.set(bits.subarray(t * TOP, (t + 1) * TOP), at + TOP);
  }
  return same(new Uint32Array(out.records!.buffer), records);
}

/** The best of every row and its entropy, put together from the slices. Infinity if a token is wrong. */
export async function checkProbeLogits(
  kernel: typeof kernels.probeLogits,
  { T, vocabulary: VOCABULARY, slices: SLICES }: { T: number; vocabulary: number; slices: number },
): Promise<number> {
  const BEST = 5;
  const stride = 4 + 2 * BEST;
  const [ROW, FIRST] = [SLICES * stride + 6, 2];
  const logits = randomValues(11, T * VOCABULARY, 9).map((l, i) =>
    i % 7 === 3 ? Math.round(l) : l,
  ); // with equals
  const out = await dispatch({
    kernel,
    libraries: [best, step],
    consts: { VOCABULARY, SLICES, BEST, RING, ROW, FIRST },
    inputs: { logits },
    outputs: { records: RING * ROW },
    tokens: T,
    position: POSITION,
  });
  const floats = out.records!;
  const words = new Uint32Array(floats.buffer);
  const seen: number[] = [];
  const wanted: number[] = [];
  let wrong = 0;
  for (let t = 0; t < T; t++) {
    const row = Array.from(logits.subarray(t * VOCABULARY, (t + 1) * VOCABULARY));
    const order = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b);
    const found: [number, number][] = [];
    let [sum, weighted] = [0, 0];
    for (let s = 0; s < SLICES; s++) {
      const at = ((POSITION + t) % RING) * ROW + FIRST + s * stride;
      const below = floats[at]! - row[order[0]!]!;
      sum += Math.exp(below) * floats[at + 1]!;
      weighted += Math.exp(below) * (floats[at + 2]! + below * floats[at + 1]!);
      for (let n = 0; n < BEST; n++) found.push([words[at + 4 + 2 * n]!, floats[at + 5 + 2 * n]!]);
    }
    found.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    wrong = Math.max(
      wrong,
      same(
        found.slice(0, BEST).map(([id]) => id),
        order.slice(0, BEST),
      ),
    );
    const total = row.reduce((a, l) => a + Math.exp(l), 0);
    seen.push(Math.log(sum) - weighted / sum);
    wanted.push(
      -row.reduce((a, l) => a + (Math.exp(l) / total) * Math.log(Math.exp(l) / total), 0),
    );
  }
  return Math.max(wrong, rms(seen, wanted));
}

/** The last row, where it belongs. 0 or Infinity. */
export async function checkProbeRow(
  kernel: typeof kernels.probeRow,
  { T, width: WIDTH }: { T: number; width: number },
): Promise<number> {
  const x = randomValues(2, T * WIDTH);
  const row = new Float32Array(WIDTH + 9).fill(4);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { WIDTH, FIRST: 5 },
    inputs: { x, row },
    outputs: {},
    tokens: T,
  });
  row.set(x.subarray((T - 1) * WIDTH), 5);
  return same(out.row!, row);
}

/** What a head's gates are multiplied by from a position on. */
export interface Change {
  factor: number;
  strength: number;
  from: number;
}

export const NO_CHANGE: Change = { factor: 1, strength: 1, from: 0 };

/** As the kernels read them. */
export function changeTable(changes: Change[]): Uint32Array<ArrayBuffer> {
  const table = new Uint32Array(4 * changes.length);
  changes.forEach(({ factor, strength, from }, i) => {
    new Float32Array(table.buffer).set([factor, strength], 4 * i);
    table[4 * i + 2] = from;
  });
  return table;
}

/** g and beta of heads with changes, from a position on; neutral ones keep every bit. 0 or Infinity. */
export async function checkIntervene(
  kernel: typeof kernels.intervene,
  { T, K }: { T: number; K: number },
): Promise<number> {
  const changes: Change[] = [
    NO_CHANGE,
    { factor: 0, strength: 0, from: 12 },
    { factor: 0.5, strength: 1, from: 15 },
  ];
  const H = changes.length;
  const table = changeTable([
    ...changes,
    NO_CHANGE,
    NO_CHANGE,
    { factor: 0, strength: 0, from: 300 },
  ]);
  const g = randomValues(1, T * H * K).map((x) => -Math.abs(x));
  const beta = randomValues(2, T * H).map(Math.abs);
  const out = await dispatch({
    kernel,
    libraries: [step],
    consts: { H, K, CHANGES: 2 },
    inputs: { changes: table, g, beta },
    outputs: {},
    tokens: T,
    position: 10,
  });
  const holds = (t: number, h: number) => 10 + t >= changes[h]!.from;
  const of = (i: number, width: number) =>
    [Math.floor(i / width / H), Math.floor(i / width) % H] as const;
  const wantedG = g.map((x, i) => {
    const [t, h] = of(i, K);
    return holds(t, h) ? Math.fround(x * changes[h]!.factor) : x;
  });
  const wantedBeta = beta.map((x, i) => {
    const [t, h] = of(i, 1);
    return holds(t, h) ? Math.fround(x * changes[h]!.strength) : x;
  });
  return Math.max(same(out.g!, wantedG), same(out.beta!, wantedBeta));
}

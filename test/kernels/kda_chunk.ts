/** How the chunk kernels of Kimi Delta Attention are checked, one by one and as the chain that a prompt goes through. */
import { CHUNK, chunkScratch, factorF32, outer, step } from '../../workers/kernels.ts';
import type * as kernels from '../../workers/kernels.ts';
import { type ChunkTensors, kdaChunks } from '../../workers/chunks.ts';
import type { Gpu, Tensor } from '../../workers/gpu.ts';
import { Plan } from '../../workers/plan.ts';
import { dispatch } from '../gpu.ts';
import {
  chunkInverse,
  chunkPairs,
  cumulative,
  headRows,
  step as stepByStep,
  type KdaInputs,
  type KdaSizes,
} from '../reference/kda.ts';
import {
  apart,
  recurrence,
  rmsF32,
  type RecurrenceBuffers,
  type RecurrenceCase,
  type RecurrenceResult,
} from './kda.ts';

/** The kernels of the chain. */
export interface Chain {
  pairs: typeof kernels.kdaChunkPairs;
  solve: typeof kernels.kdaChunkSolve;
  scan: typeof kernels.kdaChunkScan;
}

// -------------------------------------------------------------------------------------------- the chain

export interface ChunkSizes extends KdaSizes {
  /** Value columns of one workgroup of the scan. */
  columns: number;
}

/** Rows of T tokens and, up to the end of the last chunk, of others: a buffer is longer than a call, and adapters differ in what lies behind one. */
function withRowsBehind(rows: Float32Array, T: number): Float32Array {
  const all = new Float32Array((rows.length / T) * CHUNK * Math.ceil(T / CHUNK)).fill(0.5);
  all.set(rows);
  return all;
}

function runPairs(
  kernel: typeof kernels.kdaChunkPairs,
  { T, H, K, V }: KdaSizes,
  { mixed, g }: RecurrenceBuffers,
) {
  const libraries = [factorF32, outer, step];
  const consts = { H, K, V };
  const { L, Aqk, from_start, to_end, whole } = chunkScratch(T, { H, K });
  const outputs = { L, Aqk, from_start, to_end, whole };
  const inputs = { mixed: withRowsBehind(mixed, T), g: withRowsBehind(g, T) };
  return dispatch({ kernel, libraries, consts, inputs, outputs, tokens: T });
}

async function runSolve(
  kernel: typeof kernels.kdaChunkSolve,
  { T, H }: KdaSizes,
  beta: Float32Array,
  L: Float32Array,
): Promise<Float32Array> {
  const out = await dispatch({
    kernel,
    libraries: [factorF32, step],
    consts: { H },
    inputs: { beta, L },
    outputs: { M: L.length },
    tokens: T,
  });
  return out.M!;
}

/** What the scan reads beside mixed and S. */
type ScanInputs = Record<'M' | 'Aqk' | 'from_start' | 'to_end' | 'whole', Float32Array>;

async function runScan(
  kernel: typeof kernels.kdaChunkScan,
  { T, H, K, V, columns: COLUMNS }: ChunkSizes,
  { mixed, S }: RecurrenceBuffers,
  { M, Aqk, from_start, to_end, whole }: ScanInputs,
): Promise<RecurrenceResult> {
  const out = await dispatch({
    kernel,
    libraries: [outer, step],
    consts: { H, K, V, COLUMNS },
    inputs: { mixed, from_start, M, Aqk, to_end, whole, S },
    outputs: { o: T * H * V },
    tokens: T,
  });
  return { o: out.o!, S: out.S! };
}

/** Outputs of a call of T tokens, and the memory after it. */
export async function runChain(
  { pairs, solve, scan }: Chain,
  sizes: ChunkSizes,
  buffers: RecurrenceBuffers,
): Promise<RecurrenceResult> {
  const { L, Aqk, from_start, to_end, whole } = await runPairs(pairs, sizes, buffers);
  const M = await runSolve(solve, sizes, buffers.beta, L!);
  const inputs = { M, Aqk: Aqk!, from_start: from_start!, to_end: to_end!, whole: whole! };
  return runScan(scan, sizes, buffers, inputs);
}

export type ChunkCase = RecurrenceCase & ChunkSizes;

/** The chain as a model has it on this device, by matrices where it was opened with them. */
export async function checkChunks(gpu: Gpu, c: RecurrenceCase): Promise<number> {
  const { T, H, K, V } = c;
  const { inputs, buffers } = recurrence(c);
  const made: Tensor[] = [];
  const upload = (name: string, values: Float32Array | Uint32Array) => {
    made.push(gpu.upload('scratch', name, [values.length], values));
    return made.at(-1)!;
  };
  const poisoned = (name: string, count: number) => upload(name, new Float32Array(count).fill(NaN));
  const { mixed, g, beta, S } = buffers;
  const tensors: ChunkTensors = {
    mixed: upload('mixed', mixed),
    g: upload('g', g),
    beta: upload('beta', beta),
    S: upload('S', S),
    o: poisoned('o', T * H * V),
    chunk: Object.fromEntries(
      Object.entries(chunkScratch(T, { H, K })).map(([name, count]) => [
        name,
        poisoned(name, count),
      ]),
    ) as ChunkTensors['chunk'],
  };
  const plan = new Plan(gpu, 'prefill', upload('step', Uint32Array.of(T, 0, 0, 0)));
  kdaChunks(plan, gpu, c, tensors);
  await gpu.ready();
  gpu.submit(gpu.record(plan.calls, T));
  const out = {
    o: new Float32Array(await gpu.read(tensors.o, 0, T * H * V)),
    S: new Float32Array(await gpu.read(tensors.S, 0, H * K * V)),
  };
  for (const tensor of made) gpu.release(tensor);
  return apart(out, stepByStep(c, inputs, S));
}

/** The chain against the recurrence in float64. */
export async function checkChain(chain: Chain, c: ChunkCase): Promise<number> {
  const { inputs, buffers } = recurrence(c);
  return apart(await runChain(chain, c, buffers), stepByStep(c, inputs, buffers.S));
}

// ----------------------------------------------------------------------------------------- one by one

/** A chunk of one head as the oracle sees it. */
interface ChunkOfHead {
  /** Rows. */
  n: number;
  L: Float64Array;
  Aqk: Float64Array;
  k: Float64Array;
  q: Float64Array;
  gc: Float64Array;
  beta: Float64Array;
}

/** Chunks of heads in the order of the kernels' outputs: [N, H]. */
function chunksOfHeads({ T, H, K }: KdaSizes, inputs: KdaInputs): ChunkOfHead[] {
  const chunks: ChunkOfHead[] = [];
  for (let start = 0; start < T; start += CHUNK) {
    const n = Math.min(CHUNK, T - start);
    for (let h = 0; h < H; h++) {
      const k = headRows(inputs.k, H, K, h, start, n);
      const q = headRows(inputs.q, H, K, h, start, n);
      const gc = cumulative(headRows(inputs.g, H, K, h, start, n), K);
      const beta = headRows(inputs.beta, H, 1, h, start, n);
      chunks.push({ n, k, q, gc, beta, ...chunkPairs({ q, k, gc }, K) });
    }
  }
  return chunks;
}

/**
 * A chunk's matrix m [n, n] as the kernels lay it out, column after column, with zeros past its n rows, and with what is
 * `written` above the diagonal (where nothing is said) taken over.
 */
function columnsOf(m: ArrayLike<number>, n: number, written: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: CHUNK * CHUNK }, (_, at) => {
    const [j, i] = [Math.floor(at / CHUNK), at % CHUNK];
    if (i < j) return written[at]!;
    return i < n ? m[i * n + j]! : 0;
  });
}

/** L is read below the diagonal only: what is written on it and above does not count. */
function strictlyBelow(columns: ArrayLike<number>): Float64Array {
  return Float64Array.from(columns, (x, at) =>
    at % CHUNK > Math.floor((at % CHUNK ** 2) / CHUNK) ? x : 0,
  );
}

const onAndBelow = (columns: ArrayLike<number>): Float64Array =>
  Float64Array.from(columns, (x, at) =>
    at % CHUNK >= Math.floor((at % CHUNK ** 2) / CHUNK) ? x : 0,
  );

/** The arrays that the scan reads, made from the oracle's chunks. */
function scanInputs({ T, H, K }: KdaSizes, chunks: ChunkOfHead[]): ScanInputs {
  const sizes = chunkScratch(T, { H, K });
  const out = {
    M: new Float32Array(sizes.L),
    Aqk: new Float32Array(sizes.Aqk),
    from_start: new Float32Array(sizes.from_start),
    to_end: new Float32Array(sizes.to_end),
    whole: new Float32Array(sizes.whole),
  };
  chunks.forEach(({ n, L, Aqk, k, q, gc, beta }, matrix) => {
    const M = chunkInverse(L, beta).map((x, at) => x * beta[at % n]!);
    const nothing = new Float64Array(CHUNK * CHUNK);
    out.M.set(columnsOf(M, n, nothing), matrix * CHUNK * CHUNK);
    out.Aqk.set(columnsOf(Aqk, n, nothing), matrix * CHUNK * CHUNK);
    for (let d = 0; d < K; d++) {
      const last = gc[(n - 1) * K + d]!;
      out.whole[matrix * K + d] = Math.exp(last);
      for (let i = 0; i < n; i++) {
        const decay = Math.exp(gc[i * K + d]!);
        const at = (matrix * K + d) * 2 * CHUNK + i;
        out.from_start[at] = k[i * K + d]! * decay;
        out.from_start[at + CHUNK] = q[i * K + d]! * decay;
        out.to_end[(matrix * CHUNK + i) * K + d] = k[i * K + d]! * Math.exp(last - gc[i * K + d]!);
      }
    }
  });
  return out;
}

/** The largest of five figures: of L, Aqk, from_start, to_end and whole. */
export async function checkKdaChunkPairs(
  kernel: typeof kernels.kdaChunkPairs,
  c: RecurrenceCase,
): Promise<number> {
  const { inputs, buffers } = recurrence(c);
  const out = await runPairs(kernel, c, buffers);
  const chunks = chunksOfHeads(c, inputs);
  const expected = scanInputs(c, chunks);
  const L = new Float64Array(out.L!.length);
  chunks.forEach(({ n, L: m }, matrix) => {
    L.set(columnsOf(m, n, new Float64Array(CHUNK * CHUNK)), matrix * CHUNK * CHUNK);
  });
  return Math.max(
    rmsF32(strictlyBelow(out.L!), L),
    rmsF32(onAndBelow(out.Aqk!), expected.Aqk),
    rmsF32(out.from_start!, expected.from_start),
    rmsF32(out.to_end!, expected.to_end),
    rmsF32(out.whole!, expected.whole),
  );
}

export async function checkKdaChunkSolve(
  kernel: typeof kernels.kdaChunkSolve,
  c: RecurrenceCase,
): Promise<number> {
  const { inputs, buffers } = recurrence(c);
  const chunks = chunksOfHeads(c, inputs);
  const L = new Float32Array(chunkScratch(c.T, c).L);
  const poison = new Float64Array(CHUNK * CHUNK).fill(NaN);
  chunks.forEach(({ n, L: m }, matrix) => {
    const columns = columnsOf(m, n, poison).map((x, at) => (at % (CHUNK + 1) === 0 ? NaN : x));
    L.set(columns, matrix * CHUNK * CHUNK);
  });
  const M = await runSolve(kernel, c, buffers.beta, L);
  return rmsF32(onAndBelow(M), scanInputs(c, chunks).M);
}

export async function checkKdaChunkScan(
  kernel: typeof kernels.kdaChunkScan,
  c: ChunkCase,
): Promise<number> {
  const { inputs, buffers } = recurrence(c);
  const arrays = scanInputs(c, chunksOfHeads(c, inputs));
  return apart(await runScan(kernel, c, buffers, arrays), stepByStep(c, inputs, buffers.S));
}

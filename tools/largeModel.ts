/**
 * What a token takes in a model of the 48B's shape, with weights and caches of noise made on the GPU: at contexts of up to a
 * million tokens, beside the same model with MLA in all layers.
 *
 * A token is timed as a conversation has it: each step takes in the best token of the one before, which the GPU chose, and is
 * submitted before that one's result is here.
 */
import { aboveStream, spreadOf, streamRates } from '../workers/bench.ts';
import { latentBytesPerToken, type ModelConfig, recurrentBytes } from '../workers/config.ts';
import { type Call, type Gpu, megabytes, type Tensor } from '../workers/gpu.ts';
import { Model } from '../workers/model.ts';
import type { Visitors } from '../workers/plan.ts';
import type { DeviceReport, Spread } from '../workers/protocol.ts';
import { chosenStride } from '../workers/scratch.ts';
import { State } from '../workers/state.ts';
import { fillState, NoiseWeights } from './noise.ts';
import { allMla } from './shape48B.ts';

export interface LargeOptions {
  /** A device for one shape, which is closed after use. */
  open: () => Promise<Gpu>;
  shape: ModelConfig;
  /** Tokens, in rising order: how long the conversation is when tokens are timed. */
  contexts: readonly number[];
  runs: number;
  /** Whether caches lie in segments that double, as in a conversation that grew, and not in one as far as can be bound. */
  grown?: boolean;
  /** Whether GPU time is told by kernel, too. */
  kernels: boolean;
  say: (line: string) => void;
}

export interface ContextFigures {
  context: number;
  /** Milliseconds a token, by the clock: one figure a run. */
  tokenMs: Spread;
  /** Milliseconds of the GPU alone for one token's calls; null without timestamps. */
  gpuMs: Spread | null;
  calls: number;
  /** What one token reads: weights, cache rows, recurrent memory. */
  weightBytes: number;
  cacheBytes: number;
  recurrentBytes: number;
  /** All of that, as a share of what memory streams in the time of a token; null without timestamps. */
  streamShare: number | null;
  /** What a conversation of this length keeps on the GPU. */
  stateBytes: number;
}

export interface ShapeFigures {
  name: string;
  parameters: number;
  weightBytes: number;
  /** Of the experts that TOKENS_LOOKED_AT tokens choose, how many differ from all others of their layer: 1 is all. */
  expertVariety: number;
  contexts: ContextFigures[];
}

export interface LargeFigures {
  adapter: DeviceReport;
  /** GB/s; null without timestamps. */
  stream: Spread | null;
  hybrid: ShapeFigures;
  mla: ShapeFigures;
}

/** Milliseconds of a run at least, and its tokens at least and at most. */
const RUN_MS = 60;
const RUN_TOKENS = { least: 3, most: 32 };

const TOKENS_LOOKED_AT = 8;
/** Below this a token's experts are the last one's, and caches would be measured. */
const LEAST_VARIETY = 0.3;

const STREAM_BYTES = 2 ** 30;
const UNWATCHED: Visitors = { tap: null, changes: null };

/** The shape and the same with MLA in all layers, one after the other: a device holds one of them. Fails: as `Model.from`. */
export async function measureLarge(options: LargeOptions): Promise<LargeFigures> {
  const { open, shape, runs, say } = options;
  const gpu = await open();
  const adapter = gpu.report;
  say(`adapter ${adapter.name}`);
  const stream = gpu.has('timestamp-query') ? await streamOf(gpu, runs) : null;
  if (stream) say(`stream read ${told(stream, 1)} GB/s`);
  const hybrid = await measureShape(gpu, shape, stream, options);
  gpu.destroy();
  const other = await open();
  const mla = await measureShape(other, allMla(shape), stream, options);
  other.destroy();
  return { adapter, stream, hybrid, mla };
}

async function streamOf(gpu: Gpu, runs: number): Promise<Spread> {
  const rates: number[] = [];
  const clock = () => performance.now();
  for await (const rate of streamRates(gpu, STREAM_BYTES, runs, clock)) rates.push(rate);
  return spreadOf(rates);
}

/** Make a model of noise, and time its tokens at each context. Destroys nothing: the device goes with the model. */
export async function measureShape(
  gpu: Gpu,
  config: ModelConfig,
  stream: Spread | null,
  options: LargeOptions,
): Promise<ShapeFigures> {
  const { contexts, say } = options;
  const weights = new NoiseWeights(gpu, config);
  const model = await Model.from(gpu, weights, config, 'gpu', weights.bytes);
  const expertVariety = await varietyOf(gpu, model, config);
  const { name, parameters } = config;
  const weightBytes = gpu.bytes.weights;
  say(
    `${name}: ${(parameters / 1e9).toFixed(2)} B numbers, ${megabytes(weightBytes)}; ${(100 * expertVariety).toFixed(0)} % of the experts of ${TOKENS_LOOKED_AT} tokens differ`,
  );
  if (expertVariety < LEAST_VARIETY) {
    throw new Error(`${name} chooses the same experts again and again: caches would be measured`);
  }
  const figures: ContextFigures[] = [];
  for (const context of contexts) {
    figures.push(await measureContext(gpu, model, config, context, stream, options));
  }
  return { name, parameters, weightBytes, expertVariety, contexts: figures };
}

/** How varied the experts are that a few tokens choose, at the beginning of a conversation. */
async function varietyOf(gpu: Gpu, model: Model, config: ModelConfig): Promise<number> {
  const state = new State(gpu, config, TOKENS_LOOKED_AT, 'f16');
  state.reserve(TOKENS_LOOKED_AT);
  const seen: Tensor[] = [];
  await model.attach(state, {
    tap: (site, _, tensor) => site === 'chosen' && seen.push(tensor),
    changes: null,
  });
  const routers = config.layers.filter(({ ffn }) => ffn === 'moe').length;
  const { expertsUsed } = config.moe;
  const chosen = new Set<number>();
  model.setToken(1);
  for (let token = 0; token < TOKENS_LOOKED_AT; token++) {
    await model.decodeBest(token);
    const rows = new Uint32Array(await gpu.read(seen[0]!));
    for (let layer = 0; layer < routers; layer++) {
      for (let slot = 0; slot < expertsUsed; slot++) {
        const id = rows[layer * chosenStride(config) + slot]!;
        chosen.add(layer * config.moe.experts + id);
      }
    }
  }
  state.destroy();
  return chosen.size / (routers * expertsUsed * TOKENS_LOOKED_AT);
}

/** A conversation of `context` tokens of noise, and its last tokens again and again. */
async function measureContext(
  gpu: Gpu,
  model: Model,
  config: ModelConfig,
  context: number,
  stream: Spread | null,
  { runs, grown, say, kernels }: LargeOptions,
): Promise<ContextFigures> {
  const state = new State(gpu, config, context, 'f16', ...(grown ? [] : [context]));
  await gpu.guard(`a conversation of ${context} tokens`, () => state.reserve(context));
  await fillState(gpu, state);
  const plans = await model.plan(state, UNWATCHED);
  model.use(plans);
  const calls = plans.decode.calls.filter((call) => 'program' in call);

  /** Milliseconds a token. */
  const decode = async (tokens: number): Promise<number> => {
    const first = context - tokens;
    const started = performance.now();
    let next = model.decodeBest(first);
    for (let made = 1; made < tokens; made++) {
      const ahead = model.decodeBest(first + made);
      await next;
      next = ahead;
    }
    await next;
    return (performance.now() - started) / tokens;
  };
  const { least, most } = RUN_TOKENS;
  await decode(least); // what is recorded ahead belongs to the context before
  const warmMs = await decode(least);
  const tokens = Math.max(least, Math.min(most, Math.ceil(RUN_MS / warmMs)));
  const times: number[] = [];
  for (let run = -1; run < runs; run++) {
    const ms = await decode(tokens);
    if (run >= 0) times.push(ms); // the first run warms up
  }
  const tokenMs = spreadOf(times);
  const gpuMs = gpu.has('timestamp-query') ? await gpuTime(gpu, calls, runs) : null;

  const weightBytes = model.decodeBytes();
  const cacheBytes = context * latentBytesPerToken(config, 2);
  const memoryBytes = recurrentBytes(config);
  const gbps = (weightBytes + cacheBytes + memoryBytes) / tokenMs.median / 1e6;
  const refused = stream && aboveStream(`${config.name} at ${context}`, gbps, stream.median);
  if (refused) throw new Error(refused);
  const figures: ContextFigures = {
    context,
    tokenMs,
    gpuMs,
    calls: calls.length,
    weightBytes,
    cacheBytes,
    recurrentBytes: memoryBytes,
    streamShare: stream && gbps / stream.median,
    stateBytes: gpu.bytes.latent + gpu.bytes.recurrent,
  };
  const share = stream ? `${((100 * gbps) / stream.median).toFixed(1)} % of the stream` : '';
  say(
    `  ${String(context).padStart(8)} tokens  ${told(tokenMs, 3)} ms a token, ${tokens} a run; GPU ${gpuMs?.median.toFixed(3) ?? '-'} ms in ${calls.length} calls on ${state.segments.length} segments; ` +
      `${share}; state ${megabytes(figures.stateBytes)}`,
  );
  if (kernels) for (const line of await kernelLines(gpu, calls)) say(`    ${line}`);
  state.destroy();
  return figures;
}

/** Milliseconds of one token's calls in one pass. */
async function gpuTime(gpu: Gpu, calls: readonly Call[], runs: number): Promise<Spread> {
  const times: number[] = [];
  for (let run = -1; run < runs; run++) {
    const [us] = await gpu.profile([calls], 1);
    if (run >= 0) times.push(us! / 1000);
  }
  return spreadOf(times);
}

/** Microseconds by kernel, all calls of one in a pass of their own. */
async function kernelLines(gpu: Gpu, calls: readonly Call[]): Promise<string[]> {
  if (!gpu.has('timestamp-query')) return [];
  const names = [...new Set(calls.map(({ program }) => program.name))];
  const groups = names.map((name) => calls.filter(({ program }) => program.name === name));
  await gpu.profile(groups, 1);
  const times = await gpu.profile(groups, 1);
  return names.map(
    (name, i) =>
      `${name.padEnd(18)} ${String(groups[i]!.length).padStart(4)} calls ${times[i]!.toFixed(1).padStart(10)} us`,
  );
}

function told({ median, least, most, runs }: Spread, digits: number): string {
  const [m, l, h] = [median, least, most].map((x) => x.toFixed(digits));
  return `${m} (${l} to ${h}, ${runs} runs)`;
}

/** A token's, by the GPU where it tells: at a million tokens a host that is busy for a moment takes more from one model than from the other. */
function millisecondsOf({ gpuMs, tokenMs }: ContextFigures): number {
  return (gpuMs ?? tokenMs).median;
}

/** The figures that docs/BENCH.md sets as goals; null where a context was not measured. */
export function largeGoals({ hybrid, mla }: LargeFigures): {
  moe48b_decode_1k_ms: number | null;
  moe48b_bandwidth_share: number | null;
  million_speedup_over_mla: number | null;
  million_cache_share: number | null;
} {
  const at = ({ contexts }: ShapeFigures, context: number) =>
    contexts.find((figures) => figures.context === context);
  const short = at(hybrid, 1024);
  const [long, longMla] = [at(hybrid, 2 ** 20), at(mla, 2 ** 20)];
  const both = long && longMla;
  return {
    moe48b_decode_1k_ms: short?.tokenMs.median ?? null,
    moe48b_bandwidth_share: short?.streamShare ?? null,
    million_speedup_over_mla: both ? millisecondsOf(longMla) / millisecondsOf(long) : null,
    million_cache_share: both ? long.stateBytes / longMla.stateBytes : null,
  };
}

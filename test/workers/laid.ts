/** What the tests of the memory laid open share: the tiny golden model in an engine, watched, and float64 beside it. */
import { modelSources } from '../../tools/nodeEngine.ts';
import { Engine } from '../../workers/engine.ts';
import type { Gpu } from '../../workers/gpu.ts';
import type { Frame, Sampling, TokenRecord, Watch } from '../../workers/protocol.ts';
import { openTestGpu } from '../gpu.ts';
import { fixture, loadGolden } from '../reference/golden.ts';
import {
  emptyState,
  forward,
  type Model,
  openModel,
  type Pass,
  type Trace,
} from '../reference/model.ts';

export const golden = loadGolden('tiny-f32');
/** 80 tokens, and the 16 that follow greedily. */
export const prompt = golden.index.tokens as number[];
export const greedy = golden.index.greedy as number[];

/** The best token each time. */
export const plain: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 0,
  maxTokens: 16,
  stop: [],
  candidates: 0,
};

/** The first KDA layer behind another one. */
export const watch: Watch = { layer: 1, head: 'median', budgetBytes: 64e6 };

/**
 * An engine with the tiny model on a device of its own, and the plans that a GPU gets whatever the adapter: chunks in
 * prompts, few calls in decoding. 'cpu' takes what the adapter gets by itself, which is quicker where it is a processor.
 */
export async function openLaid(
  tuning: 'gpu' | 'cpu',
  contextTokens = 256,
): Promise<{ gpu: Gpu; engine: Engine }> {
  const gpu = await openTestGpu();
  if (tuning === 'gpu') gpu.report.software = false;
  const shards = modelSources(fixture('tiny-f32.gguf'));
  const engine = await Engine.load({
    gpu,
    shards,
    contextTokens,
    report: () => {},
    clock: () => performance.now(),
  });
  return { gpu, engine };
}

/** Continue `ids` by the best tokens. */
export const say = (engine: Engine, ids: number[], maxTokens = 16) =>
  engine.generate({ kind: 'ids', ids }, { ...plain, maxTokens }, () => {});

/** What a watcher has been told: records by position, the newest of every other frame, and how often each came. */
export class Watcher {
  readonly records: TokenRecord[] = [];
  readonly newest = new Map<Frame['kind'], Frame>();
  readonly counts = new Map<Frame['kind'], number>();

  take = (frame: Frame): void => {
    this.counts.set(frame.kind, (this.counts.get(frame.kind) ?? 0) + 1);
    if (frame.kind === 'tokens') for (const r of frame.records) this.records[r.position] = r;
    else if (frame.kind === 'forgotten')
      this.records.length = Math.min(this.records.length, frame.from);
    else this.newest.set(frame.kind, frame);
  };

  /** The newest frame of a kind. */
  frame<K extends Frame['kind']>(kind: K): Extract<Frame, { kind: K }> {
    const frame = this.newest.get(kind);
    if (!frame) throw new Error(`no ${kind} frame came`);
    return frame as Extract<Frame, { kind: K }>;
  }
}

let model: Model | undefined;
/** Passes over the last of some ids, by all of them; what precedes is taken in once, whoever asks. And over all of them. */
const steps = new Map<string, Pass>();
const passes = new Map<string, Pass>();

/** The float64 pass over `ids`, with every array on the way; beginnings in common are computed once. */
export function reference(ids: number[]): Pass {
  const key = ids.join();
  const pass = passes.get(key) ?? passOver(ids);
  passes.set(key, pass);
  return pass;
}

function passOver(ids: number[]): Pass {
  const reading = (model ??= openModel(fixture('tiny-f32.gguf')));
  const tokens = ids.map((id, t) => {
    const key = ids.slice(0, t + 1).join();
    const state = () => steps.get(ids.slice(0, t).join())?.state ?? emptyState(reading);
    const step = steps.get(key) ?? forward(reading, [id], state());
    steps.set(key, step);
    return step;
  });
  const last = tokens.at(-1)!;
  const trace: Trace = new Map();
  for (const [name, array] of last.trace) {
    const ofAll = /\.(state|conv)$/.test(name); // what is left after the last token
    trace.set(name, ofAll ? array : joined(tokens.map((t) => t.trace.get(name)!)));
  }
  return { logits: joined(tokens.map((t) => t.logits)), state: last.state, trace };
}

function joined<Array extends Float64Array | Int32Array>(parts: Array[]): Array {
  const Kind = parts[0]!.constructor as new (length: number) => Array;
  const all = new Kind(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

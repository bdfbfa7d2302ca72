/**
 * Interventions of one branch, made ready on the GPU: small tables that change how heads forget and write, applied between
 * the gates and the recurrence; and events that change a memory once, before a token is taken in.
 */
import type { ModelConfig } from './config.ts';
import type { Call, Gpu, Tensor } from './gpu.ts';
import * as K from './kernels.ts';
import { type Intervention, PalimpsestError } from './protocol.ts';
import type { KdaState, State } from './state.ts';

/** What some interventions need from elsewhere, gathered when the branch is made. */
export interface Sources {
  /** The keys [H, K] that a token had in a layer. */
  key(layer: number, token: number): Promise<Float32Array>;
  /** The memory [H, K, V] in which another branch ends. */
  memory(layer: number, branch: number): Promise<Float32Array>;
}

/** What was gathered, by the intervention's place in its branch and the layer (`takenKey`): what other branches held has gone on since. */
export type Taken = ReadonlyMap<string, Float32Array>;

const takenKey = (index: number, layer: number) => `${index}/${layer}`;

interface Event {
  position: number;
  apply: () => void;
}

/** The interventions of one branch. */
export class Changes {
  readonly #tensors: Tensor[];
  /** Changes [H] of (factor, strength, from, 0) by layer, all that hold; and the table of them on the GPU. */
  readonly #changes: ReadonlyMap<number, Float32Array[]>;
  readonly #tables: ReadonlyMap<number, Tensor>;
  readonly #events: readonly Event[];
  readonly #gpu: Gpu;
  /** Those of the branch that this one was made from, which hold here too. */
  readonly #base: Changes | null;

  private constructor(
    gpu: Gpu,
    base: Changes | null,
    tensors: Tensor[],
    changes: Map<number, Float32Array[]>,
    tables: Map<number, Tensor>,
    events: Event[],
  ) {
    this.#gpu = gpu;
    this.#base = base;
    this.#tensors = tensors;
    this.#changes = changes;
    this.#tables = tables;
    this.#events = events;
  }

  /** What interventions take from elsewhere, beside what a branch with `earlier` of them took. Fails: Refused where one names what is not there. */
  static async gather(
    config: ModelConfig,
    earlier: { count: number; taken: Taken },
    interventions: readonly Intervention[],
    sources: Sources,
  ): Promise<Taken> {
    for (const intervention of interventions) checkPlace(intervention, config);
    const taken = new Map(earlier.taken);
    for (const [i, intervention] of interventions.entries()) {
      if (changesNothing(intervention)) continue;
      for (const layer of intervention.layers) {
        const key = takenKey(earlier.count + i, layer);
        if (intervention.kind === 'swap')
          taken.set(key, await sources.memory(layer, intervention.branch));
        if (intervention.kind === 'forget')
          taken.set(key, await sources.key(layer, intervention.token));
      }
    }
    return taken;
  }

  /**
   * Make the interventions of a branch from its `count`th on ready on a state's memories, beside those of `base`, with what
   * all of them took.
   */
  static async prepare(
    gpu: Gpu,
    config: ModelConfig,
    state: State,
    base: { count: number; changes: Changes | null },
    interventions: readonly Intervention[],
    taken: Taken,
  ): Promise<Changes | null> {
    const effective = [...interventions.entries()].filter(([, i]) => !changesNothing(i));
    if (effective.length === 0) return base.changes;
    const { heads: H } = config;
    const { keys, values: V } = config.kda;
    const tensors: Tensor[] = [];
    const changes = new Map<number, Float32Array[]>(base.changes ? base.changes.#changes : []);
    const events: Event[] = [];
    const own = (name: string, shape: number[], values: Float32Array | Uint32Array) => {
      const tensor = gpu.upload('scratch', name, shape, values);
      tensors.push(tensor);
      return tensor;
    };
    for (const [i, intervention] of effective) {
      const { kind, heads, layers, from } = intervention;
      for (const layer of layers) {
        const memory = (state.layers[layer] as KdaState).memory;
        const replace = (source: Tensor) => {
          const head = keys * V;
          const apply = () =>
            heads.forEach((h) => gpu.copy(source, h * head, memory, h * head, head));
          events.push({ position: from, apply });
        };
        switch (kind) {
          case 'hold':
          case 'deaf':
          case 'forgetting': {
            const factor = kind === 'hold' ? 0 : kind === 'deaf' ? 1 : intervention.factor;
            const strength = kind === 'forgetting' ? 1 : 0;
            const change = changeTable(H, heads, factor, strength, from);
            changes.set(layer, [...(changes.get(layer) ?? []), change]);
            break;
          }
          case 'zero':
            replace(own('an empty memory', [H, keys, V], new Float32Array(H * keys * V)));
            break;
          case 'swap': {
            const memory = taken.get(takenKey(base.count + i, layer))!;
            replace(own(`memory of branch ${intervention.branch}`, [H, keys, V], memory));
            break;
          }
          case 'forget': {
            const key = taken.get(takenKey(base.count + i, layer))!;
            const call = await forgetStep(gpu, config, memory, key, heads, own);
            events.push({ position: from, apply: () => gpu.submit(gpu.record([call], 1)) });
            break;
          }
        }
      }
    }
    const tables = new Map<number, Tensor>();
    for (const [layer, all] of changes) {
      const values = new Float32Array(all.length * 4 * H);
      all.forEach((change, i) => values.set(change, i * 4 * H));
      tables.set(layer, own(`changes of layer ${layer}`, [all.length, H, 4], values));
    }
    return new Changes(gpu, base.changes, tensors, changes, tables, events);
  }

  /** The table of a layer's changes, for plans; null where there are none. */
  table = (layer: number): Tensor | null => this.#tables.get(layer) ?? null;

  /** Change memories as is due before the token at `position` is taken in. */
  apply(position: number): void {
    this.#base?.apply(position);
    for (const event of this.#events) if (event.position === position) event.apply();
  }

  /** Where a call that begins at `from` and may reach `to` must end, so that no event falls into it. */
  end(from: number, to: number): number {
    const due = this.#events.filter(({ position }) => position > from && position < to);
    return due.reduce(
      (end, { position }) => Math.min(end, position),
      this.#base?.end(from, to) ?? to,
    );
  }

  /** Free what these hold; the base stays. */
  destroy(): void {
    for (const tensor of this.#tensors) this.#gpu.release(tensor);
  }
}

/** Without one that changes nothing, the branch runs exactly as one that has none. */
function changesNothing(intervention: Intervention): boolean {
  const { layers, heads } = intervention;
  const neutral = intervention.kind === 'forgetting' && intervention.factor === 1;
  return neutral || layers.length === 0 || heads.length === 0;
}

function changeTable(
  H: number,
  heads: number[],
  factor: number,
  strength: number,
  from: number,
): Float32Array {
  const table = new ArrayBuffer(16 * H);
  const [floats, words] = [new Float32Array(table), new Uint32Array(table)];
  for (let h = 0; h < H; h++) {
    floats[4 * h] = heads.includes(h) ? factor : 1;
    floats[4 * h + 1] = heads.includes(h) ? strength : 1;
    words[4 * h + 2] = from;
  }
  return floats;
}

/** One step of the recurrence with this key, value 0, write strength 1 and no decay: what is under the key goes. */
async function forgetStep(
  gpu: Gpu,
  config: ModelConfig,
  S: Tensor,
  key: Float32Array,
  heads: number[],
  own: (name: string, shape: number[], values: Float32Array | Uint32Array) => Tensor,
): Promise<Call> {
  const { heads: H } = config;
  const { keys, values: V } = config.kda;
  const mixed = new Float32Array(H * (2 * keys + V));
  mixed.set(key, H * keys);
  const strengths = Float32Array.from({ length: H }, (_, h) => (heads.includes(h) ? 1 : 0));
  const PARTS = gpu.report.software ? 1 : 8;
  const program = gpu.program(K.kdaStep, [K.step], { H, K: keys, V, PARTS });
  await gpu.ready();
  return gpu.bind(program, {
    mixed: own('the key to forget', [mixed.length], mixed),
    g: own('no decay', [H, keys], new Float32Array(H * keys)),
    beta: own('heads that forget', [H], strengths),
    S,
    o: own('what is read', [H, V], new Float32Array(H * V)),
    step: own('one token', [4], Uint32Array.of(1, 0, 0, 0)),
  });
}

function checkPlace(intervention: Intervention, config: ModelConfig): void {
  const refuse = (what: string) => {
    throw new PalimpsestError('Refused', `Intervention "${intervention.kind}": ${what}`);
  };
  const { layers, heads, from } = intervention;
  const wrongLayer = layers.find((l) => config.layers[l]?.kind !== 'kda');
  if (wrongLayer !== undefined)
    refuse(`layer ${wrongLayer} has no recurrent memory. Choose KDA layers.`);
  const wrongHead = heads.find((h) => !Number.isInteger(h) || h < 0 || h >= config.heads);
  if (wrongHead !== undefined)
    refuse(`there is no head ${wrongHead}; heads go from 0 to ${config.heads - 1}.`);
  if (!Number.isInteger(from) || from < 0) refuse(`${from} is no position. Count tokens from 0.`);
  if (
    intervention.kind === 'forgetting' &&
    !(intervention.factor >= 0 && intervention.factor <= 1e6)
  ) {
    refuse(
      `a factor of ${intervention.factor} makes no sense. Choose 0 (never forgets) or more; 1 changes nothing.`,
    );
  }
  if (intervention.kind === 'forget' && !(intervention.token >= 0 && intervention.token < from)) {
    refuse(`token ${intervention.token} is not before token ${from}. Choose an earlier one.`);
  }
}

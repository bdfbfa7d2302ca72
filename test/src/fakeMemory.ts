/**
 * A memory that computes nothing, for tests of the page: it speaks MemoryApi over the words it is fed. Every number is a
 * plain function of position, layer and head, so that a test can tell what should be on screen.
 */
import {
  PalimpsestError,
  type Answers,
  type Branch,
  type Frame,
  type Inquiry,
  type Intervention,
  type LayerLists,
  type ModelReport,
  type Sampling,
  type Stop,
  type Token,
  type TokenRecord,
  type Watch,
} from '../../workers/protocol.ts';

/** What the fake says a token's recall is, so many tokens later. */
export const fakeRecall = (age: number): number => 1 / (1 + age / 8);

/** The recall of all of them after the last. Of a word that begins with "faint" little is kept. */
function recallOf(records: readonly TokenRecord[]): Float32Array {
  return Float32Array.from(
    records,
    ({ text }, i) => fakeRecall(records.length - 1 - i) * (text.startsWith('faint') ? 0.2 : 1),
  );
}

export function fakeLists(model: ModelReport): LayerLists {
  const lists: LayerLists = { kda: [], mla: [], moe: [] };
  model.layers.forEach(({ kind, ffn }, layer) => {
    lists[kind].push(layer);
    if (ffn === 'moe') lists.moe.push(layer);
  });
  return lists;
}

const ids = new Map([
  ['You ', 4],
  ['Then ', 5],
]);

/** The id of a text that is a token: the same one each time. */
export function fakeId(text: string): number {
  const id = ids.get(text) ?? ids.size + 4;
  ids.set(text, id);
  return id;
}

/** The record of a token: each array rises with its index, from a start that the position gives. */
export function fakeRecord(model: ModelReport, position: number, text: string): TokenRecord {
  const { kda, moe } = fakeLists(model);
  const places = kda.length * model.heads;
  const rising = (from: number, step: number) =>
    Float32Array.from({ length: places }, (_, i) => from + step * (i % model.heads));
  const used = model.expertsUsed;
  return {
    position,
    id: fakeId(text),
    text,
    written: rising(1 + (position % 5), 0.1),
    writeStrength: rising(0.2, 0.05),
    known: rising(-0.2, 0.1),
    halfLife: rising(2 ** (position % 8), 1),
    energy: rising(1 + position, 0.1),
    experts: Uint32Array.from(
      { length: moe.length * used },
      (_, i) => (i + position) % model.experts,
    ),
    expertWeights: new Float32Array(moe.length * used).fill(1 / used),
    candidates: [
      { id: 4, text: 'You ', logprob: Math.log(0.6) },
      { id: 5, text: 'Then ', logprob: Math.log(0.3) },
    ],
    entropy: 0.9,
  };
}

/** The answer to any inquiry about `records`. */
export function fakeAnswer(
  model: ModelReport,
  records: readonly TokenRecord[],
  inquiry: Inquiry,
): Answers[Inquiry['kind']] {
  const { heads, keys, values, experts } = model;
  const wave = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i));
  const position = 'position' in inquiry ? inquiry.position : inquiry.to - 1;
  if (position >= records.length) {
    throw new PalimpsestError('Refused', `token ${position} of ${records.length}`);
  }
  switch (inquiry.kind) {
    case 'gates': {
      const tokens = inquiry.to - inquiry.from;
      const halfLife = Float32Array.from(
        { length: tokens * heads * keys },
        (_, i) => 2 ** (i % keys) / 4,
      );
      return { halfLife, tokens };
    }
    case 'memory': {
      const cells = wave(keys * values);
      const singularValues = Float32Array.from({ length: values }, (_, i) => 1 / (1 + i));
      return { cells, change: wave(keys * values), energy: 2, effectiveRank: 3.5, singularValues };
    }
    case 'thumbnails':
      return { cells: wave(fakeLists(model).kda.length * heads * 64).map(Math.abs) };
    case 'recall': {
      const recall = recallOf(records.slice(0, position + 1));
      const overwrittenBy = new Int32Array(position + 1).fill(-1);
      const loss = new Float32Array(position + 1);
      if (position >= 2) {
        overwrittenBy[0] = 2;
        loss[0] = 0.25;
      }
      return { recall, ink: recall.slice(), overwrittenBy, loss };
    }
    case 'reach':
      return { weights: wave(position + 1) };
    case 'router':
      return {
        scores: wave(experts).map(Math.abs),
        bias: new Float32Array(experts).fill(0.05),
        chosen: Uint32Array.from([0, 1]),
        weights: Float32Array.from([0.5, 0.5]),
      };
    case 'lens':
      return {
        layers: model.layers.map((_, id) => [{ id, text: `layer${id}`, probability: 0.5 }]),
      };
    default:
      return inquiry satisfies never;
  }
}

/** What a worker exposes beside EngineApi. `feed` is called for every token the fake engine takes in. */
export function fakeMemory(model: ModelReport, stopOf: (ids: number[], text: string) => Stop) {
  let records: TokenRecord[] = [];
  let watch: Watch | null = null;
  let send: (frame: Frame) => void = () => {};
  let branch = 0;
  const branches: Branch[] = [{ id: 0, parent: null, forkedAt: 0, ids: [], interventions: [] }];
  const kept = new Map<number, TokenRecord[]>();

  function feed(text: string): void {
    const record = fakeRecord(model, records.length, text);
    records.push(record);
    if (!watch) return;
    send({ kind: 'tokens', records: [record] });
    const recall = recallOf(records);
    const { layer, head } = watch;
    send({ kind: 'recall', frame: { layer, head, position: record.position, recall } });
  }

  return {
    forget(from = 0): void {
      records = records.slice(0, from);
      if (watch) send({ kind: 'forgotten', from });
    },
    /** One empty branch is left. */
    clear(): void {
      branches.length = 1;
      branch = 0;
      kept.clear();
      this.forget();
    },
    feed,
    api: {
      layers: async () => fakeLists(model),
      async watch(wanted: Watch | null, onFrame: (frame: Frame) => void) {
        const begins = watch === null;
        watch = wanted;
        send = onFrame;
        // One that goes on with another layer or head tells nothing twice.
        if (watch && begins && records.length > 0) send({ kind: 'tokens', records });
      },
      inspect: async (inquiry: Inquiry) => fakeAnswer(model, records, inquiry),
      async branches() {
        kept.set(branch, records);
        return branches.map((each) => ({
          ...each,
          ids: (kept.get(each.id) ?? []).map(({ id }) => id),
        }));
      },
      async fork(position: number, token: number | null, interventions: Intervention[]) {
        kept.set(branch, records);
        const cut = token === null ? position + 1 : position;
        records = records.slice(0, cut);
        send({ kind: 'forgotten', from: cut });
        if (token !== null) feed('Then ');
        const made = {
          id: branches.length,
          parent: branch,
          forkedAt: position,
          ids: [],
          interventions,
        };
        branches.push(made);
        branch = made.id;
        return made;
      },
      async select(id: number) {
        kept.set(branch, records);
        records = kept.get(id) ?? [];
        branch = id;
        send({ kind: 'forgotten', from: 0 });
        send({ kind: 'tokens', records });
      },
      async beginBranch() {
        kept.set(branch, records);
        records = [];
        branches.push({
          id: branches.length,
          parent: null,
          forkedAt: 0,
          ids: [],
          interventions: [],
        });
        branch = branches.length - 1;
        send({ kind: 'forgotten', from: 0 });
        return branches[branch]!;
      },
      async dropBranches(ids: number[]) {
        for (const id of ids) kept.delete(id);
      },
      exportBranch: async () => null,
      importBranch: async (): Promise<Branch> => {
        throw new PalimpsestError('Refused', 'The fake takes no state in.');
      },
      async proceed(sampling: Sampling, onToken: (token: Token) => void) {
        let text = '';
        const ids: number[] = [];
        for (const word of ['and ', 'on'].slice(0, sampling.maxTokens)) {
          const position = records.length;
          feed(word);
          onToken({ id: fakeId(word), position, text: word, logprob: -1, candidates: [] });
          ids.push(fakeId(word));
          text += word;
        }
        const stop = stopOf(ids, text);
        return { ...stop, promptIds: records.slice(0, records.length - 2).map(({ id }) => id) };
      },
      compare: async () => new Float32Array(fakeLists(model).kda.length * model.heads).fill(0.5),
      difference: async () =>
        Float32Array.from({ length: model.keys * model.values }, (_, i) => Math.sin(i)),
    },
  };
}

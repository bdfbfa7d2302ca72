/**
 * An engine that computes nothing, for tests of the page: it speaks EngineApi in a real worker and does as the words it is
 * given say. The model's folder name: "fail-NAME" fails to load so, "raw" has no chat template, "slow" loads slowly,
 * "software" is on a software adapter. The prompt's last text: "fail NAME" throws after three tokens, "lose" loses the
 * device after two, "long" writes without end, anything else is answered by its own words.
 */
import { expose, wrap, proxy } from 'comlink';
import { fakeMemory } from './fakeMemory.ts';
import {
  PalimpsestError,
  type BookmarkApi,
  type EngineApi,
  type ErrorName,
  type Loaded,
  type MemoryReport,
  type Prompt,
  type WeightsApi,
} from '../../workers/protocol.ts';

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const memory: MemoryReport = {
  weightBytes: 95_000_000,
  recurrentBytes: 3_900_000,
  latentBytes: 1_600_000,
  snapshotBytes: 3_900_000,
  scratchBytes: 12_000_000,
};

const loaded: Loaded = {
  model: {
    name: 'Fake 150M',
    architecture: 'kimi-linear',
    fileType: 'Q4_0',
    layers: Array.from({ length: 30 }, (_, layer) => ({
      kind: layer % 4 === 3 ? 'mla' : 'kda',
      ffn: layer === 0 ? 'dense' : 'moe',
    })),
    heads: 9,
    keys: 64,
    values: 64,
    latent: 192,
    sharedKey: 32,
    experts: 8,
    expertsUsed: 4,
    vocabulary: 49_152,
    width: 576,
    parameters: 150_573_687,
    mode: 'chat',
    contextLimit: 8192,
    contextTrained: 1024,
  },
  device: {
    name: 'fake gpu',
    software: false,
    features: ['subgroups', 'shader-f16'],
    maxBindingBytes: 1 << 27,
  },
  memory,
};

const memoryOf = fakeMemory(loaded.model, (ids, text) => ({
  reason: 'end',
  ids,
  text,
  promptIds: [],
  reusedTokens: 0,
  prefillMs: 0,
  firstTokenMs: 5,
  decodeMs: 5 * ids.length,
  contextUsed: ids.length,
  memory,
}));

let stopped = false;
let lose: (reason: string) => void = () => {};

/** Token ids are what the fake's tests look at: one a word, its length. */
const idsOf = (text: string) => text.split(/(?<=\s)/).map((word) => word.length);

function textOf(prompt: Prompt): string {
  if (prompt.kind === 'chat') return prompt.turns.at(-1)?.content ?? '';
  return prompt.kind === 'raw' ? prompt.text : `ids ${prompt.ids.length}`;
}

/** The words a prompt is taken in as, one a token id. */
function wordsOf(prompt: Prompt): string[] {
  if (prompt.kind === 'ids') return prompt.ids.map((id) => `${id} `);
  const texts = prompt.kind === 'raw' ? [prompt.text] : prompt.turns.map(({ content }) => content);
  return texts.flatMap((text) => text.split(/(?<=\s)/));
}

function promptIds(prompt: Prompt): number[] {
  if (prompt.kind === 'ids') return prompt.ids;
  if (prompt.kind === 'raw') return idsOf(prompt.text);
  return prompt.turns.flatMap((turn) => turn.ids ?? idsOf(turn.content));
}

const engine: EngineApi & BookmarkApi = {
  device: async () => loaded.device,
  async load(model, port, report) {
    const fail = /fail-(\w+)/.exec(model)?.[1];
    if (fail) throw new PalimpsestError(fail as ErrorName, `fake load of ${model} failed`);
    const weights = wrap<WeightsApi>(port);
    const shards = await weights.open(
      model,
      proxy(() => {}),
    );
    const totalBytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
    const steps = model.includes('slow') ? 200 : 4;
    for (let step = 1; step <= steps; step++) {
      const doneBytes = Math.round((totalBytes * step) / steps);
      report({ phase: 'download', doneBytes, totalBytes, note: `shard at ${doneBytes}` });
      await pause(model.includes('slow') ? 100 : 5);
    }
    report({ phase: 'compile', doneBytes: 1, totalBytes: 1, note: '' });
    const device = { ...loaded.device };
    if (model.includes('software')) Object.assign(device, { name: 'SwiftShader', software: true });
    const mode = model.includes('raw') ? 'raw' : 'chat';
    return { ...loaded, device, model: { ...loaded.model, mode } };
  },
  async generate(prompt, sampling, onToken) {
    stopped = false;
    const asked = textOf(prompt);
    const fail = /^fail (\w+)/.exec(asked)?.[1];
    const endless = asked.startsWith('long');
    const fed = promptIds(prompt);
    const words = (/^say (.*)/s.exec(asked)?.[1] ?? `You said: ${asked}`).split(/(?<=\s)/);
    const ids: number[] = [];
    let text = '';
    memoryOf.forget();
    const read = wordsOf(prompt);
    for (let index = 0; index < fed.length; index++) memoryOf.feed(read[index] ?? ' ');
    await pause(20);
    for (let index = 0; ids.length < sampling.maxTokens && !stopped; index++) {
      if (!endless && index === words.length) break;
      if (index === 3 && fail)
        throw new PalimpsestError(fail as ErrorName, 'fake failure, 3 tokens');
      if (index === 2 && asked === 'lose') {
        lose('fake loss');
        await new Promise(() => {});
      }
      const word = endless ? `word${index} ` : (words[index] ?? '');
      text += word;
      ids.push(word.length);
      const position = fed.length + index;
      memoryOf.feed(word);
      const token = { id: word.length, position, text: word, logprob: -0.5, candidates: [] };
      // Over Comlink a callback answers with a promise; the engine's worker, too, settles after its last token.
      await (onToken(token) as unknown as Promise<void>);
      await pause(endless ? 15 : 5);
    }
    const cut = ids.length >= sampling.maxTokens;
    return {
      reason: stopped ? 'stopped' : cut ? 'length' : 'end',
      ids,
      text,
      promptIds: fed,
      reusedTokens: 0,
      prefillMs: 20,
      firstTokenMs: 25,
      decodeMs: 5 * ids.length,
      contextUsed: fed.length + ids.length,
      memory,
    };
  },
  stop() {
    stopped = true;
  },
  async reset() {
    memoryOf.clear();
  },
  async tokenize(prompt) {
    return promptIds(prompt);
  },
  lost: () => new Promise((resolve) => (lose = resolve)),
  account: async () => null,
  store: async () => '',
  takeUp: async () => ({ tokens: 0, branch: null, note: '' }),
};

expose({ ...engine, ...memoryOf.api });

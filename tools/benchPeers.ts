/**
 * `npm run bench:peers`: this engine beside llama.cpp, on one machine, with one file and one prompt.
 *
 *   --model NAME|FILE.gguf (palimpsest-150m)   --tokens N (64)   --runs N (5)   --page FOLDER (dist)   --json FILE
 *   --only TEXT   the engines whose name says that
 *
 * In Chromium: this engine on WebGPU, through the built page's library; wllama (llama.cpp as WebAssembly) on WebGPU and on
 * the processor, in a page that is cross-origin isolated, so that it has threads. In Node: this engine on Dawn; llama.cpp
 * through node-llama-cpp on Vulkan and on the processor. All take the same tokens, choose the best token each time,
 * read the prompt anew in every run and say N tokens; all are timed in the same way, from outside, as each token arrives.
 * A warm-up run comes first. What cannot run says why, and the others are measured.
 *
 * node-llama-cpp is no dependency of the project, being six times its size:   npm install --prefix tools/peers
 *
 *   PALIMPSEST_CHROMIUM, PALIMPSEST_CHROMIUM_FLAGS   as for npm run bench:chromium
 *   PALIMPSEST_ADAPTER=swiftshader                   this engine in Node, on the processor
 *   PALIMPSEST_PEERS=FOLDER                          where node-llama-cpp was installed instead of tools/peers
 */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { cpus, tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type BrowserContext, chromium, type Page } from 'playwright-core';
import type { createEngine } from '../src/api.ts';
import type { Usage } from '../src/inTab/completions.ts';
import { type Files, modelFiles, openSite } from '../test/e2e/site.ts';
import { spreadOf } from '../workers/bench.ts';
import type { Spread } from '../workers/protocol.ts';
import { chromiumLaunch } from './chromium.ts';
import { openGguf } from '../workers/gguf.ts';
import { createTokenizer } from '../workers/tokenizer.ts';
import { modelSources, openEngine } from './nodeEngine.ts';

/** One run: when it was asked, and when each token came, in milliseconds of one clock; and what was said. */
interface Run {
  askedMs: number;
  tokensMs: number[];
  text: string;
}

/** Runs of one engine, the first of them to warm up. */
interface Course {
  /** What it computes on, as it says itself. */
  place: string;
  runs: Run[];
}

interface Figures {
  engine: string;
  place: string;
  tokens: number;
  decodePerSec: Spread;
  promptPerSec: Spread;
  firstTokenMs: Spread;
  /** How many characters of the text are the same as this engine's in Node, of how many. */
  same: number;
  characters: number;
}

const { values: arg } = parseArgs({
  options: {
    model: { type: 'string', default: 'palimpsest-150m' },
    tokens: { type: 'string', default: '64' },
    runs: { type: 'string', default: '5' },
    page: { type: 'string', default: 'dist' },
    only: { type: 'string', default: '' },
    json: { type: 'string' },
  },
});
const tokens = Number(arg.tokens);
const runs = Number(arg.runs);
/** However slow an engine is, something else may be wrong with it. */
const patienceMs = 240_000;

/** The model's files: in a folder of public/models, or one alone. */
const folder = resolve('public/models', arg.model);
const isFolder = existsSync(folder) && statSync(folder).isDirectory();
const paths = isFolder
  ? readdirSync(folder)
      .filter((name) => name.endsWith('.gguf'))
      .sort()
      .map((name) => join(folder, name))
  : [resolve(arg.model)];

const engine = await openEngine(arg.model);
/** A processor in a GPU's place takes minutes for a long prompt. */
const characters = engine.loaded.device.software ? 100 : 1500;
const messages = [
  {
    role: 'user' as const,
    content: `Write a long story about what this text means for a village of programmers.\n\n${readFileSync('LICENSE', 'utf8').slice(0, characters)}`,
  },
];
const { name } = engine.loaded.model;
const ids = engine.encode({ kind: 'chat', turns: messages });
// wllama takes texts alone: one that becomes the same tokens.
const tokenizer = createTokenizer((await openGguf(modelSources(arg.model))).metadata);
const prompt = textOf(ids);
if (`${tokenizer.encode(prompt, { special: true })}` !== `${ids}`) {
  throw new Error('The prompt as a text does not become the same tokens: choose another model.');
}
/** Room for it all, in llama.cpp's steps. */
const contextTokens = 256 * Math.ceil((ids.length + tokens + 1) / 256);
console.log(`${name}, ${ids.length} tokens of prompt, ${tokens} to say, greedily; ${runs} runs\n`);

const told: Figures[] = [];
const texts = new Map<string, string>();
const unable: { engine: string; reason: string }[] = [];
const rows: [string, (end: AbortSignal) => Promise<Course>][] = [
  ['Palimpsest, Node', inNode],
  ['Palimpsest, Chromium', (end) => inChromium(end, ownPage)],
  ['wllama, Chromium, WebGPU', (end) => inChromium(end, (page) => wllamaPage(page, 999))],
  ['wllama, Chromium, processor', (end) => inChromium(end, (page) => wllamaPage(page, 0))],
  ['llama.cpp, Node, Vulkan', (end) => llamaCpp(end, 'vulkan')],
  ['llama.cpp, Node, processor', (end) => llamaCpp(end, false)],
];
console.log(
  `${'engine'.padEnd(28)} ${'tokens/s'.padStart(9)} ${'(least to most)'.padEnd(20)} ${'prompt/s'.padStart(9)} ${'first ms'.padStart(9)}  computes on`,
);
for (const [who, measure] of rows.filter(([who]) => who.includes(arg.only))) {
  try {
    const course = await within(measure);
    const figures = figuresOf(who, course);
    told.push(figures);
    const { decodePerSec: d, promptPerSec, firstTokenMs, place } = figures;
    const spread = `(${d.least.toFixed(1)} to ${d.most.toFixed(1)})`;
    console.log(
      `${who.padEnd(28)} ${d.median.toFixed(1).padStart(9)} ${spread.padEnd(20)} ${promptPerSec.median.toFixed(0).padStart(9)} ${firstTokenMs.median.toFixed(0).padStart(9)}  ${place}`,
    );
    if (figures.tokens < tokens)
      console.log(`${''.padEnd(28)} ended after ${figures.tokens} tokens`);
  } catch (thrown) {
    const reason = (thrown as Error).message.split('\n')[0]!;
    unable.push({ engine: who, reason });
    console.log(`${who.padEnd(28)} not measured: ${reason}`);
  }
}
for (const { engine: who, same, characters } of told.slice(1)) {
  if (same < characters)
    console.log(
      `${who} says the same as Palimpsest in Node for ${same} of ${characters} characters`,
    );
}
if (arg.json) {
  const said = { model: name, promptTokens: ids.length, tokens, runs, engines: told, unable };
  writeFileSync(arg.json, `${JSON.stringify(said, null, 2)}\n`);
}
process.exit(0); // llama.cpp's threads would keep it open

/** Tokens as the text that they are, special ones by their names. */
function textOf(all: number[]): string {
  let text = '';
  let plain: number[] = [];
  for (const id of all) {
    if (tokenizer.decode([id]) !== '') plain.push(id);
    else {
      text += tokenizer.decode(plain) + tokenizer.piece(id);
      plain = [];
    }
  }
  return text + tokenizer.decode(plain);
}

function figuresOf(who: string, { place, runs: all }: Course): Figures {
  const measured = all.slice(1);
  const text = measured[0]!.text;
  const reference = texts.get('Palimpsest, Node') ?? text;
  texts.set(who, text);
  let same = 0;
  while (same < text.length && text[same] === reference[same]) same++;
  const first = ({ askedMs, tokensMs }: Run) => tokensMs[0]! - askedMs;
  return {
    engine: who,
    place,
    tokens: Math.min(...measured.map(({ tokensMs }) => tokensMs.length)),
    decodePerSec: spreadOf(
      measured.map(({ tokensMs: t }) => (1000 * (t.length - 1)) / (t.at(-1)! - t[0]!)),
    ),
    promptPerSec: spreadOf(measured.map((run) => (1000 * ids.length) / first(run))),
    firstTokenMs: spreadOf(measured.map(first)),
    same,
    characters: text.length,
  };
}

/** Fails where it takes too long, and not before it has ended: what is measured next is to have the machine to itself. */
async function within<T>(work: (end: AbortSignal) => Promise<T>): Promise<T> {
  const end = new AbortController();
  const late = setTimeout(() => end.abort(), patienceMs);
  try {
    return await work(end.signal);
  } catch (thrown) {
    if (end.signal.aborted)
      throw new Error(`no end within ${patienceMs / 1000} s`, { cause: thrown });
    throw thrown;
  } finally {
    clearTimeout(late);
  }
}

// -------------------------------------------------------------------------------------------------- Node

async function inNode(end: AbortSignal): Promise<Course> {
  end.addEventListener('abort', () => engine.stop());
  const all: Run[] = [];
  const sampling = {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    repetitionWindow: 64,
    seed: 0,
    maxTokens: tokens,
    stop: [],
    candidates: 0,
  };
  for (let run = 0; run <= runs; run++) {
    await engine.reset();
    const askedMs = performance.now();
    const tokensMs: number[] = [];
    const stop = await engine.generate({ kind: 'ids', ids }, sampling, () => {
      tokensMs.push(performance.now());
    });
    end.throwIfAborted();
    all.push({ askedMs, tokensMs, text: stop.text });
  }
  const place = engine.loaded.device.name;
  engine.destroy();
  return { place, runs: all };
}

/** What is used of node-llama-cpp. */
interface LlamaCpp {
  getLlama(options: object): Promise<{
    gpu: string | false;
    cpuMathCores: number;
    getGpuDeviceNames(): Promise<string[]>;
    loadModel(options: object): Promise<{
      detokenize(ids: number[]): string;
      createContext(options: object): Promise<{
        getSequence(): {
          evaluate(ids: number[], options: object): AsyncIterable<number>;
          clearHistory(): Promise<void>;
        };
        dispose(): Promise<void>;
      }>;
      dispose(): Promise<void>;
    }>;
    dispose(): Promise<void>;
  }>;
}

async function llamaCpp(end: AbortSignal, gpu: 'vulkan' | false): Promise<Course> {
  const place = resolve(process.env.PALIMPSEST_PEERS ?? 'tools/peers');
  let address: string;
  try {
    address = createRequire(join(place, 'package.json')).resolve('node-llama-cpp');
  } catch {
    throw new Error(
      'node-llama-cpp is not installed: npm install --prefix tools/peers (0.7 GB, with programs for every GPU), or name a folder that has it: PALIMPSEST_PEERS.',
    );
  }
  const { getLlama } = (await import(/* @vite-ignore */ pathToFileURL(address).href)) as LlamaCpp;
  const llama = await getLlama({ gpu, build: 'never', logLevel: 'error' });
  const model = await llama.loadModel({ modelPath: paths[0]!, gpuLayers: gpu ? 'max' : 0 });
  const context = await model.createContext({ contextSize: contextTokens, sequences: 1 });
  try {
    const sequence = context.getSequence();
    const all: Run[] = [];
    for (let run = 0; run <= runs; run++) {
      end.throwIfAborted();
      await sequence.clearHistory();
      const askedMs = performance.now();
      const tokensMs: number[] = [];
      const said: number[] = [];
      for await (const token of sequence.evaluate(ids, { temperature: 0 })) {
        tokensMs.push(performance.now());
        said.push(token);
        end.throwIfAborted();
        if (said.length === tokens) break;
      }
      all.push({ askedMs, tokensMs, text: model.detokenize(said) });
    }
    const where = llama.gpu
      ? (await llama.getGpuDeviceNames()).join(', ')
      : `${cpus()[0]!.model}, ${llama.cpuMathCores} threads`;
    return { place: where, runs: all };
  } finally {
    await context.dispose();
    await model.dispose();
    await llama.dispose();
  }
}

// ---------------------------------------------------------------------------------------------- Chromium

async function inChromium(
  end: AbortSignal,
  measure: (page: Page) => Promise<Course>,
): Promise<Course> {
  const profile = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  let context: BrowserContext | null = null;
  try {
    context = await chromium.launchPersistentContext(profile, chromiumLaunch());
    end.addEventListener('abort', () => void context?.close());
    return await measure(context.pages()[0] ?? (await context.newPage()));
  } finally {
    await context?.close().catch(() => {}); // given up, it is closed already
    rmSync(profile, { recursive: true, force: true });
  }
}

/** A folder of models as this engine's page reads it. */
function served(): Files {
  if (!isFolder) return modelFiles('/models/it/', paths[0]!);
  const all = readdirSync(folder).map((file) => [
    `/models/it/${file}`,
    readFileSync(join(folder, file)),
  ]);
  return Object.fromEntries(all) as Files;
}

async function ownPage(page: Page): Promise<Course> {
  const built = resolve(arg.page);
  if (!existsSync(join(built, 'api.js'))) {
    throw new Error(`${built} has no built page: npm run build, or name its folder by --page.`);
  }
  const site = await openSite({ built, files: served() });
  try {
    await page.goto(`${site.origin}/`);
    await page.evaluate(
      `import(new URL('api.js', document.baseURI).href).then((api) => Object.assign(globalThis, api))`,
    );
    const course = await page.evaluate(
      async ({ messages, tokens, runs, promptTokens }) => {
        const library = globalThis as unknown as { createEngine: typeof createEngine };
        const model = new URL('models/it/', document.baseURI).href;
        const engine = await library.createEngine({ model });
        const all: Run[] = [];
        for (let run = 0; run <= runs; run++) {
          // Another prompt between: nothing of this one is in memory when it comes again.
          const other = [{ role: 'user' as const, content: `${run}` }];
          await engine.chat.completions.create({ messages: other, temperature: 0, max_tokens: 1 });
          const askedMs = performance.now();
          const tokensMs: number[] = [];
          let text = '';
          let used: Usage | null = null as Usage | null;
          const request = { messages, temperature: 0, max_tokens: tokens, stream: true as const };
          for await (const chunk of await engine.chat.completions.create(request)) {
            const { delta, finish_reason: end } = chunk.choices[0] ?? {
              delta: {},
              finish_reason: null,
            };
            if (end === null && delta.content !== undefined && !('role' in delta)) {
              tokensMs.push(performance.now());
            }
            text += delta.content ?? '';
            if (chunk.usage) used = chunk.usage;
          }
          const inMemory = used?.prompt_tokens_details.cached_tokens;
          if (used?.prompt_tokens !== promptTokens || inMemory !== 0) {
            throw new Error(
              `${used?.prompt_tokens} tokens of prompt, ${inMemory} in memory already`,
            );
          }
          all.push({ askedMs, tokensMs, text });
        }
        return { place: engine.loaded.device.name, runs: all };
      },
      { messages, tokens, runs, promptTokens: ids.length },
    );
    return course;
  } finally {
    await site.close();
  }
}

/** wllama in an isolated page of its own, `layers` of the model on the GPU. */
async function wllamaPage(page: Page, layers: number): Promise<Course> {
  const peer = dirname(
    createRequire(resolve('package.json')).resolve('@wllama/wllama/package.json'),
  );
  const code = (path: string) => readFileSync(join(peer, 'esm', path));
  const files: Files = {
    '/peer.html':
      '<!doctype html><script type="module">import { Wllama } from "/wllama.js"; globalThis.Wllama = Wllama;</script>',
    '/wllama.js': code('index.min.js'),
    '/wllama.wasm': code('wasm/wllama.wasm'),
  };
  for (const path of paths) files[`/${basename(path)}`] = readFileSync(path);
  const headers = {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'cross-origin',
  };
  const site = await openSite({ files, headers });
  try {
    await page.goto(`${site.origin}/peer.html`);
    await page.waitForFunction(() => 'Wllama' in globalThis);
    return await page.evaluate(runWllama, {
      shards: paths.map((path) => basename(path)),
      prompt,
      tokens,
      runs,
      layers,
      context: contextTokens,
    });
  } finally {
    await site.close();
  }
}

interface WllamaChunk {
  choices: { text?: string; finish_reason?: string | null }[];
}

/** In the page. */
async function runWllama(asked: {
  shards: string[];
  prompt: string;
  tokens: number;
  runs: number;
  layers: number;
  context: number;
}): Promise<Course> {
  const { shards, prompt, tokens, runs, layers, context } = asked;
  const lines: string[] = [];
  const note = (...line: unknown[]) => void lines.push(line.join(' '));
  const logger = { debug: note, log: note, warn: note, error: note };
  const { Wllama } = globalThis as unknown as {
    Wllama: new (
      paths: object,
      options: object,
    ) => {
      setCompat(compat: null): void;
      loadModel(files: File[], options: object): Promise<void>;
      createCompletion(request: object): Promise<unknown>;
      isMultithread(): boolean;
      getNumThreads(): number;
    };
  };
  const files: File[] = [];
  for (const shard of shards)
    files.push(new File([await (await fetch(`/${shard}`)).blob()], shard));
  const wllama = new Wllama({ default: '/wllama.wasm' }, { suppressNativeLog: false, logger });
  wllama.setCompat(null);
  await wllama.loadModel(files, {
    n_ctx: context,
    n_gpu_layers: layers,
    n_parallel: 1,
    warmup: false,
  });
  // Without an adapter llama.cpp takes the processor, and says so in its log alone.
  const offloaded = lines.map((line) => /offloaded (\d+)\/(\d+) layers/.exec(line)).find(Boolean);
  if (layers > 0 && !(Number(offloaded?.[1]) > 0)) {
    throw new Error('llama.cpp got no adapter that it takes, and no layer is on the GPU');
  }
  const all: Run[] = [];
  for (let run = 0; run <= runs; run++) {
    const askedMs = performance.now();
    const tokensMs: number[] = [];
    let text = '';
    await wllama.createCompletion({
      prompt,
      max_tokens: tokens,
      temperature: 0,
      cache_prompt: false,
      stream: true,
      onData: ({ choices }: WllamaChunk) => {
        const [choice] = choices;
        if (!choice || choice.finish_reason) return;
        tokensMs.push(performance.now());
        text += choice.text ?? '';
      },
    });
    all.push({ askedMs, tokensMs, text });
  }
  const threads = wllama.isMultithread() ? wllama.getNumThreads() : 1;
  const { vendor = '', device = '' } = (await navigator.gpu?.requestAdapter())?.info ?? {};
  const onGpu = `${vendor} ${device}`.trim() + `, ${offloaded?.[1]} of ${offloaded?.[2]} layers`;
  return { place: layers > 0 ? onGpu : `${threads} threads`, runs: all };
}

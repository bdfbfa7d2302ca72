/**
 * The engine from a terminal: `npm run answer -- --prompt "TEXT"` streams the answer of the workers' own code in Node.
 * `--help` lists the options. Exit code 1 with one line on stderr when something is wrong.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Engine } from '../workers/engine.ts';
import { PalimpsestError, type Prompt, type Sampling, type Stop } from '../workers/protocol.ts';
import { checkSampling } from '../workers/sampler.ts';
import { openEngine } from './nodeEngine.ts';

const USAGE = `npm run answer -- --prompt "TEXT"      answer as in the chat
  --model FILE    a .gguf file, the first shard of a split one, or the name of an embedded model (palimpsest-150m)
  --prompt TEXT   through the model's chat template
  --raw           TEXT as it stands, special tokens parsed
  --ids 1,2,3     token ids instead of text
  --system TEXT   a system line before the prompt
  --tokens N      the most tokens to generate (256; with --logits 0)
  --temperature T 0 takes the best token each time (0)
  --top-k N  --top-p P  --min-p P  --repetition-penalty X  --repetition-window N  --seed S
  --json          one line {"prompt":[ids],"tokens":[ids],"text":"..."}
  --logits OUT    write the float32 logits of every prompt position [tokens, vocabulary]
  --stats         times and memory on stderr`;

const { values: arg } = readArguments();

if (arg.help) console.log(USAGE);
else await main().catch(fail);

async function main(): Promise<void> {
  const prompt = readPrompt();
  const sampling = readSampling();
  const logits = arg.logits === undefined ? null : create(arg.logits);
  const engine = await openEngine(arg.model);
  const ids = engine.encode(prompt);
  if (logits !== null) {
    await engine.score(ids, 'chunk', (_, rows) => {
      for (let at = 0; at < rows.byteLength;) {
        at += writeSync(logits, new Uint8Array(rows.buffer, at));
      }
    });
    closeSync(logits);
  }
  const stop = sampling && (await answer(engine, prompt, sampling));
  const { ids: tokens, text } = stop ?? { ids: [], text: '' };
  if (arg.json) console.log(JSON.stringify({ prompt: ids, tokens, text }));
  if (arg.stats && stop) console.error(figures(engine, stop));
  engine.destroy();
}

/** Stream the answer, unless it is wanted as JSON. */
async function answer(engine: Engine, prompt: Prompt, sampling: Sampling): Promise<Stop> {
  let saidLength = 0;
  const say = (text: string) => {
    if (!arg.json) process.stdout.write(text);
    saidLength += text.length;
  };
  const stop = await engine.generate(prompt, sampling, (token) => say(token.text));
  say(stop.text.slice(saidLength)); // what was held back, such as half a character
  if (!arg.json) console.log();
  return stop;
}

function figures({ loaded }: Engine, stop: Stop): string {
  const { model, device } = loaded;
  return (
    `${model.name} on ${device.name}${device.software ? ' (software)' : ''}: prompt ${stop.promptIds.length} tokens in ` +
    `${stop.prefillMs.toFixed(0)} ms, first token at ${stop.firstTokenMs.toFixed(0)} ms, ${stop.ids.length} tokens in ` +
    `${stop.decodeMs.toFixed(0)} ms (${stop.reason}); ${JSON.stringify(stop.memory)}`
  );
}

// ------------------------------------------------------------------------------------------- arguments

function readArguments() {
  try {
    return parseArgs({
      options: {
        model: { type: 'string', default: 'palimpsest-150m' },
        prompt: { type: 'string' },
        raw: { type: 'boolean', default: false },
        ids: { type: 'string' },
        system: { type: 'string' },
        tokens: { type: 'string' },
        temperature: { type: 'string', default: '0' },
        'top-k': { type: 'string', default: '0' },
        'top-p': { type: 'string', default: '1' },
        'min-p': { type: 'string', default: '0' },
        'repetition-penalty': { type: 'string', default: '1' },
        'repetition-window': { type: 'string', default: '64' },
        seed: { type: 'string', default: '0' },
        json: { type: 'boolean', default: false },
        logits: { type: 'string' },
        stats: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (cause) {
    const what = (cause as Error).message.split('\n')[0]!.replace(/\.?$/, '.');
    fail(new PalimpsestError('Refused', `${what} --help lists the options.`));
    process.exit();
  }
}

function readPrompt(): Prompt {
  const { prompt: text, ids, raw, system } = arg;
  if ((text === undefined) === (ids === undefined)) {
    refuse('Give either --prompt or --ids. --help lists the options.');
  }
  if (system !== undefined && (raw || text === undefined)) {
    refuse('--system goes with a --prompt through the chat template, not with --raw or --ids.');
  }
  if (text === undefined) {
    return { kind: 'ids', ids: ids!.split(',').map((id) => number('--ids', id)) };
  }
  if (raw) return { kind: 'raw', text };
  const before = system === undefined ? [] : [{ role: 'system' as const, content: system }];
  return { kind: 'chat', turns: [...before, { role: 'user', content: text }] };
}

/** null: nothing is to be generated. */
function readSampling(): Sampling | null {
  const maxTokens = number('--tokens', arg.tokens ?? (arg.logits === undefined ? '256' : '0'));
  const sampling: Sampling = {
    temperature: number('--temperature', arg.temperature),
    topK: number('--top-k', arg['top-k']),
    topP: number('--top-p', arg['top-p']),
    minP: number('--min-p', arg['min-p']),
    repetitionPenalty: number('--repetition-penalty', arg['repetition-penalty']),
    repetitionWindow: number('--repetition-window', arg['repetition-window']),
    seed: number('--seed', arg.seed),
    maxTokens,
    stop: [],
    candidates: 0,
  };
  checkSampling(maxTokens === 0 ? { ...sampling, maxTokens: 1 } : sampling);
  return maxTokens === 0 ? null : sampling;
}

function number(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) refuse(`${option} wants a number, not "${text}".`);
  return value;
}

function create(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (cause) {
    refuse(`--logits: ${path} cannot be written (${(cause as Error).message}).`);
  }
}

function refuse(why: string): never {
  throw new PalimpsestError('Refused', why);
}

/** One line for what a person can mend; all there is to know of a fault in this program. */
function fail(error: unknown): void {
  console.error(error instanceof PalimpsestError ? `${error.name}: ${error.message}` : error);
  process.exitCode = 1;
}

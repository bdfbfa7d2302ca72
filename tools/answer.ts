/**
 * The engine from a terminal: `npm run answer -- --prompt "TEXT"` streams the answer of the workers' own code in Node.
 * `--help` lists the options. Exit code 1 with one line on stderr when something is wrong.
 */
import { parseArgs } from 'node:util';
import { PalimpsestError, type Prompt } from '../workers/protocol.ts';
import { openEngine } from './nodeEngine.ts';
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';

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

async function main(): Promise<void> {
  const { values: arg } = parseArgs({
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
  if (arg.help || (arg.prompt === undefined) === (arg.ids === undefined)) {
    console.log(USAGE);
    if (!arg.help) throw new PalimpsestError('Refused', 'Give either --prompt or --ids.');
    return;
  }
  const prompt = readPrompt(arg.prompt, arg.ids, arg.raw, arg.system);
  const engine = await openEngine(arg.model);
  const say = (text: string) => arg.json || process.stdout.write(text);

  if (arg.logits !== undefined) {
    const out = createWriteStream(arg.logits);
    await engine.score(engine.encode(prompt), 'chunk', (_, rows) =>
      out.write(new Uint8Array(rows.buffer)),
    );
    out.end();
    await once(out, 'finish');
  }
  const maxTokens = number('--tokens', arg.tokens ?? (arg.logits === undefined ? '256' : '0'));
  const stop = await engine.generate(
    prompt,
    {
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
    },
    (token) => say(token.text),
  );
  if (arg.json)
    console.log(JSON.stringify({ prompt: stop.promptIds, tokens: stop.ids, text: stop.text }));
  else console.log();
  if (arg.stats) {
    const { device, model } = engine.loaded;
    console.error(
      `${model.name} on ${device.name}${device.software ? ' (software)' : ''}: prompt ${stop.promptIds.length} tokens in ` +
        `${stop.prefillMs.toFixed(0)} ms, first token at ${stop.firstTokenMs.toFixed(0)} ms, ${stop.ids.length} tokens in ` +
        `${stop.decodeMs.toFixed(0)} ms (${stop.reason}); ${JSON.stringify(stop.memory)}`,
    );
  }
  engine.destroy();
}

function readPrompt(
  text: string | undefined,
  ids: string | undefined,
  raw: boolean,
  system: string | undefined,
): Prompt {
  if (text === undefined)
    return { kind: 'ids', ids: ids!.split(',').map((id) => number('--ids', id)) };
  if (raw) return { kind: 'raw', text };
  const before = system === undefined ? [] : [{ role: 'system' as const, content: system }];
  return { kind: 'chat', turns: [...before, { role: 'user', content: text }] };
}

function number(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) {
    throw new PalimpsestError('Refused', `${option} wants a number, not "${text}".`);
  }
  return value;
}

main().catch((error: unknown) => {
  console.error(error instanceof PalimpsestError ? `${error.name}: ${error.message}` : error);
  process.exitCode = 1;
});

/**
 * Makes a recording of the engine at work (src/replay.ts): `npm run record -- --out public/replays/first-visit.json`.
 * It asks a model one question, and then asks the engine what the page asks about the layer and head it begins at.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { packRecording, type RecordedAnswer } from '../src/replay.ts';
import { PalimpsestError, type Inquiry, type TokenRecord, type Turn } from '../workers/protocol.ts';
import { openEngine } from './nodeEngine.ts';

const QUESTION =
  "Mira's code is 7421. Tom's code is 3308. Lena's code is 5560. Mira's code is now 1180. Tom's code is now 9027. What is Mira's code?";

const USAGE = `npm run record -- --out FILE.json      record an answer for the page to replay
  --model FILE    a .gguf file, or the name of an embedded model (palimpsest-150m)
  --prompt TEXT   the question (the first-visit one)
  --layer N       the KDA layer looked at (16)
  --head N        the head looked at (5)
  --tokens N      the longest answer (48)`;

const GREEDY = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 0,
  stop: [],
  candidates: 10,
};

async function main(): Promise<void> {
  const { values: arg } = parseArgs({
    options: {
      model: { type: 'string', default: 'palimpsest-150m' },
      prompt: { type: 'string', default: QUESTION },
      layer: { type: 'string', default: '16' },
      head: { type: 'string', default: '5' },
      tokens: { type: 'string', default: '48' },
      out: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (arg.help || !arg.out) {
    console.log(USAGE);
    return;
  }
  const [layer, head] = [Number(arg.layer), Number(arg.head)];
  const engine = await openEngine(arg.model);
  const { model, device } = engine.loaded;
  const lists = engine.layers();

  const records: TokenRecord[] = [];
  await engine.watch({ layer, head, budgetBytes: 1e9 }, (frame) => {
    if (frame.kind !== 'tokens') return;
    for (const record of frame.records) records[record.position] = record;
  });
  const turns: Turn[] = [{ role: 'user', content: arg.prompt }];
  const prompt =
    model.mode === 'chat'
      ? ({ kind: 'chat', turns } as const)
      : ({ kind: 'raw', text: arg.prompt } as const);
  const sampling = { ...GREEDY, maxTokens: Number(arg.tokens) };
  const stop = await engine.generate(prompt, sampling, () => {});
  await engine.settled();
  turns.push({ role: 'assistant', content: stop.text });
  console.error(`${records.length} tokens: ${stop.text}`);

  const answers: RecordedAnswer[] = [];
  const ask = async (inquiry: Inquiry) => {
    const answer = await engine.inspect(inquiry);
    answers.push({ inquiry, answer } as RecordedAnswer);
  };
  const T = records.length;
  const mla = lists.mla.find((other) => other > layer) ?? lists.mla.at(-1);
  await ask({ kind: 'gates', layer, from: 0, to: T });
  for (let position = 0; position < T; position++) {
    console.error(`token ${position} of ${T}: “${records[position]?.text}”`);
    for (const which of [head, 'median'] as const) {
      await ask({ kind: 'recall', layer, head: which, position });
    }
    await ask({ kind: 'reach', layer, head, position });
    if (mla !== undefined) await ask({ kind: 'reach', layer: mla, head, position });
    await ask({ kind: 'memory', layer, head, position });
    if (lists.moe.includes(layer)) await ask({ kind: 'router', layer, position });
    if (position >= stop.promptIds.length - 1) await ask({ kind: 'lens', position });
  }
  for (const position of [stop.promptIds.length - 1, T - 1]) {
    await ask({ kind: 'thumbnails', position });
  }
  for (const other of lists.kda) {
    if (other !== layer)
      await ask({ kind: 'recall', layer: other, head: 'median', position: T - 1 });
  }

  const text = packRecording({
    title: arg.prompt,
    source: `computed by WebGPU on ${device.name}`,
    model,
    memory: stop.memory,
    lists,
    turns,
    promptTokens: stop.promptIds.length,
    records,
    start: { layer, head },
    answers,
  });
  mkdirSync(dirname(arg.out), { recursive: true });
  writeFileSync(arg.out, text);
  console.error(`${arg.out}: ${answers.length} answers, ${text.length} bytes`);
  engine.destroy();
}

main().catch((error: unknown) => {
  if (!(error instanceof PalimpsestError)) throw error;
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});

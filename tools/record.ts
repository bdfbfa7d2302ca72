/**
 * Makes a recording of the engine at work (src/replay.ts): `npm run record -- --out public/replays/first-visit.json`.
 * It asks a model one question, and then asks the engine what the page asks about the layer and head it begins at.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { answersTo, inquiriesOf, placedNotes } from '../src/record.ts';
import { packRecording } from '../src/replay.ts';
import { PalimpsestError, type TokenRecord, type Turn } from '../workers/protocol.ts';
import * as firstVisit from './firstVisit.ts';
import { openEngine } from './nodeEngine.ts';

const USAGE = `npm run record -- --out FILE.json      record an answer for the page to replay
  --model FILE    a .gguf file, or the name of an embedded model (palimpsest-150m)
  --prompt TEXT   the question (the first-visit one, with what is said of it)
  --source TEXT   what it was computed on (the adapter's own words)
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
      prompt: { type: 'string', default: firstVisit.question },
      source: { type: 'string' },
      layer: { type: 'string', default: String(firstVisit.layer) },
      head: { type: 'string', default: String(firstVisit.head) },
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
  const isFirstVisit = arg.prompt === firstVisit.question;
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

  const promptTokens = stop.promptIds.length;
  const answers = await answersTo(
    (inquiry) => engine.inspect(inquiry),
    inquiriesOf(lists, records.length, { layer, head, promptTokens }),
    (done, total) => done % 50 === 0 && console.error(`${done} of ${total} questions`),
  );

  const text = packRecording({
    title: isFirstVisit ? firstVisit.title : arg.prompt,
    source: `computed by WebGPU on ${arg.source ?? device.name}`,
    model,
    memory: stop.memory,
    lists,
    turns,
    promptTokens,
    records,
    start: { layer, head },
    answers,
    ...(isFirstVisit && {
      notes: placedNotes(
        records.map((record) => record.text),
        firstVisit.notes,
      ),
    }),
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

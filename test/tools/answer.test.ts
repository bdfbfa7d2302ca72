/** `npm run answer` as a program: what it prints, what it writes, and how it refuses. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer, type Tokenizer } from '../../workers/tokenizer.ts';
import { firstHalf, otherArchitecture } from '../damage.ts';
import { fixture, loadGolden } from '../reference/golden.ts';
import { emptyState, forward, greedy as exactGreedy, openModel } from '../reference/model.ts';

const golden = loadGolden('tiny-q8_0');
const prompt = golden.index.tokens as number[];
const greedy = golden.index.greedy as number[];
const tiny = fixture('tiny-q8_0.gguf');

let folder: string;
let tokenizer: Tokenizer;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'palimpsest-answer-'));
  tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Ended {
  code: number;
  stdout: string;
  stderr: string[];
}

function run(...command: string[]): Promise<Ended> {
  return new Promise((ended) =>
    execFile(process.execPath, command, (error, stdout, stderr) =>
      ended({
        code: error ? Number(error.code) : 0,
        stdout,
        stderr: stderr.split('\n').filter((line) => line !== ''),
      }),
    ),
  );
}

/** The tool as `tools/run.mjs` has bundled it before. */
const answer = (...args: string[]) => run('.cache/tools/answer.mjs', ...args);

const withIds = ['--model', tiny, '--ids', prompt.join()];

test('--json and --logits: one line, the tokens and logits of float64', async () => {
  const out = join(folder, 'logits.bin');
  const asked = [...withIds, '--json', '--logits', out, '--tokens', '16'];
  const { code, stdout, stderr } = await run('tools/run.mjs', 'answer', ...asked);
  expect(stderr).toEqual([]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^\{.*\}\n$/); // "." matches no line's end
  const text = tokenizer.decode(greedy);
  expect(JSON.parse(stdout)).toEqual({ prompt, tokens: greedy, text });
  const bytes = readFileSync(out);
  const logits = new Float32Array(Uint8Array.from(bytes).buffer);
  const { values, shape } = golden.array('logits');
  expect(logits).toAgreeWith(values, { rms: 1e-4, shape, what: 'logits' });
});

test('with --logits alone nothing is generated', async () => {
  const out = join(folder, 'short.bin');
  const ids = prompt.slice(0, 3);
  const ended = await answer('--model', tiny, '--ids', ids.join(), '--json', '--logits', out);
  expect(ended).toMatchObject({ code: 0, stderr: [] });
  expect(JSON.parse(ended.stdout)).toEqual({ prompt: ids, tokens: [], text: '' });
  expect(readFileSync(out)).toHaveLength(3 * 512 * 4);
});

test('without --json the text is streamed, and a raw prompt is continued as float64 does', async () => {
  const text = 'the memory of';
  const model = openModel(tiny);
  const ids = tokenizer.encode(text, { special: true });
  const exact = exactGreedy(model, forward(model, ids, emptyState(model)), 8);
  const ended = await answer('--model', tiny, '--raw', '--prompt', text, '--tokens', '8');
  expect(ended).toEqual({ code: 0, stderr: [], stdout: `${tokenizer.decode(exact)}\n` });
});

test('what is wrong is said in one line, and the exit code is 1', async () => {
  const sound = readFileSync(tiny);
  const half = join(folder, 'half.gguf');
  writeFileSync(half, firstHalf(sound));
  const other = join(folder, 'other.gguf');
  writeFileSync(other, otherArchitecture(sound));
  const text = join(folder, 'text.gguf');
  writeFileSync(text, 'This is no model.\n'.repeat(10));
  const split = join(folder, 'split-00001-of-00003.gguf');
  writeFileSync(split, sound);

  const cases: [args: string[], line: RegExp][] = [
    [[], /^Refused: Give either --prompt or --ids/],
    [['--prompt', 'x', '--ids', '1'], /^Refused: Give either --prompt or --ids/],
    [['--prompt', 'x', '--model', 'absent.gguf'], /^BadModel: There is no file .*absent\.gguf/],
    [['--prompt', 'x', '--model', half], /^BadModel: half\.gguf .*/],
    [['--prompt', 'x', '--model', text], /^BadModel: text\.gguf .*/],
    [['--prompt', 'x', '--model', other], /^Unsupported: .* other-model architecture/],
    [['--prompt', 'x', '--model', split], /^BadModel: .*00002-of-00003\.gguf is missing/],
    [['--prompt', 'x', '--model', tiny], /^Refused: .*no chat template/],
    [[...withIds, '--tokens', 'many'], /^Refused: --tokens wants a number, not "many"/],
    [[...withIds, '--tokens', '1.5'], /^Refused: .*maxTokens is 1\.5/],
    [[...withIds, '--temperature=-1'], /^Refused: .*temperature is -1/],
    [[...withIds, '--seed', ''], /^Refused: --seed wants a number/],
    [['--model', tiny, '--ids', '1,two'], /^Refused: --ids wants a number, not "two"/],
    [[...withIds, '--logits', join(folder, 'no', 'such')], /^Refused: --logits: .* be written/],
    [[...withIds, '--sed', '1'], /^Refused: Unknown option '--sed'\. --help/],
  ];
  const wrong = async ([args, line]: (typeof cases)[number]) => {
    const { code, stdout, stderr } = await answer(...args);
    expect({ args, code, stdout, lines: stderr.length }).toEqual({
      args,
      code: 1,
      stdout: '',
      lines: 1,
    });
    expect(stderr[0]).toMatch(line);
  };
  for (const each of cases) await wrong(each);
});

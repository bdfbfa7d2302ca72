/**
 * Many conversations in one tab, to see that its memory stays flat:
 *
 *   node tools/run.mjs soakTab [--tokens 50000] [--seed 1] [--page FOLDER]
 *
 * The built page in a browser, with the tiny golden model and a chat template. Conversations are drawn: most through the
 * library in that tab, some by the page's own buttons, with the same engine; greedy and not, gone on with, answered again,
 * asked in other words, broken off, watched, exported and taken up, gone back in. Now and then, after one that is always
 * the same, are read: bytes of the page and all its workers, ArrayBuffers included, after a collection; bytes of the
 * buffers that engines' workers have made on the GPU and not destroyed, counted where they are made; what the GPU's
 * process holds. The first fifth of the tokens is warm-up: code is compiled, and what is kept up to a number fills. Fails if the
 * means of the third and of the last tenth are more than 5 % apart in the heaps or on the GPU, if anything goes wrong in the page,
 * and if it shows anything of a conversation that was ended. A reading with more elements on the page than the fewest so far says
 * which these are; at the end is said what there is more of in the heaps than after the third tenth.
 *
 * On another machine, as a bundle (run.mjs), it needs the packages playwright-core and webgpu, a folder with the built page,
 * whose models need no weights, test/fixtures/tiny-f32.gguf below the working directory, and PALIMPSEST_CHROMIUM.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { faultsOf, openBrowser } from '../test/e2e/browser.ts';
import { builtFolder, setup } from '../test/e2e/build.ts';
import { modelFiles, openSite } from '../test/e2e/site.ts';
import { tinyChat } from '../test/e2e/tinyChat.ts';
import type { CompletionRequest, Engine } from '../src/api.ts';
import { drawing, type Draw } from '../test/draw.ts';
import { contentsOf, heapsOf, heldBytes, type Kind } from './heaps.ts';

const { values: options } = parseArgs({
  options: {
    tokens: { type: 'string', default: '50000' },
    seed: { type: 'string', default: '1' },
    /** Where the built page lies; built anew if left out. */
    page: { type: 'string' },
  },
});
const wanted = Number(options.tokens);
const samplesPerTenth = 4;
const allowed = 0.05;

interface Sample {
  tokens: number;
  heapBytes: number;
  /** Of each of them. */
  heaps: string;
  gpuBytes: number;
  /** Of the GPU's process: resident, as the system counts. Null where it does not say. */
  gpuProcessBytes: number | null;
  /** On the page: how many of each tag with its classes. */
  elements: Map<string, number>;
}

/** Stands before the engine worker's own script. */
function countGpuBytes(): void {
  const held = globalThis as unknown as { heldGpuBytes: number };
  held.heldGpuBytes = 0;
  const sizes = new WeakMap<GPUBuffer, number>();
  const { createBuffer } = GPUDevice.prototype;
  const { destroy } = GPUBuffer.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    sizes.set(buffer, descriptor.size);
    held.heldGpuBytes += descriptor.size;
    return buffer;
  };
  GPUBuffer.prototype.destroy = function () {
    held.heldGpuBytes -= sizes.get(this) ?? 0;
    sizes.delete(this);
    return destroy.call(this);
  };
}

const built = options.page ? resolve(options.page) : builtFolder;
if (!options.page) setup();
const engineWorker = readdirSync(join(built, 'assets')).find((name) =>
  name.startsWith('engine.worker'),
)!;
const engineScript = readFileSync(join(built, 'assets', engineWorker), 'utf8');
const site = await openSite({
  built,
  files: {
    ...modelFiles('/models/tiny/', 'tiny.gguf', tinyChat()),
    [`/assets/${engineWorker}`]: `(${countGpuBytes.toString()})();\n${engineScript}`,
  },
});
const browser = await openBrowser();
const context = await browser.newContext({ reducedMotion: 'reduce' });
const page = await context.newPage();
page.setDefaultTimeout(120_000);
const faults = faultsOf(page);

let tokens = 0;
let conversations = 0;
const samples: Sample[] = [];
/** What is in the heaps after the third tenth, and at the end. */
const contents: Map<string, Kind>[] = [];
const began = performance.now();
try {
  await page.goto(`${site.origin}/?model=models/tiny/`);
  // As text: the bundler of this tool would make something else of an import in a function.
  await page.evaluate(
    `import(new URL('api.js', document.baseURI).href)
      .then(({ createEngine }) => createEngine({ model: new URL('models/tiny/', document.baseURI).href }))
      .then((engine) => Object.assign(globalThis, { engine }))`,
  );
  while (samples.length < 10 * samplesPerTenth) {
    const due = ((samples.length + 1) * wanted) / (10 * samplesPerTenth);
    while (tokens < due) {
      const draw = drawing(Number(options.seed) + conversations++);
      // What the page keeps for going back and forth in a text is full when the warm-up ends.
      const warm = samples.length >= samplesPerTenth;
      tokens +=
        draw(0, warm ? 9 : 1) === 0
          ? await byHand(draw)
          : await page.evaluate(follow, drawPlan(draw));
    }
    samples.push(await sample());
    console.log(line(samples.at(-1)!));
    const more = moreElements(samples);
    if (more) console.log(more);
    if ([3, 10].includes(samples.length / samplesPerTenth)) contents.push(await contentsOf(page));
  }
} finally {
  await browser.close();
  await site.close();
}

const seconds = Math.round((performance.now() - began) / 1000);
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
/** How far the last tenth is from the one after the warm-up, the third. */
const stray = (of: (s: Sample) => number) => {
  const values = samples.map(of);
  const first = mean(values.slice(2 * samplesPerTenth, 3 * samplesPerTenth));
  return mean(values.slice(-samplesPerTenth)) / first - 1;
};
const strays = {
  'on the GPU': stray(({ gpuBytes }) => gpuBytes),
  'in the heaps': stray(({ heapBytes }) => heapBytes),
  'GPU process': stray(({ gpuProcessBytes }) => gpuProcessBytes ?? NaN),
};
const told = Object.entries(strays).map(([what, share]) => `${what} ${(100 * share).toFixed(2)} %`);
console.log(
  `${tokens} tokens in ${conversations} conversations in one tab, ${seconds} s; from the third tenth to the last: ${told.join(', ')}`,
);
for (const grown of grownKinds(contents[0]!, contents[1]!)) console.log(`  ${grown}`);
for (const fault of faults) console.error(fault);
const flat = [strays['on the GPU'], strays['in the heaps']].every((x) => Math.abs(x) <= allowed);
if (!flat || faults.length > 0) process.exitCode = 1;

function button(name: string) {
  return page.getByRole('button', { name, exact: true });
}

/** What a conversation through the library is to be. */
interface Plan {
  watched: boolean;
  turns: Said[];
  then: 'no more' | 'again' | 'otherwise' | 'break off' | 'take up' | 'go back';
}
interface Said {
  text: string;
  temperature: number;
  seed: number;
  max_tokens: number;
}

function drawText(draw: Draw): string {
  const words = ['the', 'red', 'fox', 'saw', 'on a page', 'memory', 'rain', 'and then', 'why'];
  return Array.from({ length: draw(1, 30) }, () => words[draw(0, 8)]).join(' ');
}

function drawPlan(draw: Draw): Plan {
  const ends: Plan['then'][] = ['no more', 'again', 'otherwise', 'break off', 'take up', 'go back'];
  const said = (): Said => ({
    text: drawText(draw),
    temperature: draw(0, 1),
    seed: draw(0, 99),
    max_tokens: draw(16, 200),
  });
  return {
    watched: draw(0, 3) === 0,
    turns: Array.from({ length: draw(1, 4) }, said),
    then: ends[draw(0, 5)]!,
  };
}

/** Runs in the page. Answers how many tokens the model wrote, those of an answer that was broken off left out. */
async function follow({ watched, turns, then }: Plan): Promise<number> {
  const { engine } = globalThis as unknown as { engine: Engine };
  const messages: CompletionRequest['messages'] = [];
  let written = 0;
  const say = async ({ text, ...how }: Said, most = Infinity) => {
    messages.push({ role: 'user', content: text });
    const asked = { ...how, messages: [...messages], stream: true as const, logprobs: true };
    let content = '';
    for await (const { choices, usage } of await engine.chat.completions.create(asked)) {
      content += choices[0]?.delta.content ?? '';
      written += usage?.completion_tokens ?? 0;
      if (content.length > most) break;
    }
    messages.push({ role: 'assistant', content });
  };
  const watch = { layer: 1, head: 'median' as const, budgetBytes: 32e6 };
  const end = watched ? await engine.watch(watch, () => {}) : () => Promise.resolve();
  const [first, ...others] = turns;
  await say(first!);
  const snapshot = then === 'go back' ? await engine.state.snapshot() : null;
  const exported = then === 'take up' ? await engine.state.export() : null;
  for (const turn of others) await say(turn);
  if (snapshot) await engine.state.restore(snapshot);
  if (exported) await engine.state.restore(exported);
  if (snapshot || exported) messages.length = 2;
  if (then === 'again' || then === 'otherwise') messages.length -= 2;
  const last = turns.at(-1)!;
  if (then === 'again') await say({ ...last, seed: last.seed + 1 });
  else if (then !== 'no more') await say(first!, then === 'break off' ? 20 : Infinity);
  if (snapshot) await engine.state.release(snapshot);
  await end();
  return written;
}

/** One conversation by the page's own buttons. */
async function byHand(draw: Draw): Promise<number> {
  let written = 0;
  const text = () => drawText(draw);
  const number = async (label: string, value: number) => {
    const field = page.getByRole('spinbutton', { name: label });
    if (!(await field.isVisible())) await page.getByText('Settings', { exact: true }).click();
    await field.fill(String(value));
    await field.press('Tab');
  };
  const say = async () => {
    await page.getByRole('textbox', { name: 'Message' }).fill(text());
    await button('Send').click();
    written += await answered();
  };
  await number('Longest answer', draw(16, 160));
  await number('Temperature', draw(0, 1));
  const watched = draw(0, 1) === 0;
  const watching = page.getByRole('checkbox', { name: 'watch while it writes' });
  if (await watching.isVisible()) await watching.setChecked(watched);
  await say();
  for (let more = draw(0, 2); more > 0; more--) await say();
  if (watched && draw(0, 1) === 0) {
    const views = page.locator('aside h3 button');
    await views.nth(draw(0, (await views.count()) - 1)).click();
  }
  switch (draw(0, 3)) {
    case 0:
      if (await page.getByText(/ · seed \d+/).count()) {
        await button('Again').last().click();
        written += await answered();
      }
      break;
    case 1:
      await button('Edit').first().click();
      await page.getByRole('textbox', { name: 'Another wording' }).fill(text());
      await page.getByRole('textbox', { name: 'Another wording' }).press('Enter');
      written += await answered();
      break;
    case 2:
      await button('Ink').click();
      if (watched) await page.getByRole('slider', { name: 'Time, in tokens' }).press('Home');
      break;
  }
  await button('New conversation').click();
  await page.getByRole('list', { name: 'Examples' }).waitFor();
  return written;
}

/** Tokens of the last answer, once it is written. */
async function answered(): Promise<number> {
  const last = page.getByRole('article', { name: 'The model' }).last();
  await button('Send').waitFor();
  const figures = await last.getByText(/\d tokens? ·/).textContent();
  return Number(/([\d,]+) token/.exec(figures!)![1]!.replace(',', ''));
}

async function sample(): Promise<Sample> {
  const last = { text: 'the end', temperature: 0, seed: 0, max_tokens: 16 };
  const plan: Plan = { watched: false, turns: [last], then: 'no more' };
  // Those who use the engine take turns: after an ended conversation the page needs two, one to have it forgotten.
  for (let turns = 0; turns < 3; turns++) tokens += await page.evaluate(follow, plan);
  await new Promise((resolve) => setTimeout(resolve, 500));
  // Each conversation by hand was ended, and nobody has said anything on the page since.
  if (await page.locator('[data-token], .selection').count())
    faults.push(`After ${tokens} tokens the page shows what a conversation had that was ended.`);
  const heaps = await heapsOf(page);
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const gpuProcess = processInfo.find(({ type }) => type === 'GPU');
  const engines = page.workers().filter((worker) => worker.url().includes(engineWorker));
  const held = engines.map((worker) =>
    worker.evaluate(() => (globalThis as unknown as { heldGpuBytes: number }).heldGpuBytes),
  );
  return {
    tokens,
    heaps: heaps.map(({ name, usage }) => `${name} ${mb(heldBytes(usage))}`).join(', '),
    heapBytes: heaps.reduce((sum, { usage }) => sum + heldBytes(usage), 0),
    gpuBytes: (await Promise.all(held)).reduce((a, b) => a + b, 0),
    gpuProcessBytes: gpuProcess ? residentBytes(gpuProcess.id) : null,
    elements: new Map(await page.evaluate(countElements)),
  };
}

/** Runs in the page. */
function countElements(): [string, number][] {
  const counts = new Map<string, number>();
  for (const element of document.querySelectorAll('*')) {
    const classes = [...element.classList].filter((name) => !name.startsWith('svelte-'));
    const kind = [element.localName, ...classes].join('.');
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts];
}

function elementCount({ elements }: Sample): number {
  return [...elements.values()].reduce((a, b) => a + b, 0);
}

/** Which elements the last reading has more of than the one with the fewest, the most grown first; '' where it has as few. */
function moreElements(samples: readonly Sample[]): string {
  const fewest = samples.reduce((a, b) => (elementCount(b) < elementCount(a) ? b : a));
  const last = samples.at(-1)!;
  const more = elementCount(last) - elementCount(fewest);
  if (more === 0) return '';
  const kinds = [...last.elements]
    .map(([kind, count]) => ({ kind, more: count - (fewest.elements.get(kind) ?? 0) }))
    .filter(({ more }) => more > 0)
    .sort((a, b) => b.more - a.more);
  return `  ${more} elements more than after ${fewest.tokens} tokens: ${kinds.map(({ kind, more }) => `${more} ${kind}`).join(', ')}`;
}

/** What takes most more bytes than before. */
function grownKinds(before: Map<string, Kind>, after: Map<string, Kind>): string[] {
  const none = { count: 0, bytes: 0 };
  return [...after]
    .map(([kind, { count, bytes }]) => {
      const was = before.get(kind) ?? none;
      return { kind, count: count - was.count, bytes: bytes - was.bytes };
    })
    .sort((a, b) => b.bytes - a.bytes)
    .slice(0, 20)
    .map(
      ({ kind, count, bytes }) => `${(bytes / 1e3).toFixed(1)} kB more in ${count} more ${kind}`,
    );
}

/** Null where the system has no /proc. */
function residentBytes(pid: number): number | null {
  const status = `/proc/${pid}/status`;
  if (!existsSync(status)) return null;
  return 1024 * Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(status, 'utf8'))?.[1]);
}

function line(sample: Sample): string {
  const { tokens, heapBytes, heaps, gpuBytes, gpuProcessBytes } = sample;
  const process = gpuProcessBytes === null ? '' : `GPU process ${mb(gpuProcessBytes)}  `;
  return `${String(tokens).padStart(6)} tokens  GPU ${mb(gpuBytes)}  ${process}heaps ${mb(heapBytes)}: ${heaps}; ${elementCount(sample)} elements`;
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(2)} MB`;
}

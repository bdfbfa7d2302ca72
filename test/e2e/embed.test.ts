/**
 * The widget in an article of another site: what it does for its reader and for the page around, and what neither a
 * hostile page around nor a hostile page in the frame can do. Articles are on localhost, the widget on 127.0.0.1: to a
 * browser two sites.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContext, Frame, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { PalimpsestModel } from '../../src/element/embed.ts';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { fixture } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import { random } from '../reference/random.ts';
import { below, mutateValue } from '../workers/mutate.ts';
import { faultsOf, openBrowser, openBrowserWithoutGpu } from './browser.ts';
import { builtFolder } from './build.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const tiny = fixture('tiny-f32.gguf');
const prompt = 'On a page';

let browser: Browser;
/** Where the widget is, and where articles are. */
let widgets: Site;
let articles: Site;
let context: BrowserContext;
let page: Page;
let faults: string[];

/** What the float64 reference goes on with. */
let exact: string;

const article = (body: string) =>
  `<!doctype html><meta charset="utf-8"><title>An article</title><link rel="icon" href="data:,">${body}`;
const script = () => `<script type="module" src="${widgets.origin}/embed.js"></script>`;
const element = (attributes: string) =>
  `<palimpsest-model ${attributes}></palimpsest-model>${script()}`;

const pages: Record<string, string> = {};

beforeAll(async () => {
  const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
  const model = openModel(tiny);
  const ids = tokenizer.encode(prompt, { special: true });
  exact = tokenizer.decode(greedy(model, forward(model, ids, emptyState(model)), 160));
  widgets = await openSite({
    files: {
      ...modelFiles('/models/tiny/', tiny),
      '/hostile.html': readFileSync('test/e2e/hostile.html'),
      '/listed.html': readFileSync(join(builtFolder, 'embed.html'), 'utf8').replace(
        'name="palimpsest-parents" content=""',
        'name="palimpsest-parents" content="https://course.test https://article.test"',
      ),
      '/replays/short.json': readFileSync('public/replays/first-visit.json'),
    },
  });
  articles = await openSite({ files: pages });
  browser = await openBrowser();
});
beforeEach(() => {
  widgets.requested.length = articles.requested.length = 0;
});
afterEach(() => context.close());
afterAll(async () => {
  await browser?.close();
  await widgets?.close();
  await articles?.close();
});

/** Open an article that holds `body`, on the other site. */
async function open(body: string, by: Browser = browser): Promise<void> {
  pages['/article.html'] = article(body);
  context = await by.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(`${articles.otherOrigin}/article.html`);
}

/** The widget's frame, once it is there. */
async function frame(): Promise<Frame> {
  await expect.poll(() => page.frames().length).toBe(2);
  const [, found] = page.frames();
  await found!.waitForLoadState();
  return found!;
}

/** Press until it is taken: browsers drop what is pressed in a frame that has just moved or grown. */
async function press(of: Frame, name: string | RegExp): Promise<void> {
  const wanted = button(of, name);
  await wanted.waitFor();
  const taken = async () => {
    if (await wanted.isEnabled().catch(() => false))
      await wanted.click({ timeout: 2_000 }).catch(() => {});
    return wanted.count();
  };
  await expect.poll(taken, { interval: 200 }).toBe(0);
}

const weightsAsked = () => widgets.requested.filter((path) => path.endsWith('.gguf'));
/** Scripts of threads that read a store on the disk. */
const readersAsked = () => widgets.requested.filter((path) => path.includes('reader.worker'));
const button = (of: Frame, name: string | RegExp) =>
  of.getByRole('button', { name, exact: typeof name === 'string' });

/** Runs in the article with its widget. */
function withWidget<A, R>(act: (widget: PalimpsestModel, given: A) => R, given: A): Promise<R> {
  const run = `(given) => customElements.whenDefined('palimpsest-model').then(() =>
    (${act.toString()})(document.querySelector('palimpsest-model'), given))`;
  return page.evaluate(`(${run})(${JSON.stringify(given)})`);
}

/** A call's end in words: what it answered, or what it failed with; "waits" if neither comes. */
const ending = (call: string, ms = 600) =>
  withWidget(
    (widget, { call, ms }) =>
      Promise.race([
        (new Function('widget', `return ${call}`)(widget) as Promise<unknown>).then(
          (value) => JSON.stringify(value) ?? 'nothing',
          (error: Error) => `${error.name}: ${error.message}`,
        ),
        new Promise<string>((resolve) => setTimeout(() => resolve('waits'), ms)),
      ]),
    { call, ms },
  );

const plain = `model="models/tiny/" prompt="${prompt}"`;

describe('in an article of another site', () => {
  test('asks before it fetches, then answers with the reference’s tokens; snapshot, restore, theme, view, size, and waiting while it is hidden', async () => {
    await open(element(`${plain} view="writes"`));
    const inside = await frame();
    await button(inside, /^Ask/).waitFor();
    await page.waitForTimeout(300);
    expect(weightsAsked()).toEqual([]);
    expect(await inside.getByText('kept for this site alone').count()).toBe(1);

    const answering = withWidget(async (widget, said) => {
      const heard = { status: new Set<string>(), heights: new Set<number>(), storage: '' };
      widget.on('status', ({ state }) => heard.status.add(state));
      widget.on('size', ({ height }) => heard.heights.add(height));
      widget.on('storage', ({ place }) => (heard.storage = place));
      const model = await widget.load();
      const generation = widget.generate(said, { maxTokens: 24 });
      const texts: string[] = [];
      for await (const token of generation) texts.push(token.text);
      const first = await generation.outcome;
      const snapshot = await widget.snapshot();
      const goOn = () => widget.generate('', { maxTokens: 8 }).outcome;
      const second = await goOn();
      await widget.restore(snapshot);
      const again = await goOn();
      const forged = await widget
        .restore({ ...snapshot, state: new ArrayBuffer(64) })
        .catch((refused: Error) => `${refused.name}: ${refused.message}`);
      await widget.setView('gates');
      return {
        ...{ model, texts, first, second, again, forged, storage: heard.storage },
        stateBytes: snapshot.state?.byteLength,
        status: [...heard.status],
        heights: heard.heights.size,
        height: widget.getBoundingClientRect().height,
      };
    }, prompt);
    await press(inside, 'Run it');
    const seen = await answering;
    expect(seen.model).toMatchObject({ layers: 4 });
    expect(seen.texts.join('')).toBe(seen.first.text);
    expect(exact.startsWith(seen.first.text)).toBe(true);
    expect(exact.startsWith(seen.first.text + seen.second.text)).toBe(true);
    expect(seen.first.ids).toHaveLength(24);
    expect(seen.again).toMatchObject({ text: seen.second.text, ids: seen.second.ids });
    // With the state itself: nothing had to be read again.
    expect(seen.stateBytes).toBeGreaterThan(100_000);
    expect(seen.forged).toMatch(/^Refused: This is no state to take up/);
    expect(seen.storage).toBe('partitioned');
    for (const state of ['asking', 'loading', 'writing']) {
      expect(seen.status).toContain(state);
    }
    expect(seen.heights).toBeGreaterThan(1);
    // What is inside still grows and shrinks while it draws: both heights at a time.
    const spare = async () =>
      (await withWidget((widget) => widget.getBoundingClientRect().height, null)) -
      (await inside.evaluate(() => document.querySelector('section')!.offsetHeight));
    await expect.poll(spare).toBeGreaterThanOrEqual(0);
    await inside.getByRole('heading', { name: /^Forgetting/ }).waitFor();

    const lightness = () =>
      inside.evaluate(() =>
        getComputedStyle(document.body).backgroundColor.match(/\d+/g)!.map(Number),
      );
    expect(Math.min(...(await lightness()))).toBeGreaterThan(200);
    await withWidget((widget) => widget.setAttribute('theme', 'dark'), null);
    await expect.poll(async () => Math.max(...(await lightness()))).toBeLessThan(60);

    // While it is hidden its answer waits, and goes on where it was.
    const hide = (hidden: boolean) =>
      inside.evaluate((wanted) => {
        Object.defineProperty(document, 'hidden', { value: wanted, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
      }, hidden);
    const log = () => inside.getByRole('log').textContent();
    const generating = withWidget(async (widget, said) => {
      const generation = widget.generate(said, { begin: true, maxTokens: 150 });
      for await (const { text } of generation) document.title += text;
      return generation.outcome;
    }, prompt);
    const before = await page.title();
    await expect.poll(async () => (await page.title()).length).toBeGreaterThan(before.length + 3);
    await hide(true);
    await page.waitForTimeout(300);
    const waiting = await log();
    await page.waitForTimeout(500);
    expect(await log()).toBe(waiting);
    await hide(false);
    const { ids, text } = await generating;
    expect(ids).toHaveLength(150);
    expect(waiting!.length).toBeLessThan(text.length);
    expect(exact.startsWith(text)).toBe(true);

    // Leaving the loop ends the answer.
    const stopped = await withWidget(async (widget) => {
      const generation = widget.generate('On', { begin: true, maxTokens: 2048 });
      for await (const token of generation) if (token.text) break;
      return (await generation.outcome).reason;
    }, null);
    expect(stopped).toBe('stopped');
    expect(faults).toEqual([]);
  });

  test('far below, it is not there until it is scrolled to', async () => {
    await open(`<div style="height:4000px"></div>${element(plain)}`);
    await page.waitForFunction(() => customElements.get('palimpsest-model'));
    await page.waitForTimeout(200);
    expect(page.frames()).toHaveLength(1);
    await page.evaluate(() => scrollTo(0, 4000));
    await button(await frame(), /^Ask/).waitFor();
  });

  test('without an origin of its own it says so, keeps nothing, and runs', async () => {
    await open(element(`${plain} isolated`));
    const inside = await frame();
    await inside.getByText('It has no storage here').waitFor();
    expect(await inside.evaluate(() => origin)).toBe('null');
    const generating = withWidget(
      (widget, said) => widget.generate(said, { maxTokens: 8 }).outcome,
      prompt,
    );
    await press(inside, 'Run it');
    const { text, ids } = await generating;
    expect(ids).toHaveLength(8);
    expect(exact.startsWith(text)).toBe(true);
    expect(readersAsked()).toEqual([]);
    expect(faults).toEqual([]);
  });

  test('with the person’s leave it takes what its own site has stored', async () => {
    context = await browser.newContext();
    await context.grantPermissions(['storage-access']);
    page = await context.newPage();
    faults = faultsOf(page);
    // The person has been to the widget's site, and has the model from there.
    await page.goto(`${widgets.origin}/embed.html#model=models/tiny/`);
    await page.getByRole('button', { name: /^Load/ }).click();
    await page.getByText(/^tiny.*, in this frame, on/).waitFor();
    expect(readersAsked()).not.toEqual([]);
    pages['/article.html'] = article(element(plain));
    await page.goto(`${articles.otherOrigin}/article.html`);
    widgets.requested.length = 0;
    const inside = await frame();
    await button(inside, /^Ask \(fetches 1\.9 MB\)/).waitFor();
    await button(inside, 'Use what 127.0.0.1 has stored').click();
    await button(inside, 'Ask').waitFor();
    expect(await withWidget((widget) => widget.load(), null)).toMatchObject({ layers: 4 });
    const { text } = await withWidget(
      (widget, said) => widget.generate(said, { maxTokens: 8 }).outcome,
      prompt,
    );
    expect(exact.startsWith(text)).toBe(true);
    expect(weightsAsked()).toEqual([]);
    expect(faults).toEqual([]);
  });

  test('without WebGPU a recording plays without weights, and llama.cpp answers as float64 does and says so', async () => {
    const without = await openBrowserWithoutGpu();
    try {
      await open(element(`replay="short" view="memory" ${plain}`), without);
      const inside = await frame();
      await inside.getByText(/^A recording of/).waitFor();
      await expect.poll(() => inside.locator('canvas').count()).toBeGreaterThan(1);
      expect(weightsAsked()).toEqual([]);
      const loading = ending('widget.load()', 40_000);
      await press(inside, 'Run it');
      expect(JSON.parse(await loading)).toMatchObject({ engine: 'cpu', layers: null });
      expect(await inside.getByText(/^A recording of/).count()).toBe(1);
      const seen = await withWidget(async (widget, said) => {
        const generation = widget.generate(said, { maxTokens: 12 });
        let text = '';
        for await (const token of generation) text += token.text;
        const outcome = await generation.outcome;
        return { text, outcome, turns: (await widget.snapshot()).turns };
      }, prompt);
      expect(exact.startsWith(seen.text)).toBe(true);
      expect(seen.outcome).toMatchObject({ text: seen.text, ids: [], reason: 'length' });
      expect(seen.turns.map(({ content }) => content)).toEqual([prompt, seen.text]);
      await inside.getByText(/without WebGPU: this computer’s processor.*llama\.cpp/).waitFor();
      // It is loaded: there is nothing to press until something is asked.
      await inside.getByRole('textbox', { name: 'Message' }).fill('');
      expect(await button(inside, 'Ask').isEnabled()).toBe(false);
      expect(await inside.getByRole('log').textContent()).toContain(seen.text);
      await button(inside, 'Watch a recording of one that is').click();
      await inside.getByText(/^A recording of/).waitFor();
      expect(faults).toEqual([]);
    } finally {
      await without.close();
    }
  });

  test('the person’s no is a no, and what they wrote is theirs', async () => {
    await open(element(plain));
    const inside = await frame();
    const refused = ending('widget.load()', 10_000);
    await press(inside, 'No');
    expect(await refused).toBe('Refused: The person at the widget said no.');
    expect(weightsAsked()).toEqual([]);

    await inside.getByRole('textbox', { name: 'Message' }).fill('My secret');
    await press(inside, /^Ask/);
    await button(inside, 'Stop').waitFor();
    await inside.getByText('My secret', { exact: true }).waitFor();
    await button(inside, 'Stop').click();
    await button(inside, /^Ask|^Load/).waitFor();
    for (const call of ['widget.snapshot()', 'widget.generate("Say that again").outcome']) {
      const answer = ending(call, 10_000);
      await inside.getByText(/would like to read the conversation/).waitFor();
      await press(inside, 'No');
      expect(await answer).toBe('Refused: The person at the widget said no.');
    }
    const snapshot = ending('widget.snapshot()', 10_000);
    await press(inside, 'Let it read');
    expect(await snapshot).toContain('My secret');
  });
});

// ------------------------------------------------------------------------------------------ attacks

/** A frame made by hand, as a hostile page makes it: no element, and no good will. */
const byHand = (address: string) => `<iframe src="${address}"></iframe>
  <script>window.heard = []; onmessage = (e) => heard.push({ from: e.origin, said: e.data, ports: e.ports.length });
  window.ports = []; addEventListener('message', (e) => ports.push(...e.ports));</script>`;
const key = '0123456789abcdef0123456789abcdef';
const fragment = (wishes: Record<string, string>) => `#${new URLSearchParams(wishes)}`;
const heard = () => page.evaluate(() => (window as unknown as { heard: unknown[] }).heard);

describe('a hostile page around', () => {
  const quiet = async () => {
    await page.waitForTimeout(150);
    return heard();
  };

  test.each([
    ['1 names an honest origin as its own', () => fragment({ parent: 'https://course.test', key })],
    ['2 names any origin', () => fragment({ parent: '*', key })],
    ['3 names none', () => fragment({ key })],
    ['4 names itself without a key', () => fragment({ parent: articles.otherOrigin })],
    ['5 names itself with a path', () => fragment({ parent: `${articles.otherOrigin}/`, key })],
    ['6 names its other name', () => fragment({ parent: articles.origin, key })],
  ])('%s: no hello', async (_, wishes) => {
    await open(byHand(`${widgets.origin}/embed.html${wishes()}`));
    await button(await frame(), /^Load/).waitFor();
    expect(await quiet()).toEqual([]);
  });

  test('7 is not among those that the widget’s host lists', async () => {
    const wishes = fragment({ parent: articles.otherOrigin, key });
    await open(byHand(`${widgets.origin}/listed.html${wishes}`));
    await button(await frame(), /^Load/).waitFor();
    expect(await quiet()).toEqual([]);
  });

  test('8 to 15 post to the frame’s window: nobody listens', async () => {
    await open(
      byHand(`${widgets.origin}/embed.html${fragment({ parent: 'https://course.test', key })}`) +
        `<iframe id="sibling" srcdoc="<script>onmessage = (e) => parent.frames[0].postMessage(e.data, '*')</script>"></iframe>`,
    );
    await expect.poll(() => page.frames().length).toBe(3);
    const inside = page.frames().find((one) => one.url().includes('embed.html'))!;
    await button(inside, /^Load/).waitFor();
    await inside.getByText(/your computer, 111 MB/).waitFor();
    await expect.poll(() => button(inside, /^Load/).isEnabled()).toBe(true);
    const before = await inside.locator('body').innerHTML();
    await page.evaluate((known) => {
      const target = frames[0]!;
      const request = { id: 1, call: 'load' };
      const { port1 } = new MessageChannel();
      const messages: [unknown, Transferable[]?][] = [
        [request],
        [{ palimpsest: 'hello', version: 2, key: known }, [port1]],
        [{ ...request, call: 'theme', theme: 'dark' }],
        [JSON.parse('{"__proto__":{"polluted":true},"call":"load","id":1}')],
        ['x'.repeat(5e6)],
        [new Uint8Array(5e6)],
      ];
      for (const [message, transfer] of messages) target.postMessage(message, '*', transfer);
      for (let i = 0; i < 2000; i++) target.postMessage(request, '*');
      (document.querySelector('#sibling') as HTMLIFrameElement).contentWindow!.postMessage(
        request,
        '*',
      );
    }, key);
    expect(await quiet()).toEqual([]);
    expect(await inside.locator('body').innerHTML()).toBe(before);
    expect(await inside.evaluate(() => 'polluted' in {})).toBe(false);
    expect(weightsAsked()).toEqual([]);
  });

  test('16 and 17 read the frame’s document and its address', async () => {
    await open(
      byHand(`${widgets.origin}/embed.html${fragment({ parent: articles.otherOrigin, key })}`),
    );
    const inside = await frame();
    await button(inside, /^Load/).waitFor();
    const names = await page.evaluate(() => {
      const tried = [() => frames[0]!.document.body, () => frames[0]!.location.hash];
      return tried.map((attempt) => {
        try {
          return String(attempt());
        } catch (refused) {
          return (refused as Error).name;
        }
      });
    });
    expect(names).toEqual(['SecurityError', 'SecurityError']);
    // Not even the widget's own address still has the key.
    expect(inside.url()).not.toContain(key);
  });

  test('18 to 26 with a line of its own', async () => {
    const wishes = { parent: articles.otherOrigin, key, prompt: '<img src=x onerror=alert(1)>' };
    await open(byHand(`${widgets.origin}/embed.html${fragment(wishes)}`));
    const inside = await frame();
    await expect.poll(heard).toHaveLength(1);
    const replies = () =>
      page.evaluate(
        () => (window as unknown as { replies: { reply: string; id: number }[] }).replies,
      );
    const post = (text: string) =>
      page.evaluate((message) => {
        const lines = window as unknown as { ports: MessagePort[]; replies: unknown[] };
        lines.replies ??= [];
        lines.ports[0]!.onmessage = (e) => lines.replies.push(e.data);
        lines.ports[0]!.postMessage(new Function(`return ${message}`)());
      }, text);
    // Weights are not fetched on its word, however often it says so.
    await post(`({ id: 1, call: 'load' })`);
    await post(`({ id: 2, call: 'generate', prompt: 'a', begin: true, draw: {} })`);
    await inside.getByText(/would like to run a language model/).waitFor();
    await post(`({ id: 3, call: 'generate', prompt: 'a'.repeat(70000), begin: true, draw: {} })`);
    await post(`({ id: 4, call: 'look', look: { view: 'storage' } })`);
    await post(`({ id: 5, call: 'load', model: 'http://localhost:1/' })`);
    await post(`JSON.parse('{"id":6,"call":"load","__proto__":{"polluted":true}}')`);
    await post(`({ id: 7, call: 'restore', snapshot: { format: 'palimpsest-snapshot' } })`);
    await expect
      .poll(async () =>
        (await replies()).filter(({ reply }) => reply === 'failed').map(({ id }) => id),
      )
      .toEqual(expect.arrayContaining([3, 4, 5, 6, 7]));
    expect(weightsAsked()).toEqual([]);
    expect(await inside.evaluate(() => 'polluted' in {})).toBe(false);
    // Words of its own stay words.
    expect(await inside.locator('img').count()).toBe(0);
    expect(await inside.getByRole('textbox').inputValue()).toBe(wishes.prompt);
    // Who floods is not heard any more.
    await page.evaluate(() => {
      const [line] = (window as unknown as { ports: MessagePort[] }).ports;
      for (let id = 10; id < 3000; id++) line!.postMessage({ id, call: 'stop' });
    });
    await inside.getByText(/The page around is not heard any more/).waitFor();
    expect(weightsAsked()).toEqual([]);
    expect(faults).toEqual([]);
  });

  test.each([
    ['27 a model on this computer', 'http://localhost:9/models/'],
    ['28 a script for a model', 'javascript:alert(1)'],
    ['29 a recording out of its folder', '../../package'],
    ['30 a model elsewhere, which is not asked anything', 'https://models.invalid/a.gguf'],
  ])('%s', async (_, named) => {
    const wishes = { parent: articles.otherOrigin, key, model: named, replay: named };
    await open(byHand(`${widgets.origin}/embed.html${fragment(wishes)}`));
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).host));
    const inside = await frame();
    await button(inside, /^Load/).waitFor();
    await page.waitForTimeout(300);
    const hosts = new Set(asked.filter((host) => host !== ''));
    for (const host of [new URL(widgets.origin).host, new URL(articles.otherOrigin).host]) {
      hosts.delete(host);
    }
    expect([...hosts]).toEqual([]);
    expect(faults).toEqual([]);
  });
});

describe('a page around that says 10,000 damaged things', () => {
  const requests = [
    { id: 1, call: 'load' },
    { id: 2, call: 'generate', prompt: 'Who?', begin: true, draw: { seed: 1, stop: ['a'] } },
    { id: 3, call: 'stop' },
    { id: 4, call: 'snapshot' },
    { id: 5, call: 'restore', snapshot: { format: 'palimpsest-snapshot', turns: [] } },
    { id: 6, call: 'look', look: { view: 'gates', head: 2 } },
    { id: 7, call: 'theme', theme: 'dark' },
  ];

  test('to frames of its own making, through their windows and their lines: they stand, fetch nothing, and leave nothing behind', async () => {
    await open(byHand('about:blank'));
    const next = random(12);
    const devtools = await context.newCDPSession(page);
    /** Of the article and the frame in it, which are one process here or two; bytes after a collection. */
    const heapBytes = async () => {
      await devtools.send('HeapProfiler.collectGarbage');
      return (await devtools.send('Runtime.getHeapUsage')).usedSize;
    };
    let settledBytes = 0;
    for (let round = 0; round < 20; round++) {
      const own = round.toString(16).padStart(32, 'a');
      const wishes = fragment({ parent: articles.otherOrigin, key: own });
      await page.evaluate((address) => {
        const lines = window as unknown as { ports: MessagePort[]; heard: unknown[] };
        for (const port of lines.ports.splice(0)) port.close();
        lines.heard.length = 0;
        const fresh = document.createElement('iframe');
        fresh.src = address;
        document.querySelector('iframe')!.replaceWith(fresh);
      }, `${widgets.origin}/embed.html${wishes}`);
      await expect.poll(heard).toHaveLength(1);
      const inside = page.frames().find((one) => one.url().includes('embed.html'))!;
      const damaged = Array.from({ length: 500 }, () =>
        JSON.stringify(mutateValue(next, requests[below(next, requests.length)]!)),
      );
      await page.evaluate((texts) => {
        const [line] = (window as unknown as { ports: MessagePort[] }).ports;
        const poisons: ((m: object) => unknown)[] = [
          (m) =>
            Object.defineProperty({ ...m }, '__proto__', {
              value: { polluted: true },
              enumerable: true,
            }),
          (m) => ({ ...m, evil: new Uint8Array(64) }),
          (m) => new Map(Object.entries(m)),
          (m) => ({ ...m, draw: { stop: new Set(['a']) }, look: new Date(0) }),
          (m) => m,
        ];
        texts.forEach((text, i) => {
          const message = poisons[i % poisons.length]!(JSON.parse(text ?? 'null') ?? {});
          if (i % 2 === 0) line!.postMessage(message);
          else frames[0]!.postMessage(message, '*');
        });
      }, damaged);
      await inside.getByText(/The page around is not heard any more/).waitFor();
      expect(await inside.evaluate(() => 'polluted' in {})).toBe(false);
      expect(await inside.getByRole('textbox').inputValue()).toBe('');
      if (round === 4) settledBytes = await heapBytes();
    }
    expect(weightsAsked()).toEqual([]);
    expect(faults).toEqual([]);
    expect(await heapBytes()).toBeLessThan(1.1 * settledBytes);
  });
});

describe('a page around that hides the widget', () => {
  const dress = (part: string, style: string) =>
    page.evaluate(
      ([part, style]) => document.querySelector(part!)!.setAttribute('style', style!),
      [part, style],
    );
  const faded = 'display:block;opacity:0.02';

  test('lays it, all but transparent, over its own, or draws over it: no press is taken until it is seen', async () => {
    await open(`${element(plain)}<div id="cover"></div>`);
    const inside = await frame();
    const ask = button(inside, /^Ask/);
    const taken = () => ask.isEnabled();
    await expect.poll(taken).toBe(true);
    await dress('palimpsest-model', faded);
    await expect.poll(taken).toBe(false);
    await dress('palimpsest-model', 'display:block');
    await expect.poll(taken).toBe(true);
    await dress('#cover', 'position:fixed;inset:0;pointer-events:none;background:#fff');
    await expect.poll(taken).toBe(false);
    const { x, y, width, height } = (await ask.boundingBox())!;
    await page.mouse.click(x + width / 2, y + height / 2);
    await inside.getByRole('textbox', { name: 'Message' }).press('Enter');
    const loading = ending('widget.load()', 20_000);
    const yes = button(inside, 'Run it');
    await yes.waitFor();
    await inside.getByText('none is taken').waitFor();
    expect(await yes.isEnabled()).toBe(false);
    expect(weightsAsked()).toEqual([]);
    await dress('#cover', 'display:none');
    await press(inside, 'Run it');
    expect(await loading).toContain('"name":"tiny');
    expect(faults).toEqual([]);
  });

  test('where the browser does not tell what is seen, nothing is held back', async () => {
    await open(element(plain));
    await context.addInitScript(() =>
      Reflect.deleteProperty(IntersectionObserverEntry.prototype, 'isVisible'),
    );
    await page.reload();
    await dress('palimpsest-model', faded);
    const inside = await frame();
    await expect.poll(() => button(inside, /^Ask/).isEnabled()).toBe(true);
  });
});

describe('a hostile page in the frame', () => {
  const hostile = (deed: string) => element(`src="${widgets.origin}/hostile.html?do=${deed}"`);
  const told = `<script>window.told = []; addEventListener('message', (e) => e.data?.told && told.push(e.data.told));</script>`;
  const said = () => page.evaluate(() => (window as unknown as { told: string[] }).told);

  test.each(['wrongKey', 'noPort', 'twoPorts', 'extraField', 'notAnObject', 'pollutedHello'])(
    '%s: its hello is none',
    async (deed) => {
      await open(hostile(deed));
      await frame();
      expect(await ending('widget.load()')).toBe('waits');
      expect(await page.evaluate(() => 'polluted' in {})).toBe(false);
    },
  );

  test('another version is told as such', async () => {
    await open(hostile('otherVersion'));
    expect(await ending('widget.load()')).toMatch(/^Refused: The widget speaks version 3/);
  });

  test('a hello said twice is heard once', async () => {
    await open(told + hostile('replayed'));
    expect(await ending('widget.load()')).toContain('"name":"tiny"');
    expect(await ending('widget.stop()')).toBe('nothing');
    expect(await said()).toEqual([]);
  });

  test.each([
    ['flood', /floods the page/],
    ['tooHigh', /height is no number/],
    ['heightInWords', /height is no number/],
    ['unknownEvent', /name is not among/],
    ['pollutedEvent', /field too many/],
    ['wrongAnswer', /name is no text/],
    ['answerToNothing', /answers what nobody asked/],
    ['hugeFailure', /message is no text/],
  ])('%s: it is taken off the page', async (deed, reason) => {
    await open(hostile(deed));
    const ended = ending('widget.load()', 5_000);
    expect(await ended).toMatch(reason);
    await expect.poll(() => page.frames().length).toBe(1);
    expect(await page.evaluate(() => 'polluted' in {})).toBe(false);
    const height = await withWidget((widget) => widget.getBoundingClientRect().height, null);
    expect(height).toBeLessThan(2_000);
  });

  test('a frame that leaves its page gets a new key, a few times, and then nothing', async () => {
    await open(hostile('navigateAway'));
    await expect.poll(() => page.frames().length).toBe(1);
    const asked = widgets.requested.filter((path) => path === '/hostile.html');
    expect(asked.length).toBeLessThan(12);
  });

  test.each([
    ['readParent', /^SecurityError$/],
    ['moveTop', /^SecurityError$/],
    ['openDialog', /^prompt answered null$/],
  ])('%s: the sandbox holds', async (deed, answer) => {
    await open(told + hostile(deed));
    await expect.poll(said).toHaveLength(1);
    expect((await said())[0]).toMatch(answer);
    expect(new URL(page.url()).pathname).toBe('/article.html');
  });

  test('another frame of the page says hello for it', async () => {
    await open(
      element(plain) +
        `<iframe src="${widgets.origin}/hostile.html?do=afterwards#${new URLSearchParams({
          parent: articles.otherOrigin,
          key,
        })}"></iframe>`,
    );
    await expect.poll(() => page.frames().length).toBe(3);
    await withWidget((widget) => widget.setView('gates'), null);
    const inside = page.frames().find((one) => one.url().includes('embed.html'))!;
    await button(inside, /^Ask/).waitFor();
    expect(await page.locator('palimpsest-model iframe').count()).toBe(1);
  });
});

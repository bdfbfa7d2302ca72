/** The library as a page of the site imports it: the example of the 48B's model card, on the embedded model. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import type { createEngine as CreateEngine, Engine } from '../../src/api.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { fixture } from '../reference/golden.ts';
import { modelFiles, openSite, type Site } from './site.ts';
import { tinyChat } from './tinyChat.ts';

let browser: Browser;
let site: Site;
beforeAll(async () => {
  site = await openSite({
    files: modelFiles('/models/tiny/', fixture('tiny-f32.gguf'), tinyChat()),
  });
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

/** A tab of the site that has the library's names. */
async function openTab(context: BrowserContext): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${site.origin}/`);
  // As text: vitest would make something else of an import in a function.
  await page.evaluate(
    `import(new URL('api.js', document.baseURI).href).then((api) => Object.assign(globalThis, api))`,
  );
  return page;
}

/** What a tab keeps between two calls of a test. */
interface Kept {
  createEngine: typeof CreateEngine;
  engine: Engine;
  places: string[];
  /** The answer that is being written. */
  text: string;
  answer: Promise<string>;
}

const request = {
  messages: [
    { role: 'system' as const, content: 'You are a helpful assistant provided by Moonshot-AI.' },
    { role: 'user' as const, content: 'Is 123 a prime?' },
  ],
  temperature: 0,
};

test('“Is 123 a prime?” as the model card asks it streams to the model’s own end, and is the same when asked again; one engine at a time', async () => {
  const context = await browser.newContext();
  const page = await openTab(context);
  const faults = faultsOf(page);
  const seen = await page.evaluate(async (request) => {
    const kept = globalThis as unknown as Kept;
    const model = new URL('models/palimpsest-150m/', document.baseURI).href;
    const engine = await kept.createEngine({ model });
    kept.engine = engine;
    const second = await kept
      .createEngine({ model, tabs: 'refuse' })
      .catch((error: Error) => error);
    const wanted = { ...request, max_tokens: 96, logprobs: true, top_logprobs: 2 };
    const stream = await engine.chat.completions.create({ ...wanted, stream: true });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const again = await engine.chat.completions.create({ ...wanted, max_tokens: 2 });
    engine.close();
    return {
      text: chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''),
      last: chunks.at(-1)!,
      best: chunks[1]!.choices[0]!.logprobs?.content?.[0],
      again,
      second: second instanceof Error ? second.message : 'a second engine',
    };
  }, request);
  // Whole sentences, which the model ended: neither the limit nor anyone who reads did.
  expect(seen.text).toMatch(/^[A-Z0-9][^<|]*[.!?]$/);
  expect(seen.last.choices[0]!.finish_reason).toBe('stop');
  expect(seen.last.usage!.completion_tokens).toBeLessThan(96);
  expect(seen.last.palimpsest!.reason).toBe('end');
  expect(seen.best!.top_logprobs).toHaveLength(2);
  expect(seen.best!.top_logprobs[0]!.token).toBe(seen.best!.token);
  const start = seen.again.choices[0]!.message.content;
  expect(start.length).toBeGreaterThan(0);
  expect(seen.text.startsWith(start)).toBe(true);
  expect(seen.again.usage.prompt_tokens).toBe(seen.last.usage!.prompt_tokens);
  expect(seen.second).toMatch(/Another tab of this site has an engine/);
  expect(faults).toEqual([]);
  await context.close();
});

test('two tabs have one engine; when its tab is closed the other has it, and its answer goes on', async () => {
  const context = await browser.newContext();
  const page = await openTab(context);
  const asked = { ...request, messages: [{ role: 'user' as const, content: 'On a page' }] };
  const first = await page.evaluate(
    async (request) => {
      const kept = globalThis as unknown as Kept;
      const model = new URL('models/tiny/', document.baseURI).href;
      kept.engine = await kept.createEngine({ model });
      const { completions } = kept.engine.chat;
      const { choices, usage, palimpsest } = await completions.create(request);
      const text = choices[0]!.message.content;
      const end = [choices[0]!.finish_reason, palimpsest.reason];
      const stop = text.slice(20, 24);
      const cut = await completions.create({ ...request, stop: ['never said', stop] });
      const why = cut.palimpsest.reason;
      return { text, end, tokens: usage.total_tokens, stop, cut: cut.choices[0]!, why };
    },
    { ...asked, max_tokens: 120 },
  );
  expect(first.end).toEqual(['stop', 'end']);
  // An answer that is to stop at some words ends before they first stand there.
  expect(first.cut.message.content).toBe(first.text.slice(0, first.text.indexOf(first.stop)));
  expect([first.cut.finish_reason, first.why]).toEqual(['stop', 'stop']);

  const other = await openTab(context);
  const faults = faultsOf(other);
  await other.evaluate(
    async (request) => {
      const kept = globalThis as unknown as Kept;
      const model = new URL('models/tiny/', document.baseURI).href;
      kept.places = [];
      kept.engine = await kept.createEngine({ model, onPlace: (place) => kept.places.push(place) });
      const stream = await kept.engine.chat.completions.create({ ...request, stream: true });
      kept.text = '';
      kept.answer = (async () => {
        for await (const chunk of stream) kept.text += chunk.choices[0]?.delta.content ?? '';
        return kept.text;
      })();
    },
    { ...asked, max_tokens: 120 },
  );
  await other.waitForFunction(() => (globalThis as unknown as Kept).text !== '');
  await page.close();
  const went = await other.evaluate(async () => {
    const kept = globalThis as unknown as Kept;
    const text = await kept.answer;
    const { ids } = await kept.engine.state.export();
    kept.engine.close();
    return { text, places: kept.places, tokens: ids.length };
  });
  expect(went.text).toBe(first.text);
  expect(went.places).toEqual(['guest', 'moving', 'serving']);
  // The model's own end, which is no part of the answer, may stand in the memory.
  expect(went.tokens - first.tokens).toBeOneOf([0, 1]);
  expect(faults).toEqual([]);
});

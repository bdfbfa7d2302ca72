/** The library as a page of the site imports it: the example of the 48B's model card, on the embedded model. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser } from 'playwright-core';
import type { createEngine as CreateEngine } from '../../src/api.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { openSite, type Site } from './site.ts';

let browser: Browser;
let site: Site;
beforeAll(async () => {
  site = await openSite();
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

test('“Is 123 a prime?” streams, stops, and is the same when it is asked again; one engine at a time', async () => {
  const page = await (await browser.newContext()).newPage();
  const faults = faultsOf(page);
  await page.goto(`${site.origin}/`);
  // As text: vitest would make something else of an import in a function.
  await page.evaluate(
    `import(new URL('api.js', document.baseURI).href).then((api) => Object.assign(globalThis, api))`,
  );
  const seen = await page.evaluate(async () => {
    const { createEngine } = globalThis as unknown as { createEngine: typeof CreateEngine };
    const model = new URL('models/palimpsest-150m/', document.baseURI).href;
    const engine = await createEngine({ model });
    const second = await createEngine({ model, others: 'refuse' }).catch((error: Error) => error);
    const request = {
      messages: [
        {
          role: 'system' as const,
          content: 'You are a helpful assistant provided by Moonshot-AI.',
        },
        { role: 'user' as const, content: 'Is 123 a prime?' },
      ],
      temperature: 0,
      max_tokens: 4,
      logprobs: true,
      top_logprobs: 2,
    };
    const stream = await engine.chat.completions.create({ ...request, stream: true });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const again = await engine.chat.completions.create({ ...request, max_tokens: 2 });
    engine.close();
    return {
      name: engine.loaded.model.name,
      text: chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''),
      last: chunks.at(-1)!,
      best: chunks[1]!.choices[0]!.logprobs?.content?.[0],
      again,
      second: second instanceof Error ? second.message : 'a second engine',
    };
  });
  expect(seen.text.length).toBeGreaterThan(3);
  expect(seen.last.choices[0]!.finish_reason).toBe('length');
  expect(seen.last.usage!.completion_tokens).toBe(4);
  expect(seen.last.palimpsest!.reason).toBe('length');
  expect(seen.best!.top_logprobs).toHaveLength(2);
  expect(seen.best!.top_logprobs[0]!.token).toBe(seen.best!.token);
  const start = seen.again.choices[0]!.message.content;
  expect(start.length).toBeGreaterThan(0);
  expect(seen.text.startsWith(start)).toBe(true);
  expect(seen.again.usage.prompt_tokens).toBe(seen.last.usage!.prompt_tokens);
  expect(seen.second).toMatch(/Another tab of this site has an engine/);
  expect(faults).toEqual([]);
});

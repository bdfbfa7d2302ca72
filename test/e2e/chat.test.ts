/**
 * The built page in a browser that has never seen it: the tiny golden model, whose exact continuation the float64
 * reference knows; what goes wrong with a model's files; no WebGPU; and the embedded model, briefly.
 */
import { readFileSync } from 'node:fs';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { modelSources } from '../../tools/nodeEngine.ts';
import { openGguf } from '../../workers/gguf.ts';
import { createTokenizer } from '../../workers/tokenizer.ts';
import { firstHalf, otherArchitecture, turnedBit } from '../damage.ts';
import { fixture } from '../reference/golden.ts';
import { emptyState, forward, greedy, openModel } from '../reference/model.ts';
import { faultsOf, openBrowser, openBrowserWithoutGpu } from './browser.ts';
import { longestAnswer } from './settings.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const tiny = fixture('tiny-f32.gguf');
const sound = readFileSync(tiny);

let browser: Browser;
let site: Site;
let context: BrowserContext;
let page: Page;
let faults: string[];

beforeAll(async () => {
  site = await openSite({
    files: {
      ...modelFiles('/models/tiny/', tiny),
      ...modelFiles('/models/half/', tiny, firstHalf(sound)),
      ...modelFiles('/models/other/', tiny, otherArchitecture(sound)),
      ...modelFiles('/models/turned/', tiny),
      '/models/turned/tiny-f32.gguf': turnedBit(sound),
    },
  });
  browser = await openBrowser();
});
afterEach(() => context.close());
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

/** A page as a newcomer opens it, in a profile of its own. */
async function visit(path: string, by: Browser = browser): Promise<void> {
  site.requested.length = 0;
  context = await by.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  await page.goto(site.origin + path);
}

const message = () => page.getByRole('textbox', { name: 'Message' });
const log = () => page.getByRole('log');
const button = (name: string) => page.getByRole('button', { name, exact: true });
const weightsAsked = () => site.requested.filter((path) => path.endsWith('.gguf'));

async function send(text: string): Promise<void> {
  await message().fill(text);
  await button('Send').click();
}

/** Until nothing is being written. */
const finished = () => button('Send').waitFor();

/** The text that has been written, once there are so many characters of it. */
async function written(length: number): Promise<string> {
  const long = (wanted: number) =>
    (document.querySelector('[role=log]')?.textContent ?? '').length >= wanted;
  await page.waitForFunction(long, length);
  return (await log().textContent())!;
}

describe('a model without a chat template', () => {
  const prompt = 'On a page';
  let exact: string;
  beforeAll(async () => {
    const tokenizer = createTokenizer((await openGguf(modelSources(tiny))).metadata);
    const model = openModel(tiny);
    const ids = tokenizer.encode(prompt, { special: true });
    const going = greedy(model, forward(model, ids, emptyState(model)), 160);
    expect(going.some((id) => tokenizer.isStop(id))).toBe(false);
    exact = tokenizer.decode(going);
  });

  test('continues raw text as float64 does; stops; goes on; and is there after a reload', async () => {
    await visit('/?model=models/tiny/');
    await longestAnswer(page, 24);
    await send(prompt);
    await page.getByText(/has no chat template/).waitFor({ state: 'attached' });
    await finished();
    const first = (await log().textContent())!;
    expect(first.length).toBeGreaterThan(24);
    expect(exact.startsWith(first)).toBe(true);
    await page.getByText('24 tokens', { exact: false }).first().waitFor();

    // The second prompt is the whole sheet: what was asked, and what was answered.
    await longestAnswer(page, 2048);
    await button('Send').click();
    await written(8);
    await button('Stop').click();
    await finished();
    await page.getByText('stopped').first().waitFor();
    const second = (await log().textContent())!;
    expect(second.length).toBeGreaterThanOrEqual(8);
    expect(first.length + second.length).toBeLessThan(exact.length);
    expect(exact.startsWith(first + second)).toBe(true);
    expect(await message().inputValue()).toBe(prompt + first + second);

    const asked = weightsAsked().length;
    expect(asked).toBeGreaterThan(0);
    await page.reload();
    await longestAnswer(page, 24);
    await send(prompt);
    await finished();
    expect(await log().textContent()).toBe(first);
    expect(weightsAsked()).toHaveLength(asked); // they are kept
    expect(faults).toEqual([]);
  });
});

describe('a model that cannot be used is refused in words', () => {
  const cases: [what: string, folder: string, title: string, words: RegExp][] = [
    ['a file cut in half', 'half', 'This model file contradicts itself', /tiny-f32\.gguf/],
    ['another architecture', 'other', 'This kind of model is not supported', /other-model/],
    ['bytes of another hash', 'turned', 'A part of the model arrived damaged', /tiny-f32\.gguf/],
    ['no manifest', 'absent', 'The model could not be fetched', /has no manifest\.json/],
  ];
  test.each(cases)('%s', async (_, folder, title, words) => {
    await visit(`/?model=models/${folder}/`);
    await send('Once');
    const alert = page.getByRole('alert').first();
    await alert.waitFor();
    expect(await alert.getByRole('heading').textContent()).toBe(title);
    expect(await alert.textContent()).toMatch(words);
    expect(await alert.getByRole('button').count()).toBe(1);
  });
});

test('without WebGPU the page says on arrival who answers instead and why, and fetches no weights unasked', async () => {
  const without = await openBrowserWithoutGpu();
  try {
    await visit('/', without);
    await page.getByText(/No WebGPU here: llama\.cpp answers instead/).waitFor();
    // What happened, and what to do: another browser, or its settings.
    const why = page.getByText(/^Nobody chose the processor/);
    await why.waitFor({ state: 'attached' });
    expect(await why.textContent()).toMatch(/current Chrome, Edge|found no graphics adapter/);
    expect(await why.textContent()).toMatch(/hardware acceleration/);
    expect(weightsAsked()).toEqual([]);
    expect(faults).toEqual([]);
  } finally {
    await without.close();
  }
});

test('the embedded model loads, answers, stops, and goes on with the conversation', async () => {
  await visit('/');
  await button('Ask it yourself').click();
  const shares = watchProgress();
  await page.getByText(/^Computes on$/).waitFor({ state: 'attached' });
  const seen = await shares;
  expect(seen.at(-1)).toBeGreaterThan(80); // the last of it and the end may come within a frame
  expect(new Set(seen).size).toBeGreaterThan(3);

  /** Tokens in memory, from the figures below the message box. */
  const used = async () => {
    const figure = page.locator('dt', { hasText: /^context$/ }).locator('xpath=../dd');
    const [, tokens] = /^([\d,]+) of 8,192$/.exec((await figure.textContent())!)!;
    return Number(tokens!.replace(',', ''));
  };
  await send('My cat is called Pepper.');
  expect(await message().inputValue()).toBe('');
  const answers = page.getByRole('article', { name: 'The model' });
  await answers.locator('.markdown').getByText(/\w/).first().waitFor();
  await button('Stop').click();
  await finished();
  await page
    .getByText(/stopped/)
    .first()
    .waitFor();
  const usedFirst = await used();
  expect(usedFirst).toBeGreaterThan(10);

  await longestAnswer(page, 4);
  await send('Thanks.');
  await answers.nth(1).locator('.markdown').getByText(/\w/).first().waitFor();
  await finished();
  expect(await answers.count()).toBe(2);
  expect(await used()).toBeGreaterThan(usedFirst + 4);
  expect(await page.getByText('150.6 M', { exact: true }).count()).toBe(1);
  await page.getByRole('button', { name: /^Bytes/ }).click();
  await page.getByText('trained on 1,024').waitFor();
  expect(faults).toEqual([]);

  /** The values the progress bar takes until it is gone, as the page shows them. */
  function watchProgress(): Promise<number[]> {
    return page.evaluate(
      () =>
        new Promise<number[]>((gone) => {
          const shares: number[] = [];
          const look = () => {
            const bar = document.querySelector('[role=progressbar]');
            const share = bar?.getAttribute('aria-valuenow');
            if (share) shares.push(Number(share));
            if (bar) requestAnimationFrame(look);
            else gone(shares);
          };
          look();
        }),
    );
  }
});

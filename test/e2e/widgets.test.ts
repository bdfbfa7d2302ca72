/**
 * Widgets in an article, where much is asked at once: what is broken off, goes on, is moved; and users who are drawn, of
 * widgets and of the library. `npm run soak` has more of them.
 */
import type { Browser, Frame, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { PalimpsestModel } from '../../src/element/embed.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { builtFolder } from './build.ts';
import { openSites, type Sites } from './widgetSites.ts';
import { useEngines } from './engineUser.ts';
import { useWidgets } from './widgetUser.ts';

let browser: Browser;
let sites: Sites;
beforeAll(async () => {
  sites = await openSites(builtFolder);
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await sites?.close();
});

/** An article with a widget of the tiny model, and the widget's frame. */
async function openArticle(): Promise<{ page: Page; inside: Frame; faults: string[] }> {
  const page = await (await browser.newContext()).newPage();
  const faults = faultsOf(page);
  await page.goto(`${sites.articles}/blank.html`);
  await page.addScriptTag({ type: 'module', url: `${sites.widgets}/embed.js` });
  await page.evaluate(() => {
    document.body.innerHTML =
      '<div></div><palimpsest-model model="models/tiny/"></palimpsest-model>';
  });
  await expect.poll(() => page.frames().length).toBe(2);
  return { page, inside: page.frames()[1]!, faults };
}

/** Runs in the article with its widget. */
function withWidget<R>(page: Page, act: (widget: PalimpsestModel) => R): Promise<R> {
  return page.evaluate(`(${act.toString()})(document.querySelector('palimpsest-model'))`);
}

/** Press until it is taken: browsers drop what is pressed in a frame that has just moved or grown. */
async function press(inside: Frame, name: string): Promise<void> {
  const wanted = inside.getByRole('button', { name, exact: true });
  await wanted.waitFor();
  const left = async () => {
    await wanted.click({ timeout: 2_000 }).catch(() => {});
    return wanted.count();
  };
  await expect.poll(left, { interval: 200 }).toBe(0);
}

test('what is broken off ends at once, what is asked without a pause happens in order, and a frame that is moved goes on', async () => {
  const { page, inside, faults } = await openArticle();
  let release = () => {};
  sites.hold(new Promise((resolve) => (release = resolve)));
  // Stopped while it loads: it has no words, leaves no trace, and does not wait for the load, which goes on.
  const early = withWidget(page, async (widget) => {
    const states: string[] = [];
    widget.on('status', ({ state }) => void states.push(state));
    const generation = widget.generate('On a page', { maxTokens: 8 });
    await new Promise<void>((loading) =>
      widget.on('status', ({ state }) => state === 'loading' && loading()),
    );
    await widget.stop();
    const { reason, text } = await generation.outcome;
    return { reason, text, state: states.at(-1), turns: (await widget.snapshot()).turns };
  });
  await press(inside, 'Run it');
  expect(await early).toEqual({ reason: 'stopped', text: '', state: 'loading', turns: [] });
  release();

  const seen = await withWidget(page, async (widget) => {
    const first = widget.generate('On a page', { maxTokens: 8 });
    const aborted = widget.generate('no', { signal: AbortSignal.abort(new Error('not needed')) });
    const refused = await aborted.outcome.catch((error: Error) => error.message);
    const loops = [0, 1].map(async () => {
      let heard = 0;
      for await (const token of first) if (token) heard += 1;
      return heard;
    });
    const heard = await Promise.all(loops);
    const { reason, ids } = await first.outcome;
    const snapshot = await widget.snapshot();
    const after = await widget.generate('', { maxTokens: 8 }).outcome;
    const long = widget.generate('why', { maxTokens: 500 });
    for await (const token of long) if (token) break;
    // The answer that is written ends, the snapshot stands, and then it goes on from there.
    const restored = widget.restore(snapshot);
    const again = await widget.generate('', { maxTokens: 8 }).outcome;
    await restored;
    return {
      ...{ refused, heard: heard[0]! + heard[1]!, reason, count: ids.length },
      ...{ after: after.ids, again: again.ids, long: (await long.outcome).reason },
    };
  });
  expect(seen).toMatchObject({ refused: 'not needed', heard: 8, reason: 'length', count: 8 });
  expect(seen.long).toBe('stopped');
  expect(seen.again).toEqual(seen.after);

  const moved = await withWidget(page, async (widget) => {
    const generation = widget.generate('why', { begin: true, maxTokens: 24 });
    for await (const token of generation) {
      const place = document.querySelector('div') as unknown as {
        moveBefore: (moved: Element, before: null) => void;
      };
      if (token) place.moveBefore(widget, null);
      break;
    }
    // Leaving the loop ended it; the conversation is that of the same frame.
    await generation.outcome;
    return { turns: (await widget.snapshot()).turns.length, in: widget.parentElement!.localName };
  });
  expect(moved).toEqual({ turns: 2, in: 'div' });

  // What is here already is loaded without a question, however soon that is asked.
  const states = await withWidget(page, async (widget) => {
    const other = document.createElement('palimpsest-model');
    other.setAttribute('model', 'models/tiny/');
    widget.replaceWith(other);
    const seen: string[] = [];
    other.on('status', ({ state }) => void seen.push(state));
    await other.load();
    return seen;
  });
  expect(states).not.toContain('asking');

  // One that nobody has seen yet waits with its answer, too.
  const setHidden = (hidden: boolean) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  };
  await page.addInitScript(setHidden, true);
  const unseen = withWidget(page, async (widget) => {
    const other = document.createElement('palimpsest-model');
    other.setAttribute('model', 'models/tiny/');
    widget.replaceWith(other);
    await other.load();
    const generation = other.generate('why', { maxTokens: 4 });
    for await (const token of generation) document.title += token.text;
    return (await generation.outcome).reason;
  });
  await page.frameLocator('iframe').getByRole('button', { name: 'Stop' }).waitFor();
  await page.waitForTimeout(600);
  expect(await page.title()).toBe('Blank');
  await page.frames().at(-1)!.evaluate(setHidden, false);
  expect(await unseen).toBe('length');
  expect(faults).toEqual([]);
  await page.context().close();
});

test('a person’s words are not lost: a load that is broken off and a question that is too long give them back', async () => {
  const { page, inside, faults } = await openArticle();
  let release = () => {};
  sites.hold(new Promise((resolve) => (release = resolve)));
  const box = inside.getByRole('textbox', { name: 'Message' });
  const ask = inside.getByRole('button', { name: /^Ask/ });
  await box.fill('On a page');
  await ask.click();
  await press(inside, 'Cancel');
  await expect.poll(() => box.inputValue()).toBe('On a page');
  release();
  await ask.click();
  await expect.poll(() => inside.getByRole('log').textContent()).toMatch(/Model.{9}/s);
  await press(inside, 'Stop');
  expect(await box.inputValue()).toBe('');
  const long = 'rain '.repeat(40_000).trim();
  await box.fill(long);
  await ask.click();
  await inside.getByRole('alert').waitFor();
  expect((await box.inputValue()).length).toBe(long.length);
  // The model stands ready as before.
  await box.fill('why');
  await ask.click();
  await expect.poll(() => inside.getByRole('alert').count()).toBe(0);
  await expect.poll(() => inside.getByRole('log').textContent()).toMatch(/On a page.*why/s);
  expect(faults).toEqual([]);
  await page.context().close();
});

test('frozen with its page, as browsers keep one that is left, a widget goes on where it was when that is come back to', async () => {
  const { page, inside, faults } = await openArticle();
  const answer = () =>
    withWidget(page, async (widget) => {
      document.title = '';
      const generation = widget.generate('On a page', { begin: true, maxTokens: 40 });
      for await (const { text } of generation) document.title += text;
      const { ids, text } = await generation.outcome;
      return { ids, text };
    });
  const first = answer();
  await press(inside, 'Run it');
  const whole = await first;
  expect(whole.ids).toHaveLength(40);
  const again = answer();
  await expect.poll(() => page.title()).not.toBe('');
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await devtools.send('Page.setWebLifecycleState', { state: 'active' });
  expect(await again).toEqual(whole);
  expect(faults).toEqual([]);
  await page.context().close();
});

test('a user who is drawn', async () => {
  const { widgets, articles, hold } = sites;
  const how = { browser, widgets, articles, hold, seed: 52, steps: 5, log: () => {} };
  const { faults, calls } = await useWidgets(how);
  expect(faults).toEqual([]);
  expect(calls).toBeGreaterThan(1);
});

test('a user of the library who is drawn', async () => {
  const how = { browser, site: sites.widgets, seed: 4, steps: 14, log: () => {} };
  const { faults, calls } = await useEngines(how);
  expect(faults).toEqual([]);
  expect(calls).toBeGreaterThan(4);
});

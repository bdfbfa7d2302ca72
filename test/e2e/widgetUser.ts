/**
 * A user of widgets who is drawn by a seed: two or three widgets in an article of another site, and whatever may happen to
 * them there, in any order, much of it while something else is under way. What must hold whatever happens: every call ends
 * in time, with a value or with an error that has a name and a sentence; tokens come in order and add up to the answer; the
 * same prompt and settings give the same tokens, in every widget, after a restored snapshot too; nothing goes wrong unseen;
 * and a widget that was taken away leaves nothing behind.
 */
import type { Browser, BrowserContext, ElementHandle, Frame, Page } from 'playwright-core';
import type { GenerateOptions, PalimpsestModel } from '../../src/element/embed.ts';
import type { Outcome, Snapshot } from '../../src/embed/protocol.ts';
import { drawing, type Draw } from '../draw.ts';
import { faultsOf } from './browser.ts';
import { rare } from './widgetSites.ts';

export interface WidgetUse {
  browser: Browser;
  /** Where the widget is, with models tiny and chat in `models/`. */
  widgets: string;
  /** Where articles are: `/blank.html` has no more than a title. */
  articles: string;
  /** Keep weights back until `until`. */
  hold: (until: Promise<void>) => void;
  seed: number;
  steps: number;
  log: (line: string) => void;
}

export interface WidgetReport {
  calls: number;
  tokens: number;
  /** How calls ended: "generate value", "load Refused". */
  endings: Map<string, number>;
  faults: string[];
}

/** The longest a call may take, milliseconds: a software adapter, and other widgets that load. */
const boundMs = 90_000;

const views = ['text', 'writes', 'reach', 'memory', 'gates', 'experts', 'logits', 'bytes'];
const prompts = ['On a page', 'The red fox saw the', 'why', 'memory of rain and then'];
/** What a call may fail with. */
const names = ['Refused', 'ContextFull', 'EngineTaken', 'AbortError'];

/** A call in the article. */
interface Told {
  widget: number;
  call: string;
  ended: '' | 'value' | 'failed';
  name: string;
  message: string;
  /** Of an answer: what it presupposes and was asked with; the same gives the same ids. '' where that is not known. */
  key: string;
  ids: number[];
  reason: string;
  wrong: string;
  startedMs: number;
}

/** What the article keeps. */
interface User {
  told: Told[];
  snapshots: Map<string, Snapshot>;
  faults: string[];
  listeners: number;
  ask: (widget: number, call: string, given: Given) => number;
}

interface Given {
  prompt?: string;
  draw?: GenerateOptions;
  /** Tokens after which a signal aborts, or the loop is left; 0: at once. */
  abortAfter?: number;
  leaveAfter?: number;
  look?: unknown;
  /** Of a snapshot: where it is kept. */
  label?: string;
  damage?: 'bytes' | 'cut' | 'model' | 'version' | 'turns';
  key?: string;
}

/** Runs in every frame before its scripts. */
function watchFrame(): void {
  const faults: string[] = [];
  addEventListener('unhandledrejection', ({ reason }) =>
    faults.push(`unhandled: ${String(reason)}`),
  );
  addEventListener('securitypolicyviolation', (event) =>
    faults.push(`policy: ${event.violatedDirective} ${event.blockedURI}`),
  );
  if (window.top !== window) {
    Object.assign(globalThis, { frameFaults: faults });
    return;
  }
  const user: User = { told: [], snapshots: new Map(), faults, listeners: 0, ask };
  Object.assign(globalThis, { user });
  const add = window.addEventListener.bind(window);
  const remove = window.removeEventListener.bind(window);
  const heard = new Set<unknown>();
  Object.assign(window, {
    addEventListener: (type: string, hear: never, options?: never) => {
      if (type === 'message') heard.add(hear);
      user.listeners = heard.size;
      add(type, hear, options);
    },
    removeEventListener: (type: string, hear: never, options?: never) => {
      if (type === 'message') heard.delete(hear);
      user.listeners = heard.size;
      remove(type, hear, options);
    },
  });

  function damaged(snapshot: Snapshot, how: Given['damage']): Snapshot {
    const copy = structuredClone(snapshot);
    const { state } = copy;
    if (how === 'bytes' && state) {
      const bytes = new Uint8Array(state);
      for (let at = 7; at < bytes.length; at += 4093) bytes[at]! ^= 0x55;
    }
    if (how === 'cut' && state) copy.state = state.slice(0, state.byteLength >> 1);
    if (how === 'model') copy.model = `${copy.model}other/`;
    if (how === 'version') copy.version = 2 as never;
    if (how === 'turns') copy.turns = [{ role: 'nobody' as never, content: '' }];
    return copy;
  }

  function ask(at: number, call: string, given: Given): number {
    const widget = document.querySelectorAll('palimpsest-model')[at] as PalimpsestModel;
    const told: Told = {
      ...{ widget: at, call, ended: '', name: '', message: '', key: given.key ?? '' },
      ...{ ids: [], reason: '', wrong: '', startedMs: performance.now() },
    };
    user.told.push(told);
    void run(widget, call, given, told).then(
      () => (told.ended = 'value'),
      (thrown: unknown) => {
        told.ended = 'failed';
        const error = thrown as Error;
        told.name = error?.name ?? 'no error';
        told.message = error?.message ?? String(thrown);
      },
    );
    return user.told.length - 1;
  }

  async function generate(widget: PalimpsestModel, given: Given, told: Told): Promise<void> {
    const abort = new AbortController();
    const options = {
      ...given.draw,
      ...(given.abortAfter !== undefined && { signal: abort.signal }),
    };
    if (given.abortAfter === 0) abort.abort();
    const generation = widget.generate(given.prompt!, options);
    let text = '';
    let heard = 0;
    let position: number | null = null;
    let left = false;
    for await (const token of generation) {
      heard += 1;
      text += token.text;
      if (position !== null && token.position !== position + 1)
        told.wrong ||= `token at ${token.position} after ${position}`;
      position = token.position;
      if (heard === given.abortAfter) abort.abort();
      if (heard === given.leaveAfter) {
        left = true;
        break;
      }
    }
    const outcome: Outcome = await generation.outcome;
    told.ids = outcome.ids;
    told.reason = outcome.reason;
    if (!left && text !== outcome.text)
      told.wrong ||= `tokens say ${JSON.stringify(text)}, the answer ${JSON.stringify(outcome.text)}`;
    // A token may stand for no text, and one that begins a character is told with its end.
    if (heard > outcome.ids.length) told.wrong ||= `${heard} tokens heard of ${outcome.ids.length}`;
  }

  async function run(
    widget: PalimpsestModel,
    call: string,
    given: Given,
    told: Told,
  ): Promise<void> {
    switch (call) {
      case 'load':
        await widget.load();
        return;
      case 'generate':
        return generate(widget, given, told);
      case 'stop':
        return widget.stop();
      case 'snapshot':
        user.snapshots.set(given.label!, await widget.snapshot());
        return;
      case 'restore':
        return widget.restore(damaged(user.snapshots.get(given.label!)!, given.damage));
      case 'take up': {
        // One after the other without a pause: what is asked next waits for what was asked first.
        const restored = widget.restore(user.snapshots.get(given.label!)!);
        const [, went] = await Promise.allSettled([restored, generate(widget, given, told)]);
        await restored;
        if (went.status === 'rejected') throw went.reason;
        return;
      }
      case 'look':
        return widget.setView(given.look as never);
    }
  }
}

/** Runs in the article. */
type InArticle = typeof globalThis & { user: User };

export async function useWidgets(use: WidgetUse): Promise<WidgetReport> {
  const draw = drawing(use.seed);
  const context = await use.browser.newContext({ reducedMotion: 'reduce' });
  const session = new Session(use, draw, context, await context.newPage());
  try {
    await session.begin();
    for (let step = 0; step < use.steps && session.faults.length === 0; step++)
      await session.step();
    if (session.faults.length === 0) await session.end();
  } catch (thrown) {
    session.faults.push(`the user: ${(thrown as Error).stack}`);
  } finally {
    await context.close();
  }
  const { calls, tokens, endings, faults } = session;
  return { calls, tokens, endings, faults: faults.map((fault) => `seed ${use.seed}: ${fault}`) };
}

class Session {
  calls = 0;
  tokens = 0;
  readonly endings = new Map<string, number>();
  readonly faults: string[];
  readonly #use: WidgetUse;
  readonly #draw: Draw;
  readonly #context: BrowserContext;
  readonly #page: Page;
  /** Ids by what was asked: the longest that were heard. */
  readonly #said = new Map<string, { ids: number[]; whole: boolean }>();
  /** Model of each snapshot. */
  readonly #kept = new Map<string, string>();
  #models: string[] = [];
  #labels = 0;
  #other: Page | null = null;
  #checked = 0;

  constructor(use: WidgetUse, draw: Draw, context: BrowserContext, page: Page) {
    this.#use = use;
    this.#draw = draw;
    this.#context = context;
    this.#page = page;
    this.faults = faultsOf(page);
  }

  #one<T>(among: readonly T[]): T {
    return among[this.#draw(0, among.length - 1)]!;
  }

  #log(words: string): void {
    this.#use.log(`  ${this.#use.seed}: ${words}`);
  }

  async begin(): Promise<void> {
    await this.#context.addInitScript(watchFrame);
    await this.#open();
  }

  async #open(): Promise<void> {
    await this.#page.goto(`${this.#use.articles}/blank.html`);
    await this.#page.addScriptTag({ type: 'module', url: `${this.#use.widgets}/embed.js` });
    await this.#page.waitForFunction(() => customElements.get('palimpsest-model'));
    this.#models = [];
    this.#checked = 0;
    for (let count = this.#draw(2, 3); count > 0; count--) await this.#add();
  }

  async #add(): Promise<void> {
    const model = this.#one(['tiny', 'tiny', 'tiny', 'chat', this.#one(rare)]);
    this.#models.push(model);
    const attributes = {
      model: `models/${model}/`,
      prompt: this.#one(prompts),
      view: this.#one(views),
      theme: this.#one(['auto', 'light', 'dark']),
    };
    this.#log(`adds ${JSON.stringify(attributes)}`);
    await this.#page.evaluate((given) => {
      const widget = document.createElement('palimpsest-model');
      for (const [name, value] of Object.entries(given)) widget.setAttribute(name, value);
      document.body.append(widget);
    }, attributes);
  }

  async #ask(widget: number, call: string, given: Given): Promise<number> {
    this.calls += 1;
    this.#log(`widget ${widget}: ${call} ${JSON.stringify(given)}`);
    return this.#page.evaluate(
      ([at, name, what]) => (globalThis as InArticle).user.ask(at, name, what),
      [widget, call, given] as const,
    );
  }

  #generation(widget: number, begin: boolean): Given {
    const draw = this.#draw;
    const prompt = begin || draw(0, 1) ? this.#one(prompts) : '';
    const settings = {
      seed: draw(0, 2),
      temperature: draw(0, 1),
      maxTokens: this.#one([4, 12, 30]),
    };
    const key = begin ? JSON.stringify([this.#models[widget], prompt, settings]) : '';
    const given: Given = { prompt, draw: { ...settings, begin }, key };
    const end = draw(0, 9);
    if (end === 0) given.abortAfter = draw(0, 3);
    if (end === 1) given.leaveAfter = draw(1, 3);
    return given;
  }

  async step(): Promise<void> {
    const draw = this.#draw;
    const page = this.#page;
    const heldMs = draw(0, 3) === 0 ? draw(100, 3000) : 0;
    this.#use.hold(new Promise((resolve) => setTimeout(resolve, heldMs)));
    if (this.#models.length === 0) await this.#add();
    const widget = draw(0, this.#models.length - 1);
    const element = page.locator('palimpsest-model').nth(widget);
    const alter = (name: string, value: string) =>
      element.evaluate((found, [name, value]) => found.setAttribute(name!, value!), [name, value]);
    switch (draw(0, 24)) {
      case 0:
        await this.#ask(widget, 'load', {});
        break;
      case 1:
      case 2:
      case 3:
      case 4:
        await this.#ask(widget, 'generate', this.#generation(widget, true));
        break;
      case 5:
        await this.#ask(widget, 'generate', this.#generation(widget, false));
        break;
      case 6:
        await this.#ask(widget, 'generate', this.#generation(widget, true));
        await this.#ask(widget, 'generate', this.#generation(widget, draw(0, 1) === 0));
        break;
      case 7:
        await this.#ask(widget, 'stop', {});
        break;
      case 8:
      case 9: {
        await this.#settle();
        const label = `s${++this.#labels}`;
        await this.#ask(widget, 'snapshot', { label });
        if (draw(0, 1)) await this.#settle();
        this.#kept.set(label, this.#models[widget]!);
        break;
      }
      case 10:
      case 11:
      case 12: {
        const there = await page.evaluate(() => [
          ...(globalThis as InArticle).user.snapshots.keys(),
        ]);
        if (there.length === 0) break;
        const label = this.#one(there);
        const same = this.#kept.get(label) === this.#models[widget];
        const damage = this.#one(['bytes', 'cut', 'model', 'version', 'turns'] as const);
        if (draw(0, 3) === 0) await this.#ask(widget, 'restore', { label, damage });
        else if (!same || draw(0, 3) === 0) await this.#ask(widget, 'restore', { label });
        else {
          await this.#settle();
          const given = this.#generation(widget, false);
          const { prompt, draw: how } = given;
          given.key = JSON.stringify([label, prompt, { ...how }]);
          await this.#ask(widget, 'take up', { ...given, label });
          await this.#settle();
        }
        break;
      }
      case 13:
        await this.#ask(widget, 'look', { look: this.#look() });
        break;
      case 14:
        this.#log(`widget ${widget}: attributes`);
        await alter('view', this.#one([...views, 'nothing']));
        await alter('theme', this.#one(['dark', 'light', 'auto', '']));
        await alter('layer', String(draw(0, 5)));
        await alter('prompt', this.#one(prompts));
        break;
      case 15:
        this.#log(`widget ${widget}: a slider`);
        await element.evaluate((found) => {
          for (let i = 0; i < 200; i++) found.setAttribute('layer', String(i % 4));
        });
        break;
      case 16:
        this.#log(`widget ${widget}: taken out and put back`);
        await element.evaluate(
          async (found, ms) => {
            const next = found.nextSibling;
            found.remove();
            await new Promise((resolve) => setTimeout(resolve, ms));
            document.body.insertBefore(found, next);
          },
          draw(0, 1) * 200,
        );
        break;
      case 17:
        this.#log(`widget ${widget}: moved, its frame with it`);
        await element.evaluate((found) => {
          const page = document.body as unknown as {
            moveBefore: (moved: Element, before: Element | null) => void;
          };
          page.moveBefore(found, found.nextElementSibling);
        });
        break;
      case 18:
        this.#log(`widget ${widget}: removed`);
        // Numbers of the others change: what was asked of them is told first.
        await this.#settle(draw(0, 1) === 0 ? widget : -1);
        this.#models.splice(widget, 1);
        await element.evaluate((found) => found.remove());
        await this.#settle();
        if (this.#models.length < 2) await this.#add();
        break;
      case 19:
        this.#log('scrolls');
        await page.evaluate(
          async (px) => {
            document.body.style.paddingTop = '3000px';
            scrollTo(0, px);
            await new Promise((resolve) => setTimeout(resolve, 300));
            document.body.style.paddingTop = '';
          },
          draw(0, 1) * 3000,
        );
        break;
      case 20: {
        const width = this.#one([200, 380, 900, 2000]);
        this.#log(`${width} px wide`);
        await page.setViewportSize({ width, height: 800 });
        break;
      }
      case 21:
        await this.#hide(widget, draw(100, 800));
        break;
      case 22:
        await this.#settle();
        this.#log('goes to another page and comes back');
        await page.goto(`${this.#use.articles}/blank.html?elsewhere`);
        if (draw(0, 1)) await page.goBack();
        await this.#open();
        break;
      case 23:
        await this.#otherTab();
        break;
      case 24:
        await this.#person(widget);
        break;
    }
    if (draw(0, 2) === 0) await this.#settle();
    else await page.waitForTimeout(draw(0, 1) * draw(0, 1500));
    await this.#check(false);
  }

  #look(): unknown {
    const draw = this.#draw;
    if (draw(0, 3) === 0) return this.#one(views);
    if (draw(0, 5) === 0) return this.#one(['nothing', { layer: -1 }, { token: 1.5 }, null]);
    return { view: this.#one(views), layer: draw(0, 6), head: draw(0, 3), token: draw(0, 40) };
  }

  async #frame(widget: number): Promise<Frame | null> {
    const frame = this.#page.locator('palimpsest-model').nth(widget).locator('iframe');
    if ((await frame.count()) === 0) return null;
    const handle = (await frame
      .elementHandle({ timeout: 1_000 })
      .catch(() => null)) as ElementHandle | null;
    return (await handle?.contentFrame().catch(() => null)) ?? null;
  }

  async #hide(widget: number, ms: number): Promise<void> {
    const frame = await this.#frame(widget);
    if (!frame) return;
    this.#log(`widget ${widget}: hidden for ${ms} ms`);
    const hide = (hidden: boolean) =>
      frame
        .evaluate((wanted) => {
          Object.defineProperty(document, 'hidden', { value: wanted, configurable: true });
          document.dispatchEvent(new Event('visibilitychange'));
        }, hidden)
        .catch(() => {});
    await hide(true);
    await this.#page.waitForTimeout(ms);
    await hide(false);
  }

  /** Another tab of the widget's own site uses an engine of the same model. */
  async #otherTab(): Promise<void> {
    if (this.#other) {
      this.#log('closes the other tab');
      await this.#other.close();
      this.#other = null;
      return;
    }
    this.#log('opens the playground in another tab and asks there');
    this.#other = await this.#context.newPage();
    const faults = faultsOf(this.#other);
    await this.#other.goto(`${this.#use.widgets}/?model=models/tiny/`);
    const run = `import(new URL('api.js', document.baseURI).href)
      .then(({ createEngine }) => createEngine({ model: new URL('models/chat/', document.baseURI).href }))
      .then((engine) => engine.chat.completions.create({ messages: [{ role: 'user', content: 'why' }], max_tokens: 20, temperature: 0 }))
      .then(({ palimpsest }) => palimpsest.ids)`;
    const ids = (await this.#other.evaluate(run)) as number[];
    this.#agree('the other tab', ids, true);
    for (const fault of faults) this.faults.push(`in the other tab: ${fault}`);
  }

  /** Someone uses the widget by hand. */
  async #person(widget: number): Promise<void> {
    const frame = await this.#frame(widget);
    if (!frame) return;
    const press = async (name: string | RegExp) => {
      const wanted = frame.getByRole('button', { name }).first();
      await wanted.click({ timeout: 1_500 }).catch(() => {});
    };
    const what = this.#one(['asks', 'asks', 'stops', 'begins anew', 'cancels']);
    this.#log(`widget ${widget}: a person ${what}`);
    if (what === 'asks') {
      await frame.getByRole('textbox', { name: 'Message' }).fill('on a page', { timeout: 3_000 });
      const ask = frame.getByRole('button', { name: 'Ask', exact: true });
      // With a model at hand, who has written something can ask: but for the while in which it writes or loads.
      const dead = async () =>
        (await ask.count()) > 0 && !(await ask.isEnabled().catch(() => true));
      const end = Date.now() + 5_000;
      while ((await dead()) && Date.now() < end) await this.#page.waitForTimeout(100);
      if (await dead()) this.faults.push(`widget ${widget}: a person can not ask`);
      await press(/^Ask/);
    }
    if (what === 'stops') await press('Stop');
    if (what === 'begins anew') await press('New conversation');
    if (what === 'cancels') await press(/^(Cancel|Stop)/);
  }

  /** Wait for all calls, but those of the widget `but`; a person answers what widgets ask meanwhile. */
  async #settle(but = -1): Promise<void> {
    const end = Date.now() + boundMs;
    const open = () =>
      this.#page.evaluate(
        (but) =>
          (globalThis as InArticle).user.told.filter((t) => !t.ended && t.widget !== but).length,
        but,
      );
    while ((await open()) > 0 && Date.now() < end) {
      for (let widget = 0; widget < this.#models.length; widget++) {
        const frame = await this.#frame(widget);
        for (const name of ['Run it', 'Let it read', 'No']) {
          const wanted = frame?.getByRole('button', { name, exact: true });
          if (!wanted || (name === 'No' && this.#draw(0, 9) > 0)) continue;
          if (await wanted.isEnabled({ timeout: 50 }).catch(() => false))
            await wanted.click({ timeout: 500 }).catch(() => {});
        }
      }
      await this.#page.waitForTimeout(60);
    }
    await this.#check(true, but);
  }

  /** What must hold. `ended`: nothing is under way any more. */
  async #check(ended: boolean, but = -1): Promise<void> {
    const { told, faults } = await this.#page.evaluate(() => {
      const { user } = globalThis as InArticle;
      return { told: user.told, faults: user.faults };
    });
    this.faults.push(...faults);
    for (const frame of this.#page.frames().slice(1)) {
      const seen = await frame
        .evaluate(() => (globalThis as { frameFaults?: string[] }).frameFaults ?? [])
        .catch(() => []);
      this.faults.push(...seen);
    }
    if (ended) {
      for (const { widget, call, ended, startedMs } of told)
        if (!ended && widget !== but)
          this.faults.push(
            `${call} of widget ${widget}, begun at ${startedMs | 0} ms, does not end`,
          );
      const fresh = but < 0 ? told.slice(this.#checked) : [];
      if (but < 0) this.#checked = told.length;
      for (const one of fresh) this.#judge(one);
    }
  }

  #judge({ widget, call, ended, name, message, key, ids, reason, wrong }: Told): void {
    const ending = `${call} ${ended === 'value' ? reason || 'value' : name}`;
    this.endings.set(ending, (this.endings.get(ending) ?? 0) + 1);
    this.#log(`widget ${widget}: ${ending} ${message}`);
    this.tokens += ids.length;
    if (wrong) this.faults.push(`widget ${widget}: ${wrong}`);
    if (ended === 'failed' && (!names.includes(name) || message.length < 10))
      this.faults.push(`widget ${widget}: ${call} failed with ${name}: ${message}`);
    if (key && ended === 'value') this.#agree(key, ids, reason !== 'stopped');
  }

  /** The same gives the same: all of it, or as far as it went. */
  #agree(key: string, ids: number[], whole: boolean): void {
    const known = this.#said.get(key);
    const shorter = Math.min(ids.length, known?.ids.length ?? 0);
    const same = known?.ids.slice(0, shorter).join() === ids.slice(0, shorter).join();
    const lengths =
      known &&
      (known.whole || known.ids.length <= ids.length) &&
      (!known.whole || !whole || known.ids.length === ids.length);
    if (known && (!same || (!lengths && whole)))
      this.faults.push(`${key} gave ${known.ids.join()} and then ${ids.join()}`);
    if (!known || (whole && !known.whole)) this.#said.set(key, { ids, whole });
  }

  /** All widgets are taken away: nothing of them is left. */
  async end(): Promise<void> {
    await this.#settle();
    await this.#other?.close();
    const locks = () => this.#locks();
    await this.#page.evaluate(() => {
      for (const found of document.querySelectorAll('palimpsest-model')) found.remove();
    });
    const left = async () => {
      const listeners = await this.#page.evaluate(() => (globalThis as InArticle).user.listeners);
      const words = [
        ...(await locks()),
        ...this.#page.workers().map((worker) => `worker ${worker.url()}`),
        ...(await this.#targets()),
        ...(listeners > 0 ? [`${listeners} listeners`] : []),
      ];
      return words.join(', ');
    };
    let last = await left();
    for (let tries = 0; last !== '' && tries < 20; tries++) {
      await this.#page.waitForTimeout(250);
      last = await left();
    }
    if (last !== '') this.faults.push(`left behind: ${last}`);
  }

  /** Locks that are held or asked for where widgets in this article keep theirs. */
  async #locks(): Promise<string[]> {
    const src = `${this.#use.widgets}/blank.html`;
    await this.#page.evaluate(
      (src) =>
        new Promise((resolve) => {
          const frame = document.createElement('iframe');
          frame.onload = resolve;
          frame.src = src;
          document.body.append(frame);
        }),
      src,
    );
    const frame = this.#page.frames().find((one) => one.url() === src)!;
    const found = await frame.evaluate(async () => {
      const { held = [], pending = [] } = await navigator.locks.query();
      return [...held, ...pending].map(({ name }) => `lock ${name}`);
    });
    await this.#page.evaluate(() => document.querySelector('iframe')!.remove());
    return found;
  }

  async #targets(): Promise<string[]> {
    const cdp = await this.#use.browser.newBrowserCDPSession();
    const { targetInfos } = await cdp.send('Target.getTargets');
    await cdp.detach();
    return targetInfos
      .filter(({ type }) => /worker|iframe/.test(type) && type !== 'service_worker')
      .map(({ type, url }) => `${type} ${url}`);
  }
}

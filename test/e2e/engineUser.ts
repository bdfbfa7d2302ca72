/**
 * A user of the library who is drawn by a seed: a tab with one or two engines of the same model, and calls in any order,
 * many of them while others wait: streams that are left, signals before, in the queue and in the middle, states kept and
 * taken up in either engine, watches that take each other's place, requests that make no sense, engines closed in the
 * middle of an answer. What must hold: every call ends in time, with a value or with an error that has a name and a
 * sentence; chunks come in order and add up; the same request gives the same tokens; nothing goes wrong unseen.
 */
import type { Browser, Page } from 'playwright-core';
import type {
  CompletionRequest,
  createEngine,
  Engine,
  EngineOptions,
  ExportedState,
  Snapshot,
} from '../../src/api.ts';
import { drawing, type Draw } from '../draw.ts';
import { faultsOf } from './browser.ts';

export interface EngineUse {
  browser: Browser;
  /** The origin of the site; `models/chat/` is there. */
  site: string;
  seed: number;
  steps: number;
  log: (line: string) => void;
}

export interface EngineReport {
  calls: number;
  tokens: number;
  endings: Map<string, number>;
  faults: string[];
}

const boundMs = 60_000;
const names = ['Refused', 'Unsupported', 'ContextFull', 'EngineTaken', 'AbortError', 'Error'];

/** What a call is given, and how it ended. */
interface Asked {
  engine: number;
  call: string;
  request?: CompletionRequest;
  /** Milliseconds after which its signal aborts; 0: before it is asked. */
  abortMs?: number;
  /** Chunks after which the loop is left. */
  leaveAfter?: number;
  /** Of a state: where it is kept. */
  label?: string;
  /** Of an engine. */
  tabs?: EngineOptions['tabs'];
  model?: string;
  /** It makes no sense. */
  wrong?: boolean;
  key?: string;
}
interface Told extends Asked {
  ended: '' | 'value' | 'failed';
  name: string;
  message: string;
  ids: number[];
  reason: string;
  fault: string;
}

interface Tab {
  createEngine: typeof createEngine;
  engines: (Engine | null)[];
  told: Told[];
  faults: string[];
  frames: number;
  ask: (asked: Asked) => void;
}

/** Runs in the tab. */
function prepare(): void {
  const tab = globalThis as unknown as Tab;
  const states = new Map<string, { engine: number; state: Snapshot | ExportedState }>();
  const ends: (() => Promise<void>)[] = [];
  Object.assign(tab, { engines: [], told: [], faults: [], frames: 0, ask });
  addEventListener('unhandledrejection', ({ reason }) =>
    tab.faults.push(`unhandled: ${String(reason)}`),
  );

  function ask(asked: Asked): void {
    const told: Told = {
      ...asked,
      ...{ ended: '', name: '', message: '', ids: [], reason: '', fault: '' },
    };
    tab.told.push(told);
    void run(told).then(
      () => (told.ended = 'value'),
      (thrown: unknown) => {
        told.ended = 'failed';
        told.name = (thrown as Error)?.name ?? 'no error';
        told.message = (thrown as Error)?.message ?? String(thrown);
      },
    );
  }

  async function run(told: Told): Promise<void> {
    const { call, label } = told;
    if (call === 'open') {
      const { tabs, abortMs, model = 'chat' } = told;
      const abort = new AbortController();
      if (abortMs === 0) abort.abort(new Error('was not wanted'));
      else if (abortMs) setTimeout(() => abort.abort(new Error('is not wanted')), abortMs);
      const address = new URL(`models/${model}/`, document.baseURI).href;
      const options = { model: address, tabs, signal: abort.signal };
      const engine = await tab.createEngine(options);
      // Another one was asked for meanwhile: this one is nobody's.
      tab.engines[told.engine]?.close();
      tab.engines[told.engine] = engine;
      return;
    }
    const engine = tab.engines[told.engine];
    if (!engine) return;
    switch (call) {
      case 'close':
        tab.engines[told.engine] = null;
        engine.close();
        return;
      case 'create':
        return create(engine, told);
      case 'snapshot':
        states.set(label!, { engine: told.engine, state: await engine.state.snapshot() });
        return;
      case 'export':
        states.set(label!, { engine: -1, state: await engine.state.export() });
        return;
      case 'restore': {
        const { state } = states.get(label!) ?? { state: { branch: 99, tokens: 3 } };
        return engine.state.restore(state);
      }
      case 'release': {
        const kept = states.get(label!);
        if (kept && 'branch' in kept.state) await engine.state.release(kept.state);
        return;
      }
      case 'watch':
        ends.push(
          await engine.watch(
            { layer: 1, head: 'median', budgetBytes: 8e6 },
            () => (tab.frames += 1),
          ),
        );
        return;
      case 'unwatch':
        return ends.shift()?.();
    }
  }

  async function create(engine: Engine, told: Told): Promise<void> {
    const { request, abortMs, leaveAfter } = told;
    const abort = new AbortController();
    const signal = abortMs === undefined ? undefined : abort.signal;
    if (abortMs === 0) abort.abort(new Error('was not wanted'));
    else if (abortMs) setTimeout(() => abort.abort(new Error('is not wanted')), abortMs);
    const { completions } = engine.chat;
    if (!request!.stream) {
      const whole = await completions.create({ ...request!, stream: false }, { signal });
      told.ids = whole.palimpsest.ids;
      told.reason = whole.palimpsest.reason;
      check(told, whole.choices[0]!.message.content, whole.usage.completion_tokens);
      return;
    }
    let text = '';
    let chunks = 0;
    for await (const chunk of await completions.create({ ...request!, stream: true }, { signal })) {
      const [choice] = chunk.choices;
      if (chunks === 0 && choice!.delta.role !== 'assistant') told.fault = 'no role first';
      if (told.reason) told.fault = 'a chunk after the last';
      text += choice!.delta.content ?? '';
      if (chunk.palimpsest) {
        told.ids = chunk.palimpsest.ids;
        told.reason = chunk.palimpsest.reason;
        check(told, text, chunk.usage!.completion_tokens);
      }
      if (++chunks === leaveAfter) {
        told.reason = 'left';
        return;
      }
    }
    if (!told.reason) told.fault = 'a stream without an end';
  }

  function check(told: Told, text: string, tokens: number): void {
    if (tokens !== told.ids.length)
      told.fault = `usage says ${tokens} of ${told.ids.length} tokens`;
    for (const stop of [told.request!.stop ?? []].flat())
      if (text.includes(stop))
        told.fault = `${JSON.stringify(stop)} stands in ${JSON.stringify(text)}`;
    if (told.ids.length > (told.request!.max_tokens ?? 512)) told.fault = 'more than max_tokens';
  }
}

export async function useEngines(use: EngineUse): Promise<EngineReport> {
  const context = await use.browser.newContext();
  const page = await context.newPage();
  const report: EngineReport = { calls: 0, tokens: 0, endings: new Map(), faults: faultsOf(page) };
  try {
    await drive(use, page, drawing(use.seed), report);
  } catch (thrown) {
    report.faults.push(`the user: ${(thrown as Error).stack}`);
  } finally {
    await context.close();
  }
  return { ...report, faults: report.faults.map((fault) => `seed ${use.seed}: ${fault}`) };
}

async function drive(use: EngineUse, page: Page, draw: Draw, report: EngineReport): Promise<void> {
  const { faults } = report;
  /** By what was asked: the longest ids that were heard. */
  const said = new Map<string, { ids: number[]; whole: boolean }>();
  const labels: string[] = [];
  let judged = 0;

  await page.goto(`${use.site}/blank.html`);
  await page.evaluate(
    `(${prepare.toString()})(); import('${use.site}/api.js').then((api) => Object.assign(globalThis, api))`,
  );
  await page.waitForFunction(() => 'createEngine' in globalThis);

  const ask = async (asked: Asked) => {
    report.calls += 1;
    use.log(`  ${use.seed}: ${JSON.stringify(asked)}`);
    await page.evaluate((given) => (globalThis as unknown as Tab).ask(given), asked);
  };
  const settle = async () => {
    const open = () =>
      page.evaluate(() => (globalThis as unknown as Tab).told.filter((t) => !t.ended).length);
    const end = Date.now() + boundMs;
    while ((await open()) > 0 && Date.now() < end) await page.waitForTimeout(40);
    const [told, seen] = await page.evaluate(() => {
      const tab = globalThis as unknown as Tab;
      return [tab.told, tab.faults] as const;
    });
    faults.push(...seen);
    for (; judged < told.length; judged++) judge(told[judged]!);
  };
  const judge = (one: Told) => {
    const { engine, call, ended, name, message, ids, reason, fault, wrong, key } = one;
    const ending = `${call} ${ended === 'value' ? reason || 'value' : name}`;
    report.endings.set(ending, (report.endings.get(ending) ?? 0) + 1);
    use.log(`  ${use.seed}: engine ${engine}: ${ending} ${message} ${ids.join()}`);
    report.tokens += ids.length;
    if (!ended) faults.push(`${call} of engine ${engine} does not end`);
    if (fault) faults.push(`${call} of engine ${engine}: ${fault}`);
    if (ended === 'failed' && (!names.includes(name) || message.length < 10))
      faults.push(`${call} failed with ${name}: ${message}`);
    if (wrong && (ended !== 'failed' || name !== 'Refused'))
      faults.push(`${JSON.stringify(one.request)} was taken: ${ending}`);
    if (!key || ended !== 'value' || reason === 'left') return;
    const whole = reason !== 'stopped';
    const known = said.get(key);
    const both = Math.min(ids.length, known?.ids.length ?? 0);
    const same = known?.ids.slice(0, both).join() === ids.slice(0, both).join();
    const longer = known && known.whole && ids.length > known.ids.length;
    if (known && (!same || longer || (whole && known.ids.length > ids.length)))
      faults.push(`${key} gave ${known.ids.join()} and then ${ids.join()}`);
    if (!known || (whole && !known.whole)) said.set(key, { ids, whole });
  };
  const one = <T>(among: readonly T[]) => among[draw(0, among.length - 1)]!;

  const requested = (): CompletionRequest => {
    const users = ['why', 'On a page', 'The red fox saw the', 'rain\nand then'];
    const messages: CompletionRequest['messages'] = [{ role: 'user', content: one(users) }];
    if (draw(0, 2) === 0) messages.unshift({ role: 'system', content: 'Be brief.' });
    if (draw(0, 3) === 0)
      messages.push({ role: 'assistant', content: 'Yes.' }, { role: 'user', content: one(users) });
    return {
      messages,
      stream: draw(0, 1) === 0,
      temperature: draw(0, 2) / 2,
      top_p: one([1, 0.9, 0.5]),
      seed: draw(0, 2),
      max_tokens: one([1, 5, 20, 60]),
      ...(draw(0, 2) === 0 && { stop: one([' the', ['e', 'zzz'], 'and th', '\n']) }),
      ...(draw(0, 3) === 0 && { logprobs: true, top_logprobs: draw(0, 5) }),
    };
  };
  const nonsense: Record<string, unknown>[] = [
    { messages: [] },
    { messages: 'why' },
    { messages: [{ role: 'robot', content: 'a' }] },
    { messages: [{ role: 'user', content: null }] },
    { temperature: NaN },
    { temperature: -1 },
    { top_p: 2 },
    { max_tokens: 0 },
    { max_tokens: 1e12 },
    { seed: 0.5 },
    { stop: [''] },
    { stop: {} },
    { n: 3 },
    { logprobs: 'yes' },
    { tools: [{ type: 'function' }] },
  ];

  const tabsChoices = ['share', 'share', 'own', 'refuse', 'wait'] as const;

  await ask({ engine: 0, call: 'open' });
  await settle();
  for (let step = 0; step < use.steps && faults.length === 0; step++) {
    const open = await page.evaluate(() =>
      (globalThis as unknown as Tab).engines.flatMap((engine, at) => (engine ? [at] : [])),
    );
    if (open.length === 0) {
      await ask({ engine: 0, call: 'open' });
      await settle();
      continue;
    }
    const engine = one(open);
    const create = async (request = requested()) => {
      const key = JSON.stringify({ ...request, stream: 0, logprobs: 0, top_logprobs: 0 });
      const asked: Asked = { engine, call: 'create', request, key };
      const end = draw(0, 5);
      if (end === 0) asked.abortMs = one([0, 1, 40, 200]);
      if (end === 1 && request.stream) asked.leaveAfter = draw(1, 4);
      await ask(asked);
    };
    switch (draw(0, 13)) {
      case 0:
      case 1:
      case 2:
        await create();
        break;
      case 3:
        for (let more = draw(2, 6); more > 0; more--) await create();
        break;
      case 4: {
        const request = { ...requested(), ...one(nonsense) } as CompletionRequest;
        await ask({ engine, call: 'create', request, wrong: true });
        break;
      }
      case 5:
      case 6: {
        const label = `s${labels.length}`;
        labels.push(label);
        await ask({ engine, call: one(['snapshot', 'export']), label });
        break;
      }
      case 7:
      case 8:
        if (labels.length > 0) await ask({ engine, call: 'restore', label: one(labels) });
        break;
      case 9:
        if (labels.length > 0) await ask({ engine, call: 'release', label: one(labels) });
        break;
      case 10:
        await ask({ engine, call: 'watch' });
        break;
      case 11:
        await ask({ engine, call: 'unwatch' });
        break;
      case 12:
        if (open.length < 2) {
          const asked: Asked = { engine: 1 - engine, call: 'open', tabs: one(tabsChoices) };
          if (draw(0, 2) === 0) asked.abortMs = one([0, 1, 100, 600]);
          if (draw(0, 3) === 0) asked.model = 'rare0';
          // One that waits would wait for this tab's own, which nobody closes meanwhile.
          if (asked.tabs === 'wait') asked.abortMs ??= 1000;
          await ask(asked);
        } else await ask({ engine, call: 'close' });
        break;
      case 13:
        if (draw(0, 2) === 0) await ask({ engine, call: 'close' });
        break;
    }
    if (draw(0, 2) === 0) await settle();
    else await page.waitForTimeout(draw(0, 1) * draw(0, 400));
  }
  await settle();
  if (faults.length > 0) return;
  await page.evaluate(() => {
    const tab = globalThis as unknown as Tab;
    for (const engine of tab.engines) engine?.close();
  });
  const left = async () => {
    const locks = await page.evaluate(async () => {
      const { held = [], pending = [] } = await navigator.locks.query();
      return [...held, ...pending].map(({ name }) => `lock ${name}`);
    });
    return [...locks, ...page.workers().map((worker) => worker.url())].join(', ');
  };
  let last = await left();
  for (let tries = 0; last !== '' && tries < 20; tries++) {
    await page.waitForTimeout(200);
    last = await left();
  }
  if (last !== '') faults.push(`left behind: ${last}`);
}

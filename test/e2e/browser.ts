/** Chromium for end-to-end tests, with storage as users have it. */
import { chromium, type Browser, type BrowserContext, type Page } from 'playwright-core';
import { chromiumLaunch, type ChromiumLaunch } from '../../tools/chromium.ts';

/**
 * The longest wait for anything on a page, milliseconds. Two files run at a time, and shaders are compiled and run by the
 * processor that all else runs on: a time that is ample alone is not beside another load of a model.
 */
const patienceMs = 120_000;

/** A browser whose pages forget everything with their context. */
export async function openBrowser(): Promise<Browser> {
  return patient(await chromium.launch(await launchOptions()));
}

/** A browser that has no WebGPU. */
export async function openBrowserWithoutGpu(): Promise<Browser> {
  const { args, ...options } = await launchOptions();
  const without = args
    .filter((arg) => arg !== '--enable-unsafe-webgpu')
    .map((arg) => (arg.startsWith(disable) ? `${arg},WebGPUService` : arg));
  return patient(await chromium.launch({ ...options, args: without }));
}

/** A browser with one context that keeps its storage in `folder`, as a user's profile does. */
export async function openProfile(folder: string): Promise<BrowserContext> {
  const context = await chromium.launchPersistentContext(folder, await launchOptions());
  context.setDefaultTimeout(patienceMs);
  return context;
}

/** The browser, whose contexts wait as long as `patienceMs`. */
function patient(browser: Browser): Browser {
  const open = browser.newContext.bind(browser);
  browser.newContext = async (options) => {
    const context = await open(options);
    context.setDefaultTimeout(patienceMs);
    return context;
  };
  return browser;
}

/** What goes wrong in a page from here on: uncaught errors, and whatever it logs as an error. Filled as it happens. */
export function faultsOf(page: Page): string[] {
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  return faults;
}

/**
 * How long each thread lives, in milliseconds, that a page reads its store with from here on (workers/readers.ts). They end
 * some seconds after the last read, and at once where one fails. Filled as they are started.
 */
export function readersOf(page: Page): { livedMs(): number }[] {
  const readers: { livedMs(): number }[] = [];
  page.on('worker', (worker) => {
    if (!worker.url().includes('reader.worker')) return;
    const start = performance.now();
    let end: number | null = null;
    worker.on('close', () => (end = performance.now()));
    readers.push({ livedMs: () => (end ?? performance.now()) - start });
  });
  return readers;
}

const disable = '--disable-features=';

interface LaunchOptions extends ChromiumLaunch {
  ignoreDefaultArgs: string[];
}

let found: Promise<LaunchOptions> | undefined;

/**
 * Playwright switches storage partitioning off, and a frame of another site is then denied its database. The argument
 * that does it is read from a browser so started, left out, and given again without that item.
 */
function launchOptions(): Promise<LaunchOptions> {
  found ??= (async () => {
    const launch = chromiumLaunch();
    const server = await chromium.launchServer(launch);
    const argument = server.process().spawnargs.find((arg) => arg.startsWith(disable));
    await server.close();
    if (!argument) throw new Error(`Playwright passes no ${disable}; this workaround can go.`);
    const features = argument.slice(disable.length).split(',');
    const kept = features.filter((feature) => feature !== 'ThirdPartyStoragePartitioning');
    return {
      ...launch,
      args: [...launch.args, disable + kept.join(',')],
      ignoreDefaultArgs: [argument],
    };
  })();
  return found;
}

/** The page of weights/, built once, and what its tests do with browsers and the bytes a browser has stored. */
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import type { FaultServer } from '../fault/server.ts';
import type { Lab } from './weights/main.ts';

declare global {
  var lab: Lab;
}

const types: Record<string, string> = { '.html': 'text/html', '.js': 'text/javascript' };

/** Build the page and put it on the server, at its root. */
export function serveWeightsPage(server: FaultServer): void {
  const folder = resolve('.cache/weights-page');
  const vite = resolve('node_modules/vite/bin/vite.js');
  const built = spawnSync(
    process.execPath,
    [vite, 'build', 'test/e2e/weights', '--config', resolve('test/e2e/weights/vite.config.ts')],
    { env: { ...process.env, NODE_ENV: 'production', VITEST: undefined }, encoding: 'utf8' },
  );
  if (built.status !== 0) throw new Error(`vite build failed: ${built.stderr}`);
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const type = types[extname(name)];
    if (type) server.files.set(name, { bytes: readFileSync(join(folder, name)), type, etag: null });
  }
}

export async function openLab(context: BrowserContext, origin: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${origin}index.html`);
  await page.waitForFunction(() => 'lab' in globalThis);
  return page;
}

/** Process ids of a browser: all, or those of one type, e.g. "renderer". */
export async function processesOf(context: BrowserContext, type?: string): Promise<number[]> {
  const session = await context.browser()!.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  return processInfo.filter((one) => type === undefined || one.type === type).map(({ id }) => id);
}

/** End a browser as a power cut would: no process of it lives on, none has a say. */
export async function killBrowser(context: BrowserContext): Promise<void> {
  const browser = context.browser()!;
  const ids = await processesOf(context);
  const gone = new Promise((resolve) => browser.once('disconnected', resolve));
  for (const id of ids) {
    try {
      process.kill(id, 'SIGKILL');
    } catch {
      // It went with the one before.
    }
  }
  await gone;
}

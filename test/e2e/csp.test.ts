/**
 * The built pages under the policies that they are published with: what a policy had to stop (nothing), what was asked of
 * the network that nobody asked for (nothing), and how much of it there is.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { headersFile, headersOf, vercelFile } from '../../tools/headers.ts';
import { fixture } from '../reference/golden.ts';
import { faultsOf, openBrowser, readersOf } from './browser.ts';
import { builtFolder } from './build.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const folder = '/deeper/down/';
let browser: Browser;
let site: Site;
let context: BrowserContext;
let page: Page;
let faults: string[];
let readers: ReturnType<typeof readersOf>;
/** What a policy stopped, as the browser reports it, in the page and its frames. */
let stopped: string[];
/** What was requested, by the page and all its workers, in full. */
let asked: string[];

beforeAll(async () => {
  // In a folder, as on a shared host: every address must be relative.
  site = await openSite({
    folder,
    files: modelFiles(`${folder}models/tiny/`, fixture('tiny-f32.gguf')),
  });
  browser = await openBrowser();
});
afterEach(() => context?.close());
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

async function visit(path: string): Promise<void> {
  context = await browser.newContext();
  page = await context.newPage();
  faults = faultsOf(page);
  readers = readersOf(page);
  stopped = [];
  asked = [];
  context.on('request', (request) => asked.push(request.url()));
  await page.exposeFunction('violated', (what: string) => stopped.push(what));
  await page.addInitScript(() =>
    document.addEventListener('securitypolicyviolation', (event) => {
      const { violatedDirective, blockedURI, sample } = event;
      (window as unknown as { violated: (what: string) => void }).violated(
        `${violatedDirective} ${blockedURI} ${sample}`,
      );
    }),
  );
  await page.goto(site.origin + folder + path);
}

/** What was asked of anybody but the page's own server. */
const elsewhere = () =>
  asked.filter((address) => /^(https?|wss?):/.test(address) && !address.startsWith(site.origin));

describe('the page', () => {
  test('starts, answers, draws every instrument and comes back, with nothing stopped and nobody else asked', async () => {
    await visit('?model=models/tiny/');
    await page.evaluate(() => navigator.serviceWorker.ready);
    await expect.poll(() => asked.some((address) => address.endsWith('manifest.json'))).toBe(true);
    const atStart = asked.length;
    await page.waitForTimeout(500);
    expect(asked.slice(atStart)).toEqual([]);
    expect(asked.filter((address) => address.endsWith('.gguf'))).toEqual([]);

    await page.getByRole('textbox', { name: 'Message' }).fill('On a page');
    await page.getByRole('button', { name: 'Send', exact: true }).click();
    await page.getByRole('button', { name: 'Stop', exact: true }).waitFor();
    await page.getByText(/has no chat template/).waitFor({ state: 'attached' });
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await page.getByRole('button', { name: 'Send', exact: true }).waitFor();
    const closed = page.locator('aside h3 button[aria-expanded=false]');
    for (let left = await closed.count(); left > 0; left--) await closed.first().click();
    await page.waitForTimeout(500);
    const settled = asked.length;
    await page.waitForTimeout(700);
    expect(asked.slice(settled)).toEqual([]);
    expect(elsewhere()).toEqual([]);
    // The weights were read by threads that did not fail.
    expect(readers.length).toBeGreaterThan(0);
    for (const { livedMs } of readers) expect(livedMs()).toBeGreaterThan(1000);
    await page.reload();
    await page.getByRole('textbox', { name: 'Message' }).waitFor();
    expect(elsewhere()).toEqual([]);
    expect(stopped).toEqual([]);
    expect(faults).toEqual([]);
  });

  test('its policy is on: scripts, HTML, workers and styles that are not its own do nothing', async () => {
    await visit('');
    const tried = await page.evaluate(async () => {
      // The browser lets what a test evaluates evaluate in turn, until it first waits.
      await new Promise((resolve) => setTimeout(resolve));
      const attempt = (act: () => unknown) => {
        try {
          act();
          return 'done';
        } catch (refused) {
          return (refused as Error).name;
        }
      };
      const script = document.createElement('script');
      return {
        eval: attempt(() => (0, eval)('1')),
        html: attempt(() => (document.createElement('div').innerHTML = '<b>x</b>')),
        text: attempt(() => (script.text = 'window.ran = true')),
        worker: attempt(() => new Worker('data:text/javascript,')),
        policy: attempt(() =>
          (
            window as unknown as { trustedTypes: { createPolicy: (n: string, r: object) => void } }
          ).trustedTypes.createPolicy('own', {}),
        ),
      };
    });
    expect(tried).toEqual({
      eval: 'EvalError',
      html: 'TypeError',
      text: 'TypeError',
      worker: 'TypeError',
      policy: 'TypeError',
    });
    await page.evaluate(() => {
      const image = new Image();
      image.src = 'https://elsewhere.invalid/x.png';
      const frame = document.createElement('iframe');
      frame.src = 'https://elsewhere.invalid/';
      document.body.append(image, frame);
      document.body.setAttribute('style', 'color: red');
    });
    await expect
      .poll(() => stopped.map((what) => what.split(' ')[0]))
      .toEqual(expect.arrayContaining(['img-src', 'frame-src', 'style-src-attr']));
  });

  test('can be installed: a manifest, its icons, and a start page that is kept', async () => {
    await visit('');
    const href = await page.locator('link[rel=manifest]').getAttribute('href');
    const address = new URL(href!, page.url());
    const manifest = (await (await fetch(address)).json()) as {
      icons: { src: string; sizes: string; type: string }[];
      start_url: string;
    };
    for (const { src, type, sizes } of manifest.icons) {
      const bytes = Buffer.from(await (await fetch(new URL(src, address))).arrayBuffer());
      if (type !== 'image/png') continue;
      expect(`${bytes.readUInt32BE(16)}x${bytes.readUInt32BE(20)}`).toBe(sizes);
    }
    const session = await context.newCDPSession(page);
    const { installabilityErrors } = (await session.send('Page.getInstallabilityErrors')) as {
      installabilityErrors: { errorId: string }[];
    };
    // The browser of these tests has no profile to install into; all else it would say is about the page.
    expect(installabilityErrors.filter(({ errorId }) => errorId !== 'in-incognito')).toEqual([]);
    await page.evaluate(() => navigator.serviceWorker.ready);
    await context.setOffline(true);
    await page.goto(new URL(manifest.start_url, address).href);
    await page.getByRole('textbox', { name: 'Message' }).waitFor();
  });
});

test('the articles: three of them, with widgets that ask nobody for anything, and nothing stopped', async () => {
  await visit('examples/');
  await expect.poll(() => page.frames().length).toBeGreaterThan(1);
  for (const widget of await page.locator('palimpsest-model').all()) {
    await widget.scrollIntoViewIfNeeded();
  }
  const widgets = await page.locator('palimpsest-model').count();
  expect(await page.locator('article').count()).toBe(3);
  expect(widgets).toBeGreaterThanOrEqual(3);
  await expect.poll(() => page.frames().length).toBe(1 + widgets);
  for (const frame of page.frames().slice(1)) {
    await frame.getByRole('textbox', { name: 'Message' }).waitFor();
  }
  await page.waitForTimeout(500);
  expect(asked.filter((address) => address.endsWith('.gguf'))).toEqual([]);
  expect(elsewhere()).toEqual([]);
  expect(stopped).toEqual([]);
  expect(faults).toEqual([]);
});

describe('what is published', () => {
  const files = () => readdirSync(builtFolder, { recursive: true, encoding: 'utf8' });
  const read = (file: string) => readFileSync(join(builtFolder, file), 'utf8');
  const directives = (policy: string) =>
    new Map(policy.split('; ').map((part) => [part.split(' ')[0]!, part.split(' ').slice(1)]));

  test('every HTML file is sent with a policy, and has one inside for hosts that send none', () => {
    const pages = files().filter((file) => file.endsWith('.html'));
    expect(pages).toEqual(
      expect.arrayContaining(['index.html', 'embed.html', join('examples', 'index.html')]),
    );
    for (const file of pages) {
      const sent = headersOf(`/${file.replaceAll('\\', '/')}`)['Content-Security-Policy'];
      const inside = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(read(file))?.[1];
      expect(sent, file).toBeDefined();
      expect(`${inside}`, file).toBe(sent!.replace(/; frame-ancestors [^;]*/, ''));
      expect(directives(sent!).get('default-src'), file).toEqual(["'none'"]);
      expect(read(file), file).not.toMatch(/<script(?![^>]*\bsrc=)/);
    }
  });

  test('the playground is framed by nobody, the widget by anyone; neither may evaluate text', () => {
    const page = directives(headersOf('/')['Content-Security-Policy']!);
    const widget = directives(headersOf('/embed.html')['Content-Security-Policy']!);
    expect(page.get('frame-ancestors')).toEqual(["'none'"]);
    expect(widget.get('frame-ancestors')).toEqual(['*']);
    expect(page.get('script-src')).toEqual(["'self'"]);
    expect(widget.get('script-src')).toEqual(["'self'"]);
    expect(page.get('worker-src')).toEqual(["'self'"]);
    expect(page.get('connect-src')).toEqual([
      "'self'",
      'https:',
      'http://localhost:*',
      'http://127.0.0.1:*',
    ]);
    expect(page.get('require-trusted-types-for')).toEqual(["'script'"]);
    expect(headersOf('/index.html')).toEqual(headersOf('/'));
    expect(headersOf('/embed')).toEqual(headersOf('/embed.html'));
  });

  test('hosts are told the same by their own files', () => {
    expect(read('_headers')).toBe(headersFile());
    expect(read('vercel.json')).toBe(vercelFile());
    const told = new Map(
      read('_headers')
        .split('\n\n')
        .map((block) => [block.split('\n')[0]!, block.split('\n').slice(1)]),
    );
    for (const path of ['/', '/index.html', '/embed.html', '/embed', '/examples/*', '/assets/*']) {
      const policy = headersOf(path)['Content-Security-Policy'];
      expect(told.get(path), path).toContain(`  Content-Security-Policy: ${policy}`);
    }
    // Rules that apply to one file must not name one header twice: some hosts send both.
    expect(told.get('/*')!.join()).not.toContain('Content-Security-Policy');
  });

  test('no more than it may weigh', () => {
    const gzipped = (file: string) => gzipSync(read(file), { level: 9 }).length;
    /** Scripts and styles that a page has before anything is asked of it. */
    const initial = (html: string) =>
      Array.from(
        read(html).matchAll(/(?:src|href)="\.\/(assets\/[^"]+\.(?:js|css))"/g),
        (m) => m[1]!,
      );
    const sum = (list: string[]) => list.reduce((bytes, file) => bytes + gzipped(file), 0);
    const page = sum(initial('index.html'));
    const widget = sum(initial('embed.html'));
    const element = gzipped('embed.js');
    const began = new Set([...initial('index.html'), ...initial('embed.html')]);
    const later = files()
      .map((file) => file.replaceAll('\\', '/'))
      .filter((file) => /^assets\/.*\.(js|css|wasm)$/.test(file) && !began.has(file));
    const kB = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
    console.log(
      [
        `the page at first: ${kB(page)} gzip`,
        `the widget's frame at first: ${kB(widget)}`,
        `embed.js: ${kB(element)}`,
        ...later.map((file) => `when needed: ${file} ${kB(gzipped(file))}`),
      ].join('\n'),
    );
    expect(initial('index.html').length).toBeGreaterThan(1);
    expect(page).toBeLessThanOrEqual(250_000);
    expect(widget).toBeLessThanOrEqual(250_000);
    expect(element).toBeLessThanOrEqual(5_000);
  });
});

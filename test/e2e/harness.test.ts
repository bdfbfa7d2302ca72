import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { faultsOf, openBrowser, openProfile } from './browser.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const html = (body: string) => `<!doctype html><link rel="icon" href="data:,">${body}`;
let browser: Browser;
let site: Site;

beforeAll(async () => {
  site = await openSite({
    files: {
      '/blank.html': html(''),
      '/worker.js': 'postMessage((await navigator.gpu.requestAdapter()) !== null)',
      '/frame.html': html(`<script type="module">
        const request = indexedDB.open('kept', 1);
        request.onsuccess = () => parent.postMessage('opened', '*');
        request.onerror = () => parent.postMessage(String(request.error), '*');
      </script>`),
      ...modelFiles('/models/tiny/', 'test/fixtures/tiny-q4_0.gguf'),
    },
    headers: { 'X-Seen': 'yes' },
    meddle: (request, reply) => {
      if (request.url !== '/cut') return false;
      reply.writeHead(200, { 'Content-Length': 1000 }).write('only this');
      setTimeout(() => reply.destroy(), 50);
      return true;
    },
  });
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

test('a page and a worker get a WebGPU adapter', async () => {
  const page = await browser.newPage();
  const faults = faultsOf(page);
  await page.goto(`${site.origin}/blank.html`);
  const here = await page.evaluate(async () => (await navigator.gpu.requestAdapter()) !== null);
  const there = await page.evaluate(async () => {
    const worker = new Worker('/worker.js', { type: 'module' });
    return new Promise((answered) => (worker.onmessage = (event) => answered(event.data)));
  });
  expect([here, there]).toEqual([true, true]);
  expect(faults).toEqual([]);
  await page.evaluate(() => console.error('seen'));
  await expect.poll(() => faults).toEqual(['seen']);
});

test('a frame of another site has a database of its own', async () => {
  const page = await browser.newPage();
  await page.goto(`${site.origin}/blank.html`);
  const said = await page.evaluate(async (source) => {
    const frame = document.createElement('iframe');
    frame.src = source;
    const message = new Promise((heard) => addEventListener('message', (e) => heard(e.data)));
    document.body.append(frame);
    return message;
  }, `${site.otherOrigin}/frame.html`);
  expect(said).toBe('opened');
});

test('a profile remembers after the browser is closed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'palimpsest-profile-'));
  try {
    for (const [visit, seen] of [
      ['first', null],
      ['second', 'first'],
    ]) {
      const context = await openProfile(folder);
      const page = await context.newPage();
      await page.goto(`${site.origin}/blank.html`);
      expect(await page.evaluate(() => localStorage.getItem('visit'))).toBe(seen);
      await page.evaluate((value) => localStorage.setItem('visit', value!), visit);
      await context.close();
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the site serves ranges, headers, a model folder and the built page, and can cut a connection', async () => {
  const manifest = await (await fetch(`${site.origin}/models/tiny/manifest.json`)).json();
  expect(manifest.shards[0].sha256).toMatch(/^[0-9a-f]{64}$/);
  const part = await fetch(`${site.origin}/models/tiny/tiny-q4_0.gguf`, {
    headers: { Range: 'bytes=0-3' },
  });
  expect([part.status, await part.text()]).toEqual([206, 'GGUF']);
  expect(part.headers.get('Content-Range')).toBe(`bytes 0-3/${manifest.bytes}`);
  expect(part.headers.get('X-Seen')).toBe('yes');
  expect((await fetch(`${site.origin}/`)).headers.get('Content-Type')).toMatch('text/html');
  expect((await fetch(`${site.origin}/nothing`)).status).toBe(404);
  expect((await fetch(`${site.origin}/..%2f..%2fpackage.json`)).status).toBe(404);
  await expect(fetch(`${site.origin}/cut`).then((r) => r.text())).rejects.toThrow();
  expect(site.requested).toContain('/cut');
});

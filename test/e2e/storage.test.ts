/** The storage panel, downloads and own models on the built page, and the page without a network. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { fixtureJson } from '../reference/golden.ts';
import { faultsOf, openBrowser } from './browser.ts';
import { longestAnswer } from './settings.ts';
import { modelFiles, openSite, type Site } from './site.ts';

const file = 'test/fixtures/tiny-q4_0.gguf';
const bytes = readFileSync(file);
const checkpoint = tinyCheckpoint();
/** What llama.cpp loaded. */
const imported = fixtureJson<{ files: Record<string, { sha256: string }> }>('imported.json').files;
const sha256 = (some: Uint8Array) => createHash('sha256').update(some).digest('hex');

let browser: Browser;
let site: Site;
let page: Page;
let faults: string[];
/** Requests for weights that wait, while `holding`. */
let holding = false;
const held: (() => void)[] = [];
/** Paths that hold this are answered with 404. */
let failing = '';

function hold(reply: ServerResponse, path: string): boolean {
  if (failing !== '' && path.includes(failing)) {
    reply.writeHead(404).end();
    return true;
  }
  if (!holding || !path.endsWith('/tiny-q4_0.gguf')) return false;
  // A first part arrives, the rest when it is let go.
  reply.setHeader('Content-Type', 'application/octet-stream');
  reply.setHeader('Content-Length', bytes.length);
  reply.setHeader('Content-Range', `bytes 0-${bytes.length - 1}/${bytes.length}`);
  reply.writeHead(206);
  reply.write(bytes.subarray(0, 100_000));
  held.push(() => reply.end(bytes.subarray(100_000)));
  return true;
}

beforeAll(async () => {
  site = await openSite({
    files: {
      ...modelFiles('/models/tiny/', file),
      ...modelFiles('/models/other/', 'test/fixtures/tiny-q8_0.gguf'),
      // No recording is played: the page begins with its own conversation.
      '/replays/first-visit.json': '{}',
    },
    headers: {
      'Access-Control-Allow-Origin': '*',
      'Access-Control-Expose-Headers': 'Content-Range, ETag',
    },
    meddle: (request, reply) => hold(reply, request.url ?? ''),
  });
  browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await site?.close();
});

beforeEach(async () => {
  holding = false;
  failing = '';
  held.length = 0;
  page = await (await browser.newContext({ acceptDownloads: true })).newPage();
  faults = faultsOf(page);
  // Pickers of the system cannot be worked from here: without them files go to the browser's downloads.
  await page.addInitScript(() => {
    Object.assign(globalThis, { showSaveFilePicker: undefined, showDirectoryPicker: undefined });
  });
});
afterEach(() => page.context().close());

async function open(model = 'models/tiny/'): Promise<void> {
  await page.goto(`${site.origin}/?model=${model}`);
}

const button = (name: string | RegExp) => page.getByRole('button', { name });
const stored = (name: string) => page.getByRole('article', { name, exact: true });

async function downloaded(name = 'tiny-q4_0'): Promise<void> {
  await button('Download only').click();
  await stored(name).getByText('verified just now').waitFor();
}

/** Load the model and let it write four tokens of raw text. */
async function answers(): Promise<string> {
  if (await button('Raw text').isEnabled()) await button('Raw text').click();
  await longestAnswer(page, 4);
  await page.getByRole('textbox', { name: 'Message' }).fill('the memory of');
  await button('Send').click();
  const log = page.getByRole('log');
  await expect.poll(() => log.textContent()).not.toBe('');
  await button('Take back').waitFor();
  return (await log.textContent()) ?? '';
}

describe('a model in storage', () => {
  test('what it needs is said before; fetched, verified, exported byte for byte, deleted', async () => {
    await open();
    const needs = `needs ${(bytes.length / 1e6).toFixed(1)} MB`;
    await page.getByText(new RegExp(`^${needs}, [\\d.]+ GB free$`)).waitFor();
    await page.getByText('apache-2.0').waitFor();
    await page.getByText('this page', { exact: true }).waitFor();

    await downloaded();
    await page.getByText(/MB, stored here already$/).waitFor();
    await page
      .getByText('The model is stored here. It is loaded when you begin to write.')
      .waitFor();
    await button('Verify').click();
    await page.getByText(/^Verified: every stored byte/).waitFor();

    const [download] = await Promise.all([
      page.waitForEvent('download'),
      button('Export .gguf').click(),
    ]);
    expect(download.suggestedFilename()).toBe('tiny-q4_0.gguf');
    expect(readFileSync(await download.path()).equals(bytes)).toBe(true);
    await page.getByText('Exported as one file.').waitFor();

    await button('Delete…').click();
    await page.getByRole('button', { name: 'Keep', exact: true }).click();
    await button('Delete…').click();
    await button('Delete').click();
    await page.getByText(/^Nothing is stored yet/).waitFor();
    await button('Download only').waitFor();
    await page.getByText('The model is fetched when you begin to write.').waitFor();
    expect(grave(faults)).toEqual([]);
  });

  test('one that is loaded is not deleted, and the reason is said; another model lets it go', async () => {
    await open();
    await button(/^Load the model/).click();
    await page.getByText('in use', { exact: true }).waitFor();
    await button('Delete…').click();
    await button('Delete').click();
    await page.getByText(/tiny-q4_0 is in use, in this tab or another/).waitFor();
    await page.getByRole('combobox', { name: 'Model' }).selectOption('Palimpsest 150M');
    await button('Delete…').click();
    await button('Delete').click();
    await page.getByText(/^Nothing is stored yet/).waitFor();
  });

  test('a stored piece that rotted is found, dropped and fetched again', async () => {
    await open();
    await downloaded();
    await rot(page);
    await button('Verify').click();
    await page.getByText(/^Damaged: 1 of 1 pieces/).waitFor();
    await button('Download only').click();
    await page.getByText('verified just now').waitFor();
    await button('Verify').click();
    await page.getByText(/^Verified/).waitFor();
  });

  test('what is repaired while it is loaded is told', async () => {
    await open();
    await downloaded();
    await rot(page);
    await button(/^Load the model/).click();
    await page.getByText(/^One stored piece was damaged or missing; it was fetched/).waitFor();
  });
});

/** Without what the browser says of a file that is not there: a page without its recording is whole. */
function grave(faults: string[]): string[] {
  return faults.filter((fault) => !fault.startsWith('Failed to load resource'));
}

/** Overwrite every stored piece with as many zeros. */
async function rot(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const done = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error ?? new Error('IndexedDB'));
      });
    const database = await done(indexedDB.open('palimpsest'));
    const store = database.transaction('weights', 'readwrite').objectStore('weights');
    const range = IDBKeyRange.bound(['piece'], ['piece', []]);
    for (const key of await done(store.getAllKeys(range))) {
      const value = (await done(store.get(key))) as Blob | ArrayBuffer;
      const zeros = new Uint8Array(value instanceof Blob ? value.size : value.byteLength);
      await done(store.put(value instanceof Blob ? new Blob([zeros]) : zeros.buffer, key));
    }
    database.close();
  });
}

describe('a download', () => {
  test('is held, goes on, and is ended with what has arrived', async () => {
    holding = true;
    await open();
    await button('Download only').click();
    await page.getByText('0 of 1 piece verified by SHA-256').waitFor();
    await page.getByRole('button', { name: 'Pause', exact: true }).click();
    await page.getByText('Paused').waitFor();
    holding = false;
    await button('Resume').click();
    await stored('tiny-q4_0').getByText('verified just now').waitFor();
    expect(grave(faults)).toEqual([]);
  });

  test('that is ended can be begun again', async () => {
    holding = true;
    await open();
    await button('Download only').click();
    await page.getByRole('button', { name: 'Pause', exact: true }).waitFor();
    await page.getByRole('button', { name: 'Cancel' }).first().click();
    await expect
      .poll(() => page.getByRole('button', { name: 'Pause', exact: true }).count())
      .toBe(0);
    holding = false;
    await page.getByRole('button', { name: /^(Download only|Go on)$/ }).click();
    await stored('tiny-q4_0').getByText('verified just now').waitFor();
  });

  test('that fails says why, and can be tried again', async () => {
    await open();
    await button('Download only').waitFor();
    failing = 'tiny-q4_0.gguf';
    await button('Download only').click();
    const alert = page.getByRole('complementary').getByRole('alert');
    await alert.getByText('The model could not be fetched.').waitFor();
    expect(await alert.count()).toBe(1);
    failing = '';
    await page.getByRole('complementary').getByRole('button', { name: 'Try again' }).click();
    await stored('tiny-q4_0').getByText('verified just now').waitFor();
    expect(await alert.count()).toBe(0);
  });

  test('without room goes to memory, and that is said', async () => {
    const session = await page.context().newCDPSession(page);
    await session.send('Storage.overrideQuotaForOrigin', {
      origin: site.origin,
      quotaSize: 50_000,
    });
    await open();
    await page.getByText(/needs .*: it stays in memory until the tab closes/).waitFor();
  });
});

describe('a model of one’s own', () => {
  async function openFiles(): Promise<void> {
    await page.getByText('Bring your own model').click();
    await page.getByLabel('Files of a model').setInputFiles('test/fixtures/tiny-q8_0.gguf');
  }

  /** Drop a file on the page. */
  async function drop(name: string, bytes: Uint8Array = Buffer.from('G')): Promise<void> {
    await page.evaluate(
      ({ name, base64 }) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
        for (const type of ['dragover', 'drop']) {
          const event = new DragEvent(type, {
            dataTransfer: transfer,
            bubbles: true,
            cancelable: true,
          });
          document.body.dispatchEvent(event);
        }
      },
      { name, base64: Buffer.from(bytes).toString('base64') },
    );
  }

  /** Whether it stands in the part of the panel that is on screen. */
  function seen(told: Element): boolean {
    const [own, around] = [told, document.querySelector('#panel')!].map((element) =>
      element.getBoundingClientRect(),
    );
    return own!.top >= around!.top && own!.bottom <= Math.min(around!.bottom, innerHeight) + 1;
  }

  test('files are read in place, answer, and are copied if wanted', async () => {
    await open();
    await openFiles();
    await page.getByText('Read from your files, in place.').waitFor();
    expect(await answers()).not.toBe('');
    await page.getByText(/^Nothing is stored yet/).waitFor();
    await button('Copy into this browser').click();
    await stored('tiny-q8_0')
      .getByText(/From this computer/)
      .waitFor();
  });

  test('dropped on the page they are taken; what is no model is refused with the reason', async () => {
    await open();
    await button('Download only').waitFor();
    await drop('notes.txt');
    const refusal = page.getByText(/notes\.txt is not a \.gguf file/);
    await refusal.waitFor();
    // Dropped anywhere, it is told where it is seen: the panel has gone there.
    await expect.poll(() => refusal.evaluate(seen)).toBe(true);
    await drop('m.gguf');
    await page.getByText(/^m\.gguf has 1 of the 24 bytes/).waitFor();
    expect(await page.getByRole('combobox', { name: 'Model' }).inputValue()).toContain('/tiny/');
    await drop('m.gguf', bytes);
    await page.getByText('Read from your files, in place.').waitFor();
  });

  test('where the panel is a sheet it opens to tell what was refused', async () => {
    await page.setViewportSize({ width: 700, height: 600 });
    await open();
    await button('Memory').waitFor();
    await drop('m.gguf');
    const refusal = page.getByText(/^m\.gguf has 1 of the 24 bytes/);
    await refusal.waitFor();
    await expect.poll(() => refusal.evaluate(seen)).toBe(true);
  });

  test('an address of another site: looked at, fetched, there after a reload', async () => {
    await open();
    await page.getByText('Bring your own model').click();
    const address = page.getByRole('textbox', { name: 'Address of a model' });
    await address.fill('https://host/m.bin');
    await button('Look').click();
    await page.getByText(/m\.bin is not a \.gguf file/).waitFor();
    await address.fill(`${site.otherOrigin}/models/other/tiny-q8_0.gguf`);
    await button('Look').click();
    await page.getByText('not stated: look where it comes from').waitFor();
    await downloaded('tiny-q8_0');
    await page.reload();
    await page.getByRole('combobox', { name: 'Model' }).selectOption('tiny-q8_0');
    await page.getByText(/MB, stored here already$/).waitFor();
    expect(grave(faults)).toEqual([]);
  });
});

/** Drop a file or folder of this computer on the page, as the browser itself does: its entries can be walked. */
async function dropPath(path: string): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const dragged = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
    await session.send('Input.dispatchDragEvent', { type, x: 400, y: 300, data: dragged });
  }
  await session.detach();
}

describe('a safetensors checkpoint', () => {
  const parent = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  const folder = join(parent, 'tiny');
  mkdirSync(folder);
  for (const [name, file] of checkpoint) writeFileSync(join(folder, name), file);
  writeFileSync(join(folder, 'README.md'), 'Nothing that is read.');
  afterAll(() => rmSync(parent, { recursive: true }));

  test('of a folder: sizes are said before; imported, it answers, is there after a reload, exported as llama.cpp loads it', async () => {
    await open();
    await page.getByText('Bring your own model').click();
    await page.getByLabel('Folder of a checkpoint').setInputFiles(folder);
    const offer = page.getByRole('group', { name: 'Import of tiny' });
    await offer.getByText(/MB of safetensors · no licence stated/).waitFor();
    await offer.getByText(/, every number as it is/).waitFor();
    await offer.getByRole('button', { name: 'Q8_0' }).click();
    await page.getByText('Made here from a safetensors checkpoint of this computer.').waitFor();
    await page.getByText(/^needs [\d.]+ MB, [\d.]+ GB free$/).waitFor();
    await button('Import').click();
    await stored('tiny-Q8_0').getByText('verified just now').waitFor();
    const answer = await answers();
    expect(answer).not.toBe('');

    await page.reload();
    await page.getByRole('combobox', { name: 'Model' }).selectOption('tiny-Q8_0');
    await page.getByText(/MB, stored here already$/).waitFor();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      button('Export .gguf').click(),
    ]);
    expect(download.suggestedFilename()).toBe('tiny-Q8_0.gguf');
    const { sha256: right } = imported['tiny-Q8_0.gguf'];
    expect(sha256(readFileSync(await download.path()))).toBe(right);
    expect(await answers()).toBe(answer);
    expect(grave(faults)).toEqual([]);
  });

  test('its folder is dropped on the page, or one with a .gguf file, or one with neither', async () => {
    const [gguf, neither] = [join(parent, 'gguf'), join(parent, 'neither')];
    for (const made of [gguf, neither]) {
      mkdirSync(made);
      writeFileSync(join(made, 'notes.txt'), 'Nothing that is read.');
    }
    writeFileSync(join(gguf, 'tiny.gguf'), bytes);
    await open();
    await dropPath(folder);
    const offer = page.getByRole('group', { name: 'Import of tiny' });
    await offer.getByText(/MB of safetensors · no licence stated/).waitFor();
    await dropPath(neither);
    await page.getByText(/There is no \.gguf file here/).waitFor();
    expect(await offer.count()).toBe(0);
    await dropPath(gguf);
    await page.getByText('Read from your files, in place.').waitFor();
    expect(await answers()).not.toBe('');
    expect(grave(faults)).toEqual([]);
  });

  test('of which a file is missing is refused with its name', async () => {
    const part = join(parent, 'part');
    mkdirSync(part);
    for (const [name, file] of checkpoint) {
      if (!name.includes('00002')) writeFileSync(join(part, name), file);
    }
    await open();
    await page.getByText('Bring your own model').click();
    await page.getByLabel('Folder of a checkpoint').setInputFiles(part);
    await page.getByText(/model-00002-of-00003\.safetensors is missing/).waitFor();
  });
});

describe('a repository of the hub', () => {
  const commit = '0123456789abcdef0123456789abcdef01234567';
  const files: Record<string, Uint8Array> = { 'm-Q4_0.gguf': bytes, 'm-IQ1_S.gguf': bytes };
  for (const [name, file] of checkpoint) files[name] = file;
  const asked: string[] = [];
  /** Paths that the hub answers only once `letGo` is called. */
  let held = '';
  let letGo = () => {};
  /** The hub says this hash of its .gguf files. */
  let stated = sha256(bytes);

  /** The hub, with one repository: two encodings, one of them not read here, and a checkpoint. */
  async function hub(): Promise<void> {
    held = '';
    stated = sha256(bytes);
    await page.context().route('https://huggingface.co/**', async (route) => {
      const { pathname } = new URL(route.request().url());
      asked.push(pathname);
      const headers = {
        'Access-Control-Allow-Origin': '*',
        'Access-Control-Allow-Headers': '*',
        'Access-Control-Expose-Headers': '*, X-Error-Code, Content-Range',
      };
      if (pathname.startsWith('/api/models/some/tiny/revision/')) {
        const cardData = { license: 'mit' };
        return route.fulfill({
          headers,
          json: { _id: '1', id: 'some/tiny', sha: commit, gated: false, cardData, private: false },
        });
      }
      if (pathname.startsWith('/api/models/some/tiny/tree/')) {
        const listed = Object.entries(files).map(([path, { length: size }]) => {
          const lfs = { oid: stated, size, pointerSize: 130 };
          return { type: 'file', path, size, oid: 'a', ...(path.endsWith('.gguf') && { lfs }) };
        });
        return route.fulfill({ headers, json: listed });
      }
      const file = files[pathname.replace(`/some/tiny/resolve/${commit}/`, '')];
      if (file) {
        const range = /bytes=(\d+)-(\d+)/.exec(route.request().headers().range ?? '');
        const [from, to] = range ? [Number(range[1]), Number(range[2])] : [0, file.length - 1];
        if (held !== '' && pathname.endsWith(held) && from > 8) {
          await new Promise<void>((resolve) => (letGo = resolve));
          return route.abort().catch(() => {}); // the page has gone meanwhile
        }
        const body = Buffer.from(file.subarray(from, to + 1));
        const part = { 'Content-Range': `bytes ${from}-${from + body.length - 1}/${file.length}` };
        return route.fulfill({ status: 206, headers: { ...headers, ...part }, body });
      }
      return route.fulfill({
        status: 401,
        headers: { ...headers, 'X-Error-Code': 'RepoNotFound' },
        json: { error: 'no' },
      });
    });
  }

  async function list(repository: string): Promise<void> {
    if (!(await page.getByRole('button', { name: 'Open files…' }).isVisible()))
      await page.getByText('Bring your own model').click();
    await page.getByRole('textbox', { name: 'Hugging Face repository' }).fill(repository);
    await button('List').click();
  }

  test('is listed with sizes and encodings; one is chosen and fetched; a missing one is explained', async () => {
    await hub();
    await open();
    await list('some/nothing');
    await page.getByText(/There is no public model some\/nothing/).waitFor();
    await list('some/tiny');
    await page.getByText('IQ1_S is not read here').waitFor();
    expect(await button('IQ1_S').isDisabled()).toBe(true);
    await button('Q4_0').click();
    await page.getByText('mit', { exact: true }).waitFor();
    await downloaded('m-Q4_0');
    await stored('m-Q4_0')
      .getByText(/From huggingface\.co\/some\/tiny · mit/)
      .waitFor();
    expect(asked.every((path) => path.includes('some/'))).toBe(true);
  });

  test('states hashes: what arrives with another is not used', async () => {
    await hub();
    stated = 'e'.repeat(64);
    await open();
    await list('some/tiny');
    await button('Q4_0').click();
    await button('Download only').click();
    await page
      .getByText(/m-Q4_0\.gguf .* instead of eeeeeeee: the server has another file/)
      .first()
      .waitFor();
    expect(await page.getByText('verified just now').count()).toBe(0);
  });

  test('holds a checkpoint: an import is held, and goes on after a reload without being looked for again', async () => {
    await hub();
    await open();
    await list('some/tiny');
    await button('safetensors…').click();
    const offer = page.getByRole('group', { name: 'Import of tiny' });
    await offer.getByText(/MB of safetensors · mit/).waitFor();
    held = '00003-of-00003.safetensors';
    await offer.getByRole('button', { name: 'Q4_0' }).click();
    await button('Import').click();
    await page.getByText('0 of 1 piece stored with its SHA-256').waitFor();
    await page.getByRole('button', { name: 'Pause', exact: true }).click();
    await page.getByText('Paused').waitFor();
    letGo();
    held = '';
    await page.reload();
    asked.length = 0;
    await page.getByRole('combobox', { name: 'Model' }).selectOption('tiny-Q4_0');
    await page.getByRole('button', { name: /^(Import|Go on)$/ }).click();
    await stored('tiny-Q4_0').getByText('verified just now').waitFor();
    await stored('tiny-Q4_0')
      .getByText(/From huggingface\.co\/some\/tiny · mit/)
      .waitFor();
    expect(asked.filter((path) => path.startsWith('/api/'))).toEqual([]);
    expect(asked.length).toBeGreaterThan(0);
  });
});

describe('without a network', () => {
  test('nothing is asked for after a load, and the page opens and answers again', async () => {
    await open();
    const first = await answers();
    await page.evaluate(() => navigator.serviceWorker.ready);
    const asked: string[] = [];
    page.context().on('request', (request) => asked.push(request.url()));
    const before = site.requested.length;
    await button('Take back').click();
    expect(await answers()).toBe(first);
    expect(asked).toEqual([]);
    // The browser itself looks whether there is another service worker, at a time of its own choice.
    const others = (own: string[]) =>
      site.requested.slice(before).filter((path) => !own.includes(path));
    expect(others(['/serviceWorker.js'])).toEqual([]);

    await page.context().setOffline(true);
    await page.reload();
    await page.getByText(/With the network off, the page and its stored models work/).waitFor();
    expect(await answers()).toBe(first);
    // A service worker looks for a newer recording.
    expect(others(['/serviceWorker.js', '/replays/first-visit.json'])).toEqual([]);
  });

  test('what is kept of the page is the page, and no weights', async () => {
    await open();
    await downloaded();
    await page.evaluate(() => navigator.serviceWorker.ready);
    const kept = await page.evaluate(async () => {
      const caches = await globalThis.caches.keys();
      const requests = await (await globalThis.caches.open(caches[0]!)).keys();
      return { caches: caches.length, paths: requests.map(({ url }) => new URL(url).pathname) };
    });
    expect(kept.caches).toBe(1);
    expect(kept.paths).toContain('/');
    const shell = /\/$|\.(html|js|css)$|^\/replays\/first-visit\.json$/;
    expect(kept.paths.filter((path) => !shell.test(path))).toEqual([]);
    expect(kept.paths.some((path) => path.includes('engine.worker'))).toBe(true);
  });
});

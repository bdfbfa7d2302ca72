import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { page } from 'vitest/browser';
import type { Weights } from '../../src/client.ts';
import { Library } from '../../src/library.svelte.ts';
import Storage from '../../src/model/Storage.svelte';
import Transfer from '../../src/model/Transfer.svelte';
import '../../src/style.css';
import {
  PalimpsestError,
  type Room,
  type StoredModel,
  type WeightsStatus,
} from '../../workers/protocol.ts';

const model = 'https://host/m/';
const status: WeightsStatus = {
  model,
  name: 'm',
  license: 'mit',
  place: 'disk',
  placeNote: '',
  state: 'downloading',
  totalBytes: 100_000_000,
  storedBytes: 30_000_000,
  receivedBytes: 40_000_000,
  pieces: 8,
  storedPieces: 2,
  repairedPieces: 0,
  bytesPerSec: 12_000_000,
  secondsLeft: 5,
  note: '',
  error: null,
};
const full = { name: 'QuotaExceeded', message: 'm needs 60.0 MB, 1.0 MB free.' } as const;

const room: Room = {
  place: 'disk',
  placeNote: '',
  quotaBytes: 10,
  usedBytes: 1,
  freeBytes: 9,
  persisted: true,
};

/** Weights that say what a test makes them say; a call it does not name fails. */
function scripted(parts: Partial<Weights>): Weights {
  const weights: Partial<Weights> = {
    list: () => Promise.resolve([]),
    room: () => Promise.resolve(room),
    watch: () => Promise.resolve(),
    close: () => Promise.resolve(),
    ...parts,
  };
  return weights as Weights;
}

let shown: ReturnType<typeof mount> | null = null;
afterEach(async () => {
  if (shown) await unmount(shown);
  shown = null;
  document.body.replaceChildren();
});

describe('what becomes of a download', () => {
  test('one that failed stays open, so that its reason stays; one that is done is let go', async () => {
    const closed: string[] = [];
    let outcome = Promise.reject<void>(new PalimpsestError(full.name, full.message));
    const library = new Library(
      scripted({
        watch: async (_, report) => report({ ...status, state: 'failed', error: full }),
        status: async () => ({ ...status, state: 'failed', error: full }),
        download: () => outcome,
        close: async (model) => void closed.push(model),
      }),
      () => false,
    );
    await library.download(model);
    expect(library.known(model).status?.error).toEqual(full);
    expect(library.work(model)).toBeNull();
    expect(closed).toEqual([]);
    outcome = Promise.resolve();
    await library.download(model);
    expect(closed).toEqual([model]);
  });

  test('a failure is said in one place, whichever comes first, it or the status that tells of it', async () => {
    const failed: WeightsStatus = { ...status, state: 'failed', error: full };
    let thrown = new PalimpsestError(full.name, full.message);
    const library = new Library(
      scripted({
        watch: async (_, report) => report(status), // and not a word of the failure
        status: async () => failed,
        download: () => Promise.reject(thrown),
      }),
      () => false,
    );
    await library.download(model);
    expect(library.known(model).status).toEqual(failed);
    expect(library.work(model)).toBeNull();
    thrown = new PalimpsestError('DownloadFailed', 'The manifest cannot be reached.');
    await library.download(model); // the status still tells of the one before
    expect(library.work(model)).toEqual({
      kind: 'failed',
      failure: { name: 'DownloadFailed', message: 'The manifest cannot be reached.' },
    });
  });

  test('of two listings of the store the later one is shown, in whatever order they are answered', async () => {
    const answers: ((room: Room) => void)[] = [];
    const room = () => new Promise<Room>((resolve) => answers.push(resolve));
    const library = new Library(scripted({ room }), () => false); // asks the first time
    const second = library.refresh();
    const [early, late] = [1, 2].map((usedBytes) => ({ usedBytes }) as Room);
    answers[1]!(late!);
    await second;
    answers[0]!(early!);
    await new Promise((resolve) => setTimeout(resolve));
    expect(library.room).toBe(late);
  });

  test('a model that the engine uses is not closed by deleting it, and the refusal is kept', async () => {
    const close = vi.fn(() => Promise.resolve());
    const library = new Library(
      scripted({
        close,
        remove: () => Promise.reject(new PalimpsestError('Refused', 'm is in use')),
      }),
      (used) => used === model,
    );
    expect(await library.remove(model)).toBe(false);
    expect(close).not.toHaveBeenCalled();
    expect(library.work(model)).toEqual({
      kind: 'failed',
      failure: { name: 'Refused', message: 'm is in use' },
    });
  });

  test('a place for an export that the browser refuses is told; one that the person did not choose is not', async () => {
    const library = new Library(scripted({}), () => false);
    const refusing = (name: string) => () => Promise.reject(new DOMException('not here', name));
    await library.exportFiles(model, refusing('AbortError'));
    expect(library.work(model)).toBeNull();
    await library.exportFiles(model, refusing('SecurityError'));
    expect(library.work(model)).toMatchObject({
      kind: 'failed',
      failure: { message: 'SecurityError: not here' },
    });
  });

  test('verifying tells how far it is, then what it found; a late report changes nothing', async () => {
    let late: (done: number, total: number) => void = () => {};
    const library = new Library(
      scripted({
        verify: async (_, report) => {
          report(5, 10);
          expect(library.work(model)).toEqual({
            kind: 'verifying',
            doneBytes: 5,
            totalBytes: 10,
          });
          expect(library.busy(model)).toBe(true);
          late = report;
          return { pieces: 4, damagedPieces: 1 };
        },
      }),
      () => false,
    );
    await library.verify(model);
    const told = library.work(model);
    expect(told).toMatchObject({ kind: 'done', text: expect.stringContaining('1 of 4') });
    late(10, 10);
    expect(library.work(model)).toEqual(told);
    expect(library.busy(model)).toBe(false);
  });
});

describe('how it is shown', () => {
  const acts = { download: vi.fn(), pause: vi.fn(), cancel: vi.fn(), freeRoom: vi.fn() };
  beforeEach(() => Object.values(acts).forEach((act) => act.mockClear()));

  function show(part: Partial<WeightsStatus>): void {
    shown = mount(Transfer, {
      target: document.body,
      props: { status: { ...status, ...part }, ...acts },
    });
    flushSync();
  }

  test('bytes, rate, time left, pieces verified; it can be held and ended', async () => {
    show({ note: 'The connection broke, trying again' });
    await expect.element(page.getByText('40 MB of 100 MB · 12 MB/s · 5.0 s left')).toBeVisible();
    await expect.element(page.getByText('2 of 8 pieces verified by SHA-256')).toBeVisible();
    await expect.element(page.getByText('The connection broke, trying again')).toBeVisible();
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByRole('button', { name: 'Cancel' }).click();
    expect([acts.pause, acts.cancel].map((act) => act.mock.calls.length)).toEqual([1, 1]);
  });

  test('a note names the host and the file of an address, and has the whole one in its title', async () => {
    const note = 'https://host.org/a/resolve/main/m.gguf?x=1 answered 503; trying again in 2 s';
    show({ note });
    const told = page.getByText('host.org/…/m.gguf answered 503; trying again in 2 s');
    await expect.element(told).toHaveAttribute('title', note);
  });

  test('a full disk keeps what is there, and offers to free room', async () => {
    show({ state: 'failed', error: full });
    const alert = page.getByRole('alert');
    await expect.element(alert).toHaveTextContent('m needs 60.0 MB, 1.0 MB free.');
    await expect.element(alert).toHaveTextContent('What has arrived is kept.');
    await alert.getByRole('button', { name: 'Free room' }).click();
    await page.getByRole('button', { name: 'Try again' }).click();
    expect([acts.freeRoom, acts.download].map((act) => act.mock.calls.length)).toEqual([1, 1]);
  });

  test('a repair is told while it goes on, and afterwards', async () => {
    show({ repairedPieces: 2 });
    await expect
      .element(page.getByText('2 stored pieces were damaged or missing and are fetched again.'))
      .toBeVisible();
    await unmount(shown!);
    show({ repairedPieces: 1, state: 'complete' });
    await expect
      .element(page.getByText(/^One stored piece was damaged or missing; it was fetched again/))
      .toBeVisible();
    expect(page.getByRole('progressbar').elements()).toHaveLength(0);
  });
});

describe('what is kept', () => {
  const hourMs = 3_600_000;
  const stored: StoredModel = {
    model,
    name: 'm',
    license: 'mit',
    fileType: 'Q4_0',
    shards: 2,
    totalBytes: 3_000_000,
    storedBytes: 3_000_000,
    ownBytes: 1_000_000,
    usedAt: Date.now(),
    verifiedAt: Date.now() - hourMs,
  };
  const older = { ...stored, model: `${model}2/`, name: 'older', usedAt: Date.now() - 48 * hourMs };

  function show(parts: Partial<Weights>, sentTo: string | null = null): void {
    const library = new Library(scripted(parts), () => false);
    const props = { library, uses: () => false, removed: () => {}, sentTo };
    shown = mount(Storage, { target: document.body, props });
  }

  test('each model with what it weighs, its last use and verification; the first to go is told', async () => {
    show({
      list: async () => [stored, older],
      room: async () => ({ ...room, quotaBytes: 10e9, usedBytes: 4e9, freeBytes: 6e9 }),
    });
    const one = page.getByRole('article', { name: 'm', exact: true });
    await expect.element(one).toHaveTextContent(/3\.0 MB · 2 shards/);
    await expect.element(one).toHaveTextContent(/used just now · verified .*hour/);
    await expect.element(one).toHaveTextContent(/mit · shares 2\.0 MB with another model/);
    await expect.element(one).not.toHaveTextContent('longest ago');
    await expect
      .element(page.getByRole('article', { name: 'older' }))
      .toHaveTextContent('longest ago of all');
    const meter = page.getByRole('meter', { name: 'Storage of this page' });
    await expect.element(meter).toHaveAttribute('aria-valuetext', '4.0 GB of 10 GB used');
    await expect.element(page.getByText('6.0 GB free')).toBeVisible();
    await expect.element(page.getByText(/^Nothing leaves this tab/)).toBeVisible();
  });

  test('the browser is asked to keep it, and its answer is shown', async () => {
    const answers = [false, true];
    let persisted = false;
    const persist = vi.spyOn(navigator.storage, 'persist').mockImplementation(async () => {
      return (persisted = answers.shift()!);
    });
    show({ list: async () => [stored], room: async () => ({ ...room, persisted }) });
    await page.getByRole('button', { name: 'Ask it not to' }).click();
    await expect.element(page.getByText(/did not agree to keep this for good/)).toBeVisible();
    await page.getByRole('button', { name: 'Ask again' }).click();
    await expect
      .element(page.getByText('The browser keeps this until you delete it.'))
      .toBeVisible();
    expect(persist).toHaveBeenCalledTimes(2);
    persist.mockRestore();
  });

  test('without storage it says so; with an endpoint it says where words go', async () => {
    const placeNote = 'This browser gives no storage here (Access is denied.).';
    show({ room: async () => ({ ...room, place: 'memory', placeNote }) }, 'https://host/v1');
    await expect.element(page.getByText(/Access is denied.* gone when it closes/)).toBeVisible();
    await expect
      .element(page.getByText(/^What you write goes to https:\/\/host\/v1/))
      .toBeVisible();
    expect(page.getByText(/Nothing leaves this tab/).elements()).toHaveLength(0);
  });
});

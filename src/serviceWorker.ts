/**
 * Keeps the built page, so that it opens with the network off: its HTML, scripts, styles and recordings, as the build lists
 * them. Nothing else passes here: weights are the store's (workers/store.ts), and other addresses are left to the browser.
 *
 * A page asks the network for its HTML first, so it is never older than the server's; files with a hash in their name never
 * change, so the kept copy is as good. One set of files is kept; an older one goes when no page uses it any more.
 */

/** Set by the build (vite.config.ts): a hash over all of it, and the files relative to this one; `later` once they are asked for. */
declare const SHELL: { version: string; files: string[]; later: string[] };

/** TypeScript's library has these in "webworker", which does not go together with "dom". */
interface LivingEvent extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface RequestEvent extends LivingEvent {
  request: Request;
  respondWith(answer: Promise<Response>): void;
}
interface Scope {
  addEventListener(type: 'install' | 'activate', act: (event: LivingEvent) => void): void;
  addEventListener(type: 'fetch', act: (event: RequestEvent) => void): void;
}

const scope = globalThis as unknown as Scope;
const prefix = 'palimpsest-page-';
const cacheName = prefix + SHELL.version;
/** The folder's own address stands for its index.html: some servers send whoever asks for the file there. */
const addressOf = (file: string) =>
  new URL(file === 'index.html' ? './' : file, location.href).href;
const addresses = new Set(SHELL.files.map(addressOf));
const laterAddresses = new Set(SHELL.later.map(addressOf));

scope.addEventListener('install', (event) => {
  event.waitUntil(caches.open(cacheName).then((cache) => cache.addAll([...addresses])));
});

scope.addEventListener('activate', (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith(prefix) && name !== cacheName))
      .then((old) => Promise.all(old.map((name) => caches.delete(name)))),
  );
});

scope.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET') return;
  const address = new URL(request.url);
  address.search = '';
  address.hash = '';
  address.pathname = address.pathname.replace(/\/index\.html$/, '/');
  if (laterAddresses.has(address.href)) event.respondWith(keep(request));
  if (!addresses.has(address.href)) return;
  const kept = async () =>
    (await caches.open(cacheName)).match(address.href).then((found) => found ?? fetch(request));
  event.respondWith(request.mode === 'navigate' ? fetch(request).catch(() => kept()) : kept());
});

/** What is kept once it was asked for. */
async function keep(request: Request): Promise<Response> {
  const cache = await caches.open(cacheName);
  const found = await cache.match(request.url);
  if (found) return found;
  const answer = await fetch(request);
  // Without room to keep it, it is fetched again the next time.
  if (answer.ok) await cache.put(request.url, answer.clone()).catch(() => {});
  return answer;
}

/**
 * The same bytes in other places that a browser keeps bytes in, read one after another: what our reads are measured
 * against. Every function answers milliseconds for reading all pieces; writing is not timed.
 */

import { sha256Leaves } from '../../../workers/sha256.ts';

/** The pieces as the store holds them: name and bytes, one at a time. */
async function* storedPieces(): AsyncGenerator<[string, ArrayBuffer]> {
  const database = await opened(indexedDB.open('palimpsest'));
  const store = () => database.transaction('weights').objectStore('weights');
  const keys = await done(store().getAllKeys(IDBKeyRange.bound(['piece'], ['piece', []])));
  for (const key of keys) {
    const value = await done<Blob | ArrayBuffer>(store().get(key));
    yield [(key as string[])[1]!, value instanceof Blob ? await value.arrayBuffer() : value];
  }
  database.close();
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error!);
  });
}

function opened(request: IDBOpenDBRequest): Promise<IDBDatabase> {
  request.onupgradeneeded = () => request.result.createObjectStore('pieces');
  return done(request);
}

async function timed(read: () => Promise<number>, bytes: number): Promise<number> {
  const start = performance.now();
  const readBytes = await read();
  const ms = performance.now() - start;
  if (readBytes !== bytes) throw new RangeError(`${readBytes} bytes read instead of ${bytes}`);
  return ms;
}

/** Our own values, got one by one and nothing done with them. */
export function timePlain(bytes: number): Promise<number> {
  return timed(async () => {
    let sum = 0;
    for await (const [, piece] of storedPieces()) sum += piece.byteLength;
    return sum;
  }, bytes);
}

/** IndexedDB values that are ArrayBuffers. */
export async function timeBuffers(bytes: number): Promise<number> {
  const database = await opened(indexedDB.open('buffers'));
  const names: string[] = [];
  for await (const [name, piece] of storedPieces()) {
    const store = database.transaction('pieces', 'readwrite').objectStore('pieces');
    await done(store.put(piece, name));
    names.push(name);
  }
  const ms = await timed(async () => {
    let sum = 0;
    for (const name of names) {
      const store = database.transaction('pieces').objectStore('pieces');
      sum += (await done<ArrayBuffer>(store.get(name))).byteLength;
    }
    return sum;
  }, bytes);
  database.close();
  await opened(indexedDB.deleteDatabase('buffers'));
  return ms;
}

/** Responses in the Cache API. */
export async function timeCache(bytes: number): Promise<number> {
  const cache = await caches.open('pieces');
  const names: string[] = [];
  for await (const [name, piece] of storedPieces()) {
    await cache.put(`/pieces/${name}`, new Response(piece));
    names.push(name);
  }
  const ms = await timed(async () => {
    let sum = 0;
    for (const name of names) {
      const response = (await cache.match(`/pieces/${name}`))!;
      sum += (await response.arrayBuffer()).byteLength;
    }
    return sum;
  }, bytes);
  await caches.delete('pieces');
  return ms;
}

/** Files of the origin's private file system. */
export async function timeFiles(bytes: number): Promise<number> {
  const root = await navigator.storage.getDirectory();
  const names: string[] = [];
  for await (const [name, piece] of storedPieces()) {
    const file = await root.getFileHandle(name, { create: true });
    const stream = await file.createWritable();
    await stream.write(piece);
    await stream.close();
    names.push(name);
  }
  const ms = await timed(async () => {
    let sum = 0;
    for (const name of names) {
      const file = await (await root.getFileHandle(name)).getFile();
      sum += (await file.arrayBuffer()).byteLength;
    }
    return sum;
  }, bytes);
  for (const name of names) await root.removeEntry(name);
  return ms;
}

/** Hashes of leaves alone, of as many bytes: what verification costs where it cannot be hidden behind reading. */
export async function timeLeaves(bytes: number, pieceBytes: number): Promise<number> {
  const piece = new Uint8Array(pieceBytes).fill(7).buffer;
  return timed(async () => {
    let sum = 0;
    for (; sum < bytes; sum += pieceBytes) await sha256Leaves(piece);
    return sum;
  }, bytes);
}

/** One hash over each piece. */
export async function timeHash(bytes: number, pieceBytes: number): Promise<number> {
  const piece = new Uint8Array(pieceBytes).fill(7);
  return timed(async () => {
    let sum = 0;
    for (; sum < bytes; sum += pieceBytes) await crypto.subtle.digest('SHA-256', piece);
    return sum;
  }, bytes);
}

/** One of several readers of the store, for stages.ts: what each of them takes alone, and several beside one another. */
import { expose, transfer } from 'comlink';
import { sha256Leaves } from '../../../workers/sha256.ts';
import { freeBytes } from '../../../workers/store.ts';

export type Way = 'get' | 'get and hash';

let database: Promise<IDBDatabase> | null = null;
/** The piece that was read last: its spans follow one another. */
let last: { sha256: string; piece: Promise<Blob> } | null = null;

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error!);
  });
}

async function pieceOf(sha256: string): Promise<Blob> {
  database ??= done(indexedDB.open('palimpsest'));
  const store = (await database).transaction('weights').objectStore('weights');
  return done<Blob>(store.get(['piece', sha256]));
}

const reader = {
  async read(sha256: string, start: number, end: number, way: Way): Promise<ArrayBuffer> {
    if (last?.sha256 !== sha256) last = { sha256, piece: pieceOf(sha256) };
    const span = (await last.piece).slice(start, end);
    const bytes = await span.arrayBuffer();
    if (way === 'get and hash') await sha256Leaves(bytes);
    return transfer(bytes, [bytes]);
  },

  /** Hash as much as is said, `spanBytes` at a time. */
  async hash(bytes: number, spanBytes: number): Promise<void> {
    const span = new Uint8Array(spanBytes).fill(7).buffer;
    for (let at = 0; at < bytes; at += spanBytes) await sha256Leaves(span);
    freeBytes(span);
  },
};

export type Reader = typeof reader;
expose(reader);

/**
 * Files that sites have in common, by their hash: the Cross-Origin Storage API, where the browser has it (a proposal of the
 * WICG, https://wicg.github.io/cross-origin-storage/). A model that was fetched on one site need not be fetched again on
 * another, in whose frames this one's own storage is not to be had. It may answer that it has nothing of what it has, so it
 * is asked before the network and never instead of it, and what it gives is verified like what the network gives.
 */
import type { Piece, Store } from './store.ts';
import type { CommonStorage } from './transfer.ts';

interface Hash {
  algorithm: 'SHA-256';
  value: string;
}
interface Options {
  create?: boolean;
  origins?: '*';
}
/** As the proposal has it; `requestFileHandles` is what it was called while it took several at a time. */
interface CrossOriginStorage {
  requestFileHandle?(hash: Hash, options?: Options): Promise<FileSystemFileHandle>;
  requestFileHandles?(hashes: Hash[], options?: Options): Promise<FileSystemFileHandle[]>;
}

/** The common storage of the browser whose `navigator` this is; null where it has none. */
export function commonStorage(navigator: object): CommonStorage | null {
  const { crossOriginStorage: manager } = navigator as { crossOriginStorage?: CrossOriginStorage };
  if (!manager?.requestFileHandle && !manager?.requestFileHandles) return null;

  async function handleOf(value: string, options?: Options): Promise<FileSystemFileHandle> {
    const hash: Hash = { algorithm: 'SHA-256', value };
    if (manager!.requestFileHandle) return manager!.requestFileHandle(hash, options);
    const [handle] = await manager!.requestFileHandles!([hash], options);
    return handle!;
  }

  return {
    async read(sha256, bytes) {
      try {
        const file = await (await handleOf(sha256)).getFile();
        return file.size === bytes ? await file.arrayBuffer() : null;
      } catch {
        return null; // NotFoundError, whether or not it is there; NotAllowedError
      }
    },
    async write(sha256, file) {
      const kept = new Blob([file]); // at once: the buffer is not ours for long
      try {
        const handle = await handleOf(sha256, { create: true, origins: '*' });
        const stream = await handle.createWritable();
        await stream.write(kept);
        await stream.close();
      } catch {
        // No room, no leave, or it says that the bytes are others: here they are stored all the same.
      }
    },
  };
}

/** Put the bytes of a piece that is a whole file into the store, as parts; false where the common storage has none. */
export async function takeCommon(
  common: CommonStorage | null,
  { stated, slot, bytes }: Piece,
  store: Store,
  partBytes: number,
): Promise<boolean> {
  const found = stated === null ? null : await common?.read(stated, bytes);
  if (!found) return false;
  for (let at = 0; at < bytes; at += partBytes) {
    await store.putPart(slot, at, found.slice(at, Math.min(at + partBytes, bytes)));
  }
  return true;
}

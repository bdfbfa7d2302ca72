/**
 * Where a frame's storage lies. Browsers keep what a frame stores apart by the site around it: weights fetched here are
 * found again by frames on that site, and by no other page.
 */
import { startSharedWeights, type Weights } from '../client.ts';
import type { StorageStatus } from './protocol.ts';

export interface Storage {
  kind: StorageStatus['place'];
  /** In a sentence, for the person; '' where there is nothing to say. */
  note: string;
  /**
   * Asks the browser, and it may ask the person, for this site's own storage: weights that the playground has fetched are
   * there. To be called from a press. Null where that is of no use. Fails with what the browser says.
   */
  open: (() => Promise<Weights>) | null;
}

/** TypeScript's library does not have it. */
interface StorageAccess {
  requestStorageAccess?: (wanted: { indexedDB: true; SharedWorker: true }) => Promise<{
    SharedWorker: (address: string, options: WorkerOptions) => SharedWorker;
  }>;
}

export const ownStorageNote = 'It uses this site’s own storage.';

async function openOwn(): Promise<Weights> {
  const { requestStorageAccess } = document as unknown as StorageAccess;
  const handle = await requestStorageAccess!.call(document, {
    indexedDB: true,
    SharedWorker: true,
  });
  // A handle's database is this document's to use. Weights are a worker's business, and a shared worker of the handle
  // stands in the same storage as that database.
  return startSharedWeights((address) => handle.SharedWorker(address, { type: 'module' }));
}

/** What can be known of this frame's storage without touching it. */
export function storageHere(): Storage {
  if (origin === 'null') {
    return {
      kind: 'memory',
      note: 'It has no storage here: the model is gone when this page is.',
      open: null,
    };
  }
  if (window.top === window || around().every(sameSite))
    return { kind: 'own', note: '', open: null };
  const offered = 'requestStorageAccess' in document && typeof SharedWorker === 'function';
  return {
    kind: 'partitioned',
    note: 'What it fetches is kept for this site alone.',
    open: offered ? openOwn : null,
  };
}

/** The hosts of the pages around; a page that hides its own is another one. */
function around(): string[] {
  const { ancestorOrigins } = location as { ancestorOrigins?: DOMStringList };
  if (ancestorOrigins) return Array.from(ancestorOrigins, (from) => hostOf(from));
  try {
    return [window.top!.location.hostname];
  } catch {
    return [''];
  }
}

const hostOf = (from: string) => (URL.canParse(from) ? new URL(from).hostname : '');

/** One of the two is in the other: where one site ends is known to browsers only, so this says "own" rather too seldom. */
function sameSite(host: string): boolean {
  const here = location.hostname;
  return host === here || host.endsWith(`.${here}`) || (host !== '' && here.endsWith(`.${host}`));
}

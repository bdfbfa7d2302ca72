/**
 * Where a frame's storage lies. Browsers keep what a frame stores apart by the site around it: weights fetched here are
 * found again by frames on that site, and by no other page.
 */
import type { StorageStatus } from './protocol.ts';

export interface Storage {
  kind: StorageStatus['place'];
  /** In a sentence, for the person; '' where there is nothing to say. */
  note: string;
}

/** What can be known of this frame's storage without touching it. */
export function storageHere(): Storage {
  if (origin === 'null') {
    return { kind: 'memory', note: 'It has no storage here: the model is gone when this page is.' };
  }
  if (window.top === window || around().every(sameSite)) return { kind: 'own', note: '' };
  return { kind: 'partitioned', note: 'What it fetches is kept for this site alone.' };
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

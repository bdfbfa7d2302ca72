/** The page without the network: only as built, and only where browsers allow it (https, or this computer). */
import { ownScript } from './trusted.ts';

/** Have the page's own files kept. Where that fails the page works as before, with the network. */
export function keepPage(): void {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return;
  void navigator.serviceWorker.register(ownScript('./serviceWorker.js')).catch(() => {});
}

/** Resolves once the page's files are kept; never where they are not. */
export async function pageKept(): Promise<void> {
  if (!('serviceWorker' in navigator)) return new Promise(() => {});
  await navigator.serviceWorker.ready;
}

/**
 * What the page remembers between visits, in localStorage. Where storage is blocked or full the page works and
 * simply remembers nothing: a setting is never worth an error.
 */

const prefix = 'palimpsest.';

/** The value stored under `key`, read by `parse`; undefined (as `parse` sees it) where there is none to be had. */
export function recall<T>(key: string, parse: (stored: unknown) => T): T {
  return parse(readStored(key));
}

function readStored(key: string): unknown {
  try {
    const text = localStorage.getItem(prefix + key);
    return text === null ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Store `value`, if storage is to be had. */
export function remember(key: string, value: unknown): void {
  try {
    localStorage.setItem(prefix + key, JSON.stringify(value));
  } catch {
    // Blocked by the visitor's settings, or full.
  }
}

/** Remove what is stored under `key`. */
export function forget(key: string): void {
  try {
    localStorage.removeItem(prefix + key);
  } catch {
    // Blocked: then nothing is stored either.
  }
}

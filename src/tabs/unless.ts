/**
 * What `work` gives, or as a failure the reason of the signal that is aborted first. Leaves nothing at signals that last:
 * Promise.race leaves a listener, and with it the result, at every promise that stays open.
 */
export function unless<T>(signals: readonly AbortSignal[], work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const over = new AbortController();
    for (const gone of signals) {
      const fail = () => reject(gone.reason as Error);
      if (gone.aborted) fail();
      else gone.addEventListener('abort', fail, { signal: over.signal });
    }
    void work.then(resolve, reject).finally(() => over.abort());
  });
}

/** Resolves when the signal is aborted. */
export function aborted(gone: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (gone.aborted) resolve();
    else gone.addEventListener('abort', () => resolve(), { once: true });
  });
}

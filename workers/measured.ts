/**
 * What a load spends its time on, in the browser's own list of measures: what developer tools show, and what
 * `npm run bench:chromium` prints. One entry a step, so the list stays short however large a model is.
 */

/** Do a step of a load, and put down from when to when it was done. */
export async function measured<T>(step: string, work: () => T | Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    return await work();
  } finally {
    performance.measure(step, { start });
  }
}

/** Put down a step that ends here, and how much of its time the thread was busy with it. */
export function putDown(step: string, start: number, busyMs: number): void {
  performance.measure(step, { start, detail: { busyMs } });
}

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
    put(step, { start });
  }
}

/** Put down a step that ends here, and how much of its time the thread was busy with it. */
export function putDown(step: string, start: number, busyMs: number): void {
  put(step, { start, detail: { busyMs } });
}

/** Entries of a step that stay. A load compiles fewer pipelines. */
const most = 300;
const times = new Map<string, number>();

/** A browser keeps what is put down as long as the tab is open, and some steps come with every answer: old ones go. */
function put(step: string, measure: PerformanceMeasureOptions): void {
  const before = times.get(step) ?? 0;
  if (before === most) performance.clearMeasures(step);
  times.set(step, (before % most) + 1);
  performance.measure(step, measure);
}

/** Where the time of a cold start goes: what the page and its workers put down (workers/measured.ts), on one clock. */
import type { Page } from 'playwright-core';

/** A step of a cold start, in milliseconds from the page's opening: the first beginning of `times`, and the last end. */
export interface Step {
  where: string;
  step: string;
  times: number;
  fromMs: number;
  toMs: number;
  /** How much of that its thread was busy; null where it was not counted. */
  busyMs: number | null;
}

/** Call before the page is opened: has it put down when the message was sent. */
export async function noteAsking(page: Page): Promise<void> {
  await page.addInitScript(() => {
    addEventListener('keydown', ({ key }) => key === 'Enter' && performance.mark('asked'), true);
  });
}

/** All steps so far of a page and its workers. */
export async function stepsOf(page: Page): Promise<Step[]> {
  const putDown = () => ({
    origin: performance.timeOrigin,
    entries: ['mark', 'measure'].flatMap((type) =>
      performance.getEntriesByType(type).map((entry) => ({
        name: entry.name,
        fromMs: type === 'mark' ? 0 : entry.startTime, // a mark: from the script's beginning on
        toMs: entry.startTime + entry.duration,
        busyMs: (entry as PerformanceMeasure).detail?.busyMs ?? null,
      })),
    ),
  });
  const ofPage = await page.evaluate(putDown);
  ofPage.entries.push(...(await page.evaluate(filesOf)));
  const ofWorkers = await Promise.all(
    page.workers().map(async (worker) => {
      const [name = ''] = new URL(worker.url()).pathname.split('/').at(-1)!.split('.');
      return { where: name, ...(await worker.evaluate(putDown)) };
    }),
  );
  const steps = new Map<string, Step>();
  for (const { where, origin, entries } of [{ where: 'page', ...ofPage }, ...ofWorkers]) {
    const lateMs = origin - ofPage.origin;
    for (const { name, fromMs, toMs, busyMs } of entries) {
      const key = `${where} ${name}`;
      const known = steps.get(key);
      steps.set(key, {
        where,
        step: name,
        times: (known?.times ?? 0) + 1,
        fromMs: Math.min(known?.fromMs ?? Infinity, fromMs + lateMs),
        toMs: Math.max(known?.toMs ?? 0, toMs + lateMs),
        busyMs,
      });
    }
  }
  return [...steps.values()].sort((a, b) => a.fromMs - b.fromMs || a.toMs - b.toMs);
}

/** What a page fetched before it could run: its HTML, through the service worker where there is one, then scripts and styles. */
function filesOf() {
  const [page] = performance.getEntriesByType('navigation') as PerformanceNavigationTiming[];
  const ran = performance.getEntriesByName('page')[0]!.startTime;
  const files = (performance.getEntriesByType('resource') as PerformanceResourceTiming[]).filter(
    ({ initiatorType, responseEnd }) =>
      ['script', 'link'].includes(initiatorType) && responseEnd <= ran,
  );
  const step = (name: string, fromMs: number, toMs: number) => ({
    ...{ name, fromMs, toMs },
    busyMs: null,
  });
  return [
    step('HTML', 0, page!.responseEnd),
    ...files.map(({ startTime, responseEnd }) => step('files', startTime, responseEnd)),
  ];
}

/** Each step's medians over runs, in the order of time; steps that a run lacks count where they were. */
export function medianSteps(runs: readonly Step[][]): Step[] {
  const all = new Map<string, Step[]>();
  for (const step of runs.flat()) {
    const key = `${step.where} ${step.step}`;
    all.set(key, [...(all.get(key) ?? []), step]);
  }
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
  const steps = [...all.values()].map((same): Step => {
    const { where, step } = same[0]!;
    const of = (figure: 'times' | 'fromMs' | 'toMs') => median(same.map((one) => one[figure]));
    const busy = same.flatMap(({ busyMs }) => busyMs ?? []);
    const busyMs = busy.length > 0 ? median(busy) : null;
    return { where, step, times: of('times'), fromMs: of('fromMs'), toMs: of('toMs'), busyMs };
  });
  return steps.sort((a, b) => a.fromMs - b.fromMs || a.toMs - b.toMs);
}

/** One line for people. */
export function lineOf({ where, step, times, fromMs, toMs, busyMs }: Step): string {
  const name = `  ${where.padEnd(9)} ${step}${times > 1 ? `, ${times}` : ''}`;
  const [from, to, length] = [fromMs, toMs, toMs - fromMs].map((ms) => ms.toFixed(0).padStart(5));
  const busy = busyMs === null ? '' : `, ${busyMs.toFixed(0)} ms busy`;
  return `${name.padEnd(34)} ${from} to ${to} ms ${length} ms${busy}`;
}

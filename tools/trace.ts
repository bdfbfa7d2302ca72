/** A Chromium trace of one page, and what it says of the page's main thread and of the frames on the screen. */
import type { Browser, Page } from 'playwright-core';

interface TraceEvent {
  name: string;
  ph: string;
  pid: number;
  tid: number;
  /** Microseconds by the clock. */
  ts: number;
  dur?: number;
  /** Microseconds that a core worked on it. */
  tdur?: number;
  args?: {
    name?: string;
    data?: { frames?: { url: string; processId: number }[] };
    frame_reporter?: { state?: string };
  };
}

/** What a trace says of a page. */
export interface TraceSummary {
  /** From the first to the last task of the main thread, seconds. */
  seconds: number;
  /** Tasks of the main thread, longest first: by the clock, and what a core worked on them, milliseconds. */
  tasks: { ms: number; workMs: number }[];
  /** Frames that the compositor was asked for, by what became of them: trace state without STATE_ -> count. */
  frames: Map<string, number>;
  /** Between one frame that reached the screen and the next, milliseconds, sorted. */
  apartMs: number[];
}

const categories = [
  'cc',
  'benchmark',
  'disabled-by-default-devtools.timeline',
  'disabled-by-default-devtools.timeline.frame',
];

/** Trace `page` while `work` runs. Fails with an Error where the trace names no main thread of the page. */
export async function traced(
  browser: Browser,
  page: Page,
  work: () => Promise<void>,
): Promise<TraceSummary> {
  await browser.startTracing(page, { categories });
  let trace: Buffer;
  try {
    await work();
  } finally {
    trace = await browser.stopTracing();
  }
  const { traceEvents } = JSON.parse(trace.toString()) as { traceEvents: TraceEvent[] };
  return summed(traceEvents, page.url());
}

function summed(events: TraceEvent[], url: string): TraceSummary {
  const frames = events.flatMap(({ args }) => args?.data?.frames ?? []);
  // The page may have changed what follows # meanwhile.
  const [place] = url.split('#');
  const pid = frames.find((frame) => frame.url.split('#')[0] === place)?.processId;
  const main = events.find(
    (event) =>
      event.name === 'thread_name' && event.args?.name === 'CrRendererMain' && event.pid === pid,
  );
  if (!main) throw new Error(`The trace has no main thread of ${url}.`);
  const tasks = events.filter(
    ({ name, ph, tid, ...event }) =>
      name === 'RunTask' && ph === 'X' && tid === main.tid && event.pid === pid,
  );
  if (tasks.length === 0) throw new Error(`The trace has no task of ${url}.`);
  const reports = events.filter(
    ({ name, ph, ...event }) => name === 'PipelineReporter' && ph === 'b' && event.pid === pid,
  );
  const states = new Map<string, number>();
  for (const { args } of reports) {
    const state = (args?.frame_reporter?.state ?? 'unknown').replace('STATE_', '');
    states.set(state, (states.get(state) ?? 0) + 1);
  }
  const shown = events
    .filter(({ name, ...event }) => name === 'DrawFrame' && event.pid === pid)
    .map(({ ts }) => ts)
    .sort((a, b) => a - b);
  const starts = tasks.map(({ ts }) => ts);
  const ends = tasks.map(({ ts, dur }) => ts + dur!);
  return {
    seconds:
      (ends.reduce((a, b) => Math.max(a, b)) - starts.reduce((a, b) => Math.min(a, b))) / 1e6,
    tasks: tasks
      .map(({ dur, tdur }) => ({ ms: dur! / 1e3, workMs: (tdur ?? dur!) / 1e3 }))
      .sort((a, b) => b.ms - a.ms),
    frames: states,
    apartMs: shown
      .slice(1)
      .map((ts, i) => (ts - shown[i]!) / 1e3)
      .sort((a, b) => a - b),
  };
}

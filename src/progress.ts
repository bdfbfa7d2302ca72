/** How a load goes: the engine's reports over time, turned into what is shown. Pure; the caller brings the clock. */
import type { LoadProgress } from '../workers/protocol.ts';

export interface Progress extends LoadProgress {
  /** Over the last few seconds; null until two reports lie far enough apart to tell. */
  bytesPerSec: number | null;
  leftSec: number | null;
  /** When this phase was last reported, and its recent reports. */
  atMs: number;
  samples: { atMs: number; doneBytes: number }[];
}

/** A rate is taken over at most this long, as the weights' own (workers/download.ts): both stand on one page... */
const windowMs = 8000;
/** ...and over at least this long, so that it does not jump. */
const leastMs = 400;
/** Weights are uploaded while the next ones arrive: within this long of a report, a download that goes on stays on screen. */
const stayMs = 1000;

export const startProgress: Progress = {
  phase: 'download',
  doneBytes: 0,
  totalBytes: 0,
  note: '',
  bytesPerSec: null,
  leftSec: null,
  atMs: -Infinity,
  samples: [],
};

/** Progress after one more report at time `nowMs`. */
export function advance(before: Progress, report: LoadProgress, nowMs: number): Progress {
  const downloading = before.phase === 'download' && before.doneBytes < before.totalBytes;
  if (downloading && report.phase === 'upload' && nowMs - before.atMs < stayMs) return before;

  const earlier = report.phase === before.phase ? before.samples : [];
  const recent = earlier.filter((sample) => nowMs - sample.atMs <= windowMs);
  const samples = [...recent, { atMs: nowMs, doneBytes: report.doneBytes }];
  const { bytesPerSec, leftSec } = pace(samples, report.totalBytes);
  return { ...report, bytesPerSec, leftSec, atMs: nowMs, samples };
}

function pace(samples: Progress['samples'], totalBytes: number) {
  const first = samples[0];
  const last = samples.at(-1);
  if (!first || !last || last.atMs - first.atMs < leastMs || last.doneBytes <= first.doneBytes) {
    return { bytesPerSec: null, leftSec: null };
  }
  const bytesPerSec = ((last.doneBytes - first.doneBytes) / (last.atMs - first.atMs)) * 1000;
  return { bytesPerSec, leftSec: Math.max(0, totalBytes - last.doneBytes) / bytesPerSec };
}

/** The share done of the phase shown, 0 to 1; null where its size is not known. */
export function fraction(progress: LoadProgress): number | null {
  if (progress.totalBytes <= 0) return null;
  return Math.min(1, progress.doneBytes / progress.totalBytes);
}

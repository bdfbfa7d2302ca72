import { expect, test } from 'vitest';
import { advance, fraction, startProgress, type Progress } from '../../src/progress.ts';
import type { LoadProgress } from '../../workers/protocol.ts';

const totalBytes = 1_000_000;

function report(phase: LoadProgress['phase'], doneBytes: number): LoadProgress {
  return { phase, doneBytes, totalBytes, note: '' };
}

/** Reports given as [phase, done bytes, at ms]. */
function follow(...reports: [LoadProgress['phase'], number, number][]): Progress {
  return reports.reduce(
    (progress, [phase, doneBytes, atMs]) => advance(progress, report(phase, doneBytes), atMs),
    startProgress,
  );
}

test('the rate and the time left come from reports far enough apart', () => {
  expect(follow(['download', 0, 0], ['download', 50_000, 100]).bytesPerSec).toBeNull();
  const steady = follow(
    ['download', 0, 0],
    ['download', 250_000, 500],
    ['download', 500_000, 1000],
  );
  expect(steady.bytesPerSec).toBe(500_000);
  expect(steady.leftSec).toBe(1);
});

test('the rate is that of the last seconds', () => {
  const slowed = follow(
    ['download', 0, 0],
    ['download', 400_000, 1000],
    ['download', 400_000, 10_000],
    ['download', 410_000, 11_000],
  );
  expect(slowed.bytesPerSec).toBe(10_000);
});

test('a download that stands still has no rate', () => {
  expect(follow(['download', 9, 0], ['download', 9, 2000]).bytesPerSec).toBeNull();
});

test('uploads in between do not take the place of a download that goes on', () => {
  const both = follow(['download', 0, 0], ['upload', 10, 100], ['download', 500_000, 1000]);
  expect(both).toMatchObject({ phase: 'download', doneBytes: 500_000, bytesPerSec: 500_000 });
});

test('the next phase is shown once the download is done, or silent', () => {
  const done = follow(['download', totalBytes, 0], ['upload', 10, 1]);
  expect(done).toMatchObject({ phase: 'upload', doneBytes: 10 });
  const silent = follow(['download', 860_000, 0], ['upload', 10, 5000]);
  expect(silent.phase).toBe('upload');
  expect(follow(['download', 860_000, 0], ['compile', 1, 1]).phase).toBe('compile');
});

test('a new phase starts its rate anew', () => {
  const uploading = follow(
    ['download', totalBytes, 0],
    ['upload', 0, 1000],
    ['upload', 100_000, 2000],
  );
  expect(uploading.bytesPerSec).toBe(100_000);
});

test('the share is unknown without a total, and never above one', () => {
  expect(fraction(startProgress)).toBeNull();
  expect(fraction(report('download', 250_000))).toBe(0.25);
  expect(fraction(report('download', 2_000_000))).toBe(1);
});

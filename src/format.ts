/** Numbers as people read them, in decimal units. */

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** 8192 -> "8,192". */
export function formatCount(count: number): string {
  return grouped.format(count);
}

/** Three significant digits and no more: 110701024 -> "111 MB", 3901440 -> "3.9 MB", 512 -> "512 B". */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let amount = bytes;
  let unit = 0;
  // 999.5 would be written as 1000.
  while (amount >= 999.5 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && amount < 9.95 ? 1 : 0;
  return `${amount.toFixed(digits)} ${units[unit]}`;
}

/** With one decimal, for figures that are held against each other: 26100000000 -> "26.1 GB". */
export function formatRoom(bytes: number): string {
  const [amount, unit] = bytes < 1e9 ? [bytes / 1e6, 'MB'] : [bytes / 1e9, 'GB'];
  return `${amount.toFixed(1)} ${unit}`;
}

/** Tokens per second with the digits that mean something: 0.42, 5.1, 52, 1,204. */
export function formatRate(perSec: number): string {
  if (perSec < 1) return perSec.toFixed(2);
  if (perSec < 10) return perSec.toFixed(1);
  return formatCount(perSec);
}

/** Milliseconds as a wait: 210 -> "210 ms", 1840 -> "1.8 s", 75000 -> "1 min 15 s". */
export function formatWait(ms: number): string {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 ? `${minutes} min ${seconds % 60} s` : `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** 150573687 -> "150.6 M", 48100000000 -> "48.1 B". */
export function formatParameters(parameters: number): string {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(1)} B`;
  if (parameters >= 1e6) return `${(parameters / 1e6).toFixed(1)} M`;
  return formatCount(parameters);
}

/** "1 token", "2 tokens". */
export function formatTokens(tokens: number): string {
  return `${formatCount(tokens)} ${tokens === 1 ? 'token' : 'tokens'}`;
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** A moment as seen from another, milliseconds since 1970: "just now", "5 minutes ago", "yesterday", "3 weeks ago". */
export function formatAgo(atMs: number, nowMs: number): string {
  const seconds = Math.max(0, (nowMs - atMs) / 1000);
  if (seconds < 60) return 'just now';
  const units = [
    ['minute', 60, 60],
    ['hour', 3600, 24],
    ['day', 86_400, 14],
    ['week', 604_800, 9],
    ['month', 2_629_746, 24],
  ] as const;
  for (const [unit, unitSeconds, most] of units) {
    const count = Math.floor(seconds / unitSeconds);
    if (count < most) return relative.format(-count, unit);
  }
  return relative.format(-Math.floor(seconds / 31_556_952), 'year');
}

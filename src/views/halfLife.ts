/** Half-lives as the views show them: on a log axis from one token to a hundred thousand, above which nothing is forgotten. */
import { formatCount } from '../format.ts';

export const longestHalfLife = 100_000;

/** Where a half-life lies on the axis: 0 at one token or less, 1 at the longest and beyond. */
export function halfLifeShare(tokens: number): number {
  if (!(tokens > 1)) return 0;
  return Math.min(1, Math.log(tokens) / Math.log(longestHalfLife));
}

/** 0.4 -> "half-life 0.4 tokens", 214.2 -> "half-life 214 tokens", Infinity -> "does not forget". */
export function halfLifeWords(tokens: number): string {
  if (tokens > longestHalfLife) return 'does not forget';
  return `half-life ${tokens < 10 ? tokens.toFixed(1) : formatCount(tokens)} tokens`;
}

/** Median over the rows of one column of [rows, columns]: of an even number the mean of the middle two. */
export function medianOver(
  values: Float32Array,
  rows: number,
  columns: number,
  column: number,
): number {
  const list = Float64Array.from(
    { length: rows },
    (_, row) => values[row * columns + column]!,
  ).sort();
  const middle = rows >> 1;
  return rows % 2 ? list[middle]! : (list[middle - 1]! + list[middle]!) / 2;
}

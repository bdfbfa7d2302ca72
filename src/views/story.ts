/** One token's story in a sentence, from numbers alone: for the line under the text, and for those who listen. */
import type { TokenRecord } from '../../workers/protocol.ts';

/** A token's name in a sentence: its text, or what stands for it. */
export function named(text: string): string {
  const trimmed = text.trim();
  if (/^<\|.*\|>$/.test(trimmed)) return 'the mark between two messages';
  return trimmed === '' ? 'a space' : `“${trimmed}”`;
}

/** |u| of each token over `heads` heads of the records from `from` on, 0 to 1 of the largest. */
export function writtenShares(
  records: readonly TokenRecord[],
  from: number,
  heads: number,
): Float32Array {
  const sizes = Float32Array.from(records, ({ written }) => {
    let sum = 0;
    for (let i = from; i < from + heads; i++) sum += written[i]! ** 2;
    return Math.sqrt(sum);
  });
  const most = sizes.reduce((a, b) => Math.max(a, b), 1e-12);
  return sizes.map((size) => size / most);
}

export interface Story {
  position: number;
  records: readonly TokenRecord[];
  /** |u| against the largest in the text. */
  share: number;
  /** Recall of this token in the memory that is looked at; NaN where it is not known. */
  recall: number;
  /** Which later token took most of this one, and what it took; null for none. */
  overwrittenBy: { position: number; loss: number } | null;
  /** The token of which this one took most. */
  overwrote: { position: number; loss: number } | null;
}

/** Below this share of recall a loss is not worth a sentence. */
export const tellingLoss = 0.03;

/** “1180” was written strongly; of all, it took most of “7421” (12 %). 34 % of it is left. */
export function storyOf({
  position,
  records,
  share,
  recall,
  overwrittenBy,
  overwrote,
}: Story): string {
  const text = (at: number) => named(records[at]?.text ?? '');
  const strength = share > 0.66 ? 'strongly' : share > 0.33 ? 'moderately' : 'weakly';
  const parts = [`${text(position)} was written ${strength}`];
  const percent = (value: number) => `${Math.round(value * 100)} %`;
  if (overwrote && overwrote.loss >= tellingLoss) {
    parts.push(`it overwrote ${percent(overwrote.loss)} of ${text(overwrote.position)}`);
  }
  if (!Number.isNaN(recall)) parts.push(`the memory returns ${percent(recall)} of it`);
  if (overwrittenBy && overwrittenBy.loss >= tellingLoss) {
    parts.push(`${text(overwrittenBy.position)} took ${percent(overwrittenBy.loss)}`);
  }
  const told = parts.join('; ');
  return `${told[0]!.toUpperCase()}${told.slice(1)}.`;
}

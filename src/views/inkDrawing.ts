/** The palimpsest as a picture to take along: a text set in lines, each token in its ink, and lines to what was overwritten. */
import { textWidth, type Drawing, type Mark, type Numbers } from './draw.ts';

/**
 * How strongly a recall is drawn, 0 to 1: its share of `full`, squared, so that a word that lost half of what it had is
 * seen to.
 */
export const inkOf = (recall: number, full: number): number =>
  Math.max(0, Math.min(1, recall / full)) ** 2;

/** One token as it is drawn. */
export interface Inked {
  position: number;
  text: string;
  /** What the memory returns of it; NaN while that is not known. */
  recall: number;
}

/** Who says it, and the tokens. */
export interface InkedTurn {
  speaker: string;
  tokens: Inked[];
}

/** A line from the token that overwrote to what it overwrote; strength 0 to 1. */
export interface Thread {
  from: number;
  to: number;
  strength: number;
}

const size = 21;
const lineHeight = 35;
const margin = 26;
const indent = 74;
/** The ink of what is gone: it can still be read. */
const palest = 0.28;

/**
 * A text `width` wide. `full` is the recall that is drawn in full ink, `at` the token that is looked at; later ones are
 * not written yet and are left out.
 */
export function drawInk(
  turns: readonly InkedTurn[],
  threads: readonly Thread[],
  full: number,
  at: number,
  width: number,
): Drawing {
  const marks: Mark[] = [];
  const places = new Map<number, { x: number; y: number }>();
  let y = margin + size;
  for (const { speaker, tokens } of turns) {
    const written = tokens.filter(({ position }) => position <= at);
    if (written.length === 0) continue;
    marks.push({ kind: 'text', x: margin, y, text: speaker, fill: 'ink2', size: 13 });
    let x = margin + indent;
    for (const { position, text, recall } of written) {
      text.split('\n').forEach((line, index) => {
        if (index > 0) [x, y] = [margin + indent, y + lineHeight];
        const wide = textWidth(line, size);
        if (x + wide > width - margin && x > margin + indent) {
          [x, y] = [margin + indent, y + lineHeight];
        }
        const share = Number.isNaN(recall) ? 1 : inkOf(recall, full);
        const value = palest + (1 - palest) * share;
        const fill = position === at ? 'accent' : ({ ramp: 'ink', value } as const);
        if (line) marks.push({ kind: 'text', x, y, text: line, fill, size, serif: true });
        if (!places.has(position)) places.set(position, { x: x + wide / 2, y: y - size * 0.8 });
        x += wide;
      });
    }
    y += lineHeight * 1.35;
  }
  for (const { from, to, strength } of threads) {
    const [a, b] = [places.get(from), places.get(to)];
    if (!a || !b) continue;
    const thick = 0.75 + 2 * strength;
    marks.push({ kind: 'line', points: bow(a, b), stroke: 'accent', thick });
    marks.push({ kind: 'dot', ...b, radius: 1.6 + 1.4 * strength, fill: 'accent' });
  }
  const height = y - lineHeight * 0.35;
  const words = `Ink: what the memory returns of each token; full from ${Math.round(100 * full)} % on.`;
  marks.push({ kind: 'text', x: margin + indent, y: height, text: words, fill: 'ink2', size: 12 });
  return { width, height: height + margin * 0.7, marks };
}

/** A bow over the text from a to b, in short strokes. */
function bow(a: { x: number; y: number }, b: { x: number; y: number }): number[] {
  const lift = Math.min(40, 12 + Math.hypot(a.x - b.x, a.y - b.y) * 0.12);
  const points: number[] = [];
  const strokes = 24;
  for (let i = 0; i <= strokes; i++) {
    const t = i / strokes;
    const [near, mid, far] = [(1 - t) ** 2 * (1 + 2 * t), 3 * t * (1 - t), t * t * (3 - 2 * t)];
    points.push(near * a.x + far * b.x, near * a.y + far * b.y - mid * lift);
  }
  return points;
}

/** What the picture is drawn from. */
export function inkNumbers(
  turns: readonly InkedTurn[],
  about: Numbers['about'],
  overwrites: { overwrittenBy: Int32Array; loss: Float32Array } | null,
): Numbers {
  const columns = ['token', 'text', 'speaker', 'recall', 'overwritten by', 'recall lost to it'];
  const rows = turns.flatMap(({ speaker, tokens }) =>
    tokens.map(({ position, text, recall }) => {
      const by = overwrites?.overwrittenBy[position] ?? -1;
      return [position, text, speaker, recall, by < 0 ? '' : by, overwrites?.loss[position] ?? ''];
    }),
  );
  return { about: { view: 'recall', ...about }, columns, rows };
}

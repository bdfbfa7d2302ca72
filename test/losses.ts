/**
 * Conversations whose device is taken away at random moments, against the same conversations left in peace: every token
 * with its log-probability must be the same, to the bit.
 */
import type { LastingEngine } from '../workers/lasting.ts';
import type { Intervention, Sampling, Token } from '../workers/protocol.ts';
import { drawing, type Draw } from './draw.ts';
import { FragileGpu, openLasting } from './fragile.ts';
import { plain } from './workers/laid.ts';

/** What one run of losses found. */
export interface LossReport {
  conversations: number;
  losses: number;
  tokens: number;
  /** Conversations that went on otherwise than they would have, in words. */
  wrong: string[];
}

/** Takes the device away `count` times, once in each conversation. */
export async function runLosses(
  count: number,
  seed: number,
  tuning: 'gpu' | 'cpu',
  tell: (line: string) => void = () => {},
): Promise<LossReport> {
  const gpu = new FragileGpu();
  let nowMs = 0;
  const engine = await openLasting(gpu, { tuning, clock: () => nowMs });
  const report: LossReport = { conversations: 0, losses: 0, tokens: 0, wrong: [] };
  try {
    for (let i = 0; i < count; i++) {
      nowMs += 60_000; // the third within a minute would be the last
      const talk = (onToken: (made: number) => void) =>
        converse(engine, drawing(seed + i), onToken);
      await engine.reset();
      const peaceful = await talk(() => {});
      await engine.reset();
      const draw = drawing(1000 * seed + i);
      const at = draw(0, peaceful.length - 1);
      const waitMs = draw(0, 3) === 0 ? draw(1, 30) : 0;
      const before = gpu.devices.length;
      let told: () => void = () => {};
      const lost = new Promise<void>((resolve) => (told = resolve));
      const lose = () => {
        gpu.lose();
        told();
      };
      const disturbed = await talk((made) => {
        if (made !== at) return;
        if (waitMs === 0) lose();
        else setTimeout(lose, waitMs);
      });
      await lost;
      while (gpu.devices.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
      await engine.settled();
      report.conversations++;
      report.losses += gpu.devices.length - before;
      report.tokens += disturbed.length;
      const first = peaceful.findIndex((token, n) => !same(token, disturbed[n]));
      const place = `conversation ${i}, lost ${waitMs} ms after token ${at} of ${peaceful.length}`;
      if (first >= 0 || disturbed.length !== peaceful.length) {
        report.wrong.push(`${place}: token ${first} differs`);
      }
      tell(`${place}: ${first < 0 ? 'as it would have been' : `DIFFERS from token ${first} on`}`);
    }
  } finally {
    engine.destroy();
  }
  return report;
}

function same(a: Token, b: Token | undefined): boolean {
  return (
    a.id === b?.id && a.position === b.position && a.logprob === b.logprob && a.text === b.text
  );
}

/** Some turns, drawn: greedy or not, gone on with, answered again, watched, branched. Tells how many tokens there are so far. */
export async function converse(
  engine: LastingEngine,
  draw: Draw,
  onToken: (made: number) => void,
): Promise<Token[]> {
  const tokens: Token[] = [];
  const take = (token: Token) => onToken(tokens.push(token));
  const ids = (least: number, most: number) =>
    Array.from({ length: draw(least, most) }, () => draw(3, 511));
  const sampling = (): Sampling => ({
    ...plain,
    maxTokens: draw(4, 24),
    ...(draw(0, 1) === 0
      ? { seed: draw(0, 9) }
      : { seed: draw(0, 9), temperature: 1, candidates: 2, repetitionPenalty: 1 + draw(0, 1) / 5 }),
  });
  const say = async (prompt: number[]) => {
    const stop = await engine.generate({ kind: 'ids', ids: prompt }, sampling(), take);
    return [...prompt, ...stop.ids];
  };
  onToken(0);
  if (draw(0, 2) === 0) {
    await engine.watch({ layer: 1, head: 'median', budgetBytes: 64e6 }, () => {});
  }
  const question = ids(5, 130);
  const answered = await say(question);
  await say([...answered, ...ids(3, 80)]);
  switch (draw(0, 2)) {
    case 0:
      await say(question); // another answer to the first
      break;
    case 1: {
      const { length } = engine.branches()[0]!.ids;
      const heads = { layers: [0, 1], heads: [0] };
      const all: Intervention[] = [
        { kind: 'forgetting', factor: 0.5, from: 2, ...heads },
        { kind: 'forget', token: 2, from: 4, ...heads },
      ];
      await engine.fork(draw(5, length - 1), draw(3, 511), all.slice(0, draw(0, 2)));
      await engine.proceed(sampling(), take);
      await engine.select(0);
      await engine.proceed(sampling(), take);
      break;
    }
    default:
      await say([...question.slice(0, draw(3, question.length - 1)), ...ids(2, 70)]);
  }
  await engine.watch(null, () => {});
  return tokens;
}

/** A conversation through losses of its device: the tokens it would have had, to the bit; and the end of patience. */
import { expect, test } from 'vitest';
import { runLosses } from '../losses.ts';

test('five conversations go on as they would have, whenever their device goes away', async () => {
  const report = await runLosses(5, 1, 'gpu', console.log);
  expect(report).toMatchObject({ conversations: 5, losses: 5, wrong: [] });
  expect(report.tokens).toBeGreaterThan(100);
}, 240_000);

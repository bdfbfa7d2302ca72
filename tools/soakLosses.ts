/**
 * Conversations with the tiny golden model whose device is taken away at random moments:
 *
 *   node tools/run.mjs soakLosses [--losses 50] [--seed 1]
 *
 * Half of them with the kernels that a GPU gets, half with those of a processor. Fails unless every token of every
 * conversation is what it would have been, to the bit.
 */
import { parseArgs } from 'node:util';
import { runLosses } from '../test/losses.ts';

const { values: options } = parseArgs({
  options: {
    losses: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
  },
});
const losses = Number(options.losses);
const seed = Number(options.seed);

for (const [tuning, count] of [
  ['gpu', Math.ceil(losses / 2)],
  ['cpu', Math.floor(losses / 2)],
] as const) {
  const report = await runLosses(count, seed, tuning, console.log);
  const right = report.conversations - report.wrong.length;
  console.log(
    `Kernels for a ${tuning}: ${report.losses} losses in ${report.conversations} conversations of ${report.tokens} tokens; ` +
      `${right} went on as they would have, to the bit`,
  );
  if (report.wrong.length > 0 || report.losses !== count) process.exitCode = 1;
}
process.exit(); // Dawn's threads would keep the process

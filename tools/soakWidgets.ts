/**
 * Widgets in the hands of users who are drawn (test/e2e/widgetUser.ts):
 *
 *   node tools/run.mjs soakWidgets [--users 10] [--seed 1] [--steps 40] [--page FOLDER] [--loud]
 *
 * Fails if anything goes wrong that must not, and tells with which seed.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { openBrowser } from '../test/e2e/browser.ts';
import { builtFolder, setup } from '../test/e2e/build.ts';
import { openSites } from '../test/e2e/widgetSites.ts';
import { useWidgets } from '../test/e2e/widgetUser.ts';

const { values: options } = parseArgs({
  options: {
    users: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    steps: { type: 'string', default: '40' },
    /** Where the built page lies; built anew if left out. */
    page: { type: 'string' },
    /** Tell every step. */
    loud: { type: 'boolean', default: false },
  },
});
const built = options.page ? resolve(options.page) : builtFolder;
if (!options.page) setup();
const { widgets, articles, close } = await openSites(built);
const browser = await openBrowser();
try {
  const first = Number(options.seed);
  for (let seed = first; seed < first + Number(options.users); seed++) {
    const began = performance.now();
    const lines: string[] = [];
    const log = (line: string) => (options.loud ? console.log(line) : lines.push(line));
    const how = { browser, widgets, articles, seed, steps: Number(options.steps), log };
    const { calls, tokens, endings, faults } = await useWidgets(how);
    const ends = [...endings].sort().map(([end, count]) => `${count} ${end}`);
    const seconds = Math.round((performance.now() - began) / 1000);
    console.log(`user ${seed}: ${calls} calls, ${tokens} tokens, ${seconds} s; ${ends.join(', ')}`);
    if (faults.length === 0) continue;
    process.exitCode = 1;
    for (const line of lines) console.error(line);
    for (const fault of faults) console.error(fault);
  }
} finally {
  await browser.close();
  await close();
}

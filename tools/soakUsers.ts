/** Users who are drawn, one after another: what soakWidgets.ts and soakEngines.ts have in common. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Browser } from 'playwright-core';
import { openBrowser } from '../test/e2e/browser.ts';
import { builtFolder, setup } from '../test/e2e/build.ts';
import { openSites, type Sites } from '../test/e2e/widgetSites.ts';

export interface UserReport {
  calls: number;
  tokens: number;
  /** How calls ended, and how often. */
  endings: Map<string, number>;
  faults: string[];
}

/** `steps` unless the command line says otherwise. */
export async function soakUsers(
  steps: string,
  use: (
    sites: Sites,
    browser: Browser,
    how: { seed: number; steps: number; log: (line: string) => void },
  ) => Promise<UserReport>,
): Promise<void> {
  const { values: options } = parseArgs({
    options: {
      users: { type: 'string', default: '10' },
      seed: { type: 'string', default: '1' },
      steps: { type: 'string', default: steps },
      /** Where the built page lies; built anew if left out. */
      page: { type: 'string' },
      /** Tell every step. */
      loud: { type: 'boolean', default: false },
    },
  });
  if (!options.page) setup();
  const sites = await openSites(options.page ? resolve(options.page) : builtFolder);
  const browser = await openBrowser();
  try {
    const first = Number(options.seed);
    for (let seed = first; seed < first + Number(options.users); seed++) {
      const began = performance.now();
      const lines: string[] = [];
      const log = (line: string) => void (options.loud ? console.log(line) : lines.push(line));
      const how = { seed, steps: Number(options.steps), log };
      const { calls, tokens, endings, faults } = await use(sites, browser, how);
      const ends = [...endings].sort().map(([end, count]) => `${count} ${end}`);
      const seconds = Math.round((performance.now() - began) / 1000);
      console.log(
        `user ${seed}: ${calls} calls, ${tokens} tokens, ${seconds} s; ${ends.join(', ')}`,
      );
      if (faults.length === 0) continue;
      process.exitCode = 1;
      for (const line of [...lines, ...faults]) console.error(line);
    }
  } finally {
    await browser.close();
    await sites.close();
  }
}

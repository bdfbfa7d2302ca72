/**
 * What takes too long for `npm test`, one after another, or those that are named:
 *
 *   node tools/run.mjs soak [downloads] [losses] [tokens] [tab] [widgets] [engines]
 *
 * Each is a tool of its own with options of its own. Ends with a failure if any of them does.
 */
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const soaks: Record<string, string> = {
  downloads: 'soakDownload',
  losses: 'soakLosses',
  tokens: 'soakTokens',
  tab: 'soakTab',
  widgets: 'soakWidgets',
  engines: 'soakEngines',
};

const named = process.argv.slice(2);
const unknown = named.find((name) => !Object.hasOwn(soaks, name));
if (unknown !== undefined) {
  console.error(`There is no soak "${unknown}"; there are ${Object.keys(soaks).join(', ')}.`);
  process.exit(1);
}
for (const name of named.length > 0 ? named : Object.keys(soaks)) {
  console.log(`--- ${name}`);
  const run = [resolve('tools/run.mjs'), soaks[name]!];
  const { status } = spawnSync(process.execPath, run, { stdio: 'inherit' });
  if (status !== 0) process.exitCode = 1;
}

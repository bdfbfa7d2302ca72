/**
 * What takes too long for `npm test` about downloads and the store:
 *
 *   node tools/run.mjs soakDownload [--kills 20] [--reads 300] [--runs 2000] [--seed 7]
 *
 * A download in a real browser that is killed `kills` times; a stored model of 100 MB read `reads` times over; `runs` seeded
 * downloads against faults. Ends with a failure if any of it is wrong.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { openProfile } from '../test/e2e/browser.ts';
import { openLab, serveWeightsPage } from '../test/e2e/weightsPage.ts';
import { downloadWithKills } from '../test/fault/kills.ts';
import { serveFolder, weights } from '../test/fault/rig.ts';
import { FaultServer } from '../test/fault/server.ts';

const { values: options } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    reads: { type: 'string', default: '300' },
    runs: { type: 'string', default: '2000' },
    seed: { type: 'string', default: '7' },
  },
});
const mebibyte = 1024 * 1024;

const report = await downloadWithKills(Number(options.kills), Number(options.seed));
const twiceBytes = report.sentBytes - report.modelBytes;
console.log(
  `Killed ${report.kills} times with ${report.openConnections} connections open: ${report.modelBytes} bytes of model, ` +
    `${twiceBytes} fetched twice, ${Math.round(twiceBytes / report.openConnections)} for each connection; ` +
    `bytes ${report.right ? 'right' : 'WRONG'}`,
);
if (!report.right || twiceBytes > report.openConnections * mebibyte) process.exitCode = 1;

const slowestMs = await readOften(Number(options.reads));
console.log(
  `100 MB read ${options.reads} times over; the slowest took ${Math.round(slowestMs)} ms`,
);

const tested = spawnSync(
  process.execPath,
  [resolve('node_modules/vitest/vitest.mjs'), 'run', 'test/workers/downloadFaults.test.ts'],
  { env: { ...process.env, PALIMPSEST_FAULT_RUNS: options.runs }, stdio: 'inherit' },
);
if (tested.status !== 0) process.exitCode = 1;

/** Read a stored model again and again through the worker; fails if one read does not end in a minute. */
async function readOften(times: number): Promise<number> {
  const server = new FaultServer();
  const origin = await server.listen();
  serveWeightsPage(server);
  const shards = [1, 2, 3, 4, 5, 6].map((seed) => weights(16 * mebibyte, seed));
  const { model } = serveFolder({ server, origin }, 'm', shards);
  const profile = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  const context = await openProfile(profile);
  try {
    const page = await openLab(context, origin);
    await page.evaluate((name) => lab.download(name), model);
    let slowestMs = 0;
    for (let time = 0; time < times; time++) {
      const limit = new Promise<never>((_, reject) => {
        setTimeout(() => reject(new Error(`Read ${time} did not end in a minute`)), 60_000).unref();
      });
      const ms = await Promise.race([page.evaluate((name) => lab.timeRead(name), model), limit]);
      slowestMs = Math.max(slowestMs, ms);
    }
    return slowestMs;
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
    await server.close();
  }
}

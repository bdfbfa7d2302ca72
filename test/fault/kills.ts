/** A download in a real browser that is killed again and again: what it costs in bytes fetched twice. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openProfile } from '../e2e/browser.ts';
import { killBrowser, openLab, serveWeightsPage } from '../e2e/weightsPage.ts';
import { random } from '../reference/random.ts';
import { serveFolder, weights } from './rig.ts';
import { FaultServer } from './server.ts';

export interface KillReport {
  kills: number;
  modelBytes: number;
  /** Bytes of the model that the server handed to the network, over all lives of the browser. */
  sentBytes: number;
  /** Connections that were open when the browser was killed, all kills together. */
  openConnections: number;
  /** Whether the bytes read at the end have the hashes of the files. */
  right: boolean;
  /** Pieces found damaged or missing after the kills. */
  repairedPieces: number;
}

const mebibyte = 1024 * 1024;

/** Kill the browser whenever so many bytes were sent, `kills` random amounts, then let it finish and read everything. */
export async function downloadWithKills(kills: number, seed: number): Promise<KillReport> {
  const server = new FaultServer();
  const origin = await server.listen();
  serveWeightsPage(server);
  const sizes = [16 * mebibyte, 9.5 * mebibyte, 20 * mebibyte, 3 * mebibyte];
  const shards = sizes.map((bytes, i) => weights(bytes, seed + i));
  const model = serveFolder({ server, origin }, 'm', shards);
  const next = random(seed);
  const moments = Array.from({ length: kills }, () => next() * model.bytes).sort((a, b) => a - b);
  const profile = mkdtempSync(join(tmpdir(), 'palimpsest-'));
  let pageBytes = 0;
  let openConnections = 0;
  try {
    for (const moment of moments) {
      const context = await openProfile(profile);
      const before = server.sentBytes;
      server.bytesPerSec = Infinity;
      const page = await openLab(context, origin);
      pageBytes += server.sentBytes - before;
      server.bytesPerSec = 4 * mebibyte;
      void page.evaluate((name) => lab.download(name), model.model).catch(() => {});
      while (server.sentBytes - pageBytes < moment) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      openConnections += server.open;
      await killBrowser(context);
    }
    const context = await openProfile(profile);
    const before = server.sentBytes;
    server.bytesPerSec = Infinity;
    const page = await openLab(context, origin);
    pageBytes += server.sentBytes - before;
    const hashes = await page.evaluate(async (name) => {
      await lab.download(name);
      return lab.read(name);
    }, model.model);
    const { repairedPieces } = await page.evaluate((name) => lab.status(name), model.model);
    await context.close();
    return {
      kills,
      modelBytes: model.bytes,
      sentBytes: server.sentBytes - pageBytes,
      openConnections,
      right: JSON.stringify(hashes) === JSON.stringify(model.hashes),
      repairedPieces,
    };
  } finally {
    rmSync(profile, { recursive: true, force: true });
    await server.close();
  }
}

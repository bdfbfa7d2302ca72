/**
 * The library in the hands of users who are drawn (test/e2e/engineUser.ts):
 *
 *   node tools/run.mjs soakEngines [--users 10] [--seed 1] [--steps 60] [--page FOLDER] [--loud]
 *
 * Fails if anything goes wrong that must not, and tells with which seed.
 */
import { useEngines } from '../test/e2e/engineUser.ts';
import { soakUsers } from './soakUsers.ts';

await soakUsers('60', ({ widgets: site }, browser, how) => useEngines({ browser, site, ...how }));

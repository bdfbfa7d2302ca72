/**
 * Widgets in the hands of users who are drawn (test/e2e/widgetUser.ts):
 *
 *   node tools/run.mjs soakWidgets [--users 10] [--seed 1] [--steps 40] [--page FOLDER] [--loud]
 *
 * Fails if anything goes wrong that must not, and tells with which seed.
 */
import { useWidgets } from '../test/e2e/widgetUser.ts';
import { soakUsers } from './soakUsers.ts';

await soakUsers('40', ({ widgets, articles, hold }, browser, how) =>
  useWidgets({ browser, widgets, articles, hold, ...how }),
);

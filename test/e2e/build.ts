/** Builds the page once before the end-to-end tests, as `npm run build` does, into a folder of their own. */
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

/** Where the built page lies. */
export const builtFolder = resolve('.cache/built');

export function setup(): void {
  const vite = resolve('node_modules/vite/bin/vite.js');
  // In a process of its own: vitest sets NODE_ENV, and a page built under "test" is another page.
  const environment = { ...process.env, NODE_ENV: 'production', VITEST: undefined };
  const built = spawnSync(
    process.execPath,
    [vite, 'build', '--outDir', builtFolder, '--emptyOutDir', '--logLevel', 'warn'],
    { env: environment, stdio: 'inherit' },
  );
  if (built.status !== 0) throw new Error('vite build failed; its own message is above.');
}

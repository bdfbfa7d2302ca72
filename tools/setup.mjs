/**
 * What every command runs first, with nothing installed yet: plain Node. Says so when Node is too old, and installs the
 * dependencies when they are missing or package-lock.json has changed since.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

// The range of vite, the most demanding of the dependencies.
const [major, minor] = process.versions.node.split('.').map(Number);
const recentEnough = major === 20 ? minor >= 19 : major === 22 ? minor >= 12 : major > 22;
if (!recentEnough) {
  fail(
    `This is Node ${process.versions.node}; Palimpsest needs 20.19 or a later 20, or 22.12 and above. ` +
      'https://nodejs.org has it.',
  );
}

const lock = createHash('sha256')
  .update(readFileSync(`${root}package-lock.json`))
  .digest('hex');
const stamp = `${root}node_modules/.palimpsest-lock`;
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lock) install();

function install() {
  console.error('Installing the dependencies, once ...');
  // The npm that runs this script, which need not be on the PATH. No package here needs its install script.
  const npm = process.env.npm_execpath ?? '';
  const flags = ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund'];
  // On stderr, like the line above: what a tool prints may be read by a program.
  const how = { cwd: root, stdio: ['inherit', 2, 'inherit'] };
  const installed = /npm-cli\.c?js$/.test(npm)
    ? spawnSync(process.execPath, [npm, ...flags], how)
    : spawnSync(`npm ${flags.join(' ')}`, { ...how, shell: true });
  if (installed.status !== 0) {
    fail('npm ci failed; its own message is above. It needs the npm registry once.');
  }
  // npm ci starts by removing node_modules, and the stamp in it: an interrupted run leaves none.
  writeFileSync(stamp, lock);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

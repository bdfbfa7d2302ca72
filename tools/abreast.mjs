/**
 * Runs npm scripts at the same time, and shows what each of them said once it has ended:
 *
 *   node tools/abreast.mjs check lint
 *
 * Fails if any of them does.
 */
import { spawn } from 'node:child_process';

// The npm that runs this script, which need not be on the PATH.
const npm = process.env.npm_execpath ?? '';

function run(script) {
  const stdio = ['ignore', 'pipe', 'pipe'];
  const child = /npm-cli\.c?js$/.test(npm)
    ? spawn(process.execPath, [npm, 'run', script], { stdio })
    : spawn(`npm run ${script}`, { stdio, shell: true });
  const said = [];
  child.stdout.on('data', (piece) => said.push(piece));
  child.stderr.on('data', (piece) => said.push(piece));
  child.on('error', (cause) => said.push(Buffer.from(`${cause.message}\n`)));
  child.on('close', (code) => {
    process.stdout.write(Buffer.concat(said));
    if (code !== 0) process.exitCode = 1;
  });
}

for (const script of process.argv.slice(2)) run(script);

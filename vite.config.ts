import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { playwright } from '@vitest/browser-playwright';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';
import { carriesChromium, chromiumLaunch } from './tools/chromium.ts';
import { loadSwiftShader } from './tools/nodeGpu.ts';
import { publishHeaders, publishModules, publishTypes } from './tools/publish.ts';

// Every machine tests on the same adapter unless told otherwise (tools/nodeGpu.ts). Here, because this runs in the main
// process, whose environment all test processes inherit.
if (process.env.VITEST && carriesChromium) {
  process.env.PALIMPSEST_ADAPTER ??= 'swiftshader';
  if (process.env.PALIMPSEST_ADAPTER === 'swiftshader') loadSwiftShader();
}

const pages = ['index.html', 'embed.html', 'cpu.html', 'examples/index.html'].filter((page) =>
  existsSync(page),
);
const browserTests = 'test/**/*.browser.test.ts';
const endToEndTests = 'test/e2e/**/*.test.ts';

const serviceWorker = 'serviceWorker';
/** The engine for other scripts of this site. */
const library = 'api';

/** Tells the service worker which files the page consists of, once they are all known. */
const listShell: Plugin = {
  name: 'list-shell',
  enforce: 'post',
  generateBundle(_, bundle) {
    const shell = bundle[`${serviceWorker}.js`];
    if (shell?.type !== 'chunk') return;
    const files = Object.keys(bundle)
      .filter((file) => file !== shell.fileName && /\.(html|js|css|wasm)$/.test(file))
      .sort();
    // llama.cpp is large and seldom needed: kept when it first was.
    const later = files.filter((file) => /\.wasm$|(^|\/)cpu-/.test(file));
    const hash = createHash('sha256');
    for (const file of files) {
      const entry = bundle[file]!;
      hash.update(file).update(entry.type === 'chunk' ? entry.code : entry.source);
    }
    // Recordings are not bundled, and without one a first visit has nothing to show.
    for (const file of existsSync('public/replays') ? readdirSync('public/replays').sort() : []) {
      files.push(`replays/${file}`);
      hash.update(file).update(readFileSync(`public/replays/${file}`));
    }
    const version = hash.digest('hex').slice(0, 16);
    const first = files.filter((file) => !later.includes(file));
    const listed = { version, files: first, later };
    shell.code = `const SHELL = ${JSON.stringify(listed)};\n${shell.code}`;
  },
};

export default defineConfig({
  // Relative addresses: the built page works in any folder of any server.
  base: './',
  // What is not there is not there, as on a host of files: no page in its place.
  appType: 'mpa',
  plugins: [
    svelte({ configFile: false }),
    publishHeaders(),
    publishModules([
      {
        entry: 'src/element/embed.ts',
        fileName: 'embed.js',
        types: ['src/embed/protocol.ts', 'src/element/embed.ts'],
      },
    ]),
    publishTypes('api.d.ts', ['workers/protocol.ts', 'src/inTab/completions.ts', 'src/api.ts']),
    listShell,
  ],
  worker: { format: 'es' },
  // Workers are named so that their dependencies are found before they start: found later, vite would reload the page
  // in the middle of a newcomer's first load.
  optimizeDeps: { entries: [...pages, 'workers/*.worker.ts'] },
  build: {
    target: 'esnext',
    license: { fileName: 'licences.md' },
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: [...pages, `src/${serviceWorker}.ts`, `src/${library}.ts`],
      // The library's exports are for others.
      preserveEntrySignatures: 'exports-only',
      output: {
        // A service worker has one address for good, in the folder that it serves; what others import has one too.
        entryFileNames: ({ name }) =>
          name === serviceWorker || name === library ? '[name].js' : 'assets/[name]-[hash].js',
      },
    },
  },
  test: {
    // The software adapter computes on every core there is: more files at a time only wait for each other.
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: 'node',
          include: ['test/**/*.test.ts'],
          exclude: [browserTests, endToEndTests],
          environment: 'node',
          pool: 'forks',
          setupFiles: ['test/setup.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'browser',
          include: [browserTests],
          setupFiles: ['test/setup.ts'],
          testTimeout: 60_000,
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: playwright({ launchOptions: process.env.VITEST ? chromiumLaunch() : {} }),
            instances: [{ browser: 'chromium' }],
          },
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: [endToEndTests],
          environment: 'node',
          pool: 'forks',
          globalSetup: ['test/e2e/build.ts'],
          setupFiles: ['test/setup.ts'],
          testTimeout: 300_000,
          hookTimeout: 120_000,
          expect: { poll: { timeout: 60_000 } },
          sequence: { groupOrder: 0 },
        },
      },
    ],
  },
});

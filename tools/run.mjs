/**
 * Runs a TypeScript tool of this folder from a terminal, `?raw` shaders and all:
 *
 *   node tools/run.mjs answer --prompt "..."        bundles tools/answer.ts and runs it with these arguments
 *   node tools/run.mjs --bundle bench bench.mjs     only bundles, into one file that needs the package webgpu alone
 */
import './setup.mjs';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [first, ...rest] = process.argv.slice(2);

/** In a bundle `import.meta.url` stays the source file's own place, counted from the working directory. */
const ownPlaces = {
  name: 'own-places',
  enforce: 'pre',
  transform(code, id) {
    if (!code.includes('import.meta.url') || id.includes('node_modules')) return null;
    const place = `new URL(${JSON.stringify(relative(root, id))}, 'file://' + process.cwd() + '/').href`;
    // Lines stay where they are: no map is needed.
    return { code: code.replaceAll('import.meta.url', place), map: null };
  },
};

if (first === '--bundle' && rest.length === 2) {
  const [name, file] = rest;
  await bundle(name, resolve(file));
} else if (first && first !== '--bundle') {
  const file = resolve(root, '.cache', 'tools', `${first}.mjs`);
  await bundle(first, file);
  process.setSourceMapsEnabled(true);
  process.argv = [process.argv[0], file, ...rest];
  await import(pathToFileURL(file).href);
} else {
  console.error('usage: node tools/run.mjs NAME [arguments]   or   --bundle NAME FILE.mjs');
  process.exit(1);
}

/** tools/NAME.ts and all it imports as one module; what is native code or not made to be bundled stays outside. */
async function bundle(name, file) {
  const entry = resolve(root, 'tools', `${name}.ts`);
  if (!existsSync(entry)) {
    console.error(`There is no tool "${name}": ${entry} does not exist.`);
    process.exit(1);
  }
  const { build } = await import('vite');
  const { output } = await build({
    root,
    configFile: false,
    publicDir: false,
    logLevel: 'warn',
    plugins: [ownPlaces],
    // A bundle of tests brings its own runner (tools/suite.ts).
    resolve: { alias: [{ find: /^vitest$/, replacement: `${root}tools/standaloneVitest.ts` }] },
    ssr: { noExternal: true, external: ['webgpu', 'playwright-core'] },
    build: {
      ssr: entry,
      outDir: dirname(file), // written below; source maps count from it
      write: false,
      target: 'node20',
      minify: false,
      sourcemap: 'inline',
      rolldownOptions: { output: { codeSplitting: false } },
    },
  });
  mkdirSync(dirname(file), { recursive: true });
  // Renamed into place: another run may be reading the file.
  const partial = `${file}.${process.pid}`;
  writeFileSync(partial, output[0].code);
  renameSync(partial, file);
}

/**
 * Chromium and SwiftShader as they come through npm: `@sparticuz/chromium` carries a headless Chromium for Linux x64
 * together with SwiftShader, a Vulkan driver that computes on the CPU. Both are unpacked once into `.cache/`.
 * Paths are taken from the working directory, which for npm scripts and vitest is the repository's root.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

/** True where the package's binaries can run. Elsewhere a browser and a GPU of the machine are used. */
export const carriesChromium = process.platform === 'linux' && process.arch === 'x64';

/**
 * The folder with the unpacked binaries; unpacks them when it does not exist (3 s, 200 MB).
 * Chromium finds SwiftShader only in its own folder, so they share one.
 */
export function unpackedChromium(): string {
  if (!carriesChromium) {
    throw new Error(
      `@sparticuz/chromium has binaries for linux-x64, and this is ${process.platform}-${process.arch}. ` +
        'Use a GPU and a browser of this machine: PALIMPSEST_ADAPTER=gpu PALIMPSEST_CHROMIUM=/path/to/chrome',
    );
  }
  const carrier = resolve('node_modules/@sparticuz/chromium');
  if (!existsSync(carrier)) {
    throw new Error(
      `${carrier} does not exist: run "node tools/setup.mjs" in the repository's root.`,
    );
  }
  const { version } = JSON.parse(readFileSync(join(carrier, 'package.json'), 'utf8')) as {
    version: string;
  };
  const folder = resolve('.cache', `chromium-${version}`);
  if (existsSync(folder)) return folder;

  // Unpacked beside and renamed, so that an interrupted or a concurrent run never leaves half a folder.
  const partial = `${folder}.${process.pid}`;
  mkdirSync(partial, { recursive: true });
  const unbrotli = (name: string) => brotliDecompressSync(readFileSync(join(carrier, 'bin', name)));
  writeFileSync(join(partial, 'chromium'), unbrotli('chromium.br'), { mode: 0o755 });
  for (const archive of ['swiftshader.tar.br', 'al2023.tar.br', 'fonts.tar.br']) {
    const tar = spawnSync('tar', ['-xf', '-', '--no-same-owner', '-C', partial], {
      input: unbrotli(archive),
    });
    if (tar.status !== 0) {
      throw new Error(`tar could not unpack ${archive}: ${tar.error?.message ?? tar.stderr}`);
    }
  }
  // The carried configuration names folders of another machine.
  writeFileSync(
    join(partial, 'fonts.conf'),
    `<fontconfig><dir>${join(folder, 'fonts')}</dir><cachedir>${join(folder, 'fonts-cache')}</cachedir></fontconfig>\n`,
  );
  try {
    renameSync(partial, folder);
  } catch (cause) {
    rmSync(partial, { recursive: true });
    if (!existsSync(folder)) throw cause;
  }
  return folder;
}

/** How to start a Chromium with WebGPU through Playwright. */
export interface ChromiumLaunch {
  executablePath?: string;
  channel?: string;
  args: string[];
  env: Record<string, string | undefined>;
}

/**
 * The browser of the tests: `PALIMPSEST_CHROMIUM` (a path) if set, the one that came through npm on Linux x64, an
 * installed Chrome elsewhere; with the switches of `PALIMPSEST_CHROMIUM_FLAGS`, which take the place of the same ones here.
 * Fails with an Error that names the system libraries it misses and how to get them.
 */
export function chromiumLaunch(): ChromiumLaunch {
  // Chromium spells out zeros for all workgroup memory, which costs SwiftShader's compiler half a minute for a whole model.
  // Kernels write it before they read it (test/gpu.ts).
  const own = ['--enable-unsafe-webgpu', '--enable-dawn-features=disable_workgroup_init'];
  const flags = (process.env.PALIMPSEST_CHROMIUM_FLAGS ?? '').split(/\s+/).filter(Boolean);
  const named = new Set(flags.map((flag) => flag.split('=')[0]));
  const args = [...own.filter((flag) => !named.has(flag.split('=')[0])), ...flags];
  const env = { ...process.env };
  const chosen = process.env.PALIMPSEST_CHROMIUM;
  if (chosen !== undefined) {
    if (!existsSync(chosen)) throw new Error(`PALIMPSEST_CHROMIUM is "${chosen}": no such file.`);
    return { executablePath: chosen, args, env };
  }
  if (!carriesChromium) return { channel: 'chrome', args, env };

  const folder = unpackedChromium();
  const executablePath = join(folder, 'chromium');
  if (missingLibraries(executablePath, env).length > 0) {
    env.LD_LIBRARY_PATH = [join(folder, 'lib'), process.env.LD_LIBRARY_PATH]
      .filter(Boolean)
      .join(':');
    const missing = missingLibraries(executablePath, env);
    if (missing.length > 0) {
      throw new Error(
        `The headless Chromium of the tests misses ${missing.join(', ')}. ` +
          'On Debian or Ubuntu: apt install libnss3 libnspr4 libexpat1 libsqlite3-0; ' +
          'or name another Chromium: PALIMPSEST_CHROMIUM=/path/to/chromium',
      );
    }
  }
  // Without any font configuration text is drawn as nothing; the package carries one font.
  if (!existsSync('/etc/fonts/fonts.conf')) env.FONTCONFIG_FILE ??= join(folder, 'fonts.conf');
  return { executablePath, args, env };
}

/** The shared libraries that the system's loader would not find, asked of the loader itself; nothing is run. */
function missingLibraries(executable: string, env: ChromiumLaunch['env']): string[] {
  const traced = spawnSync(executable, [], {
    env: { ...env, LD_TRACE_LOADED_OBJECTS: '1' },
    encoding: 'utf8',
  });
  return Array.from(traced.stdout.matchAll(/^\s*(\S+) => not found/gm), (match) => match[1]!);
}

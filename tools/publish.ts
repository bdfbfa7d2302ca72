/** Vite plugins for what the built folder holds besides the page: headers, and modules that other pages import. */
import { readFileSync } from 'node:fs';
import ts from 'typescript';
import { build, type Plugin } from 'vite';
import { headersFile, headersOf, policyInside, vercelFile } from './headers.ts';

/** Pages of this computer's own, as vite lets them by itself. */
const thisComputer = /^https?:\/\/(?:(?:[^:]+\.)?localhost|127\.0\.0\.1|\[::1\])(?::\d+)?$/;

/** Each page's policy inside it; the hosts' header files; and a preview server that sends what they would. */
export function publishHeaders(): Plugin {
  let developing = false;
  return {
    name: 'publish-headers',
    // While developing, too, a frame without an origin of its own reads scripts and models. Any site can make one, so what
    // is served here is open to read: files of this repository, and none that vite keeps back.
    config: (_, { command }) =>
      command === 'serve' ? { server: { cors: { origin: [thisComputer, 'null'] } } } : null,
    configResolved: ({ command }) => void (developing = command === 'serve'),
    transformIndexHtml: {
      order: 'pre',
      handler(html, { path }) {
        const policy = policyInside(path, developing);
        if (!policy) return html; // a test runner's page
        const charset = '<meta charset="utf-8" />';
        if (!html.includes(charset)) throw new Error(`${path}: no place for a policy.`);
        return html.replace(
          charset,
          `${charset}\n    <meta http-equiv="Content-Security-Policy" content="${policy}" />`,
        );
      },
    },
    generateBundle() {
      this.emitFile({ type: 'asset', fileName: '_headers', source: headersFile() });
      this.emitFile({ type: 'asset', fileName: 'vercel.json', source: vercelFile() });
    },
    configurePreviewServer(server) {
      server.middlewares.use((request, reply, next) => {
        const { pathname } = new URL(request.url ?? '/', 'http://preview');
        for (const [name, value] of Object.entries(headersOf(pathname)))
          reply.setHeader(name, value);
        next();
      });
    },
  };
}

/** A module for other pages: its source, the file's name in the built folder, and the sources that its types stand in. */
export interface PublishedModule {
  entry: string;
  fileName: string;
  types: string[];
}

/** Build each module into one file, without anything it would have to fetch besides, and its types beside it. */
export function publishModules(modules: PublishedModule[]): Plugin {
  return {
    name: 'publish-modules',
    configureServer(server) {
      server.middlewares.use((request, _, next) => {
        const found = modules.find(({ fileName }) => request.url === `/${fileName}`);
        if (found) request.url = `/${found.entry}`;
        next();
      });
    },
    async generateBundle() {
      for (const { entry, fileName, types } of modules) {
        const built = await build({
          configFile: false,
          logLevel: 'warn',
          publicDir: false,
          build: {
            write: false,
            target: 'es2024',
            minify: true,
            lib: { entry, formats: ['es'], fileName: () => fileName },
          },
        });
        const { output } = (Array.isArray(built) ? built : [built])[0] as {
          output: { type: string; code?: string }[];
        };
        if (output.length !== 1) throw new Error(`${entry} became ${output.length} files.`);
        this.emitFile({ type: 'asset', fileName, source: output[0]!.code! });
        const typesName = fileName.replace(/\.js$/, '.d.ts');
        this.emitFile({ type: 'asset', fileName: typesName, source: declarationsOf(types) });
      }
    },
  };
}

/** The types of a module that the build makes of these sources; see `declarationsOf`. */
export function publishTypes(fileName: string, sources: string[]): Plugin {
  return {
    name: 'publish-types',
    generateBundle() {
      this.emitFile({ type: 'asset', fileName, source: declarationsOf(sources) });
    },
  };
}

/**
 * The declarations of some sources as one file, which exports what the last of them does and the types of the others. What
 * they import from each other stands in it.
 */
export function declarationsOf(sources: string[]): string {
  const declared = sources.map((source) => {
    const { outputText, diagnostics } = ts.transpileDeclaration(readFileSync(source, 'utf8'), {
      fileName: source,
      reportDiagnostics: true,
      compilerOptions: { target: ts.ScriptTarget.ES2024, isolatedDeclarations: true },
    });
    const problem = diagnostics?.[0];
    if (problem) {
      throw new Error(`${source}: ${ts.flattenDiagnosticMessageText(problem.messageText, ' ')}`);
    }
    const alone = outputText.replace(/^import [^;]*;\n/gm, '').replace(/^export \{\};\n/gm, '');
    return source === sources.at(-1) ? alone : alone.replace(/^export declare /gm, 'declare ');
  });
  // Without a list of exports all of a declaration file is exported.
  return `${declared.join('\n')}\nexport {};\n`;
}

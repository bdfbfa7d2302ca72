/**
 * The rules of the house, each a function from the repository's files to complaints. They read text and imports; what
 * the compiler and the linter can see is left to those.
 */
import { posix } from 'node:path';
import ts from 'typescript';

/** The repository's text files: path from the root, with `/`, to content. */
export type Tree = ReadonlyMap<string, string>;

/** Finds what breaks one rule: complaints as `path: what is wrong`. */
export type Rule = (tree: Tree) => string[];

// ------------------------------------------------------------------------------------------- reading

interface Import {
  from: string;
  /** A path from the root where the specifier is relative, else the package's name as written. */
  to: string;
  specifier: string;
}

const isSource = (path: string) => /\.(ts|mjs|js|svelte|wgsl|css)$/.test(path);
const isCode = (path: string) => /\.(ts|mjs|js|svelte)$/.test(path);

/** Every import of a file, `import type`, `import()`, re-exports and worker URLs included. */
export function importsOf(path: string, text: string): Import[] {
  const scripts = path.endsWith('.svelte')
    ? Array.from(text.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g), (match) => match[1]).join(
        '\n',
      )
    : text;
  const imported = ts
    .preProcessFile(scripts, true, true)
    .importedFiles.map((file) => file.fileName);
  const urls = scripts.matchAll(/new URL\(\s*['"](\.[^'"]+\.ts)['"],\s*import\.meta\.url/g);
  return [...imported, ...Array.from(urls, (match) => match[1])].map((specifier) => ({
    from: path,
    to: specifier.startsWith('.')
      ? posix.join(posix.dirname(path), specifier.replace(/\?.*$/, ''))
      : specifier,
    specifier,
  }));
}

/** The text of a file with comments blanked out, so that a rule about code can be named in a comment. */
export function withoutComments(text: string): string {
  return text.replace(
    /('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`)|\/\/[^\n]*|\/\*[\s\S]*?\*\/|<!--[\s\S]*?-->/g,
    (_, quoted: string | undefined) => quoted ?? ' ',
  );
}

function files(tree: Tree, wanted: (path: string) => boolean): [path: string, text: string][] {
  return [...tree].filter(([path]) => wanted(path));
}

function imports(tree: Tree, wanted: (path: string) => boolean): Import[] {
  return files(tree, (path) => isCode(path) && wanted(path)).flatMap(([path, text]) =>
    importsOf(path, text),
  );
}

const inFolder = (folder: string) => (path: string) => path.startsWith(folder);

/** Complains of every file that says `pattern` in code, but for those allowed to. */
function said(
  tree: Tree,
  wanted: (path: string) => boolean,
  pattern: RegExp,
  allowed: (path: string) => boolean,
): string[] {
  return files(tree, (path) => isCode(path) && wanted(path) && !allowed(path)).flatMap(
    ([path, text]) => {
      const found = pattern.exec(withoutComments(text));
      return found ? [`${path}: says ${found[0].trim()}`] : [];
    },
  );
}

// --------------------------------------------------------------------------------- who may import whom

export const shadersAreImportedByTheTableAlone: Rule = (tree) =>
  imports(tree, () => true)
    .filter(({ to }) => to.startsWith('shaders/'))
    .filter(({ from, specifier }) => from !== 'workers/kernels.ts' || !specifier.endsWith('?raw'))
    .map(({ from, specifier }) => `${from}: imports ${specifier}`);

export const thePageKnowsTheProtocolAlone: Rule = (tree) =>
  imports(tree, inFolder('src/'))
    .filter(({ to }) => to.startsWith('workers/') && to !== 'workers/protocol.ts')
    .filter(({ from, to }) => !(from === 'src/client.ts' && to.endsWith('.worker.ts')))
    .map(({ from, to }) => `${from}: imports ${to}`);

export const onlyTheClientSpeaksComlink: Rule = (tree) =>
  imports(tree, inFolder('src/'))
    .filter(
      ({ from, to }) => to === 'comlink' && from !== 'src/client.ts' && !inFolder('src/cpu/')(from),
    )
    .map(({ from }) => `${from}: imports comlink`);

export const workersKnowNoPage: Rule = (tree) =>
  imports(tree, inFolder('workers/'))
    .filter(({ to }) => /^(src|test|tools)\/|^svelte\b/.test(to))
    .map(({ from, to }) => `${from}: imports ${to}`);

export const onlyGpuTouchesTheDevice: Rule = (tree) =>
  said(
    tree,
    (path) => /^(workers|src)\//.test(path),
    /navigator\s*\.gpu|\bGPU(Device|Buffer)\b|\bcreateBuffer\b/,
    (path) => path === 'workers/gpu.ts' || path === 'workers/engine.worker.ts',
  );

export const eachDoorToTheNetworkAndTheDiskIsOneFile: Rule = (tree) => [
  ...said(
    tree,
    (path) => /^(workers|src)\//.test(path),
    /(?<![.\w])(globalThis\.|self\.)?fetch\((?!\s*\w+\??:)/,
    (path) =>
      /^workers\/(download|browserLibrary|hub)\.ts$|^src\/(serviceWorker|replay|remote\/speaker)\.ts$/.test(
        path,
      ),
  ),
  ...imports(tree, (path) => /^(workers|src)\//.test(path))
    .filter(
      ({ from, to }) =>
        (to.startsWith('idb-keyval') && from !== 'workers/store.ts') ||
        (to.startsWith('@huggingface/hub') && from !== 'workers/hub.ts') ||
        (to === 'openai' && !from.startsWith('src/remote/')),
    )
    .map(({ from, to }) => `${from}: imports ${to}`),
];

export const theModelKnowsNoProbe: Rule = (tree) =>
  imports(tree, (path) => path === 'workers/model.ts')
    .filter(({ to }) => to === 'workers/probe.ts')
    .map(({ from, to }) => `${from}: imports ${to}`);

export const viewsTakeFramesAsProps: Rule = (tree) =>
  imports(tree, inFolder('src/views/'))
    .filter(({ to }) => /^src\/(session|client|api)\b|^comlink$/.test(to))
    .map(({ from, to }) => `${from}: imports ${to}`);

export const theOracleStandsAlone: Rule = (tree) =>
  imports(tree, inFolder('test/reference/'))
    .filter(({ to }) => !/^test\/reference\/|^node:|^vitest$/.test(to))
    .map(({ from, to }) => `${from}: imports ${to}`);

export const nothingImportsTools: Rule = (tree) =>
  imports(tree, (path) => /^(workers|src)\//.test(path))
    .filter(({ to }) => to.startsWith('tools/'))
    .map(({ from, to }) => `${from}: imports ${to}`);

export const importsRunInNoCircle: Rule = (tree) => {
  const edges = new Map(
    files(tree, isCode).map(([path, text]) => [
      path,
      importsOf(path, text).flatMap(({ to }) => (tree.has(to) ? [to] : [])),
    ]),
  );
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (path: string, trail: string[]): void => {
    const from = trail.indexOf(path);
    if (from >= 0) circles.push([...trail.slice(from), path].join(' -> '));
    if (from >= 0 || done.has(path)) return;
    for (const next of edges.get(path) ?? []) visit(next, [...trail, path]);
    done.add(path);
  };
  for (const path of edges.keys()) visit(path, []);
  return circles;
};

/** Inside workers/, lower first; a file imports from its own row or lower ones. Files not listed may stand anywhere. */
const workerRows = [
  ['protocol', 'gguf', 'config', 'quant', 'link', 'sampler', 'tokenizer'],
  ['gpu', 'store', 'download'],
  ['state', 'kernels'],
  ['model', 'probe'],
  ['engine'],
];

export const workersImportDownwards: Rule = (tree) => {
  const row = (path: string) =>
    path.endsWith('.worker.ts')
      ? workerRows.length
      : workerRows.findIndex((names) => names.some((name) => path === `workers/${name}.ts`));
  return imports(tree, inFolder('workers/'))
    .filter(({ from, to }) => row(from) >= 0 && row(to) > row(from))
    .map(({ from, to }) => `${from}: imports ${to}, which stands above it`);
};

// --------------------------------------------------------------------------------------------- shaders

const camelCase = (name: string) => name.replace(/_([a-z])/g, (_, c: string) => c.toUpperCase());
const isShader = (path: string) => /^shaders\/.*\.wgsl$/.test(path);
const isKernel = (path: string) => /^shaders\/\w+\.wgsl$/.test(path);
const nameOf = (path: string) => posix.basename(path, '.wgsl');

export const shadersHaveTheirHeader: Rule = (tree) =>
  files(tree, isShader).flatMap(([path, text]) => {
    const header = /^(\/\/.*\n)*/.exec(text)![0];
    const complaints: string[] = [];
    if (!header.startsWith(`// ${nameOf(path)}: `)) {
      complaints.push(`${path}: does not begin with "// ${nameOf(path)}: "`);
    }
    if (!isKernel(path)) return complaints;
    for (const field of ['Shapes', 'Grid', 'Oracle']) {
      if (!header.includes(`\n// ${field}  `)) complaints.push(`${path}: no "// ${field}  "`);
    }
    // A path and the first function's name; or words, where the oracle is the input itself.
    const oracle = /\/\/ Oracle +(\S+\/\S+)(?: (\w+))?/.exec(header);
    if (oracle && !tree.has(oracle[1])) complaints.push(`${path}: no oracle ${oracle[1]}`);
    else if (oracle?.[2] && !new RegExp(`\\b${oracle[2]}\\b`).test(tree.get(oracle[1])!)) {
      complaints.push(`${path}: ${oracle[1]} has no ${oracle[2]}`);
    }
    return complaints;
  });

export const kernelsHaveOneEntryPoint: Rule = (tree) =>
  files(tree, isShader).flatMap(([path, text]) => {
    const code = withoutComments(text);
    const entries = Array.from(code.matchAll(/@compute[^{]*?\bfn\s+(\w+)/g), (match) => match[1]);
    const wanted = isKernel(path) ? [nameOf(path)] : [];
    return entries.join() === wanted.join()
      ? []
      : [`${path}: entry points [${entries.join(', ')}], not [${wanted.join(', ')}]`];
  });

/** A kernel has a row of the table; a library is at least read by it, by its path or by a pattern. */
export const shadersHaveTheirRow: Rule = (tree) => {
  const table = tree.get('workers/kernels.ts') ?? '';
  const read = Array.from(table.matchAll(/'\.\.\/(shaders\/[^'?]+)(?:\?raw)?'/g), ([, path]) =>
    path
      .split('*')
      .map((part) => part.replaceAll('.', '\\.'))
      .join('\\w*'),
  );
  return files(tree, isShader)
    .filter(([path]) => {
      const name = nameOf(path);
      const row = new RegExp(`export const ${camelCase(name)} = kernel\\(\\s*'${name}',`);
      const isRead = read.some((pattern) => new RegExp(`^${pattern}$`).test(path));
      return !isRead || (isKernel(path) && !row.test(table));
    })
    .map(([path]) => `${path}: has no row in workers/kernels.ts`);
};

/** A test names the kernel, and it or a file of test/kernels that it imports calls dispatch(). */
export const kernelsAreDispatchedByATest: Rule = (tree) => {
  const dispatches = (path: string): boolean => {
    const text = tree.get(path) ?? '';
    return (
      /\bdispatch\w*\(/.test(withoutComments(text)) ||
      importsOf(path, text).some(({ to }) => to.startsWith('test/kernels/') && dispatches(to))
    );
  };
  const tests = files(tree, (path) => /^test\/kernels\/.*\.test\.ts$/.test(path))
    .filter(([path]) => dispatches(path))
    .map(([, text]) => withoutComments(text));
  return files(tree, isKernel)
    .map(([path]) => [path, new RegExp(`\\b${camelCase(nameOf(path))}\\b`)] as const)
    .filter(([, name]) => !tests.some((code) => name.test(code)))
    .map(([path]) => `${path}: no test in test/kernels names and dispatches it`);
};

// ------------------------------------------------------------------------------------------------ text

export const sourcesStayShort: Rule = (tree) =>
  files(tree, isSource)
    .map(([path, text]) => [path, text.trimEnd().split('\n').length] as const)
    .filter(([, lines]) => lines > 700)
    .map(([path, lines]) => `${path}: ${lines} lines, of 700 at most`);

// Written apart, so that these rules do not find themselves.
const openEnds = new RegExp(
  `\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`,
);
const passedOver = new RegExp(`\\.(${['skip', 'only', 'todo', 'skipIf', 'runIf'].join('|')})\\(`);

export const nothingIsLeftOpen: Rule = (tree) =>
  files(tree, isSource).flatMap(([path, text]) =>
    text.split('\n').flatMap((line, i) => {
      const found = openEnds.exec(line) ?? passedOver.exec(line);
      return found ? [`${path}:${i + 1}: ${found[0]}`] : [];
    }),
  );

const outside = new RegExp(
  `(^|[^\\w.])/(${['work', 'farm', 'root', 'home'].join('|')})/|\\.\\./${'shared'}\\b`,
);

export const nothingPointsOutside: Rule = (tree) => [
  ...files(tree, (path) => path !== 'package-lock.json').flatMap(([path, text]) =>
    text.split('\n').flatMap((line, i) => {
      const found = outside.exec(line);
      return found ? [`${path}:${i + 1}: ${found[0].trim()}`] : [];
    }),
  ),
  ...Array.from(
    (tree.get('package-lock.json') ?? '').matchAll(
      /"resolved": "(?!https:\/\/registry\.npmjs\.org\/)[^"]*"/g,
    ),
    (match) => `package-lock.json: ${match[0]}`,
  ),
];

const refused =
  /Manager|Helper|Util|Service(?!Worker)|Handler|V2$|^engine2$|^(data|info|tmp|v2|final)$/;
const refusedFile =
  /manager|helper|util|service(?!worker)|handler|\bv2\b|^(data|info|tmp|final)\./i;

export const namesSayWhatThingsAre: Rule = (tree) =>
  files(tree, (path) => isCode(path) && !path.endsWith('eslint.config.js')).flatMap(
    ([path, text]) => {
      const declared = withoutComments(text).matchAll(
        /(?<![{,]\s*)\b(const|let|var|function|class|interface|type|enum)\s+(\w+)/g,
      );
      const names = Array.from(declared, ([, kind, name]) => [kind, name]).filter(
        ([kind, name]) =>
          refused.test(name) || (/^(class|interface|type)$/.test(kind) && name.endsWith('Context')),
      );
      return [
        ...(refusedFile.test(posix.basename(path)) ? [`${path}: a refused word in its name`] : []),
        ...names.map(([kind, name]) => `${path}: ${kind} ${name}`),
      ];
    },
  );

const isConfiguration = (path: string) => /(^|\/)[\w.]+\.config\.[jt]s$/.test(path);

export const exportsHaveNames: Rule = (tree) =>
  files(tree, (path) => /\.(ts|mjs)$/.test(path) && !path.endsWith('.d.ts')).flatMap(
    ([path, text]) => {
      if (isConfiguration(path)) return [];
      const found = /^export default\b|^export (type )?(\*|\{[^}]*\})[^;]*\bfrom\b/m.exec(
        withoutComments(text),
      );
      return found ? [`${path}: ${found[0].replace(/\s+/g, ' ')}`] : [];
    },
  );

export const importsSayTheWholeFileName: Rule = (tree) =>
  imports(tree, () => true)
    .filter(({ specifier }) => specifier.startsWith('.'))
    .filter(({ to }) => !/\.\w+$/.test(to) || (isCode(to) && !tree.has(to)))
    .map(({ from, specifier }) => `${from}: ${specifier}`);

export const thereIsOneErrorClass: Rule = (tree) =>
  said(
    tree,
    (path) => /^(workers|src)\//.test(path),
    /class \w+ extends \w*Error\b/,
    (path) => path === 'workers/protocol.ts',
  );

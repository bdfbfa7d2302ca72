/** What stands around the built page: who may read the development server, and the workflow that publishes. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createServer, preview } from 'vite';
import { headersFile } from '../../tools/headers.ts';
import { publishHeaders } from '../../tools/publish.ts';

test('the development server lets frames without an origin read, and no other site', async () => {
  const server = await createServer({
    configFile: false,
    logLevel: 'silent',
    plugins: [publishHeaders()],
    server: { port: 0, host: '127.0.0.1', ws: false, watch: null },
    optimizeDeps: { noDiscovery: true },
  });
  try {
    await server.listen();
    const address = server.httpServer!.address();
    const port = typeof address === 'object' ? address!.port : 0;
    const allowed = async (origin: string) => {
      const answer = await fetch(`http://127.0.0.1:${port}/src/format.ts`, { headers: { origin } });
      expect(answer.status).toBe(200);
      return answer.headers.get('access-control-allow-origin');
    };
    expect(await allowed('null')).toBe('null');
    expect(await allowed('http://localhost:5173')).toBe('http://localhost:5173');
    expect(await allowed('https://localhost.elsewhere.example')).toBeNull();
    expect(await allowed('https://elsewhere.example')).toBeNull();
  } finally {
    await server.close();
  }
});

// -------------------------------------------------------------------------------------------- the preview

/** What a host that reads `_headers` sends with the file at `path`. */
function sentByHosts(file: string, path: string): Record<string, string> {
  const sent: Record<string, string> = {};
  for (const rule of file.split(/\n(?=\S)/)) {
    const [pattern, ...lines] = rule.trimEnd().split('\n');
    const [start, end] = pattern!.split('*');
    if (end === undefined ? path !== start : !path.startsWith(start!)) continue;
    for (const line of lines) {
      const [, name, value] = /^ {2}([\w-]+): (.+)$/.exec(line) ?? [];
      sent[name!.toLowerCase()] = value!;
    }
  }
  return sent;
}

test('vite preview, by the project’s own configuration, sends what hosts send: policy, Trusted Types and all', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'palimpsest-preview-'));
  const files = ['index.html', 'embed.html', 'cpu.html', 'examples/index.html'];
  for (const file of [
    ...files,
    'assets/engine.worker-x.js',
    'embed.js',
    'models/m/manifest.json',
  ]) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), '<!doctype html>');
  }
  const server = await preview({
    configFile: 'vite.config.ts',
    logLevel: 'silent',
    build: { outDir: folder },
    preview: { port: 0, host: '127.0.0.1' },
  });
  try {
    const address = server.httpServer.address();
    const origin = `http://127.0.0.1:${typeof address === 'object' ? address!.port : 0}`;
    const headersAt = async (path: string) => {
      const answer = await fetch(origin + path, { headers: { origin: 'https://course.example' } });
      expect(answer.status, path).toBe(200);
      return Object.fromEntries(answer.headers);
    };
    const paths = ['/', '/?model=models/tiny/', ...files.map((file) => `/${file}`), '/examples/'];
    for (const path of [
      ...paths,
      '/assets/engine.worker-x.js',
      '/embed.js',
      '/models/m/manifest.json',
    ]) {
      const sent = await headersAt(path);
      const expected = sentByHosts(headersFile(), path.replace(/\?.*/, ''));
      expect(sent, path).toMatchObject(expected);
      expect(sent, path).not.toHaveProperty('cross-origin-opener-policy');
      expect(expected['access-control-allow-origin'], path).toBe('*');
      expect(expected['x-content-type-options'], path).toBe('nosniff');
      expect(expected['referrer-policy'], path).toBe('no-referrer');
      if (!/\.json|embed\.js/.test(path))
        expect(expected['content-security-policy'], path).toMatch(
          /^default-src 'none'; script-src 'self'/,
        );
      if (/\/(\?.*)?$|\.html$/.test(path))
        expect(expected['content-security-policy'], path).toContain(
          "require-trusted-types-for 'script'",
        );
    }
    const framed = async (path: string) =>
      /frame-ancestors ([^;]*)/.exec((await headersAt(path))['content-security-policy']!)?.[1];
    expect(await framed('/index.html')).toBe("'none'");
    expect(await framed('/embed.html')).toBe('*');
    expect((await fetch(`${origin}/models/none/manifest.json`)).status).toBe(404);
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
});

// ------------------------------------------------------------------------------------------- the workflow

type Node = string | Node[] | { [key: string]: Node };

/** The part of YAML that the workflow is written in: maps and lists by two blanks, plain words, words in brackets. */
function readYaml(text: string): Node {
  const lines = text
    .split('\n')
    .map((line, at) => ({ at: at + 1, line: line.replace(/(^|\s)#.*$/, '').trimEnd() }))
    .filter(({ line }) => line !== '')
    .map(({ at, line }) => ({ at, depth: line.search(/\S/), words: line.trim() }));
  const fail = (at: number, why: string): never => {
    throw new Error(`line ${at}: ${why}`);
  };
  let next = 0;

  function block(depth: number): Node {
    const isList = lines[next]!.words.startsWith('- ');
    const list: Node[] = [];
    const map: { [key: string]: Node } = {};
    while (next < lines.length && lines[next]!.depth >= depth) {
      const line = lines[next]!;
      if (line.depth !== depth) fail(line.at, `${line.depth} blanks, not ${depth}`);
      if (line.words.startsWith('- ') !== isList) fail(line.at, 'a list and a map in one');
      if (isList) {
        // The item's own first line stands where its others do.
        lines[next] = { ...line, depth: depth + 2, words: line.words.slice(2) };
        list.push(
          /^[\w-]+:( |$)/.test(lines[next]!.words) ? block(depth + 2) : scalar(take().words),
        );
        continue;
      }
      const { at, words } = take();
      const [, key, value] = /^([\w-]+):(?: (.+))?$/.exec(words) ?? fail(at, `no key: ${words}`);
      if (key! in map) fail(at, `${key} twice`);
      const deeper = lines[next] && lines[next]!.depth > depth;
      if (value !== undefined && deeper)
        fail(lines[next]!.at, `something below ${key}, which has a value`);
      map[key!] = value !== undefined ? scalar(value) : deeper ? block(depth + 2) : '';
    }
    return isList ? list : map;
  }
  const take = () => lines[next++]!;
  const scalar = (words: string): Node =>
    /^\[.*\]$/.test(words) ? words.slice(1, -1).split(/,\s*/) : words;
  const read = block(0);
  if (next < lines.length) fail(lines[next]!.at, 'left over');
  return read;
}

describe('the workflow for GitHub Pages', () => {
  type Step = Record<string, string | Record<string, string>>;
  interface Workflow {
    name: string;
    on: { push: { branches: string[] }; workflow_dispatch: string };
    permissions: Record<string, string>;
    concurrency: Record<string, string>;
    jobs: Record<'build' | 'publish', Job>;
  }
  interface Job {
    'runs-on': string;
    needs?: string;
    permissions?: Record<string, string>;
    environment?: { name: string; url: string };
    steps: Step[];
  }
  const workflow = readYaml(
    readFileSync('.github/workflows/pages.yml', 'utf8'),
  ) as unknown as Workflow;
  const { build, publish } = workflow.jobs;
  const steps = [...build.steps, ...publish.steps];

  test('has what a workflow has, and nothing that GitHub does not know', () => {
    const known = (value: object, keys: string[]) =>
      expect(Object.keys(value).filter((key) => !keys.includes(key))).toEqual([]);
    known(workflow, ['name', 'on', 'permissions', 'concurrency', 'jobs']);
    known(workflow.on, ['push', 'workflow_dispatch']);
    known(workflow.concurrency, ['group', 'cancel-in-progress']);
    known(workflow.jobs, ['build', 'publish']);
    known(build, ['runs-on', 'timeout-minutes', 'steps']);
    known(publish, ['needs', 'runs-on', 'timeout-minutes', 'permissions', 'environment', 'steps']);
    for (const step of steps) {
      known(step, ['id', 'name', 'uses', 'run', 'with']);
      expect(
        ['uses', 'run'].filter((key) => key in step),
        JSON.stringify(step),
      ).toHaveLength(1);
    }
    expect(workflow.on.push.branches).toEqual(['main']);
    for (const job of [build, publish]) expect(job['runs-on']).toMatch(/^ubuntu-/);
    expect(publish.needs).toBe('build');
  });

  test('may do what publishing takes and no more; its actions have versions', () => {
    // What is built runs other people's code: it may only read.
    expect(workflow.permissions).toEqual({ contents: 'read' });
    expect(publish.permissions).toEqual({ pages: 'write', 'id-token': 'write' });
    expect(publish.steps).toHaveLength(1);
    const used = steps.flatMap(({ uses }) => (typeof uses === 'string' ? [uses] : []));
    for (const action of used) expect(action).toMatch(/^actions\/[\w-]+@v\d+$/);
    const names = used.map((action) => action.split('@')[0]);
    expect(names).toEqual([
      'actions/checkout',
      'actions/setup-node',
      'actions/upload-pages-artifact',
      'actions/deploy-pages',
    ]);
  });

  test('builds by a script there is, with a Node that the package takes, and publishes what was built', () => {
    const { scripts, engines } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      scripts: Record<string, string>;
      engines: { node: string };
    };
    const runs = steps.flatMap(({ run }) => (typeof run === 'string' ? [run] : []));
    expect(runs).toEqual(['npm run build']);
    expect(scripts.build).toContain('tools/setup.mjs'); // which installs
    const withOf = (action: string) =>
      steps.find(({ uses }) => String(uses).startsWith(action))!.with as Record<string, string>;
    expect(engines.node).toContain(`>=${withOf('actions/setup-node')['node-version']}.`);
    expect(withOf('actions/upload-pages-artifact').path).toBe('dist');
    const [, step] = /^\$\{\{ steps\.(\w+)\.outputs\.page_url \}\}$/.exec(
      publish.environment!.url,
    )!;
    expect(steps.find(({ id }) => id === step)!.uses).toMatch(/^actions\/deploy-pages@/);
    expect(publish.environment!.name).toBe('github-pages');
  });

  test('a line out of place is seen', () => {
    const text = readFileSync('.github/workflows/pages.yml', 'utf8');
    expect(() => readYaml(text.replace('  contents: read', '   contents: read'))).toThrow(/blanks/);
    expect(() => readYaml(text.replace('      - run:', '      run:'))).toThrow(/list and a map/);
    expect(() => readYaml(text.replace('id-token: write', 'pages: write'))).toThrow(/twice/);
    expect(() => readYaml(text.replace('name: pages', 'name pages'))).toThrow(/no key/);
  });
});

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as rules from './houseRules.ts';
import type { Rule, Tree } from './houseRules.ts';

// What git does not track, and what is not text.
const elsewhere = /^(node_modules|dist|\.(?!ci$|prettier|npmrc$|gitignore$).*)$/;
const isText =
  /\.(ts|mjs|js|svelte|wgsl|css|html|json|md|webmanifest|yml)$|\/(LICENSE|run)$|^\.\w+$/;
const mostBytes = 16 * 1024 * 1024;

const paths = readdirSync('.')
  .filter((name) => !elsewhere.test(name))
  .flatMap((name) =>
    statSync(name).isDirectory()
      ? readdirSync(name, { recursive: true, encoding: 'utf8' }).map((path) => join(name, path))
      : [name],
  )
  .filter((path) => statSync(path).isFile())
  .map((path) => path.replaceAll('\\', '/'));

const repository: Tree = new Map(
  paths.filter((path) => isText.test(path)).map((path) => [path, readFileSync(path, 'utf8')]),
);

test('the rules see the repository', () => {
  for (const path of [
    'workers/protocol.ts',
    'package.json',
    '.ci/run',
    'README.md',
    'index.html',
  ]) {
    expect(paths).toContain(path);
  }
});

test('no file is above 16 MiB', () => {
  expect(paths.filter((path) => statSync(path).size > mostBytes)).toEqual([]);
});

// A refused word of these samples is put together here, so that the rules do not find it in this file.
const later = 'TO' + 'DO';
const pass = 'sk' + 'ip';
const root = '/wo' + 'rk/';
const refusedName = 'Buffer' + 'Manager';

/** Each rule with a small tree that breaks it and the complaint that must come of it. */
const cases: Record<string, { rule: Rule; bad: Record<string, string>; complaint: string }> = {
  'shaders are imported by workers/kernels.ts alone, as text': {
    rule: rules.shadersAreImportedByTheTableAlone,
    bad: { 'workers/model.ts': `import step from '../shaders/step.wgsl?raw';` },
    complaint: 'workers/model.ts: imports ../shaders/step.wgsl?raw',
  },
  'the page imports of workers/ the protocol alone': {
    rule: rules.thePageKnowsTheProtocolAlone,
    bad: {
      'src/views/Gates.svelte': `<script>import type { Gpu } from '../../workers/gpu.ts';</script>`,
    },
    complaint: 'src/views/Gates.svelte: imports workers/gpu.ts',
  },
  'worker addresses stand in src/client.ts alone': {
    rule: rules.thePageKnowsTheProtocolAlone,
    bad: { 'src/a.ts': `new Worker(new URL('../workers/engine.worker.ts', import.meta.url))` },
    complaint: 'src/a.ts: imports workers/engine.worker.ts',
  },
  'src/client.ts alone speaks Comlink': {
    rule: rules.onlyTheClientSpeaksComlink,
    bad: { 'src/session.svelte.ts': `import { wrap } from 'comlink';` },
    complaint: 'src/session.svelte.ts: imports comlink',
  },
  'workers know nothing of the page': {
    rule: rules.workersKnowNoPage,
    bad: { 'workers/probe.ts': `import { palette } from '../src/views/draw.ts';` },
    complaint: 'workers/probe.ts: imports src/views/draw.ts',
  },
  'gpu.ts alone touches the device': {
    rule: rules.onlyGpuTouchesTheDevice,
    bad: { 'workers/state.ts': `// a GPUBuffer\nconst b = device.createBuffer({ size: 4 });` },
    complaint: 'workers/state.ts: says createBuffer',
  },
  'weights are fetched by download.ts alone': {
    rule: rules.eachDoorToTheNetworkAndTheDiskIsOneFile,
    bad: { 'workers/engine.ts': `interface Net { fetch(url: string): void }\nawait fetch(url);` },
    complaint: 'workers/engine.ts: says fetch(',
  },
  'store.ts alone opens the store': {
    rule: rules.eachDoorToTheNetworkAndTheDiskIsOneFile,
    bad: { 'src/settings.ts': `import { get } from 'idb-keyval';` },
    complaint: 'src/settings.ts: imports idb-keyval',
  },
  'the model knows no probe': {
    rule: rules.theModelKnowsNoProbe,
    bad: { 'workers/model.ts': `import type { Probe } from './probe.ts';` },
    complaint: 'workers/model.ts: imports workers/probe.ts',
  },
  'views take frames as props': {
    rule: rules.viewsTakeFramesAsProps,
    bad: {
      'src/views/Reach.svelte': `<script lang="ts">import { session } from '../session.svelte.ts';</script>`,
    },
    complaint: 'src/views/Reach.svelte: imports src/session.svelte.ts',
  },
  'the oracle shares no code with its subject': {
    rule: rules.theOracleStandsAlone,
    bad: { 'test/reference/moe.ts': `import { route } from '../../workers/model.ts';` },
    complaint: 'test/reference/moe.ts: imports workers/model.ts',
  },
  'nothing that ships imports tools/': {
    rule: rules.nothingImportsTools,
    bad: { 'workers/gpu.ts': `const { nodeGpu } = await import('../tools/nodeGpu.ts');` },
    complaint: 'workers/gpu.ts: imports tools/nodeGpu.ts',
  },
  'imports run in no circle, those of types included': {
    rule: rules.importsRunInNoCircle,
    bad: {
      'workers/a.ts': `import type { B } from './b.ts';`,
      'workers/b.ts': `import { c } from './c.ts';`,
      'workers/c.ts': `export const a = (): import('./a.ts').A => 1;`,
    },
    complaint: 'workers/a.ts -> workers/b.ts -> workers/c.ts -> workers/a.ts',
  },
  'workers import downwards': {
    rule: rules.workersImportDownwards,
    bad: { 'workers/gpu.ts': `import { matvec } from './kernels.ts';` },
    complaint: 'workers/gpu.ts: imports workers/kernels.ts, which stands above it',
  },
  'shaders begin with their name': {
    rule: rules.shadersHaveTheirHeader,
    bad: { 'shaders/lib/sum.wgsl': `// Adds.\nfn sum() {}` },
    complaint: 'shaders/lib/sum.wgsl: does not begin with "// sum: "',
  },
  'kernels name shapes and grid': {
    rule: rules.shadersHaveTheirHeader,
    bad: { 'shaders/add.wgsl': `// add: x + y.\n//\n// Shapes  x, y [D]\nfn add() {}` },
    complaint: 'shaders/add.wgsl: no "// Grid  "',
  },
  'kernels name an oracle that exists': {
    rule: rules.shadersHaveTheirHeader,
    bad: {
      'shaders/add.wgsl': `// add: x + y.\n//\n// Shapes  x [D]\n// Grid    (D)\n// Oracle  test/reference/layers.ts plus\n`,
      'test/reference/layers.ts': `export function add() {}`,
    },
    complaint: 'shaders/add.wgsl: test/reference/layers.ts has no plus',
  },
  'a kernel has one entry point, named as its file': {
    rule: rules.kernelsHaveOneEntryPoint,
    bad: { 'shaders/add.wgsl': `@compute @workgroup_size(64)\nfn plus() {}` },
    complaint: 'shaders/add.wgsl: entry points [plus], not [add]',
  },
  'a shader has its row in the table': {
    rule: rules.shadersHaveTheirRow,
    bad: {
      'shaders/kda_step.wgsl': '',
      'workers/kernels.ts': `import s from '../shaders/kda_step.wgsl?raw';`,
    },
    complaint: 'shaders/kda_step.wgsl: has no row in workers/kernels.ts',
  },
  'a kernel is dispatched by a test': {
    rule: rules.kernelsAreDispatchedByATest,
    bad: {
      'shaders/kda_step.wgsl': '',
      'test/kernels/kda.test.ts': `import { kdaStep } from '../../workers/kernels.ts'; // dispatch()`,
    },
    complaint: 'shaders/kda_step.wgsl: no test in test/kernels names and dispatches it',
  },
  'no source is above 700 lines': {
    rule: rules.sourcesStayShort,
    bad: { 'src/style.css': 'a {}\n'.repeat(701) },
    complaint: 'src/style.css: 701 lines, of 700 at most',
  },
  'nothing is left open': {
    rule: rules.nothingIsLeftOpen,
    bad: { 'shaders/add.wgsl': `// add\n// ${later}: subtract` },
    complaint: `shaders/add.wgsl:2: ${later}`,
  },
  'no test is passed over': {
    rule: rules.nothingIsLeftOpen,
    bad: { 'test/a.test.ts': `test.${pass}('x', () => {});` },
    complaint: `test/a.test.ts:1: .${pass}(`,
  },
  'nothing points outside the repository': {
    rule: rules.nothingPointsOutside,
    bad: { 'docs/BENCH.md': `see ${root}notes` },
    complaint: `docs/BENCH.md:1: ${root}`,
  },
  'the lockfile names no private registry': {
    rule: rules.nothingPointsOutside,
    bad: { 'package-lock.json': `"resolved": "http://10.0.0.1/x.tgz"` },
    complaint: 'package-lock.json: "resolved": "http://10.0.0.1/x.tgz"',
  },
  'names say what things are': {
    rule: rules.namesSayWhatThingsAre,
    bad: { 'workers/gpu.ts': `export class ${refusedName} {}` },
    complaint: `workers/gpu.ts: class ${refusedName}`,
  },
  'files say what they hold': {
    rule: rules.namesSayWhatThingsAre,
    bad: { 'src/utils.ts': '' },
    complaint: 'src/utils.ts: a refused word in its name',
  },
  'exports have names': {
    rule: rules.exportsHaveNames,
    bad: { 'workers/engine.ts': `export default class Engine {}` },
    complaint: 'workers/engine.ts: export default',
  },
  'there are no barrels': {
    rule: rules.exportsHaveNames,
    bad: { 'workers/all.ts': `export * from './engine.ts';` },
    complaint: 'workers/all.ts: export * from',
  },
  'imports say the whole file name': {
    rule: rules.importsSayTheWholeFileName,
    bad: { 'workers/engine.ts': `import { model } from './model';` },
    complaint: 'workers/engine.ts: ./model',
  },
  'there is one error class': {
    rule: rules.thereIsOneErrorClass,
    bad: { 'workers/gguf.ts': `class GgufError extends Error {}` },
    complaint: 'workers/gguf.ts: says class GgufError extends Error',
  },
};

describe.each(Object.entries(cases))('%s', (_, { rule, bad, complaint }) => {
  test('in the repository', () => expect(rule(repository)).toEqual([]));
  test('and the rule can fail', () =>
    expect(rule(new Map(Object.entries(bad)))).toContain(complaint));
});

test('no rule is left out', () => {
  const tested = new Set(Object.values(cases).map(({ rule }) => rule));
  const { importsOf, withoutComments, ...all } = rules;
  expect(importsOf('a.ts', `import './b.ts';`)[0].to).toBe('b.ts');
  expect(withoutComments(`'//' /* x */ // y`).trim()).toBe(`'//'`);
  expect(Object.values(all).filter((rule) => !tested.has(rule))).toEqual([]);
});

/**
 * The tests of kernels and of the engine in one file, for a GPU machine that has Node, the package `webgpu` and this
 * repository's files, and nothing else:
 *
 *   node tools/run.mjs --bundle suite suite.mjs     here
 *   PALIMPSEST_ADAPTER=gpu node suite.mjs [NAME]    there; only test files whose name contains NAME
 *
 * Prints one line per file and every failure; the exit status is 1 if a test failed or none ran.
 */
import { type File, startTests, type Task, type VitestRunner } from '@vitest/runner';
import '../test/setup.ts';
import { nodeGpu } from './nodeGpu.ts';

const modules = import.meta.glob([
  '../test/{kernels,mutants,workers}/*.test.ts',
  '../test/*.test.ts',
  '!**/house.test.ts',
  '!**/shapes.test.ts', // computes nothing, on no GPU
  '!**/*.browser.test.ts',
  '!**/{manyExperts,common,spareGpu,readers}.test.ts', // replace modules and globals, which needs the whole of vitest
]);
const wanted = process.argv[2] ?? '';
const paths = Object.keys(modules).filter((path) => path.includes(wanted));

const adapter = await (await nodeGpu()).requestAdapter();
const { vendor, architecture, description } = adapter!.info;
console.log(`adapter: ${[vendor, architecture, description].filter(Boolean).join(' ')}`);

const runner: VitestRunner = {
  config: {
    root: process.cwd(),
    sequence: { shuffle: false, concurrent: false, seed: 0, hooks: 'stack', setupFiles: 'list' },
    testTimeout: 300_000,
    hookTimeout: 300_000,
    maxConcurrency: 1,
    passWithNoTests: false,
    allowOnly: false,
    chaiConfig: undefined,
    retry: 0,
    includeTaskLocation: false,
    tags: [],
    tagsFilter: undefined,
    strictTags: false,
    setupFiles: [],
    name: undefined,
    testNamePattern: undefined,
    diffOptions: undefined,
  } as unknown as VitestRunner['config'],
  importFile: (path) => modules[path](),
};

let [passed, failed] = [0, 0];
for (const path of paths) {
  const [file] = await startTests([path], runner);
  report(file);
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);

function report(file: File): void {
  const tasks = [file, ...below(file)];
  const tests = tasks.filter((task) => task.type === 'test');
  const good = tests.filter((task) => task.result?.state === 'pass').length;
  // A test that did not run, because what precedes it failed, has failed; and so has a file without tests.
  const bad = Math.max(tests.length, 1) - good;
  const seconds = (file.result?.duration ?? 0) / 1000;
  console.log(
    `${bad ? 'FAILED' : 'passed'}  ${file.filepath}  ${good} tests, ${seconds.toFixed(1)} s`,
  );
  for (const { name, result } of tasks) {
    for (const error of result?.errors ?? []) console.log(`  ${name}\n    ${error.message}`);
  }
  passed += good;
  failed += bad;
}

function below(task: Task): Task[] {
  return task.type === 'suite' ? task.tasks.flatMap((each) => [each, ...below(each)]) : [];
}

/** The types published beside embed.js, as another project's compiler reads them. */
import ts from 'typescript';
import { expect, test } from 'vitest';
import { declarationsOf } from '../../tools/publish.ts';

const sound = `
  import { PalimpsestModel, type Generation, type Outcome, type Snapshot } from './embed.js';
  const widget = document.querySelector('palimpsest-model')!;
  const same: PalimpsestModel = widget;
  const { contextLimit } = await widget.load();
  const generation: Generation = same.generate('Why?', { seed: 1, maxTokens: contextLimit });
  for await (const { text, logprob } of generation) console.log(text.length, (logprob ?? 0) + 1);
  const outcome: Outcome = await generation.outcome;
  if (outcome.reason === 'length') await widget.stop();
  const snapshot: Snapshot = await widget.snapshot();
  await widget.restore(snapshot);
  await widget.setView({ view: 'gates', head: 'median' });
  const off: () => void = widget.on('status', ({ state }) => console.log(state === 'ready'));
  off();
`;
const unsound: [text: string, complaint: RegExp][] = [
  [`document.querySelector('palimpsest-model')!.setView('storage');`, /"storage".* not assignable/],
  [`document.querySelector('palimpsest-model')!.generate(1);`, /'number' is not assignable/],
  [`import { readRequest } from './embed.js';\nreadRequest;`, /readRequest/],
];

test('a page drives the widget with its types, and what there is not is refused', () => {
  const files = new Map([
    ['/page/embed.d.ts', declarationsOf(['src/embed/protocol.ts', 'src/element/embed.ts'])],
    ['/page/sound.ts', sound],
    ...unsound.map(
      ([text], at) => [`/page/unsound${at}.ts`, `import './embed.js';\n${text}`] as const,
    ),
  ]);
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipDefaultLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.directoryExists = () => true;
  host.fileExists = (path) => files.has(path) || fileExists(path);
  host.readFile = (path) => files.get(path) ?? readFile(path);
  host.getSourceFile = (path, ...how) =>
    files.has(path)
      ? ts.createSourceFile(path, files.get(path)!, ts.ScriptTarget.ES2022)
      : getSourceFile(path, ...how);
  const program = ts.createProgram([...files.keys()], options, host);
  const complaints = (path: string) =>
    ts
      .getPreEmitDiagnostics(program, program.getSourceFile(path))
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
  expect(complaints('/page/embed.d.ts')).toEqual([]);
  expect(complaints('/page/sound.ts')).toEqual([]);
  unsound.forEach(([, complaint], at) => {
    expect(complaints(`/page/unsound${at}.ts`).join()).toMatch(complaint);
  });
});

/**
 * An imported checkpoint on the engine: read from the import itself, as the engine reads any file, and held to the float64
 * reference on the very weights that are stored.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { openGguf } from '../../workers/gguf.ts';
import type { Gpu } from '../../workers/gpu.ts';
import { importCheckpoint } from '../../workers/importModel.ts';
import { Model } from '../../workers/model.ts';
import { State } from '../../workers/state.ts';
import { openTestGpu } from '../gpu.ts';
import { fixtureJson } from '../reference/golden.ts';
import { emptyState, forward, openModel } from '../reference/model.ts';
import { sources } from './checkpointFiles.ts';

const llama = fixtureJson<{ prompt: number[]; files: Record<string, { tokens: number[] }> }>(
  'imported.json',
);
const folder = mkdtempSync(join(tmpdir(), 'imported-'));
afterAll(() => rmSync(folder, { recursive: true }));

let gpu: Gpu;
beforeAll(async () => (gpu = await openTestGpu()));
afterAll(() => gpu.destroy());

// F32 is held to llama.cpp's tokens in importModel.browser.test.ts.
test.each(['Q8_0', 'Q4_0'] as const)(
  'as %s gives the logits of the weights it stores',
  async (encoding) => {
    const about = { name: 'tiny', license: '' };
    const source = await importCheckpoint(sources(tinyCheckpoint()), about, encoding);
    const path = join(folder, source.name);
    writeFileSync(path, await source.read(0, source.byteLength));
    const oracle = openModel(path);

    const { prompt, files } = llama;
    const tokens = [...prompt, ...files['tiny-F32.gguf'].tokens];
    const model = await Model.load(gpu, await openGguf([source]), source.config, 'cpu');
    const state = new State(gpu, source.config, 256, 'f32');
    state.reserve(tokens.length);
    await model.attach(state, { tap: null, changes: null });
    const { logits: exact } = forward(oracle, tokens, emptyState(oracle));
    const logits = new Float32Array(exact.length);
    for (const [at, id] of tokens.entries()) logits.set(await model.scoreStep(id, at), at * 512);
    expect(logits).toAgreeWith(exact, { rms: 1e-4, shape: [tokens.length, 512] });
  },
  120_000,
);

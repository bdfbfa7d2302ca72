/** The engine in Node: files of this disk as byte sources, npm `webgpu` as the GPU. */
import { existsSync, openSync, read, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Engine } from '../workers/engine.ts';
import type { ByteSource } from '../workers/gguf.ts';
import { FULL, Gpu } from '../workers/gpu.ts';
import { type LoadProgress, PalimpsestError } from '../workers/protocol.ts';
import { nodeGpu } from './nodeGpu.ts';

/**
 * The shards of a model: of a folder of public/models by name, of a `.gguf` file alone, or of all files of a split one
 * when its first is named. Fails: BadModel.
 */
export function modelSources(model: string): ByteSource[] {
  const named = resolve('public/models', model);
  const paths =
    existsSync(named) && statSync(named).isDirectory()
      ? folderShards(named)
      : splitShards(resolve(model));
  return paths.map(fileSource);
}

function folderShards(folder: string): string[] {
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.gguf'))
    .sort();
  if (files.length === 0) throw new PalimpsestError('BadModel', `${folder} holds no .gguf file.`);
  return files.map((name) => join(folder, name));
}

function splitShards(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
    const known = existsSync('public/models') ? readdirSync('public/models').join(', ') : 'none';
    throw new PalimpsestError(
      'BadModel',
      `There is no file ${path}, and no embedded model of that name (${known}).`,
    );
  }
  const split = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(basename(path));
  if (!split) return [path];
  const count = Number(split[3]);
  return Array.from({ length: count }, (_, i) => {
    const part = join(
      dirname(path),
      `${split[1]}-${String(i + 1).padStart(5, '0')}-of-${split[3]}.gguf`,
    );
    if (!existsSync(part)) {
      throw new PalimpsestError(
        'BadModel',
        `${part} is missing: this model has ${count} files, and all are needed.`,
      );
    }
    return part;
  });
}

const readAt = promisify(read);

/** A file of this disk, read by range and kept open until the process ends. */
function fileSource(path: string): ByteSource {
  const descriptor = openForReading(path);
  return {
    name: basename(path),
    byteLength: statSync(path).size,
    async read(offset, byteLength) {
      const bytes = new Uint8Array(byteLength);
      let filled = 0;
      while (filled < byteLength) {
        const { bytesRead } = await readAt(
          descriptor,
          bytes,
          filled,
          byteLength - filled,
          offset + filled,
        );
        if (bytesRead === 0) {
          throw new PalimpsestError(
            'BadModel',
            `${path} ends at byte ${offset + filled}; ${byteLength - filled} more were expected.`,
          );
        }
        filled += bytesRead;
      }
      return bytes;
    },
  };
}

function openForReading(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (cause) {
    throw new PalimpsestError('BadModel', `${path} cannot be read (${(cause as Error).message}).`);
  }
}

/** Kernels write workgroup memory before they read it: without its zeros SwiftShader compiles them in a tenth of the time. */
async function adapters(): Promise<GPU> {
  const toggles = ['vulkan_enable_f16_on_nvidia', 'disable_workgroup_init'];
  try {
    return await nodeGpu({ toggles });
  } catch (cause) {
    throw new PalimpsestError('NoWebGPU', (cause as Error).message);
  }
}

/** Load a model (see `modelSources`) on whatever adapter there is. Fails: NoWebGPU, BadModel and as `Engine.load`. */
export async function openEngine(
  model: string,
  report: (p: LoadProgress) => void = () => {},
): Promise<Engine> {
  const shards = modelSources(model);
  const gpu = await Gpu.open(await adapters(), FULL);
  return Engine.load({
    gpu,
    shards,
    contextTokens: Infinity,
    report,
    clock: () => performance.now(),
  });
}

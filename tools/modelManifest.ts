/** What a model's folder holds, derived from its files: the manifest by which the page downloads and verifies it. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { withoutOutputCopy } from '../workers/config.ts';
import { type ByteSource, type GgufFile, metaString, openGguf } from '../workers/gguf.ts';
import type { Manifest } from '../workers/protocol.ts';

/** A manifest with what the page has no use for. What the files do not say is kept from the manifest that is there. */
export interface ModelManifest extends Manifest {
  base_model?: string;
}

/** The manifest of all `.gguf` files in `folder`, in the order of their names. Fails: BadModel. */
export async function modelManifest(folder: string): Promise<ModelManifest> {
  const names = readdirSync(folder)
    .filter((name) => name.endsWith('.gguf'))
    .sort();
  const contents = names.map((name) => readFileSync(join(folder, name)));
  const gguf = await openGguf(
    names.map((name, i): ByteSource => {
      const bytes = contents[i];
      const read = (offset: number, byteLength: number) =>
        Promise.resolve(new Uint8Array(bytes.subarray(offset, offset + byteLength)));
      return { name, byteLength: bytes.length, read };
    }),
  );
  const shards = names.map((file, i) => ({
    file,
    bytes: contents[i].length,
    sha256: createHash('sha256').update(contents[i]).digest('hex'),
  }));
  const { context_trained = 0, base_model } = statedBefore(folder);
  return {
    name: metaString(gguf.metadata, 'general.name'),
    file_type: mainType(gguf),
    context_trained,
    license: metaString(gguf.metadata, 'general.license'),
    base_model,
    parameters: parameters(await withoutOutputCopy(gguf)),
    bytes: shards.reduce((sum, shard) => sum + shard.bytes, 0),
    shards,
  };
}

/** The text of manifest.json. */
export function manifestText(manifest: ModelManifest): string {
  return `${JSON.stringify(manifest, null, 1)}\n`;
}

function statedBefore(folder: string): Partial<ModelManifest> {
  const file = join(folder, 'manifest.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as ModelManifest) : {};
}

/** The encoding that holds most bytes. */
function mainType({ tensors }: GgufFile): string {
  const bytesOf = new Map<string, number>();
  for (const { type, byteLength } of tensors.values()) {
    bytesOf.set(type, (bytesOf.get(type) ?? 0) + byteLength);
  }
  return [...bytesOf].sort(([, a], [, b]) => b - a)[0][0];
}

/** Numbers in all tensors. */
function parameters({ tensors }: GgufFile): number {
  const product = (ne: number[]) => ne.reduce((product, extent) => product * extent, 1);
  return [...tensors.values()].reduce((sum, { ne }) => sum + product(ne), 0);
}

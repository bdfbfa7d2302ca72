/** A file of this computer as a byte source, read where it lies. */
import type { ByteSource } from './gguf.ts';
import { PalimpsestError } from './protocol.ts';

/** Bytes [from, until) of a file. Fails: BadModel, once it is not what was chosen any more. */
export async function readFile(file: File, from: number, until: number): Promise<ArrayBuffer> {
  try {
    return await file.slice(from, until).arrayBuffer();
  } catch (cause) {
    throw new PalimpsestError(
      'BadModel',
      `${file.name} cannot be read any more (${String(cause)}): it was changed, moved or deleted. Choose it again.`,
    );
  }
}

/** The whole file. Reads fail as `readFile`. */
export function fileSource(file: File): ByteSource {
  return {
    name: file.name,
    byteLength: file.size,
    read: async (offset, byteLength) =>
      new Uint8Array(await readFile(file, offset, offset + byteLength)),
  };
}

/** What tells a file from another one of its name; two files of one identity are taken for the same. */
export function identityOf({ name, size, lastModified }: File): string {
  return `${name}:${size}:${lastModified}`;
}

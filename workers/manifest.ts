/** `manifest.json` as it is read: checked field by field as far as bytes depend on it. */
import { PalimpsestError, type Manifest, type Shard } from './protocol.ts';

/** A manifest from its text; `address` is where it came from. Fails: BadModel. */
export function readManifest(text: string, address: string): Manifest {
  const refuse = (why: string) =>
    new PalimpsestError('BadModel', `${address} ${why}. Write it anew, or choose another model.`);
  let parsed: Partial<Manifest> | null;
  try {
    parsed = JSON.parse(text) as Partial<Manifest> | null;
  } catch {
    throw refuse('is not JSON');
  }
  const listed: unknown = parsed?.shards;
  if (!Array.isArray(listed) || listed.length === 0) throw refuse('lists no shards');
  const shards = listed.map((entry: unknown): Shard => {
    const { file, bytes, sha256 = null } = (entry ?? {}) as Partial<Shard>;
    if (typeof file !== 'string' || !/^[^/\\]+$/.test(file) || /^\.+$/.test(file)) {
      throw refuse(`lists a shard with the file name ${JSON.stringify(file)}`);
    }
    if (!Number.isSafeInteger(bytes) || bytes! <= 0) {
      throw refuse(`says that ${file} has ${JSON.stringify(bytes)} bytes`);
    }
    if (sha256 !== null && !(typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256))) {
      throw refuse(`says that ${file} has the SHA-256 ${JSON.stringify(sha256)}`);
    }
    return { file, bytes: bytes!, sha256 };
  });
  if (new Set(shards.map(({ file }) => file)).size < shards.length) {
    throw refuse('lists the same file twice');
  }
  const { name, file_type, license, parameters, context_trained } = parsed!;
  return {
    name: typeof name === 'string' && name !== '' ? name : address,
    file_type: typeof file_type === 'string' ? file_type : '',
    license: typeof license === 'string' ? license : '',
    parameters: typeof parameters === 'number' ? parameters : 0,
    context_trained: Number.isSafeInteger(context_trained) ? context_trained! : 0,
    bytes: totalBytes(shards),
    shards,
  };
}

/** What stands in for a manifest where there is none: files and their sizes, no hashes. */
export function manifestOf(name: string, files: { file: string; bytes: number }[]): Manifest {
  const shards = files.map(({ file, bytes }) => ({ file, bytes, sha256: null }));
  return {
    name,
    file_type: '',
    license: '',
    parameters: 0,
    context_trained: 0,
    bytes: totalBytes(shards),
    shards,
  };
}

function totalBytes(shards: Shard[]): number {
  return shards.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** All names of a split GGUF file from its first (gguf-split: NAME-00001-of-00008.gguf); of another file its own. */
export function splitNames(file: string): string[] {
  const [, stem, number, count] = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(file) ?? [];
  if (Number(number) !== 1) return [file];
  return Array.from(
    { length: Number(count) },
    (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${count}.gguf`,
  );
}

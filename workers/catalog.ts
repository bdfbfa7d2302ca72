/**
 * What a model consists of: a folder with a manifest, a GGUF file at an address, files of this computer, or what the store
 * says it was.
 */
import { identityOf } from './localFile.ts';
import { manifestOf, readManifest, splitNames } from './manifest.ts';
import { PalimpsestError, type GgufChoice, type Manifest } from './protocol.ts';
import type { ModelRecord } from './store.ts';
import {
  fetchText,
  patiently,
  probe,
  type Described,
  type Limits,
  type World,
} from './transfer.ts';

const manifestBytes = 4 * 1024 * 1024;
/** How long the network may take to say what has changed about a model that is stored already. */
const refreshMs = 5_000;
const filesPrefix = 'files:';
const keptPrefix = 'kept:';

/**
 * A model by its name. The network is asked; what is `stored` stands if it does not answer well.
 * Fails: DownloadFailed, BadModel, Refused.
 */
export async function describeModel(
  world: World,
  limits: Limits,
  model: string,
  stored: ModelRecord | undefined,
): Promise<ModelRecord> {
  // Of a file whose hash is stated nothing is left to ask.
  const settled = stored?.manifest.shards.every(({ sha256 }) => sha256 !== null);
  if (settled && model.endsWith('.gguf')) return stored!;
  if (!isRemote(model)) {
    if (stored) return stored;
    throw new PalimpsestError(
      'Refused',
      `"${model}" names no model: it takes the whole URL of a folder, ending in "/", or of a .gguf file.`,
    );
  }
  const tooLong = new AbortController();
  const awake = new AbortController();
  if (stored) void world.clock.sleep(refreshMs, awake.signal).then(() => tooLong.abort());
  try {
    const patience = stored ? { ...limits, attempts: 1 } : limits;
    const describe = new URL(model).pathname.endsWith('/') ? describeFolder : describeAddress;
    const { manifest, validators } = await describe(world, patience, model, tooLong.signal);
    const { shards } = manifest;
    const same = stored && JSON.stringify(stored.manifest.shards) === JSON.stringify(shards);
    return {
      model,
      manifest,
      validators: shards.map(
        (_, i) => (validators.has(i) ? validators.get(i) : same && stored.validators[i]) || null,
      ),
      pieceBytes: same ? stored.pieceBytes : limits.pieceBytes,
      agreed: same ? stored.agreed : shards.map(() => false),
      usedAt: stored?.usedAt ?? 0,
      origin: null,
    };
  } catch (cause) {
    if (stored) return stored;
    throw cause;
  } finally {
    awake.abort();
  }
}

/** A manifest, and the validators of shards without a stated hash: what such a shard is, its version tells. */
interface Description {
  manifest: Manifest;
  validators: Map<number, string | null>;
}

async function describeFolder(
  world: World,
  limits: Limits,
  model: string,
  signal: AbortSignal,
): Promise<Description> {
  const address = new URL('manifest.json', model).href;
  const { text } = await patiently(
    world,
    limits,
    signal,
    () => fetchText(world, limits.stallMs, address, manifestBytes, signal),
    () => {},
  ).catch((cause: unknown) => {
    if (!/ answered 4(04|10): /.test(String(cause))) throw cause;
    throw new PalimpsestError(
      'DownloadFailed',
      `${model} has no manifest.json, which says what a folder holds. Of GGUF files give the address of the first; of a safetensors checkpoint the page of its repository on huggingface.co, or download the folder and drop it here.`,
    );
  });
  const manifest = readManifest(text, address);
  const validators = new Map<number, string | null>();
  for (const [i, { file, sha256 }] of manifest.shards.entries()) {
    if (sha256 !== null) continue;
    const seen = await probePatiently(world, limits, fileAddress(model, file), signal);
    validators.set(i, seen.validator);
  }
  return { manifest, validators };
}

async function describeAddress(
  world: World,
  limits: Limits,
  model: string,
  signal: AbortSignal,
): Promise<Description> {
  const { pathname } = new URL(model);
  const names = splitNames(decodeURIComponent(pathname.slice(pathname.lastIndexOf('/') + 1)));
  const files: { file: string; bytes: number }[] = [];
  const validators = new Map<number, string | null>();
  for (const [i, file] of names.entries()) {
    const address = fileAddress(model, file);
    const seen = await probePatiently(world, limits, address, signal);
    if (!seen.totalBytes) {
      throw new PalimpsestError(
        'DownloadFailed',
        `The server of ${address} does not say how long the file is. Download it yourself and open the file.`,
      );
    }
    files.push({ file, bytes: seen.totalBytes });
    validators.set(i, seen.validator);
  }
  return { manifest: manifestOf(stemOf(names[0]!), files), validators };
}

function probePatiently(
  world: World,
  limits: Limits,
  address: string,
  signal: AbortSignal,
): Promise<Described> {
  const attempt = () => probe(world, limits.stallMs, address, signal);
  return patiently(world, limits, signal, attempt, () => {});
}

/** Files of this computer, in the order of their names. Fails: Refused. */
export function describeFiles(
  files: File[],
  pieceBytes: number,
): { record: ModelRecord; sorted: File[] } {
  const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : 1));
  const wrong = sorted.find(({ name, size }) => !/\.gguf$/i.test(name) || size === 0);
  if (sorted.length === 0 || wrong) {
    throw new PalimpsestError(
      'Refused',
      `${wrong ? `${wrong.name} is not a .gguf file with something in it` : 'There is no .gguf file here'}. Choose one, all shards of a split one, or the folder of a safetensors checkpoint.`,
    );
  }
  const identities = sorted.map(identityOf);
  const listed = sorted.map(({ name, size }) => ({ file: name, bytes: size }));
  const record: ModelRecord = {
    model: filesPrefix + identities.join('|'),
    manifest: manifestOf(stemOf(sorted[0]!.name), listed),
    validators: identities,
    pieceBytes,
    agreed: sorted.map(() => false),
    usedAt: 0,
    origin: null,
  };
  return { record, sorted };
}

/**
 * A choice of a repository of the hub, by the address of its first file: what the hub says of it, hashes included, so that
 * nothing is left to ask. Null where the hub does not know all hashes.
 */
export function describeChoice(
  { name, quant, files, bytes, missingShards }: GgufChoice,
  license: string,
  pieceBytes: number,
): ModelRecord | null {
  if (missingShards > 0 || files.some(({ sha256 }) => sha256 === null)) return null;
  const shards = files.map((file) => ({
    file: file.path.slice(file.path.lastIndexOf('/') + 1),
    bytes: file.bytes,
    sha256: file.sha256,
  }));
  return {
    model: new URL(files[0]!.address).href,
    manifest: {
      name,
      file_type: quant,
      license,
      parameters: 0,
      context_trained: 0,
      bytes,
      shards,
    },
    validators: shards.map(() => null),
    pieceBytes,
    agreed: shards.map(() => false),
    usedAt: 0,
    origin: null,
  };
}

/** The name under which files of this computer are stored. */
export function keptName(model: string): string {
  return keptPrefix + model.slice(filesPrefix.length);
}

/** True for the URL of a folder or of a GGUF file. */
export function isRemote(model: string): boolean {
  if (!URL.canParse(model)) return false;
  const { protocol, pathname } = new URL(model);
  return /^https?:$/.test(protocol) && /(\/|\.gguf)$/.test(pathname);
}

/** A file beside another, or in a folder. */
export function fileAddress(base: string, file: string): string {
  const address = new URL(base);
  const folder = address.pathname.slice(0, address.pathname.lastIndexOf('/') + 1);
  address.pathname = folder + encodeURIComponent(file);
  return address.href;
}

function stemOf(file: string): string {
  return file.replace(/(-00001-of-\d{5})?\.gguf$/i, '');
}

/**
 * The models that a safetensors checkpoint can become, one an encoding: named, measured and made here.
 *
 *   import:ENCODING:https://huggingface.co/OWNER/NAME/tree/COMMIT     from a repository of the hub
 *   import:ENCODING:files:HASH                                        from files of this computer
 *
 * Such a model is one GGUF file that lies nowhere: whatever range of it is missing in the store is made when it is wanted.
 */
import type { Make } from './download.ts';
import type { ByteSource } from './gguf.ts';
import { importCheckpoint, openCheckpoint, type About, type ImportedGguf } from './importModel.ts';
import { isCheckpointFile } from './checkpoint.ts';
import { fileSource, identityOf } from './localFile.ts';
import {
  PalimpsestError,
  type CheckpointOffer,
  type CheckpointPlace,
  type ImportEncoding,
} from './protocol.ts';
import { remoteSource, type RemoteFile } from './remoteSource.ts';
import { sha256 } from './sha256.ts';
import type { ModelRecord } from './store.ts';
import type { Limits, World } from './transfer.ts';

const encodings: ImportEncoding[] = ['Q4_0', 'Q8_0', 'F32'];

/** A checkpoint whose files are at hand. */
export interface Found {
  /** The same for the same files, wherever they are met again; part of its models' names. */
  identity: string;
  about: About;
  /** On their server; null for files of this computer. */
  remote: RemoteFile[] | null;
  files: File[];
}

/** The files of a checkpoint among those that are there. Fails: Refused. */
export async function findCheckpoint(place: CheckpointPlace): Promise<Found> {
  if (place.kind === 'hub') {
    const { id, page, commit, license, checkpoint } = place.repository;
    if (!checkpoint) throw nothingThere(id);
    return {
      identity: `${page}/tree/${commit}`,
      about: { name: id.slice(id.indexOf('/') + 1), license },
      remote: checkpoint.files.map(({ path, address, bytes, sha256 }) => ({
        name: path,
        address,
        bytes,
        sha256,
      })),
      files: [],
    };
  }
  const files = place.files.filter(({ name }) => isCheckpointFile(name));
  if (files.length === 0) throw nothingThere(place.name);
  const identities = files.map(identityOf).sort().join('|');
  const hash = await sha256(new TextEncoder().encode(identities));
  return {
    identity: `files:${hash.slice(0, 16)}`,
    about: { name: place.name, license: '' },
    remote: null,
    files,
  };
}

function nothingThere(where: string): PalimpsestError {
  return new PalimpsestError(
    'Refused',
    `${where} holds no safetensors checkpoint. It takes config.json, the tokenizer's files and all model*.safetensors of a folder.`,
  );
}

/**
 * What a checkpoint can become, and a record of each for the store. Reads its headers and its tokenizer, no weights.
 * Fails as `openCheckpoint` does.
 */
export async function offerModels(
  world: World,
  limits: Limits,
  found: Found,
  signal: AbortSignal,
): Promise<{ offer: CheckpointOffer; records: ModelRecord[] }> {
  const sources = sourcesOf(world, limits, found, () => {}, signal);
  const checkpoint = await openCheckpoint(sources, found.about);
  const records: ModelRecord[] = [];
  for (const encoding of encodings) {
    const { byteLength, name, parameters, fingerprint } = await checkpoint.as(encoding);
    records.push({
      model: `import:${encoding}:${found.identity}`,
      manifest: {
        name: `${found.about.name}-${encoding}`,
        file_type: encoding,
        license: found.about.license,
        parameters,
        context_trained: 0,
        bytes: byteLength,
        shards: [{ file: name, bytes: byteLength, sha256: null }],
      },
      validators: [fingerprint],
      pieceBytes: limits.pieceBytes,
      agreed: [false],
      usedAt: 0,
      origin: { encoding, about: found.about, remote: found.remote },
    });
  }
  const offer: CheckpointOffer = {
    name: found.about.name,
    license: found.about.license,
    bytes: sources
      .filter(({ name }) => name.endsWith('.safetensors'))
      .reduce((sum, { byteLength }) => sum + byteLength, 0),
    choices: records.map(({ model, manifest }, i) => ({
      model,
      encoding: encodings[i]!,
      bytes: manifest.bytes,
    })),
  };
  return { offer, records };
}

/** The identity of the checkpoint that a model is made from; null for a model that is not. */
export function checkpointOf(model: string): string | null {
  return /^import:\w+:(.*)$/.exec(model)?.[1] ?? null;
}

/**
 * Makes the bytes of such a model. `found` is asked for the files of this computer. The checkpoint is opened once a run of
 * the download: the run's signal ends its reads.
 * Fails: Refused (the files have to be chosen again), BadModel (they are others), and as the checkpoint does.
 */
export function makerOf(
  world: World,
  limits: Limits,
  { manifest, validators, origin }: ModelRecord,
  found: () => Found | undefined,
): Make | null {
  if (!origin) return null;
  const open = async (tell: (note: string) => void, signal: AbortSignal): Promise<ImportedGguf> => {
    const files = found()?.files ?? [];
    if (!origin.remote && files.length === 0) {
      throw new PalimpsestError(
        'Refused',
        `${manifest.name} is made from files of this computer, and a page does not keep hold of those. Open them again under "Bring your own model" and choose ${origin.encoding}: it goes on from what is stored.`,
      );
    }
    const sources = sourcesOf(world, limits, { remote: origin.remote, files }, tell, signal);
    const gguf = await importCheckpoint(sources, origin.about, origin.encoding);
    if (gguf.fingerprint === validators[0]) return gguf;
    throw new PalimpsestError(
      'BadModel',
      `${manifest.name} was begun by another version of this page, or from other files. Remove it and import it again.`,
    );
  };
  const opened = new WeakMap<AbortSignal, Promise<ImportedGguf>>();
  return async (offset, bytes, tell, signal) => {
    const gguf = opened.get(signal) ?? open(tell, signal);
    opened.set(signal, gguf);
    return (await gguf).read(offset, bytes);
  };
}

function sourcesOf(
  world: World,
  limits: Limits,
  { remote, files }: Pick<Found, 'remote' | 'files'>,
  tell: (note: string) => void,
  signal: AbortSignal,
): ByteSource[] {
  return remote
    ? remote.map((file) => remoteSource(world, limits, file, tell, signal))
    : files.map(fileSource);
}

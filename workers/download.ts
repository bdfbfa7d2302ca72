/**
 * Verified bytes of a model's shards. A model is a folder with a manifest; a shard is fetched when it is first read and
 * given out only when its SHA-256 is the manifest's. At most two shards are kept in memory.
 */
import { PalimpsestError, type LoadProgress, type Manifest, type Shard } from './protocol.ts';

/** What this file needs from the world around it. */
export interface Net {
  fetch(address: string, init?: RequestInit): Promise<Response>;
}

type Report = (p: LoadProgress) => void;

interface Opened {
  folder: string;
  shards: Shard[];
  totalBytes: number;
  doneBytes: number;
  report: Report;
}

/** Shards in memory at once, over all models. */
const keptShards = 2;

/** The models opened in this worker, and the shards last read. */
export class Weights {
  #net: Net;
  #models = new Map<string, Opened>();
  #kept = new Map<string, Promise<ArrayBuffer>>();

  constructor(net: Net) {
    this.#net = net;
  }

  /** See WeightsApi.open. Reads the manifest alone. */
  async open(model: string, report: Report): Promise<Shard[]> {
    if (!model.endsWith('/')) {
      throw new PalimpsestError(
        'Refused',
        `A model is a folder URL that ends in "/", not ${model}`,
      );
    }
    const response = await this.#get(`${model}manifest.json`);
    const { shards, bytes } = readManifest(await response.text(), model);
    this.#models.set(model, { folder: model, shards, totalBytes: bytes, doneBytes: 0, report });
    return shards;
  }

  /** See WeightsApi.read. */
  async read(model: string, shard: number, offset: number, bytes: number): Promise<ArrayBuffer> {
    const opened = this.#models.get(model);
    if (!opened) throw new PalimpsestError('Refused', `${model} is not open: call open first`);
    const listed = opened.shards[shard];
    if (!listed || !(offset >= 0) || !(bytes >= 0) || offset + bytes > listed.bytes) {
      throw new PalimpsestError(
        'Refused',
        `Bytes ${offset} to ${offset + bytes} of shard ${shard} of ${model} do not exist`,
      );
    }
    const key = opened.folder + listed.file;
    let whole = this.#kept.get(key);
    if (whole) this.#kept.delete(key);
    else whole = this.#fetchShard(opened, listed);
    this.#kept.set(key, whole);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= keptShards) break;
      this.#kept.delete(oldest);
    }
    try {
      return (await whole).slice(offset, offset + bytes);
    } catch (cause) {
      if (this.#kept.get(key) === whole) this.#kept.delete(key);
      throw cause;
    }
  }

  async #fetchShard(opened: Opened, shard: Shard): Promise<ArrayBuffer> {
    const bytes = await this.#receive(opened, shard, 'default');
    if (await matches(bytes, shard)) return bytes;
    // The HTTP cache may hold what is broken; ask the server itself before giving up.
    opened.doneBytes -= shard.bytes;
    const again = await this.#receive(opened, shard, 'reload');
    if (await matches(again, shard)) return again;
    throw new PalimpsestError(
      'ShardCorrupt',
      `${shard.file} arrived twice with another SHA-256 than its manifest states. Ask whoever serves ${opened.folder}`,
    );
  }

  /** Exactly `shard.bytes` bytes as they come over the network, progress reported as they do. */
  async #receive(opened: Opened, shard: Shard, cache: RequestCache): Promise<ArrayBuffer> {
    const response = await this.#get(opened.folder + shard.file, { cache });
    const whole = new Uint8Array(shard.bytes);
    let received = 0;
    try {
      const reader = response.body!.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const next = received + part.value.length;
        if (next > shard.bytes) {
          await reader.cancel();
          received = next;
          break;
        }
        whole.set(part.value, received);
        received = next;
        opened.report({
          phase: 'download',
          doneBytes: opened.doneBytes + received,
          totalBytes: opened.totalBytes,
          note: shard.file,
        });
      }
    } catch (cause) {
      throw new PalimpsestError(
        'DownloadFailed',
        `The connection broke after ${received} of ${shard.bytes} bytes of ${shard.file} (${String(cause)}). Try again`,
      );
    }
    if (received !== shard.bytes) {
      throw new PalimpsestError(
        'DownloadFailed',
        `${shard.file} should have ${shard.bytes} bytes, the server sent ${received}. Try again`,
      );
    }
    opened.doneBytes += shard.bytes;
    return whole.buffer;
  }

  async #get(address: string, init?: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await this.#net.fetch(address, init);
    } catch (cause) {
      throw new PalimpsestError('DownloadFailed', `${address} cannot be reached: ${String(cause)}`);
    }
    if (!response.ok || !response.body) {
      throw new PalimpsestError('DownloadFailed', `${address} answered ${response.status}`);
    }
    return response;
  }
}

/** Manifest from its text, checked field by field as far as bytes depend on it. Fails: BadModel. */
function readManifest(text: string, model: string): Manifest {
  const refuse = (why: string) =>
    new PalimpsestError(
      'BadModel',
      `${model}manifest.json ${why}. Write it with tools/manifest.ts`,
    );
  let parsed: Partial<Manifest>;
  try {
    parsed = JSON.parse(text) as Partial<Manifest>;
  } catch {
    throw refuse('is not JSON');
  }
  const shards = parsed?.shards;
  if (!Array.isArray(shards) || shards.length === 0) throw refuse('lists no shards');
  for (const { file, bytes, sha256 } of shards) {
    if (typeof file !== 'string' || !/^[^/\\]+$/.test(file) || file === '..') {
      throw refuse(`lists a shard with the file name ${JSON.stringify(file)}`);
    }
    if (!Number.isSafeInteger(bytes) || bytes <= 0) {
      throw refuse(`says that ${file} has ${JSON.stringify(bytes)} bytes`);
    }
    if (sha256 !== null && !/^[0-9a-f]{64}$/.test(sha256)) {
      throw refuse(`says that ${file} has the SHA-256 ${JSON.stringify(sha256)}`);
    }
  }
  return {
    name: parsed.name ?? model,
    file_type: parsed.file_type ?? '',
    license: parsed.license ?? '',
    parameters: parsed.parameters ?? 0,
    bytes: shards.reduce((sum, shard) => sum + shard.bytes, 0),
    shards: shards.map(({ file, bytes, sha256 }) => ({ file, bytes, sha256 })),
  };
}

async function matches(bytes: ArrayBuffer, shard: Shard): Promise<boolean> {
  if (shard.sha256 === null) return true;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('') === shard.sha256;
}

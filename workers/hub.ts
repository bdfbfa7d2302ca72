/**
 * Models on the Hugging Face hub: what a repository offers, said before anything large is fetched. The hub's client
 * (@huggingface/hub) is loaded when a repository is first looked at. No account is used: what needs one is explained.
 */
import { isCheckpointFile } from './checkpoint.ts';
import { PalimpsestError, type GgufChoice, type HubFile, type HubRepository } from './protocol.ts';
import type { World } from './transfer.ts';

/** Where the hub is and how it is reached. */
export interface Hub {
  url: string;
  fetch: World['fetch'];
  /** An answer that takes longer is given up. */
  waitMs: number;
}

export const HUB_URL = 'https://huggingface.co';
/** More files than any model has. */
const MOST_FILES = 20_000;

/**
 * What a repository offers. `repository` is "owner/name" or the address of its page; `revision` a branch, tag or commit, ''
 * for the one the address names, else "main".
 * Fails: Refused (no such name is possible), DownloadFailed (not there, private, gated, or the hub out of reach),
 * Unsupported (no Kimi Linear model).
 */
export async function listRepository(
  hub: Hub,
  repository: string,
  revision: string,
): Promise<HubRepository> {
  const asked = readName(hub, repository);
  const wanted = revision.trim() || asked.revision || 'main';
  const about = await describe(hub, asked.id, wanted);
  const { id, commit } = about;
  const files = await listFiles(hub, id, commit);
  const gguf = ggufChoices(files);
  const checkpoint = checkpointOf(files);
  if (about.kind !== '' && about.kind !== 'kimi_linear') {
    throw new PalimpsestError(
      'Unsupported',
      `${id} holds a model of the type ${about.kind}; only kimi_linear runs here. Choose a Kimi Linear model.`,
    );
  }
  if (gguf.length === 0 && checkpoint === null) {
    throw new PalimpsestError(
      'Unsupported',
      `${id} has neither GGUF files nor a safetensors checkpoint among its ${files.length} files. Choose another repository.`,
    );
  }
  return { id, commit, license: about.license, page: `${hub.url}/${id}`, gguf, checkpoint };
}

/** "owner/name", or the address of a page, which may name a revision. */
function readName(hub: Hub, repository: string): { id: string; revision: string } {
  const text = repository.trim();
  const hosts = ['https://huggingface.co/', 'https://hf.co/', `${hub.url}/`];
  const host = hosts.find((start) => text.startsWith(start)) ?? '';
  const [owner, name, part, revision = ''] = text.slice(host.length).split(/[/?#]/);
  const isName = /^(?!\.+$)[\w.-]{1,96}$/;
  if (!isName.test(owner) || !isName.test(name ?? '') || (host === '' && part !== undefined)) {
    throw new PalimpsestError(
      'Refused',
      `"${text.slice(0, 100)}" names no repository: it takes "owner/name", or the address of its page on ${HUB_URL}.`,
    );
  }
  const named = ['tree', 'blob', 'resolve'].includes(part);
  return { id: `${owner}/${name}`, revision: named ? decoded(revision) : '' };
}

/** What an address encodes; as it stands where it is wrongly encoded. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// ------------------------------------------------------------------------------------------ asking the hub

interface About {
  id: string;
  commit: string;
  license: string;
  /** As its config.json states it; '' where the hub knows of none. */
  kind: string;
}

async function describe(hub: Hub, name: string, revision: string): Promise<About> {
  const { modelInfo } = await import('@huggingface/hub');
  const found = await asking(hub, name, revision, (fetch) =>
    modelInfo({
      name,
      revision,
      hubUrl: hub.url,
      fetch,
      additionalFields: ['sha', 'cardData', 'config'],
    }),
  );
  // The hub sends what its authors wrote: nothing of it need be of the type promised.
  const id: unknown = found.name;
  const commit: unknown = found.sha;
  if (typeof id !== 'string' || typeof commit !== 'string' || !/^[0-9a-f]{40,64}$/.test(commit)) {
    throw failed(`${hub.url} did not say which commit ${name} is at. Try again later.`);
  }
  if (found.gated) throw gated(hub, id);
  const card = fieldsOf(found.cardData);
  return {
    id,
    commit,
    license: textOf(card.license_name) || textOf(card.license),
    kind: textOf(fieldsOf(found.config).model_type),
  };
}

async function listFiles(hub: Hub, id: string, commit: string): Promise<HubFile[]> {
  const client = await import('@huggingface/hub');
  return asking(hub, id, commit, async (fetch) => {
    const files: HubFile[] = [];
    const listing = client.listFiles({
      repo: { type: 'model', name: id },
      recursive: true,
      revision: commit,
      hubUrl: hub.url,
      fetch,
    });
    for await (const { type, path, size, lfs } of listing) {
      if (type !== 'file' || !isPlainPath(path) || !Number.isSafeInteger(size) || size < 0)
        continue;
      const sha256 = /^[0-9a-f]{64}$/.test(lfs?.oid ?? '') ? lfs!.oid : null;
      const encoded = path.split('/').map(encodeURIComponent).join('/');
      const address = `${hub.url}/${id}/resolve/${commit}/${encoded}`;
      files.push({ path, bytes: size, sha256, address });
      if (files.length > MOST_FILES) {
        throw new PalimpsestError(
          'Unsupported',
          `${id} has more than ${MOST_FILES} files. Choose another repository.`,
        );
      }
    }
    return files;
  });
}

/** A path that stays where it is put. */
function isPlainPath(path: unknown): path is string {
  return typeof path === 'string' && path.split('/').every((part) => !/^\.{0,2}$|\\/.test(part));
}

const fieldsOf = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
const textOf = (value: unknown): string => (typeof value === 'string' ? value.slice(0, 100) : '');

const failed = (what: string) => new PalimpsestError('DownloadFailed', what);

function gated(hub: Hub, id: string): PalimpsestError {
  return failed(
    `${id} is gated: its authors ask everyone to accept their terms first. Accept them on ${hub.url}/${id}, download the files there, and open them here.`,
  );
}

/** Runs a request of the hub's client and says in our words what went wrong. */
async function asking<T>(
  hub: Hub,
  id: string,
  revision: string,
  request: (fetch: typeof globalThis.fetch) => Promise<T>,
): Promise<T> {
  let answer: { status: number; reason: string } | null = null;
  let reached = true;
  const watchedFetch: typeof globalThis.fetch = async (address, init) => {
    reached = false;
    const signal = AbortSignal.timeout(hub.waitMs);
    const response = await hub.fetch(String(address), { ...init, signal });
    reached = true;
    answer = { status: response.status, reason: response.headers.get('x-error-code') ?? '' };
    return response;
  };
  try {
    return await request(watchedFetch);
  } catch (cause) {
    if (cause instanceof PalimpsestError) throw cause;
    if (!reached || !answer) {
      throw failed(
        `${hub.url} cannot be reached (${cause instanceof Error ? cause.message : String(cause)}). Check the connection; models that are stored still work.`,
      );
    }
    throw refusal(hub, id, revision, answer);
  }
}

/** What the hub's answer means. Without an account it gives 401 for what is not there as for what is private. */
function refusal(
  hub: Hub,
  id: string,
  revision: string,
  { status, reason }: { status: number; reason: string },
): PalimpsestError {
  if (reason === 'GatedRepo') return gated(hub, id);
  if (reason === 'RevisionNotFound') {
    return failed(
      `${id} has no revision "${revision.slice(0, 100)}". Choose a branch, tag or commit that is on ${hub.url}/${id}.`,
    );
  }
  if (status === 401 || status === 404 || reason === 'RepoNotFound') {
    return failed(
      `There is no public model ${id} on ${hub.url}: it does not exist, or it is private. Check the spelling; the files of a private one can be downloaded and opened here.`,
    );
  }
  if (status === 403) {
    return failed(
      `${hub.url} refuses access to ${id} (403). See ${hub.url}/${id}; files from there can be opened here.`,
    );
  }
  if (status === 429) {
    return failed(`${hub.url} asks for fewer requests (429). Wait some minutes and try again.`);
  }
  const problem = status >= 400 ? `answered ${status}` : 'gave an answer that makes no sense';
  return failed(`${hub.url} ${problem} when asked for ${id}. Try again later.`);
}

// ------------------------------------------------------------------------------------------- what is there

/** An encoding, as names of files have it between dots, dashes and the like. */
const QUANT =
  /(?:^|[-._/ ])(I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?=$|[-._/ ])/gi;
/** Encodings whose blocks quant.ts does not read. */
const UNREAD = /^(IQ[123]|TQ|MXFP|NVFP|Q1_|Q2_0)/;
const SPLIT = /^(.*)-(\d{5})-of-(\d{5})$/;
/** Parts of other models, and statistics, come as GGUF files, too. */
const NO_MODEL = /(^|[-._/])(mmproj|imatrix|draft|lora)([-._/]|$)/i;

function ggufChoices(files: HubFile[]): GgufChoice[] {
  const groups = new Map<string, { stem: string; shards: number; files: HubFile[] }>();
  for (const file of files) {
    const whole = /^(.*)\.gguf$/i.exec(file.path)?.[1];
    if (whole === undefined || NO_MODEL.test(whole)) continue;
    const [, stem = whole, , count = '1'] = SPLIT.exec(whole) ?? [];
    const key = `${stem} ${count}`;
    const group = groups.get(key) ?? { stem, shards: Number(count), files: [] };
    groups.set(key, group);
    group.files.push(file);
  }
  const choices = [...groups.values()].map(({ stem, shards, files: group }): GgufChoice => {
    const quant = [...stem.matchAll(QUANT)].at(-1)?.[1].toUpperCase().replace('FP', 'F') ?? '';
    return {
      name: stem.split('/').at(-1)!,
      quant,
      readable: !UNREAD.test(quant),
      bytes: group.reduce((sum, { bytes }) => sum + bytes, 0),
      files: group.sort((a, b) => (a.path < b.path ? -1 : 1)),
      missingShards: shards - group.length,
    };
  });
  return choices.sort((a, b) => a.bytes - b.bytes);
}

function checkpointOf(files: HubFile[]): HubRepository['checkpoint'] {
  const own = files.filter(({ path }) => isCheckpointFile(path));
  const weights = own.filter(({ path }) => path.endsWith('.safetensors'));
  if (weights.length === 0 || !own.some(({ path }) => path === 'config.json')) return null;
  return { bytes: weights.reduce((sum, { bytes }) => sum + bytes, 0), files: own };
}

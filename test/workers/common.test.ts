/** Models in the storage that sites have in common, against a double that does as the proposal's explainer says. */
import { createHash } from 'node:crypto';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { commonStorage } from '../../workers/common.ts';
import type { CommonStorage } from '../../workers/transfer.ts';
import { memoryShelf } from '../../workers/store.ts';
import { openRig, readWhole, serveFolder, weights, type Rig } from '../fault/rig.ts';

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const failure = (name: string) => Promise.reject(new DOMException('as the explainer says', name));

/** One browser's entries, by hash. */
class Entries {
  readonly files = new Map<string, Uint8Array>();
  readonly origins = new Map<string, unknown>();
  asked: string[] = [];
  /** What the permissions policy, or the quota, says. */
  refusal: string | null = null;

  readonly requestFileHandle = async (
    { algorithm, value }: { algorithm: string; value: string },
    { create = false, origins }: { create?: boolean; origins?: unknown } = {},
  ) => {
    if (algorithm !== 'SHA-256' || !/^[0-9a-f]{64}$/.test(value)) throw new TypeError('no hash');
    this.asked.push(`${create ? 'write' : 'read'} ${value.slice(0, 8)}`);
    if (this.refusal === 'NotAllowedError') return failure(this.refusal);
    if (!create && !this.files.has(value)) return failure('NotFoundError');
    return {
      getFile: async () => new Blob([this.files.get(value)! as BlobPart]),
      createWritable: async () => {
        const written: Uint8Array[] = [];
        return {
          write: async (part: Blob) => void written.push(new Uint8Array(await part.arrayBuffer())),
          close: async () => {
            if (this.refusal) return failure(this.refusal);
            const whole = Buffer.concat(written);
            if (sha256(whole) !== value) return failure('DataError');
            this.files.set(value, whole);
            this.origins.set(value, origins);
          },
        };
      },
    };
  };

  /** As of today, and as it was while it took several hashes at a time. */
  storage(several = false): CommonStorage {
    const { requestFileHandle } = this;
    const requestFileHandles = (
      hashes: Parameters<typeof requestFileHandle>[0][],
      options?: object,
    ) => Promise.all(hashes.map((hash) => requestFileHandle(hash, options)));
    const crossOriginStorage = several ? { requestFileHandles } : { requestFileHandle };
    return commonStorage({ crossOriginStorage })!;
  }
}

const rigs: Rig[] = [];
afterEach(() => Promise.all(rigs.splice(0).map((rig) => rig.close())));

/** A site of its own: its own server and its own store. */
async function openSite(common: CommonStorage | undefined): Promise<Rig> {
  const rig = await openRig({ shelf: memoryShelf(Infinity), common });
  rigs.push(rig);
  return rig;
}

/** Two whole files and one of several pieces, which has a hash only as a whole. */
const files = [weights(20_000, 1), weights(50_000, 2), weights(150_000, 3)];

async function load(rig: Rig) {
  const model = serveFolder(rig, 'm', files);
  expect(await rig.pass(readWhole(rig.tab().library, model))).toEqual(model.hashes);
  const asked = rig.server.asked.filter(({ from, until }) => until - from > 1);
  return new Set(asked.map(({ path }) => path).filter((path) => path.endsWith('.gguf')));
}

describe.each([
  ['as of today', false],
  ['as it was before', true],
])('the proposal %s', (_, several) => {
  test('what one site fetched another has without asking its server', async () => {
    const entries = new Entries();
    expect(await load(await openSite(entries.storage(several)))).toEqual(
      new Set(['m/0.gguf', 'm/1.gguf', 'm/2.gguf']),
    );
    await vi.waitFor(() => expect(entries.files.size).toBe(2));
    expect([...entries.origins.values()]).toEqual(['*', '*']);
    entries.asked = [];
    expect(await load(await openSite(entries.storage(several)))).toEqual(new Set(['m/2.gguf']));
    expect(entries.asked.map((asked) => asked.split(' ')[0])).toEqual(['read', 'read']);
  });
});

test('what is there and is not what it should be is fetched instead, each once', async () => {
  const entries = new Entries();
  const [first, second] = files;
  entries.files.set(sha256(first!), weights(20_000, 9)); // other bytes, as many
  entries.files.set(sha256(second!), weights(10, 9));
  const asked = await load(await openSite(entries.storage()));
  expect(asked).toEqual(new Set(['m/0.gguf', 'm/1.gguf', 'm/2.gguf']));
  expect(entries.asked.filter((each) => each.startsWith('read'))).toHaveLength(2);
});

test.each(['NotAllowedError', 'QuotaExceededError'])(
  '%s: as if there were none',
  async (refusal) => {
    const entries = new Entries();
    entries.refusal = refusal;
    expect((await load(await openSite(entries.storage()))).size).toBe(3);
    expect(entries.files.size).toBe(0);
  },
);

test('a browser without it has none', async () => {
  expect(commonStorage({})).toBeNull();
  expect(commonStorage({ crossOriginStorage: {} })).toBeNull();
  expect((await load(await openSite(undefined))).size).toBe(3);
});

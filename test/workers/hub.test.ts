import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../tools/fixtures/tinyCheckpoint.ts';
import { listRepository, type Hub } from '../../workers/hub.ts';
import { importCheckpoint } from '../../workers/importModel.ts';
import type { ErrorName, HubFile } from '../../workers/protocol.ts';
import { remoteSource } from '../../workers/remoteSource.ts';
import { limits, type World } from '../../workers/transfer.ts';
import { FakeLocks } from '../fault/locks.ts';
import { sources } from './checkpointFiles.ts';

// ------------------------------------------------------------------------------------------- a small hub

const commit = '0123456789abcdef0123456789abcdef01234567';

interface Repository {
  gated: false | 'auto';
  config: unknown;
  cardData: unknown;
  revisions: string[];
  files: { path: string; bytes: Uint8Array | number; oid?: string }[];
}

const repositories = new Map<string, Repository>();
/** What the hub answers instead, to requests whose path begins so. */
const faults = new Map<string, (response: ServerResponse) => void>();
const asked: string[] = [];

/** As the hub answers: what is missing gets 401 without an account; listings come page by page. */
function answer(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url!, origin);
  const path = decodeURIComponent(url.pathname);
  asked.push(request.url!);
  for (const [start, fault] of faults) if (path.startsWith(start)) return fault(response);
  const json = (status: number, value: unknown, headers: Record<string, string> = {}): void =>
    void response
      .writeHead(status, { 'content-type': 'application/json', ...headers })
      .end(JSON.stringify(value));

  const [, id, verb, revision] =
    /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/(.*)$/.exec(path) ??
    /^\/([^/]+\/[^/]+)\/(resolve)\/([^/]+)\//.exec(path) ??
    [];
  const repository = repositories.get(id ?? '');
  if (!repository) {
    return json(
      401,
      { error: 'Invalid username or password.' },
      { 'x-error-code': 'RepoNotFound' },
    );
  }
  if (revision !== commit && !repository.revisions.includes(revision)) {
    return json(
      404,
      { error: `Invalid rev id: ${revision}` },
      { 'x-error-code': 'RevisionNotFound' },
    );
  }
  if (verb === 'revision') {
    const { gated, config, cardData } = repository;
    return json(200, {
      _id: '1',
      id,
      sha: commit,
      gated,
      config,
      cardData,
      private: false,
      likes: 3,
    });
  }
  if (verb === 'tree') {
    const pageSize = 3;
    const from = Number(url.searchParams.get('cursor') ?? 0);
    url.searchParams.set('cursor', String(from + pageSize));
    const more = from + pageSize < repository.files.length;
    return json(
      200,
      repository.files.slice(from, from + pageSize).map(({ path: file, bytes, oid }) => {
        const size = typeof bytes === 'number' ? bytes : bytes.length;
        return {
          type: 'file',
          path: file,
          size,
          oid: 'f'.repeat(40),
          ...(oid ? { lfs: { oid, size, pointerSize: 130 } } : {}),
        };
      }),
      more ? { link: `<${url.href}>; rel="next"` } : {},
    );
  }
  const file = repository.files.find((entry) => path === `/${id}/resolve/${commit}/${entry.path}`);
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (!file || typeof file.bytes === 'number' || first === undefined) return json(404, {});
  const body = file.bytes.subarray(Number(first), Number(last) + 1);
  response.writeHead(206, {
    'content-range': `bytes ${first}-${Number(first) + body.length - 1}/${file.bytes.length}`,
    etag: '"1"',
  });
  response.end(body);
}

const server = createServer(answer);
let origin = '';
let hub: Hub;
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  hub = { url: origin, fetch: (address, init) => fetch(address, init), waitMs: 2000 };
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  repositories.clear();
  faults.clear();
  asked.length = 0;
});

const sha = (digit: string) => digit.repeat(64);
const serve = (id: string, changes: Partial<Repository>): unknown =>
  repositories.set(id, {
    gated: false,
    config: { model_type: 'kimi_linear', architectures: ['KimiLinearForCausalLM'] },
    cardData: { license: 'mit' },
    revisions: ['main', 'refs/pr/1'],
    files: [],
    ...changes,
  });

// ------------------------------------------------------------------------------------------------- tests

describe('a repository of GGUF files', () => {
  beforeEach(() =>
    serve('some/Kimi-Linear-GGUF', {
      files: [
        { path: '.gitattributes', bytes: 2000 },
        { path: 'README.md', bytes: 9000 },
        { path: 'Kimi-Linear-48B-A3B-Instruct-Q4_K_M.gguf', bytes: 30e9, oid: sha('a') },
        { path: 'Kimi-Linear-48B-A3B-Instruct-IQ2_XXS.gguf', bytes: 14e9, oid: sha('b') },
        {
          path: 'Q8_0/Kimi-Linear-48B-A3B-Instruct-Q8_0-00002-of-00002.gguf',
          bytes: 12e9,
          oid: sha('d'),
        },
        {
          path: 'Q8_0/Kimi-Linear-48B-A3B-Instruct-Q8_0-00001-of-00002.gguf',
          bytes: 40e9,
          oid: sha('c'),
        },
        { path: 'BF16/Kimi-Linear BF16-00001-of-00003.gguf', bytes: 50e9, oid: sha('e') },
        { path: 'mmproj-F16.gguf', bytes: 1e9 },
        { path: 'Kimi-Linear.imatrix.gguf', bytes: 1e8 },
        { path: 'model_q4_0.gguf', bytes: 25e9 },
        { path: 'plain.gguf', bytes: 26e9 },
      ],
    }),
  );

  test('shows each model once, its encoding and its size, the smallest first', async () => {
    const found = await listRepository(hub, 'some/Kimi-Linear-GGUF', '');
    expect(found).toMatchObject({
      id: 'some/Kimi-Linear-GGUF',
      commit,
      license: 'mit',
      page: `${origin}/some/Kimi-Linear-GGUF`,
      checkpoint: null,
    });
    const shown = found.gguf.map(({ name, quant, readable, bytes, files, missingShards }) => [
      name,
      quant,
      readable,
      bytes,
      files.length,
      missingShards,
    ]);
    expect(shown).toEqual([
      ['Kimi-Linear-48B-A3B-Instruct-IQ2_XXS', 'IQ2_XXS', false, 14e9, 1, 0],
      ['model_q4_0', 'Q4_0', true, 25e9, 1, 0],
      ['plain', '', true, 26e9, 1, 0],
      ['Kimi-Linear-48B-A3B-Instruct-Q4_K_M', 'Q4_K_M', true, 30e9, 1, 0],
      ['Kimi-Linear BF16', 'BF16', true, 50e9, 1, 2],
      ['Kimi-Linear-48B-A3B-Instruct-Q8_0', 'Q8_0', true, 52e9, 2, 0],
    ]);
  });

  test('names each file by commit, with its hash', async () => {
    const { gguf } = await listRepository(hub, 'some/Kimi-Linear-GGUF', 'refs/pr/1');
    expect(gguf.at(-1)!.files).toEqual([
      {
        path: 'Q8_0/Kimi-Linear-48B-A3B-Instruct-Q8_0-00001-of-00002.gguf',
        bytes: 40e9,
        sha256: sha('c'),
        address: `${origin}/some/Kimi-Linear-GGUF/resolve/${commit}/Q8_0/Kimi-Linear-48B-A3B-Instruct-Q8_0-00001-of-00002.gguf`,
      },
      expect.objectContaining({ sha256: sha('d') }),
    ]);
    expect(gguf[4].files[0].address).toContain('/BF16/Kimi-Linear%20BF16-00001-of-00003.gguf');
    // The revision is looked up once; the files are listed at the commit it stood for.
    expect(asked[0]).toContain('/revision/refs%2Fpr%2F1?');
    expect(asked.slice(1).every((url) => url.includes(`/tree/${commit}?`))).toBe(true);
    expect(asked).toHaveLength(5);
  });

  test('is found by the address of its page, too', async () => {
    for (const [page, revision] of [
      [`${origin}/some/Kimi-Linear-GGUF`, 'main'],
      [`${origin}/some/Kimi-Linear-GGUF/tree/main/Q8_0`, 'main'],
      [` ${origin}/some/Kimi-Linear-GGUF/blob/refs%2Fpr%2F1/README.md `, 'refs%2Fpr%2F1'],
      [`${origin}/some/Kimi-Linear-GGUF?library=transformers`, 'main'],
    ]) {
      asked.length = 0;
      const found = await listRepository(hub, page, '');
      expect(found.id).toBe('some/Kimi-Linear-GGUF');
      expect(asked[0]).toContain(`/revision/${revision}?`);
    }
  });
});

const serveCheckpoint = (): Map<string, Uint8Array> => {
  const files = tinyCheckpoint();
  serve('some/tiny', {
    cardData: { license: 'other', license_name: 'modified-mit' },
    files: [
      ...[...files].map(([path, bytes]) => ({
        path,
        bytes,
        oid: path.endsWith('.safetensors') ? sha('7') : undefined,
      })),
      { path: 'tokenization_kimi.py', bytes: 12_000 },
      { path: 'figures/plot.safetensors', bytes: 1e6 },
      { path: 'original/consolidated.safetensors', bytes: 9e9 },
    ],
  });
  return files;
};

const world: World = {
  fetch: (address, init) => fetch(address, init),
  clock: {
    now: Date.now,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        const timer = setTimeout(resolve, ms);
        signal.addEventListener('abort', () => (clearTimeout(timer), resolve()));
      }),
  },
  locks: new FakeLocks().tab(),
  random: () => 0,
  estimate: async () => ({}),
  common: null,
  persisted: async () => true,
};

describe('a checkpoint', () => {
  test('is told by its config and its weights, and nothing else is part of it', async () => {
    const files = serveCheckpoint();
    const found = await listRepository(hub, 'some/tiny', 'main');
    expect(found.gguf).toEqual([]);
    expect(found.license).toBe('modified-mit');
    const { checkpoint } = found;
    expect(checkpoint!.files.map(({ path }) => path).sort()).toEqual([...files.keys()].sort());
    const weights = [...files].filter(([name]) => name.endsWith('.safetensors'));
    expect(checkpoint!.bytes).toBe(weights.reduce((sum, [, { length }]) => sum + length, 0));
  });

  test('is imported from there by ranges, to the same file as from the disk', async () => {
    const files = serveCheckpoint();
    const { checkpoint } = await listRepository(hub, 'some/tiny', 'main');
    const { signal } = new AbortController();
    const remote = checkpoint!.files.map(({ path, address, bytes, sha256 }: HubFile) =>
      remoteSource(world, limits, { name: path, address, bytes, sha256 }, () => {}, signal),
    );
    const about = { name: 'tiny', license: 'mit' };
    const far = await importCheckpoint(remote, about, 'Q4_0');
    const near = await importCheckpoint(sources(files), about, 'Q4_0');
    const [a, b] = [await far.read(0, far.byteLength), await near.read(0, near.byteLength)];
    expect(Buffer.compare(a, b)).toBe(0);
  });
});

describe('what is in the way is explained', () => {
  const offered = { files: [{ path: 'a-Q4_0.gguf', bytes: 5 }] };
  const status =
    (code: number, headers: Record<string, string> = {}) =>
    (response: ServerResponse) =>
      void response.writeHead(code, headers).end('{}');
  const cases: [
    why: string,
    prepare: () => unknown,
    name: string,
    revision: string,
    error: ErrorName,
    message: RegExp,
  ][] = [
    ['no name', () => {}, 'Kimi-Linear', '', 'Refused', /"Kimi-Linear" names no repository/],
    ['a path', () => {}, 'some/where/else', '', 'Refused', /names no repository/],
    ['dots', () => {}, '../..', '', 'Refused', /names no repository/],
    [
      'another site',
      () => {},
      'https://example.com/some/tiny',
      '',
      'Refused',
      /names no repository/,
    ],
    [
      'missing or private',
      () => {},
      'nobody/nothing',
      '',
      'DownloadFailed',
      /no public model nobody\/nothing on .*: it does not exist, or it is private/,
    ],
    [
      'no such revision',
      () => serve('some/model', offered),
      'some/model',
      'v9',
      'DownloadFailed',
      /some\/model has no revision "v9"/,
    ],
    [
      'gated, as its description says',
      () => serve('some/model', { ...offered, gated: 'auto' }),
      'some/model',
      '',
      'DownloadFailed',
      /some\/model is gated: .* Accept them on http:\/\/127\.0\.0\.1:\d+\/some\/model, download/,
    ],
    [
      'gated, as an answer says',
      () => faults.set('/api/models/some/model', status(403, { 'x-error-code': 'GatedRepo' })),
      'some/model',
      '',
      'DownloadFailed',
      /is gated/,
    ],
    [
      'forbidden',
      () => faults.set('/api/models/some/model', status(403)),
      'some/model',
      '',
      'DownloadFailed',
      /refuses access to some\/model \(403\)/,
    ],
    [
      'too many requests',
      () => faults.set('/api/models/some/model', status(429)),
      'some/model',
      '',
      'DownloadFailed',
      /fewer requests \(429\)/,
    ],
    [
      'a hub that is broken',
      () => faults.set('/api/models/some/model', status(502)),
      'some/model',
      '',
      'DownloadFailed',
      /answered 502 when asked for some\/model/,
    ],
    [
      'a hub that answers something else',
      () => faults.set('/api', (response) => void response.end('<html>Log in to the hotel</html>')),
      'some/model',
      '',
      'DownloadFailed',
      /an answer that makes no sense/,
    ],
    [
      'a hub that names no commit',
      () => faults.set('/api', (response) => void response.end('{"id":"some/model"}')),
      'some/model',
      '',
      'DownloadFailed',
      /did not say which commit/,
    ],
    [
      'a listing that breaks',
      () => {
        serve('some/model', offered);
        faults.set(`/api/models/some/model/tree`, status(500));
      },
      'some/model',
      '',
      'DownloadFailed',
      /answered 500/,
    ],
    [
      'a connection that breaks',
      () => faults.set('/api', (response) => void response.destroy()),
      'some/model',
      '',
      'DownloadFailed',
      /cannot be reached .* models that are stored still work/,
    ],
    [
      'another kind of model',
      () => serve('some/model', { ...offered, config: { model_type: 'llama' } }),
      'some/model',
      '',
      'Unsupported',
      /of the type llama; only kimi_linear/,
    ],
    [
      'nothing to run',
      () => serve('some/model', { files: [{ path: 'pytorch_model.bin', bytes: 5 }] }),
      'some/model',
      '',
      'Unsupported',
      /neither GGUF files nor a safetensors checkpoint among its 1 files/,
    ],
  ];
  test.each(cases)('%s', async (_, prepare, name, revision, error, message) => {
    prepare();
    await expect(listRepository(hub, name, revision)).rejects.toMatchObject({
      name: error,
      message: expect.stringMatching(message) as unknown,
    });
  });

  test('no network', async () => {
    const offline: Hub = { ...hub, fetch: () => Promise.reject(new TypeError('Failed to fetch')) };
    await expect(listRepository(offline, 'some/model', '')).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringMatching(/cannot be reached \(Failed to fetch\)/) as unknown,
    });
  });

  test('a hub that never answers is given up', async () => {
    faults.set('/api', () => {});
    await expect(listRepository({ ...hub, waitMs: 50 }, 'some/model', '')).rejects.toMatchObject({
      name: 'DownloadFailed',
      message: expect.stringMatching(/cannot be reached/) as unknown,
    });
  });

  test('files that lead elsewhere are left out', async () => {
    serve('some/model', {
      files: [
        { path: '../../other/model/resolve/main/a.gguf', bytes: 5 },
        { path: 'b//c.gguf', bytes: 5 },
        { path: 'sub\\d.gguf', bytes: 5 },
        { path: 'e.gguf', bytes: -5 },
        { path: 'f.gguf', bytes: 1.5 },
        { path: 'good.gguf', bytes: 5, oid: 'not a hash' },
      ],
    });
    const { gguf } = await listRepository(hub, 'some/model', '');
    expect(gguf.map(({ files }) => files)).toEqual([
      [expect.objectContaining({ path: 'good.gguf', sha256: null })],
    ]);
  });
});

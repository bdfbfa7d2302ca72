/**
 * A web server for end-to-end tests: the built page with the headers it is published with, files that exist only in a
 * test, byte ranges, and a place to misbehave. It listens on 127.0.0.1; `localhost` with the same port is another site to a browser.
 */
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, extname, join } from 'node:path';
import { headersOf } from '../../tools/headers.ts';
import type { Manifest } from '../../workers/protocol.ts';
import { builtFolder } from './build.ts';

/** Files by path from the root of the site, e.g. `/models/tiny/manifest.json`. */
export type Files = Record<string, string | Uint8Array>;

export interface SiteOptions {
  /** Served before, and besides, the built page. */
  files?: Files;
  /** Where the built page lies on this disk; the tests' own unless said otherwise. */
  built?: string;
  /** The folder of the site in which the built page lies: "/" unless said otherwise. */
  folder?: string;
  /** Sent with every answer, besides what is published with the built page's files. */
  headers?: Record<string, string>;
  /** Sees every request first; returns true when it has answered, or cut, the connection itself. */
  meddle?: (request: IncomingMessage, reply: ServerResponse) => boolean;
  /** What the answer to a path waits for; null where for nothing. */
  delay?: (path: string) => Promise<void> | null;
}

export interface Site {
  /** `http://127.0.0.1:PORT`, without a slash at the end. */
  origin: string;
  /** The same server under a name that makes it another site: `http://localhost:PORT`. */
  otherOrigin: string;
  /** Paths asked for, in order. */
  requested: string[];
  close(): Promise<void>;
}

/** Models and scripts can be read from anywhere; a test's own pages have no policy. */
const open = { 'Access-Control-Allow-Origin': '*' };

export async function openSite(options: SiteOptions = {}): Promise<Site> {
  const { files = {}, built = builtFolder, folder = '/', headers = {} } = options;
  const { meddle = () => false, delay = () => null } = options;
  const requested: string[] = [];
  const server = createServer((request, reply) => {
    const { pathname } = new URL(request.url ?? '/', 'http://site');
    requested.push(pathname);
    if (meddle(request, reply)) return;
    const path = pathname.endsWith('/') ? `${pathname}index.html` : pathname;
    /** From the built page's own folder on. */
    const own = (whole: string) => `/${whole.slice(folder.length)}`;
    const ofTest = Object.hasOwn(files, path);
    const bytes = ofTest ? Buffer.from(files[path]) : builtFile(built, own(path));
    const sent = { ...(ofTest ? open : headersOf(own(pathname))), ...headers };
    for (const [name, value] of Object.entries(sent)) reply.setHeader(name, value);
    void Promise.resolve(delay(path)).then(() => answer(request, reply, path, bytes));
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    otherOrigin: `http://localhost:${port}`,
    requested,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}

/** A model folder of one GGUF file, or of other bytes under its name, with the manifest: to be served. */
export function modelFiles(
  folder: string,
  path: string,
  bytes: Uint8Array = readFileSync(path),
): Files {
  const file = basename(path);
  const manifest: Manifest = {
    name: file.replace('.gguf', ''),
    file_type: 'tiny',
    license: 'apache-2.0',
    parameters: 0,
    context_trained: 0,
    bytes: bytes.length,
    shards: [
      { file, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') },
    ],
  };
  return { [`${folder}manifest.json`]: JSON.stringify(manifest), [`${folder}${file}`]: bytes };
}

function builtFile(built: string, path: string): Buffer | undefined {
  const file = join(built, decodeURIComponent(path));
  const inside = file.startsWith(built);
  return inside && statSync(file, { throwIfNoEntry: false })?.isFile()
    ? readFileSync(file)
    : undefined;
}

const types: Record<string, string> = {
  '.css': 'text/css',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.md': 'text/plain; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json',
};

function answer(request: IncomingMessage, reply: ServerResponse, path: string, bytes?: Buffer) {
  if (!bytes) {
    reply.writeHead(404).end();
    return;
  }
  reply.setHeader('Content-Type', types[extname(path)] ?? 'application/octet-stream');
  reply.setHeader('Accept-Ranges', 'bytes');
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const first = range ? Number(range[1]) : 0;
  const last = range?.[2] ? Math.min(Number(range[2]), bytes.length - 1) : bytes.length - 1;
  if (range && first > last) {
    reply.writeHead(416, { 'Content-Range': `bytes */${bytes.length}` }).end();
    return;
  }
  if (range) reply.setHeader('Content-Range', `bytes ${first}-${last}/${bytes.length}`);
  reply.setHeader('Content-Length', last - first + 1);
  reply.writeHead(range ? 206 : 200);
  reply.end(request.method === 'HEAD' ? undefined : bytes.subarray(first, last + 1));
}

/**
 * A file server on 127.0.0.1 that can do everything wrong that servers and networks do: one fault per request, chosen by
 * the test.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What is served at a path; replace it in the map to change the file. */
export interface Served {
  bytes: Uint8Array;
  type?: string;
  /** null: none is given. */
  etag: string | null;
}

export type Fault =
  | { kind: 'none' }
  /** The connection is reset after so many bytes of the body. */
  | { kind: 'drop'; afterBytes: number }
  /** Nothing more comes after so many bytes of the body, and the connection stays open. */
  | { kind: 'stall'; afterBytes: number }
  /** The answer ends, properly, after so many bytes of the body. */
  | { kind: 'short'; afterBytes: number }
  /** One bit of the body is wrong. */
  | { kind: 'flip'; atByte: number }
  | { kind: 'status'; status: number; retryAfter?: string }
  /** The range is ignored: 200 and the whole file. */
  | { kind: 'whole' }
  /** Another length of the whole file is claimed. */
  | { kind: 'length'; totalBytes: number }
  /** Another range than the one asked for is given. */
  | { kind: 'elsewhere'; byBytes: number }
  /** The connection is reset before any answer. */
  | { kind: 'refuse' };

/** A request as the test sees it when it chooses the fault: bytes [from, until) of the file at `path`. */
export interface Asked {
  /** What the header x-tab says; '' without one. */
  tab: string;
  path: string;
  method: string;
  from: number;
  until: number;
  totalBytes: number;
}

export class FaultServer {
  readonly files = new Map<string, Served>();
  /** All requests, in order. */
  readonly asked: Asked[] = [];
  choose: (asked: Asked) => Fault | Promise<Fault> = () => ({ kind: 'none' });
  /** Bytes of bodies handed to the network. */
  sentBytes = 0;
  /** The most that is sent on each connection. */
  bytesPerSec = Infinity;
  /** Connections whose body is under way. */
  open = 0;
  /** Requests that are neither answered nor stalled. */
  #under = 0;
  #events = 0;
  #server = createServer((request, response) => void this.#answer(request, response));

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Changes with everything that happens; null while an answer is under way. For passingTime. */
  get activity(): number | null {
    return this.#under > 0 ? null : this.#events;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#under++;
    let stalled = false;
    const ended = () => {
      if (!stalled) this.#under--;
      this.#events++;
    };
    response.on('close', ended);
    const path = decodeURIComponent(new URL(request.url!, 'http://localhost').pathname).slice(1);
    const file = this.files.get(path);
    const headers: Record<string, string | number> = { 'access-control-allow-origin': '*' };
    if (!file) {
      response.writeHead(404, headers).end();
      return;
    }
    const totalBytes = file.bytes.length;
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const from = Number(first ?? 0);
    const until = Math.min(last === undefined ? totalBytes : Number(last) + 1, totalBytes);
    const tab = String(request.headers['x-tab'] ?? '');
    const asked = { tab, path, method: request.method!, from, until, totalBytes };
    this.asked.push(asked);
    const fault = await this.choose(asked);
    if (fault.kind === 'refuse') {
      response.destroy();
      return;
    }
    if (fault.kind === 'status') {
      if (fault.retryAfter !== undefined) headers['retry-after'] = fault.retryAfter;
      response.writeHead(fault.status, headers).end();
      return;
    }
    if (from >= totalBytes) {
      response.writeHead(416, { ...headers, 'content-range': `bytes */${totalBytes}` }).end();
      return;
    }
    if (file.etag !== null) headers.etag = file.etag;
    headers['content-type'] = file.type ?? 'application/octet-stream';
    const ranged = first !== undefined && fault.kind !== 'whole';
    const claimed = fault.kind === 'length' ? fault.totalBytes : totalBytes;
    const shift = fault.kind === 'elsewhere' ? fault.byBytes : 0;
    let body = ranged ? file.bytes.subarray(from + shift, until + shift) : file.bytes;
    if (ranged) {
      const start = from + shift;
      headers['content-range'] = `bytes ${start}-${start + body.length - 1}/${claimed}`;
    } else {
      headers['content-length'] = claimed;
    }
    if (request.method === 'HEAD') {
      response.writeHead(200, headers).end();
      return;
    }
    if (fault.kind === 'flip') {
      body = body.slice();
      body[fault.atByte % body.length]! ^= 1 << (fault.atByte % 8);
    }
    const cut = 'afterBytes' in fault ? Math.min(fault.afterBytes, body.length) : body.length;
    // Without content-length Node sends chunks, so that an answer that is too short can end properly.
    response.writeHead(ranged ? 206 : 200, headers);
    response.flushHeaders();
    await this.#send(response, body.subarray(0, cut));
    if (fault.kind === 'drop') response.destroy();
    else if (fault.kind === 'stall') {
      stalled = true;
      this.#under--;
      this.#events++;
    } else if (fault.kind === 'length' && !ranged) response.destroy();
    else response.end();
  }

  async #send(response: ServerResponse, body: Uint8Array): Promise<void> {
    this.open++;
    const stepBytes = 16 * 1024;
    let wake = () => {};
    const signal = () => wake();
    response.on('drain', signal).on('close', signal);
    for (let at = 0; at < body.length && !response.closed; at += stepBytes) {
      const step = body.subarray(at, at + stepBytes);
      this.sentBytes += step.length;
      const taken = response.write(step);
      if (this.bytesPerSec < Infinity) {
        await new Promise((resolve) => setTimeout(resolve, (1000 * stepBytes) / this.bytesPerSec));
      }
      while (!taken && response.writableNeedDrain && !response.closed) {
        await new Promise<void>((resolve) => (wake = resolve));
      }
    }
    this.open--;
  }
}

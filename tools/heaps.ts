/** What a page and all its workers hold in their heaps, asked of the browser's debugger. */
import type { CDPSession, Page } from 'playwright-core';

export interface HeapUsage {
  usedSize: number;
  embedderHeapUsedSize: number;
  /** What ArrayBuffers and large strings hold outside the heap. */
  backingStorageSize: number;
}

export interface Heap {
  /** "page", or the script of a worker. */
  name: string;
  usage: HeapUsage;
}

export const heldBytes = ({ usedSize, embedderHeapUsedSize, backingStorageSize }: HeapUsage) =>
  usedSize + embedderHeapUsedSize + backingStorageSize;

/** Until messages have arrived that one heap's collection sends to another, milliseconds. */
const settleMs = 200;

/** The page's own, a worker's or a shared worker's: JavaScript with a heap of its own. */
interface Realm {
  name: string;
  ask<Answer>(method: string): Promise<Answer>;
  /** Hear what it says of itself under this name, until the debugger leaves. */
  on<Said>(event: string, hear: (said: Said) => void): void;
}

/**
 * Heaps of the page, its workers and its shared workers. All are collected twice: what a worker lets go of the page's, it
 * tells the page when that is collected, and only then the page can let it go; and the other way round.
 */
export function heapsOf(page: Page): Promise<Heap[]> {
  return withRealms(page, async (realms) => {
    const collect = async () => {
      for (const { ask } of realms) await ask('HeapProfiler.collectGarbage');
    };
    await collect();
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    await collect();
    const heaps: Heap[] = [];
    for (const { name, ask } of realms)
      heaps.push({ name, usage: await ask<HeapUsage>('Runtime.getHeapUsage') });
    return heaps;
  });
}

/** How much there is of one kind of thing in a heap. */
export interface Kind {
  count: number;
  /** Its own, without what it refers to. */
  bytes: number;
}

/** What is in the heaps, by "engine.worker object Token" and the like. Heaps of a few ten MB take some seconds. */
export function contentsOf(page: Page): Promise<Map<string, Kind>> {
  return withRealms(page, async (realms) => {
    const contents = new Map<string, Kind>();
    for (const { name, ask, on } of realms) {
      const chunks: string[] = [];
      on<{ chunk: string }>('HeapProfiler.addHeapSnapshotChunk', ({ chunk }) => chunks.push(chunk));
      await ask('HeapProfiler.takeHeapSnapshot');
      add(contents, name, JSON.parse(chunks.join('')) as HeapSnapshot);
    }
    return contents;
  });
}

/** What of V8's format is read here. */
interface HeapSnapshot {
  snapshot: { meta: { node_fields: string[]; node_types: [string[], ...unknown[]] } };
  nodes: number[];
  strings: string[];
}

/** Of these each has its own name, which says little about its kind. */
const unnamed = new Set(['string', 'concatenated string', 'sliced string', 'number', 'bigint']);

function add(
  contents: Map<string, Kind>,
  realm: string,
  { snapshot, nodes, strings }: HeapSnapshot,
): void {
  const { node_fields: fields, node_types: types } = snapshot.meta;
  const [type, name, size] = ['type', 'name', 'self_size'].map((field) => fields.indexOf(field));
  for (let node = 0; node < nodes.length; node += fields.length) {
    const kind = types[0][nodes[node + type!]!]!;
    const named = unnamed.has(kind) ? '' : ` ${strings[nodes[node + name!]!]!.slice(0, 60)}`;
    const key = `${realm} ${kind}${named}`;
    const { count, bytes } = contents.get(key) ?? { count: 0, bytes: 0 };
    contents.set(key, { count: count + 1, bytes: bytes + nodes[node + size!]! });
  }
}

/** Do something with the page's realms, the page's own first. */
async function withRealms<T>(page: Page, work: (realms: Realm[]) => Promise<T>): Promise<T> {
  const session = await page.context().newCDPSession(page);
  const whole = await page.context().browser()!.newBrowserCDPSession();
  try {
    const realms: Realm[] = [
      {
        name: 'page',
        ask: (method) => session.send(method as 'Runtime.enable') as Promise<never>,
        on: (event, hear) => void session.on(event as 'Runtime.consoleAPICalled', hear as never),
      },
    ];
    session.on('Target.attachedToTarget', ({ sessionId, targetInfo: { type, url } }) => {
      if (type === 'worker') realms.push(workerRealm(session, sessionId, url));
    });
    await session.send('Target.setAutoAttach', {
      autoAttach: true,
      waitForDebuggerOnStart: false,
      flatten: false,
    });
    const { targetInfos } = await whole.send('Target.getTargets');
    for (const { type, targetId, url } of targetInfos) {
      if (type !== 'shared_worker') continue;
      const { sessionId } = await whole.send('Target.attachToTarget', { targetId, flatten: false });
      realms.push(workerRealm(whole, sessionId, url));
    }
    return await work(realms);
  } finally {
    await session.detach();
    await whole.detach();
  }
}

/** A worker's, through the session that it is attached to. */
function workerRealm(through: CDPSession, worker: string, url: string): Realm {
  let asked = 0;
  const waiting = new Map<number, (answer: never) => void>();
  const hearing = new Map<string, (said: never) => void>();
  through.on('Target.receivedMessageFromTarget', ({ sessionId, message }) => {
    if (sessionId !== worker) return;
    const { id, result, method, params } = JSON.parse(message) as {
      id?: number;
      result: never;
      method?: string;
      params: never;
    };
    if (id !== undefined) waiting.get(id)?.(result);
    else if (method !== undefined) hearing.get(method)?.(params);
  });
  return {
    name: /[^/]*\.worker/.exec(url)?.[0] ?? url,
    ask: (method) =>
      new Promise((answered) => {
        const id = ++asked;
        waiting.set(id, answered);
        void through.send('Target.sendMessageToTarget', {
          sessionId: worker,
          message: JSON.stringify({ id, method }),
        });
      }),
    on: (event, hear) => void hearing.set(event, hear),
  };
}

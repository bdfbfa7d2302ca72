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

/**
 * Heaps of the page, its workers and its shared workers. All are collected twice: what a worker lets go of the page's, it
 * tells the page when that is collected, and only then the page can let it go; and the other way round.
 */
export async function heapsOf(page: Page): Promise<Heap[]> {
  const session = await page.context().newCDPSession(page);
  const whole = await page.context().browser()!.newBrowserCDPSession();
  try {
    const workers: { through: CDPSession; sessionId: string; url: string }[] = [];
    session.on('Target.attachedToTarget', ({ sessionId, targetInfo: { type, url } }) => {
      if (type === 'worker') workers.push({ through: session, sessionId, url });
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
      workers.push({ through: whole, sessionId, url });
    }
    const collect = async () => {
      await session.send('HeapProfiler.collectGarbage');
      for (const { through, sessionId } of workers)
        await ask(through, sessionId, 1, 'HeapProfiler.collectGarbage');
    };
    await collect();
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    await collect();
    const own = (await session.send('Runtime.getHeapUsage')) as unknown as HeapUsage;
    const heaps = [{ name: 'page', usage: own }];
    for (const { through, sessionId, url } of workers) {
      const usage = await ask(through, sessionId, 2, 'Runtime.getHeapUsage');
      heaps.push({ name: /[^/]*\.worker/.exec(url)?.[0] ?? url, usage });
    }
    return heaps;
  } finally {
    await session.detach();
    await whole.detach();
  }
}

/** Ask a worker, through the session that it is attached to. */
function ask(through: CDPSession, worker: string, id: number, method: string): Promise<HeapUsage> {
  return new Promise((answered) => {
    const hear = ({ sessionId, message }: { sessionId: string; message: string }) => {
      const said = JSON.parse(message) as { id?: number; result: HeapUsage };
      if (sessionId !== worker || said.id !== id) return;
      through.off('Target.receivedMessageFromTarget', hear);
      answered(said.result);
    };
    through.on('Target.receivedMessageFromTarget', hear);
    void through.send('Target.sendMessageToTarget', {
      sessionId: worker,
      message: JSON.stringify({ id, method }),
    });
  });
}

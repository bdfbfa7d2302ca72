/** A client of two fake workers, over real Comlink. */
import { connect, type Client } from '../../src/client.ts';

export function startFakeClient(): Client {
  return connect(
    new Worker(new URL('./fakeEngine.worker.ts', import.meta.url), { type: 'module' }),
    new Worker(new URL('./fakeWeights.worker.ts', import.meta.url), { type: 'module' }),
  );
}

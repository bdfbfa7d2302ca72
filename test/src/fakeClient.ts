/** A client of two fake workers, over real Comlink. */
import { connect, connectWeights, type Client, type Weights } from '../../src/client.ts';

export function startFakeWeights(): Weights {
  return connectWeights(
    new Worker(new URL('./fakeWeights.worker.ts', import.meta.url), { type: 'module' }),
  );
}

export function startFakeClient(weights: Weights): Client {
  return connect(
    new Worker(new URL('./fakeEngine.worker.ts', import.meta.url), { type: 'module' }),
    weights,
  );
}

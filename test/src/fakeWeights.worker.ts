/** Weights without bytes, for tests of the page: two shards of a model that is not there. */
import { expose } from 'comlink';
import { PalimpsestError, type WeightsApi } from '../../workers/protocol.ts';

const weights: Pick<WeightsApi, 'open' | 'read'> = {
  async open(model) {
    if (model.includes('absent'))
      throw new PalimpsestError('DownloadFailed', `${model} answered 404`);
    return [
      { file: 'a', bytes: 60_000_000, sha256: null },
      { file: 'b', bytes: 50_701_024, sha256: null },
    ];
  },
  async read() {
    return new ArrayBuffer(0);
  },
};

expose(weights);

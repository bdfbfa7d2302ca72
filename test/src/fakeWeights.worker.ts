/** Weights without bytes, for tests of the page: two shards of a model that is not there. */
import { expose } from 'comlink';
import { PalimpsestError, type WeightsApi } from '../../workers/protocol.ts';

const weights: Pick<WeightsApi, 'describe' | 'open' | 'read'> = {
  async describe(model) {
    const shards = await weights.open(model, () => {});
    return {
      name: 'Fake 150M',
      file_type: 'Q4_0',
      license: 'apache-2.0',
      parameters: 150_573_687,
      context_trained: 1024,
      bytes: shards.reduce((sum, { bytes }) => sum + bytes, 0),
      shards,
    };
  },
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

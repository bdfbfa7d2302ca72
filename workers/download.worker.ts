/** The weights worker: one source of verified bytes for the page and, through a port of its own, for the engine. */
import { expose, transfer } from 'comlink';
import { Weights } from './download.ts';
import type { WeightsApi } from './protocol.ts';

const weights = new Weights({ fetch: (address, init) => fetch(address, init) });

const door: WeightsApi = {
  open: (model, report) => weights.open(model, report),
  async read(model, shard, offset, bytes) {
    const range = await weights.read(model, shard, offset, bytes);
    return transfer(range, [range]);
  },
};

expose(door);

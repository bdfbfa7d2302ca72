/** Weights without bytes, for tests of the page: two shards of a model that is not there, and one model that is stored. */
import { expose } from 'comlink';
import {
  PalimpsestError,
  type StoredModel,
  type WeightsApi,
  type WeightsStatus,
} from '../../workers/protocol.ts';

const totalBytes = 110_701_024;
const stored = new Map<string, StoredModel>();
const opened = new Set<string>();

function store(model: string, name: string): void {
  stored.set(model, {
    model,
    name,
    license: 'apache-2.0',
    fileType: 'Q4_0',
    shards: 2,
    totalBytes,
    storedBytes: totalBytes,
    ownBytes: totalBytes,
    usedAt: Date.now() - 7_200_000,
    verifiedAt: Date.now() - 90_000_000,
  });
}
store('https://host/models/stored/', 'Stored 150M');

function statusOf(model: string): WeightsStatus {
  const here = stored.has(model);
  return {
    model,
    name: 'Fake 150M',
    license: 'apache-2.0',
    place: 'disk',
    placeNote: '',
    state: here ? 'complete' : 'absent',
    totalBytes,
    storedBytes: here ? totalBytes : 0,
    receivedBytes: here ? totalBytes : 0,
    pieces: 8,
    storedPieces: here ? 8 : 0,
    repairedPieces: 0,
    bytesPerSec: 0,
    secondsLeft: null,
    note: '',
    error: null,
  };
}

const weights: Omit<WeightsApi, 'adopt' | 'keep' | 'repository' | 'checkpoint'> = {
  async describe(model) {
    if (model.includes('absent'))
      throw new PalimpsestError('DownloadFailed', `${model} answered 404`);
    return {
      name: 'Fake 150M',
      file_type: 'Q4_0',
      license: 'apache-2.0',
      parameters: 150_573_687,
      context_trained: 1024,
      bytes: totalBytes,
      shards: [
        { file: 'a', bytes: 60_000_000, sha256: null },
        { file: 'b', bytes: 50_701_024, sha256: null },
      ],
    };
  },
  async open(model) {
    const { shards } = await weights.describe(model);
    opened.add(model);
    store(model, 'Fake 150M');
    return shards;
  },
  async read() {
    return new ArrayBuffer(0);
  },
  async close(model) {
    opened.delete(model);
  },
  async status(model) {
    return statusOf(model);
  },
  async watch(model, report) {
    await weights.describe(model);
    report(statusOf(model));
  },
  async download(model) {
    store(model, 'Fake 150M');
  },
  async pause() {},
  async cancel() {},
  async list() {
    return [...stored.values()];
  },
  async verify() {
    return { pieces: 8, damagedPieces: 0 };
  },
  async remove(model) {
    const name = stored.get(model)?.name ?? model;
    if (opened.has(model)) throw new PalimpsestError('Refused', `${name} is in use.`);
    stored.delete(model);
  },
  async room() {
    const quotaBytes = 10_000_000_000;
    const usedBytes = totalBytes * stored.size;
    const freeBytes = quotaBytes - usedBytes;
    return { place: 'disk', placeNote: '', quotaBytes, usedBytes, freeBytes, persisted: false };
  },
};

expose(weights);

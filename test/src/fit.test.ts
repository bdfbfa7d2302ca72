import { expect, test } from 'vitest';
import { fitOf } from '../../src/model/fit.ts';
import type { Manifest, Room, WeightsStatus } from '../../workers/protocol.ts';

const gigabyte = 1e9;
const manifest: Manifest = {
  name: 'large',
  file_type: 'Q4_0',
  license: 'mit',
  parameters: 48_100_000_000,
  context_trained: 0,
  bytes: 26.1 * gigabyte,
  shards: [],
};

const room = (freeBytes: number | null): Room => ({
  place: 'disk',
  placeNote: '',
  quotaBytes: freeBytes,
  usedBytes: 0,
  freeBytes,
  persisted: false,
});

const status: WeightsStatus = {
  model: 'm',
  name: 'large',
  license: '',
  place: 'disk',
  placeNote: '',
  state: 'absent',
  totalBytes: manifest.bytes,
  storedBytes: 0,
  receivedBytes: 0,
  pieces: 8,
  storedPieces: 0,
  repairedPieces: 0,
  bytesPerSec: 0,
  secondsLeft: null,
  note: '',
  error: null,
};

test('what is missing is held against what is free', () => {
  expect(fitOf(manifest, null, room(18 * gigabyte))).toEqual({
    missingBytes: manifest.bytes,
    storage: 'no',
    storageWords: 'needs 26.1 GB, 18.0 GB free',
  });
  expect(fitOf(manifest, status, room(40 * gigabyte)).storage).toBe('yes');
  const begun: WeightsStatus = { ...status, receivedBytes: 20 * gigabyte };
  expect(fitOf(manifest, begun, room(18 * gigabyte))).toMatchObject({
    storage: 'yes',
    storageWords: 'needs 6.1 GB, 18.0 GB free',
  });
});

test('what needs no room says so', () => {
  const whole: WeightsStatus = { ...status, state: 'complete', receivedBytes: manifest.bytes };
  expect(fitOf(manifest, whole, room(0))).toMatchObject({
    missingBytes: 0,
    storage: 'yes',
    storageWords: '26.1 GB, stored here already',
  });
  expect(fitOf(manifest, { ...whole, place: 'files' }, room(0)).storage).toBe('yes');
});

test('memory and not knowing are said', () => {
  const placeNote = 'This browser gives no storage here.';
  const inMemory: Room = { ...room(null), place: 'memory', placeNote };
  expect(fitOf(manifest, null, inMemory)).toMatchObject({
    storage: 'memory',
    storageWords: 'in memory, until the tab closes',
  });
  expect(fitOf(manifest, { ...status, place: 'memory', placeNote }, room(9))).toMatchObject({
    storage: 'memory',
    storageWords: 'in memory, until the tab closes',
  });
  expect(fitOf(manifest, status, room(null)).storage).toBe('unknown');
  expect(fitOf(manifest, status, null).storage).toBe('unknown');
});

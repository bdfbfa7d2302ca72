/** Whether a model fits this machine, as far as a browser tells. Pure. */
import type { Manifest, Room, WeightsStatus } from '../../workers/protocol.ts';
import { formatRoom } from '../format.ts';

export interface Fit {
  /** What there is to fetch; 0 if nothing. */
  missingBytes: number;
  /** yes: stored, or there is room; memory: only until the tab closes; no; unknown: the browser does not say. */
  storage: 'yes' | 'memory' | 'no' | 'unknown';
  /** The same in words and numbers. */
  storageWords: string;
}

const inMemory = 'in memory, until the tab closes';

export function fitOf(manifest: Manifest, status: WeightsStatus | null, room: Room | null): Fit {
  const missingBytes = manifest.bytes - (status?.receivedBytes ?? 0);
  const fit = (storage: Fit['storage'], storageWords: string): Fit => ({
    missingBytes,
    storage,
    storageWords,
  });
  if (status?.place === 'files') return fit('yes', 'none: read from your files, in place');
  if (status?.place === 'memory') return fit('memory', inMemory);
  if (missingBytes === 0) return fit('yes', `${formatRoom(manifest.bytes)}, stored here already`);
  const needs = `needs ${formatRoom(missingBytes)}`;
  if (room?.place === 'memory') return fit('memory', inMemory);
  if (room === null || room.freeBytes === null)
    return fit('unknown', `${needs}; this browser does not say what is free`);
  const words = `${needs}, ${formatRoom(room.freeBytes)} free`;
  return fit(missingBytes <= room.freeBytes ? 'yes' : 'no', words);
}

import { createHash, randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { Sha256, sha256 } from '../../workers/sha256.ts';

test('a hash over pieces is the hash over the whole, at every length around a block', async () => {
  for (const bytes of [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000, 70_001]) {
    const message = new Uint8Array(randomBytes(bytes));
    const expected = createHash('sha256').update(message).digest('hex');
    expect(await sha256(message.buffer)).toBe(expected);
    for (const cut of [0, 1, 31, 64, 65, bytes]) {
      const pieces = new Sha256().update(message.subarray(0, cut)).update(message.subarray(cut));
      expect(pieces.digest(), `${bytes} bytes cut at ${cut}`).toBe(expected);
    }
  }
});

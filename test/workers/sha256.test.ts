import { createHash, randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { digestBytes, leafBytes, Sha256, sha256, sha256Leaves } from '../../workers/sha256.ts';

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

test('leaves are hashed one by one, the last of them as short as it is', async () => {
  expect((await sha256Leaves(new ArrayBuffer(0))).length).toBe(0);
  for (const bytes of [1, leafBytes, leafBytes + 1, 3 * leafBytes - 5]) {
    const message = new Uint8Array(bytes).map((_, i) => (i * 7919) >> 8);
    const digests = await sha256Leaves(message.buffer);
    expect(digests.length).toBe(Math.ceil(bytes / leafBytes) * digestBytes);
    for (let leaf = 0; leaf * leafBytes < bytes; leaf++) {
      const part = message.subarray(leaf * leafBytes, (leaf + 1) * leafBytes);
      const digest = digests.subarray(leaf * digestBytes, (leaf + 1) * digestBytes);
      expect(Buffer.from(digest)).toEqual(createHash('sha256').update(part).digest());
    }
  }
});

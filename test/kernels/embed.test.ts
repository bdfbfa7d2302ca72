import { expect, test } from 'vitest';
import { embed } from '../../workers/kernels.ts';
import { checkEmbed } from './layers.ts';
import { FORMATS } from './matrices.ts';

for (const format of FORMATS) {
  test(`embed ${format}: both parts of a split matrix, tokens that return`, async () => {
    const tokens = [22, 23, 0, 39, 7, 22, 7, 7];
    for (const stride of [1, 4]) {
      const c = { format, D: 96, tokens, position: 100, stride };
      expect(await checkEmbed(embed, c), `stride ${stride}`).toBeLessThan(1e-7);
    }
  });

  test(`embed ${format}: one token and many, rows longer than a workgroup`, async () => {
    for (const T of [1, 63, 64, 65, 200]) {
      const tokens = Array.from({ length: T }, (_, t) => (t * 17 + 5) % 40);
      const c = { format, D: 64, tokens, position: 0, stride: 1 };
      expect(await checkEmbed(embed, c), `${T} tokens`).toBeLessThan(1e-7);
    }
    const wide = { format, D: 2304, tokens: [31, 2], position: 8191, stride: 1 };
    expect(await checkEmbed(embed, wide), 'wide').toBeLessThan(1e-7);
  });
}

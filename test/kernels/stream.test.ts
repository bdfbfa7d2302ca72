import { expect, test } from 'vitest';
import { stream } from '../../workers/kernels.ts';
import { dispatch } from '../gpu.ts';

test('stream: every word is read once, by the lane whose turn it is', async () => {
  for (const [WORDS, LANES] of [
    [4096, 256],
    [5124, 256], // the last turn is not everybody's
    [4096, 1024],
  ] as const) {
    const words = Uint32Array.from({ length: WORDS }, (_, i) => Math.imul(i + 1, 0x9e3779b9));
    const expected = new Uint32Array(LANES);
    words.forEach((word, i) => (expected[(i >> 2) % LANES]! ^= word));
    const { sink } = await dispatch({
      kernel: stream,
      libraries: [],
      consts: { WORDS, LANES },
      inputs: { words },
      outputs: { sink: LANES },
      tokens: 1,
    });
    expect(new Uint32Array(sink.buffer)).toEqual(expected);
  }
});

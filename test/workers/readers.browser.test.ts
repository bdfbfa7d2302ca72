/** Reading threads as a development server serves them: vite's, to which this test's own page belongs. */
import { afterAll, expect, test, vi } from 'vitest';
import { browserLibrary } from '../../workers/browserLibrary.ts';
import { sha256 } from '../../workers/sha256.ts';

/** Workers that were started, and how often each has answered. */
const started: { address: string; answers: number; errors: number }[] = [];
class CountedWorker extends Worker {
  constructor(address: string | URL, options?: WorkerOptions) {
    super(address, options);
    const counted = { address: String(address), answers: 0, errors: 0 };
    started.push(counted);
    this.addEventListener('message', () => counted.answers++);
    this.addEventListener('error', () => counted.errors++);
  }
}

const model = new URL('/test/fixtures/tiny-q4_0.gguf', location.href).href;
const library = browserLibrary();
afterAll(() => library.remove(model));

test('a stored model is read by threads of its own', async () => {
  vi.stubGlobal('Worker', CountedWorker);
  const served = await (await fetch(model)).arrayBuffer();
  const [shard] = await library.open(model, () => {});
  await library.download(model);
  const whole = await library.read(model, 0, 0, shard!.bytes);
  expect(await sha256(whole)).toBe(await sha256(served));
  expect((await library.status(model)).place).toBe('disk');
  expect(started).toEqual([
    { address: expect.stringContaining('reader.worker'), answers: 1, errors: 0 },
  ]);
  await library.close(model);
});

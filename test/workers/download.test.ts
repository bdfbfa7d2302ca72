import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { Weights } from '../../workers/download.ts';

const folder = 'https://models.example/m/';
const shards = [pattern(5000, 3), pattern(7000, 5)];
const manifest = JSON.stringify({
  shards: shards.map((bytes, i) => ({
    file: `${i}.gguf`,
    bytes: bytes.length,
    sha256: hash(bytes),
  })),
});

function pattern(bytes: number, step: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * step) % 251);
}

function hash(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A server that answers with these files, and a log of what was asked. */
function serve(files: Record<string, (BodyInit | undefined)[]>) {
  const asked: string[] = [];
  return {
    asked,
    fetch(address: string) {
      const name = address.slice(folder.length);
      asked.push(name);
      const answers = files[name];
      const body = answers && (answers.length > 1 ? answers.shift() : answers[0]);
      return Promise.resolve(new Response(body, { status: body === undefined ? 404 : 200 }));
    },
  };
}

test('ranges of a shard come from one verified download', async () => {
  const net = serve({ 'manifest.json': [manifest], '0.gguf': [shards[0]], '1.gguf': [shards[1]] });
  const weights = new Weights(net);
  const reports: number[] = [];
  const listed = await weights.open(folder, (p) => reports.push(p.doneBytes, p.totalBytes));
  expect(listed.map(({ bytes }) => bytes)).toEqual([5000, 7000]);
  const [head, tail] = await Promise.all([
    weights.read(folder, 1, 0, 10),
    weights.read(folder, 1, 6990, 10),
  ]);
  expect(new Uint8Array(head)).toEqual(shards[1]!.slice(0, 10));
  expect(new Uint8Array(tail)).toEqual(shards[1]!.slice(6990));
  expect(net.asked).toEqual(['manifest.json', '1.gguf']);
  expect(reports.slice(-2)).toEqual([7000, 12000]);
});

test('a shard with a flipped bit is fetched again, and refused if it stays so', async () => {
  const broken = shards[0]!.slice();
  broken[4321]! ^= 4;
  const once = serve({ 'manifest.json': [manifest], '0.gguf': [broken, shards[0]] });
  const weights = new Weights(once);
  await weights.open(folder, () => {});
  expect(new Uint8Array(await weights.read(folder, 0, 0, 5000))).toEqual(shards[0]);

  const always = new Weights(serve({ 'manifest.json': [manifest], '0.gguf': [broken] }));
  await always.open(folder, () => {});
  await expect(always.read(folder, 0, 0, 1)).rejects.toMatchObject({ name: 'ShardCorrupt' });
});

test.each([
  ['not JSON', '<html>'],
  ['no shards', '{"shards":[]}'],
  ['a path', '{"shards":[{"file":"../x","bytes":1,"sha256":null}]}'],
  ['no size', '{"shards":[{"file":"x","sha256":null}]}'],
  ['a short hash', '{"shards":[{"file":"x","bytes":1,"sha256":"ab"}]}'],
])('a manifest with %s is a BadModel', async (_, text) => {
  const weights = new Weights(serve({ 'manifest.json': [text] }));
  await expect(weights.open(folder, () => {})).rejects.toMatchObject({ name: 'BadModel' });
});

test('a missing model, a short shard and a range outside are named', async () => {
  const missing = new Weights(serve({}));
  await expect(missing.open(folder, () => {})).rejects.toMatchObject({ name: 'DownloadFailed' });
  const short = new Weights(
    serve({ 'manifest.json': [manifest], '0.gguf': [shards[0]!.slice(0, 4000)] }),
  );
  await short.open(folder, () => {});
  await expect(short.read(folder, 0, 0, 1)).rejects.toThrow(
    'should have 5000 bytes, the server sent 4000',
  );
  await expect(short.read(folder, 0, 4999, 2)).rejects.toMatchObject({ name: 'Refused' });
  await expect(short.read(folder, 2, 0, 1)).rejects.toMatchObject({ name: 'Refused' });
});

import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { manifestText, modelManifest } from '../../tools/modelManifest.ts';

const models = 'public/models';

test.each(readdirSync(models))('%s/manifest.json is what its files say', async (name) => {
  const folder = `${models}/${name}`;
  const written = readFileSync(`${folder}/manifest.json`, 'utf8');
  expect(written).toBe(manifestText(await modelManifest(folder)));
});

test('the embedded model has the shards and parameters of its card', async () => {
  const manifest = await modelManifest(`${models}/palimpsest-150m`);
  expect(manifest.shards).toHaveLength(8);
  expect(manifest).toMatchObject({
    name: 'Palimpsest 150M',
    file_type: 'Q4_0',
    license: 'apache-2.0',
    parameters: 150_573_687,
    bytes: 110_701_024,
  });
});

/** `npm run manifest`: writes manifest.json into every folder of public/models, from the files in it. */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { manifestText, modelManifest } from './modelManifest.ts';

const models = 'public/models';
for (const name of readdirSync(models)) {
  const manifest = await modelManifest(join(models, name));
  writeFileSync(join(models, name, 'manifest.json'), manifestText(manifest));
  console.log(`${manifest.name}: ${manifest.shards.length} shards, ${manifest.bytes} bytes`);
}

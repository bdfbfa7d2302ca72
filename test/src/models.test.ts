import { expect, test } from 'vitest';
import { offeredModels } from '../../src/model/models.ts';

const folders = (page: string) => offeredModels(new URL(page)).map((model) => model.folder);
const embedded = 'https://host/app/models/palimpsest-150m/';

test('the embedded model lies beside the page, wherever that is', () => {
  expect(folders('https://host/app/')).toEqual([embedded]);
  expect(folders('https://host/app/index.html?x=1#y')).toEqual([embedded]);
});

test('the address may name another folder of the same origin', () => {
  expect(folders('https://host/app/?model=models/tiny/')).toEqual([
    'https://host/app/models/tiny/',
    embedded,
  ]);
  expect(folders('https://host/app/?model=/elsewhere/tiny')).toEqual([
    'https://host/elsewhere/tiny/',
    embedded,
  ]);
});

test('and nothing of another origin', () => {
  for (const model of [
    'https://evil.example/m/',
    '//evil.example/m/',
    'javascript:0',
    'data:,x',
    '\\\\evil\\m',
    '',
  ]) {
    expect(folders(`https://host/app/?model=${encodeURIComponent(model)}`)).toEqual([embedded]);
  }
});

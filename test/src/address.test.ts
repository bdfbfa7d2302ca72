import { describe, expect, test } from 'vitest';
import { isRepository, readAddress, shortAddresses, sourceOf } from '../../src/model/address.ts';

describe('an address as people type it', () => {
  test.each([
    [' https://host/a/m.gguf ', 'https://host/a/m.gguf'],
    ['https://host/models/m/', 'https://host/models/m/'],
    ['https://host/m.gguf?token=1#top', 'https://host/m.gguf?token=1'],
    [
      'https://huggingface.co/own/er/blob/main/m-Q4_0.gguf?download=true',
      'https://huggingface.co/own/er/resolve/main/m-Q4_0.gguf',
    ],
    ['http://localhost:8080/m.gguf', 'http://localhost:8080/m.gguf'],
  ])('%s is %s', (typed, model) => expect(readAddress(typed, 'https:')).toBe(model));

  test.each([
    ['m.gguf', 'is no address'],
    ['ftp://host/m.gguf', 'is no address'],
    ['https://host/m.bin', 'm.bin is not a .gguf file'],
    ['https://host/c/model.safetensors.index.json', 'download the folder and drop it here'],
    ['https://host/c/model-00001-of-00002.safetensors', 'one file of a checkpoint'],
    ['http://host/m.gguf', 'by https fetch nothing by http'],
  ])('%s is refused: %s', (typed, why) =>
    expect(() => readAddress(typed, 'https:')).toThrow(
      expect.objectContaining({ name: 'Refused', message: expect.stringContaining(why) }),
    ),
  );

  test('a page that came by http may fetch by http', () => {
    expect(readAddress('http://host/m.gguf', 'http:')).toBe('http://host/m.gguf');
  });
});

test.each([
  ['https://huggingface.co/own/er', true],
  ['https://hf.co/own/er/', true],
  ['https://huggingface.co/own/er/tree/main/sub', true],
  ['https://huggingface.co/own/er/blob/main/model.safetensors.index.json', true],
  ['https://huggingface.co/own/er/resolve/main/config.json', true],
  ['https://huggingface.co/own/er/resolve/main/m.gguf', false],
  ['https://huggingface.co/own', false],
  ['https://host/own/er', false],
])('a repository is looked at as one: %s, %s', (typed, is) => expect(isRepository(typed)).toBe(is));

test('where a model comes from', () => {
  const page = 'https://play.example/app/';
  expect(sourceOf('https://play.example/app/models/m/', page)).toBe('this page');
  expect(sourceOf('https://host:81/m.gguf', page)).toBe('host:81');
  expect(sourceOf('https://huggingface.co/o/n/resolve/main/m.gguf', page)).toBe(
    'huggingface.co/o/n',
  );
  expect(sourceOf('kept:m.gguf:5:7', page)).toBe('this computer');
  expect(sourceOf('files:m.gguf:5:7|n.gguf:5:7', page)).toBe('this computer');
});

test.each([
  ['https://host/m.gguf ended early', 'host/m.gguf ended early'],
  [
    'Nothing arrived from https://host:8/a/b/m.gguf?t=1; again',
    'Nothing arrived from host:8/…/m.gguf; again',
  ],
  ['to http://host/models/m/, and https://host.', 'to host/…/m, and host.'],
  ['A stored piece was missing', 'A stored piece was missing'],
])('“%s” is said in short as “%s”', (text, short) => expect(shortAddresses(text)).toBe(short));

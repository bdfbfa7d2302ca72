import { describe, expect, test } from 'vitest';
import { readWishes } from '../../src/embed/wishes.ts';

const key = '0123456789abcdef0123456789abcdef';
const page = 'https://palimpsest.test/kept/embed.html';
const wishes = (asked: Record<string, string>, allowed: string[] = []) =>
  readWishes(new URL(`${page}#${new URLSearchParams(asked)}`), allowed);

describe('who may drive the frame', () => {
  test('the origin that its address names, exactly', () => {
    const parent = 'https://article.test';
    expect(wishes({ parent, key }).parent).toEqual({ origin: parent, key });
    expect(wishes({ parent: 'http://localhost:8080', key }).parent?.origin).toBe(
      'http://localhost:8080',
    );
  });

  test.each([
    ['nobody', {}],
    ['anybody', { parent: '*', key }],
    ['a document without an origin', { parent: 'null', key }],
    ['an address that is more than an origin', { parent: 'https://article.test/', key }],
    ['a pattern', { parent: 'https://*.article.test', key }],
    ['another kind of address', { parent: 'data:text/html,', key }],
    ['a file', { parent: 'file://', key }],
    ['no key', { parent: 'https://article.test' }],
    ['a short key', { parent: 'https://article.test', key: 'abc' }],
  ])('%s: no line', (_, asked) => {
    expect(wishes(asked as Record<string, string>).parent).toBeNull();
  });

  test('where the host lists origins, those alone', () => {
    const allowed = ['https://article.test', 'https://course.test'];
    expect(wishes({ parent: 'https://course.test', key }, allowed).parent).not.toBeNull();
    for (const parent of ['https://evil.test', 'http://course.test', 'https://course.test:444']) {
      expect(wishes({ parent, key }, allowed).parent).toBeNull();
    }
  });
});

describe('which model', () => {
  const embedded = 'https://palimpsest.test/kept/models/palimpsest-150m/';

  test('the embedded one, or another beside the page', () => {
    expect(wishes({}).model).toBe(embedded);
    expect(wishes({ model: 'models/tiny' }).model).toBe(
      'https://palimpsest.test/kept/models/tiny/',
    );
    expect(wishes({ model: 'models/a.gguf' }).model).toBe(
      'https://palimpsest.test/kept/models/a.gguf',
    );
    expect(wishes({ model: 'models/tiny' }).foreign).toBe(false);
  });

  test('one elsewhere, by https, and the person is told where', () => {
    const { model, foreign, source } = wishes({ model: 'https://models.test/a.gguf?x=1' });
    expect([model, foreign, source]).toEqual([
      'https://models.test/a.gguf?x=1',
      true,
      'models.test',
    ]);
  });

  test.each([
    'http://models.test/a.gguf',
    'http://localhost:11434/',
    'http://127.0.0.1:80/',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'data:,',
    'https://name:word@models.test/',
    'https://',
    `https://models.test/${'a'.repeat(3000)}`,
  ])('%s is none', (model) => {
    expect(wishes({ model }).model).toBe(embedded);
  });
});

test('the rest is read, and what makes no sense is left out', () => {
  const all = wishes({ view: 'gates', layer: '3', head: 'median', theme: 'dark', seed: '7' });
  expect(all.look).toEqual({ view: 'gates', layer: 3, head: 'median' });
  expect([all.theme, all.draw]).toEqual(['dark', { seed: 7 }]);
  const none = wishes({ view: 'all', layer: '-1', head: 'x', theme: 'red', replay: '../secret' });
  expect(none.look).toEqual({});
  expect([none.theme, none.replay, none.draw]).toEqual(['auto', '', {}]);
  expect(wishes({ prompt: 'a'.repeat(9_000) }).prompt).toHaveLength(4_000);
});

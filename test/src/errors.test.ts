import { expect, test } from 'vitest';
import { explanations, toFailure } from '../../src/errors.ts';
import { PalimpsestError } from '../../workers/protocol.ts';

test('every name has a title, advice and a remedy of its own', () => {
  const titles = Object.values(explanations).map(({ title }) => title);
  expect(new Set(titles).size).toBe(titles.length);
  for (const { title, advice, remedy } of Object.values(explanations)) {
    expect(title).toMatch(/^[A-Z].*[^.]$/);
    expect(advice).toMatch(/\.$/);
    expect(['load', 'answer', 'conversation', 'page']).toContain(remedy);
  }
});

test('an error of ours is known by its name, whatever it came through', () => {
  const ours = new PalimpsestError('ContextFull', '9,000 tokens, 8,192 fit');
  expect(toFailure(ours)).toEqual({ name: 'ContextFull', message: '9,000 tokens, 8,192 fit' });
  const crossed = Object.assign(new Error('gone'), { name: 'DeviceLost' });
  expect(toFailure(crossed)).toEqual({ name: 'DeviceLost', message: 'gone' });
});

test('any other is a fault, and keeps its words', () => {
  expect(toFailure(new TypeError('x is null'))).toEqual({
    name: 'Unexpected',
    message: 'TypeError: x is null',
  });
  expect(toFailure('thrown text')).toEqual({ name: 'Unexpected', message: 'thrown text' });
  // Names that an object has without being asked, and the page's own, are no names of ours.
  for (const name of ['constructor', 'toString', 'Unexpected', 'Interrupted']) {
    expect(toFailure(Object.assign(new Error(''), { name })).name).toBe('Unexpected');
  }
});

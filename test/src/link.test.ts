import { describe, expect, test } from 'vitest';
import type { Answered, TurnNode } from '../../src/conversation.ts';
import { checkOf, linkOf, linkOfSheet, readLink, writeLink, type Link } from '../../src/link.ts';
import { blankPaper } from '../../src/paper.ts';
import { greedy, varied } from '../../src/sampling.ts';

const page = new URL('https://host/kept/?model=x#old');
const look = { layer: '3', head: 'median', view: 'gates' };
const link: Link = {
  model: 'https://host/kept/models/tiny/',
  prompts: ['Who & what?', 'Why #2 = “ü”?\n'],
  text: '',
  system: 'Be brief.',
  sampling: { ...greedy, ...varied, seed: 7, maxTokens: 32, stop: ['\n\n', '&'] },
  seeds: [7, 4294967295],
  check: '0123abcd',
};

test('what is written is read again, in whatever folder the page lies', () => {
  const hash = writeLink(link, look, page);
  expect(readLink(hash, page)).toEqual(link);
  expect(hash).toContain('model=models%2Ftiny%2F');
  const elsewhere = readLink(hash, new URL('https://other/'));
  expect(elsewhere?.model).toBe('https://other/models/tiny/');
  const asked = new URLSearchParams(hash.slice(1));
  expect([asked.get('layer'), asked.get('view')]).toEqual(['3', 'gates']);
});

test('settings as they begin are left out, and the seed where nothing is drawn', () => {
  const plain = { ...link, system: '', sampling: greedy, seeds: [1], prompts: ['Hi'], check: '' };
  expect(writeLink(plain, {}, page)).toBe('#model=models%2Ftiny%2F&prompt=Hi');
});

describe('what makes no sense', () => {
  test.each(['', '#', '#layer=3&head=1', '#prompt=', '#prompt=%20'])('%s is no link', (hash) => {
    expect(readLink(hash, page)).toBeNull();
  });

  test('more than a link may hold is no link', () => {
    expect(readLink(`#prompt=${'a'.repeat(20_001)}`, page)).toBeNull();
    expect(readLink(`#${'prompt=a&'.repeat(65)}`, page)).toBeNull();
  });

  test('settings out of range are held in it, and others take their default', () => {
    const read = readLink('#prompt=a&temperature=99&topK=x&maxTokens=-1&seed=-3&tokens=zz', page)!;
    expect(read.sampling).toMatchObject({ temperature: 2, topK: 0, maxTokens: 1, seed: 0 });
    expect(read.check).toBe('');
  });

  test.each(['javascript:alert(1)', 'data:,x', 'file:///etc/', 'kept:abc', 'http://['])(
    'a model at %s is the page’s own choice',
    (model) => {
      expect(readLink(`#prompt=a&model=${encodeURIComponent(model)}`, page)?.model).toBe('');
    },
  );
});

describe('the part that can be replayed', () => {
  const answered: Answered = {
    reason: 'end',
    reusedTokens: 0,
    prefillMs: 1,
    firstTokenMs: 1,
    decodeMs: 1,
    contextUsed: 9,
    tokens: 2,
    promptTokens: 5,
    sampling: { ...greedy, ...varied, seed: 3 },
  } as Answered;
  const said = (id: number, content: string): TurnNode => ({
    id,
    parent: null,
    turn: { role: 'user', content },
    origin: { kind: 'person' },
  });
  const answer = (id: number, change: Partial<Answered> = {}): TurnNode => ({
    id,
    parent: null,
    turn: { role: 'assistant', content: 'So.', ids: [id, 1] },
    origin: { kind: 'answered', answered: { ...answered, ...change } },
  });
  const model = 'https://host/kept/models/tiny/';

  test('questions with their answers, and the seed of each', () => {
    const other = { sampling: { ...answered.sampling, seed: 8 } };
    const path = [said(1, 'A'), answer(2), said(3, 'B'), answer(4, other)];
    const made = linkOf(path, model, 'Short.')!;
    expect(made.whole).toBe(true);
    expect(made.link).toMatchObject({
      prompts: ['A', 'B'],
      seeds: [3, 8],
      system: 'Short.',
      model,
    });
    expect(made.link.check).toBe(checkOf([2, 1, 4, 1]));
  });

  test('up to an answer that was stopped, written by a person, or drawn otherwise', () => {
    const edited: TurnNode = { ...said(4, 'Mine'), turn: { role: 'assistant', content: 'Mine' } };
    const hotter = { sampling: { ...answered.sampling, temperature: 1 } };
    for (const last of [answer(4, { reason: 'stopped' }), edited, answer(4, hotter)]) {
      const made = linkOf([said(1, 'A'), answer(2), said(3, 'B'), last], model, '')!;
      expect(made.whole).toBe(false);
      expect(made.link.prompts).toEqual(['A']);
    }
    expect(linkOf([said(1, 'A'), answer(2, { reason: 'stopped' })], model, '')).toBeNull();
    expect(linkOf([], model, '')).toBeNull();
  });

  test('a model of this computer has no address to send', () => {
    expect(linkOf([said(1, 'A'), answer(2)], 'kept:abc', '')?.link.model).toBe('');
  });

  test('a sheet, if its prompt is a text', () => {
    const completion = { text: ' b', answered, ids: [9, 9, 9, 9, 9, 1, 2] };
    const paper = { ...blankPaper, prompt: 'a', completions: [completion], shown: 0 };
    expect(linkOfSheet(paper, model)).toMatchObject({ text: 'a', check: checkOf([1, 2]) });
    expect(linkOfSheet({ ...paper, ids: [1] }, model)).toBeNull();
    expect(linkOfSheet(blankPaper, model)).toBeNull();
  });
});

test('the check tells rows of tokens apart', () => {
  const rows = [[], [0], [0, 0], [1], [256], [65_536], [1, 2], [2, 1]];
  expect(new Set(rows.map(checkOf)).size).toBe(rows.length);
  expect(checkOf([])).toBe('811c9dc5');
});

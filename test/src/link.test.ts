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
  expect(readLink(hash, page)).toEqual({ link, leftOut: [] });
  expect(hash).toContain('model=models%2Ftiny%2F');
  const elsewhere = readLink(hash, new URL('https://other/'));
  expect(elsewhere.link?.model).toBe('https://other/models/tiny/');
  const asked = new URLSearchParams(hash.slice(1));
  expect([asked.get('layer'), asked.get('view')]).toEqual(['3', 'gates']);
});

test('settings as they begin are left out, and the seed where nothing is drawn', () => {
  const plain = { ...link, system: '', sampling: greedy, seeds: [1], prompts: ['Hi'], check: '' };
  expect(writeLink(plain, {}, page)).toBe('#model=models%2Ftiny%2F&prompt=Hi');
});

test.each(['', '#', '#layer=3&head=median&token=newest&branch=0&view=', '#prompt='])(
  '%s is no link, and nothing is wrong with it',
  (hash) => {
    expect(readLink(hash, page)).toEqual({ link: null, leftOut: [] });
  },
);

describe('what makes no sense is left out, and told', () => {
  test.each([
    ['#section-2', '“section-2”'],
    ['#prompt=%20', 'prompt “ ”'],
    ['#prompt=What%20is%20%E0%A4', 'prompt “What is \ufffd”'],
    [
      `#prompt=${'a'.repeat(20_001)}`,
      'its prompt of 20001 characters, of which 20000 are the most',
    ],
    [`#${'prompt=a&'.repeat(65)}`, 'its 65 prompts, of which 64 are the most'],
    ['#layer=x&view=gates', 'layer “x”'],
    ['#view=gates,foo', 'view “gates,foo”'],
  ])('%.40s asks for nothing', (hash, told) => {
    expect(readLink(hash, page)).toEqual({ link: null, leftOut: [told] });
  });

  test('one prompt of two: the replay would be another one', () => {
    expect(readLink('#prompt=a&prompt=%FF', page).link).toBeNull();
  });

  test('settings out of range are held in it, and others take their default', () => {
    const hash = '#prompt=a&temperature=99&topK=x&maxTokens=-1&seed=-3&tokens=zz&colour=red';
    const { link, leftOut } = readLink(hash, page);
    expect(link!.sampling).toMatchObject({ temperature: 2, topK: 0, maxTokens: 1, seed: 1 });
    expect(link!.check).toBe('');
    expect(leftOut.sort()).toEqual([
      'colour “red”',
      'maxTokens “-1”, 1 in its place',
      'seed “-3”',
      'temperature “99”, 2 in its place',
      'tokens “zz”',
      'topK “x”',
    ]);
  });

  test.each(['javascript:alert(1)', 'data:,x', 'file:///etc/', 'kept:abc', 'http://['])(
    'for a model at %s the page’s own choice is taken',
    (model) => {
      const { link, leftOut } = readLink(`#prompt=a&model=${encodeURIComponent(model)}`, page);
      expect(link?.model).toBe('');
      expect(leftOut).toEqual([`model “${model}”`]);
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

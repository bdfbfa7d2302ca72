import { describe, expect, test } from 'vitest';
import { bytesOf, inkOfTurns, joinedText, tokensFrom, tokensOfTexts } from '../../src/ink.ts';

const pieces = [
  '<|im_start|>',
  'user',
  '␊',
  'Mi',
  'ra',
  '␊',
  ' is',
  '<|im_end|>',
  '<|im_start|>',
  'Mi',
  'ra',
  '.',
];

describe('tokens of texts', () => {
  test('control characters and parts of characters stand for their bytes', () => {
    expect([...bytesOf('␊')]).toEqual([10]);
    expect([...bytesOf('⟨E4 BD⟩')]).toEqual([0xe4, 0xbd]);
  });

  test('are found in order, each text after the last', () => {
    const [first, second] = tokensOfTexts(pieces, ['Mira\n is', 'Mira.']);
    expect(first?.map(({ position }) => position)).toEqual([3, 4, 5, 6]);
    expect(joinedText(first!)).toBe('Mira\n is');
    expect(second?.map(({ position }) => position)).toEqual([9, 10, 11]);
  });

  test('a text that is not there has none, and hides none that follow', () => {
    const [first, second] = tokensOfTexts(pieces, ['Tom', 'Mira.']);
    expect(first).toBeNull();
    expect(second).toHaveLength(3);
  });

  test('a token that reaches over the edge belongs to the text, as far as it goes', () => {
    const [tokens] = tokensOfTexts(['say', ' hello.', ' bye'], ['hello']);
    expect(tokens).toEqual([{ position: 1, text: 'hello' }]);
  });

  test('a character spread over tokens stands with its last byte', () => {
    const [tokens] = tokensOfTexts(['a', '⟨E4 BD⟩', '⟨A0⟩', 'b'], ['a你b']);
    expect(tokens).toEqual([
      { position: 0, text: 'a' },
      { position: 1, text: '' },
      { position: 2, text: '你' },
      { position: 3, text: 'b' },
    ]);
  });

  test('from a place on, at most so many', () => {
    expect(tokensFrom(pieces, 9, 2)).toEqual([
      { position: 9, text: 'Mi' },
      { position: 10, text: 'ra' },
    ]);
  });
});

describe('tokens of turns', () => {
  const turn = { id: 1, first: 9, count: 3, grows: false };

  test('an answer’s are those of its place, not of an earlier text that is the same', () => {
    const inked = inkOfTurns(
      ['Mira.', 'x', 'y', 'z', 'u', 'v', 'w', 'a', 'b', 'Mi', 'ra', '.'],
      [{ ...turn, text: 'Mira.' }],
    );
    expect(inked.get(1)?.map(({ position }) => position)).toEqual([9, 10, 11]);
  });

  test('a finished turn is inked whole or not at all', () => {
    expect(inkOfTurns(pieces, [{ ...turn, text: 'Mira says' }]).has(1)).toBe(false);
    expect(inkOfTurns(pieces, [{ ...turn, text: 'Mira' }]).get(1)).toHaveLength(2);
  });

  test('one that was cut short all but its last token, which memory has not taken in', () => {
    const cutShort = { ...turn, count: 4, text: 'Mira. And' };
    expect(inkOfTurns(pieces, [cutShort]).get(1)).toHaveLength(3);
    expect(inkOfTurns([...pieces, ' So'], [cutShort]).has(1)).toBe(false);
  });

  test('one whose last tokens are not told of yet stays inked as far as they are', () => {
    const told = { ...turn, count: 6, text: 'Mira. And so on' };
    expect(inkOfTurns(pieces, [told]).get(1)).toHaveLength(3);
  });

  test('one that is being written as far as it is in memory', () => {
    const growing = { ...turn, count: null, grows: true };
    expect(joinedText(inkOfTurns(pieces, [{ ...growing, text: 'Mira. And' }]).get(1)!)).toBe(
      'Mira.',
    );
    expect(joinedText(inkOfTurns(pieces, [{ ...growing, text: 'Mi' }]).get(1)!)).toBe('Mi');
  });
});

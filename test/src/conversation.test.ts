import { describe, expect, test } from 'vitest';
import {
  addTurn,
  emptyConversation,
  removeTurn,
  setTurn,
  shownPath,
  showTurn,
  siblings,
  toAnswered,
  turnsBefore,
  type Conversation,
  type Origin,
} from '../../src/conversation.ts';
import { greedy } from '../../src/sampling.ts';
import type { Role, Stop } from '../../workers/protocol.ts';

const person: Origin = { kind: 'person' };

function say(tree: Conversation, parent: number | null, role: Role, content: string) {
  return addTurn(tree, parent, { role, content }, person);
}

/** a - A - b - B, in this order of ids. */
function four() {
  const a = say(emptyConversation, null, 'user', 'a');
  const A = say(a.tree, a.id, 'assistant', 'A');
  const b = say(A.tree, A.id, 'user', 'b');
  const B = say(b.tree, b.id, 'assistant', 'B');
  return { tree: B.tree, a: a.id, A: A.id, b: b.id, B: B.id };
}

const texts = (tree: Conversation) =>
  shownPath(tree)
    .map((node) => node.turn.content)
    .join('');

describe('a conversation as a tree', () => {
  test('turns follow one another', () => {
    expect(texts(emptyConversation)).toBe('');
    expect(texts(four().tree)).toBe('aAbB');
  });

  test('a branch is shown when made, and the other kept whole', () => {
    const { tree, a, A } = four();
    const again = say(tree, a, 'assistant', 'A2');
    expect(texts(again.tree)).toBe('aA2');
    expect(siblings(again.tree, A)).toEqual([A, again.id]);
    expect(texts(showTurn(again.tree, A))).toBe('aAbB');
    expect(texts(tree)).toBe('aAbB');
  });

  test('a branch of the first turn is a conversation of its own', () => {
    const { tree, a } = four();
    const other = say(tree, null, 'user', 'x');
    expect(texts(other.tree)).toBe('x');
    expect(siblings(other.tree, a)).toEqual([a, other.id]);
  });

  test('coming back to a branch shows what was shown below it', () => {
    const { tree, a, A, b } = four();
    const B2 = say(tree, b, 'assistant', 'B2');
    const A2 = say(B2.tree, a, 'assistant', 'A2');
    expect(texts(showTurn(A2.tree, A))).toBe('aAbB2');
  });

  test('showing a deep turn shows every turn above it', () => {
    const { tree, a, B } = four();
    const A2 = say(tree, a, 'assistant', 'A2');
    expect(texts(showTurn(A2.tree, B))).toBe('aAbB');
  });

  test('taking out a turn shows its sibling, or nothing', () => {
    const { tree, b, B } = four();
    const B2 = say(tree, b, 'assistant', 'B2');
    expect(texts(removeTurn(B2.tree, B2.id))).toBe('aAbB');
    expect(texts(removeTurn(tree, B))).toBe('aAb');
    expect(() => siblings(removeTurn(tree, B), B)).toThrow('No turn 4 in this conversation of 3');
  });

  test('ids are never used twice', () => {
    const { tree, b, B } = four();
    const again = say(removeTurn(tree, B), b, 'assistant', 'B2');
    expect(again.id).toBeGreaterThan(B);
  });
});

describe('what the model is asked', () => {
  test('all turns above an answer, with the ids they were generated as', () => {
    const { tree, A, B } = four();
    const withIds = setTurn(tree, A, { role: 'assistant', content: 'A', ids: [7, 8] }, person);
    expect(turnsBefore(withIds, B)).toEqual([
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'A', ids: [7, 8] },
      { role: 'user', content: 'b' },
    ]);
  });

  test('of its own branch only', () => {
    const { tree, a, B } = four();
    const A2 = say(tree, a, 'assistant', 'A2');
    expect(turnsBefore(A2.tree, A2.id)).toEqual([{ role: 'user', content: 'a' }]);
    expect(turnsBefore(A2.tree, B)).toHaveLength(3);
  });

  test('an answer that failed at once is left out, one that broke off is not', () => {
    const { tree, A, B } = four();
    const failed: Origin = { kind: 'failed', failure: { name: 'BadNumbers', message: '' } };
    const at = (content: string) => setTurn(tree, A, { role: 'assistant', content }, failed);
    expect(turnsBefore(at(''), B).map((turn) => turn.content)).toEqual(['a', 'b']);
    expect(turnsBefore(at('Hal'), B).map((turn) => turn.content)).toEqual(['a', 'Hal', 'b']);
  });
});

test('the figures of an answer leave its texts and ids behind', () => {
  const stop: Stop = {
    reason: 'length',
    ids: [1, 2, 3],
    text: 'abc',
    promptIds: [9, 9],
    reusedTokens: 1,
    prefillMs: 4,
    firstTokenMs: 5,
    decodeMs: 6,
    contextUsed: 5,
    memory: {
      weightBytes: 0,
      recurrentBytes: 0,
      latentBytes: 0,
      snapshotBytes: 0,
      scratchBytes: 0,
    },
  };
  expect(toAnswered(stop, greedy)).toEqual({
    reason: 'length',
    tokens: 3,
    promptTokens: 2,
    reusedTokens: 1,
    prefillMs: 4,
    firstTokenMs: 5,
    decodeMs: 6,
    contextUsed: 5,
    sampling: greedy,
  });
});

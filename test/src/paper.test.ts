import { expect, test } from 'vitest';
import { toAnswered } from '../../src/conversation.ts';
import {
  addCompletion,
  blankPaper,
  editPaper,
  paperText,
  promptOf,
  settlePaper,
  toCompletion,
  withdrawCompletions,
} from '../../src/paper.ts';
import { greedy } from '../../src/sampling.ts';
import type { Stop } from '../../workers/protocol.ts';

function completion(text: string, reason: Stop['reason'] = 'length') {
  const stop: Stop = {
    reason,
    ids: [3, 4],
    text,
    promptIds: [1, 2],
    reusedTokens: 0,
    prefillMs: 1,
    firstTokenMs: 1,
    decodeMs: 1,
    contextUsed: 4,
    memory: {
      weightBytes: 0,
      recurrentBytes: 0,
      latentBytes: 0,
      snapshotBytes: 0,
      scratchBytes: 0,
    },
  };
  return toCompletion(stop, toAnswered(stop, greedy));
}

const once = editPaper(blankPaper, 'Once ');

test('text that a person wrote is prompt, as text', () => {
  expect(promptOf(once)).toEqual({ kind: 'raw', text: 'Once ' });
});

test('a completion stands after the prompt; another takes its place, and both are kept', () => {
  const two = addCompletion(addCompletion(once, completion('upon')), completion('more'));
  expect(paperText(two)).toBe('Once more');
  expect(paperText({ ...two, shown: 0 })).toBe('Once upon');
  expect(promptOf(two)).toEqual({ kind: 'raw', text: 'Once ' });
  expect(paperText(withdrawCompletions(two))).toBe('Once ');
});

test('going on continues from the very ids', () => {
  const settled = settlePaper(addCompletion(once, completion('upon')));
  expect(paperText(settled)).toBe('Once upon');
  expect(settled.completions).toEqual([]);
  expect(promptOf(settled)).toEqual({ kind: 'ids', ids: [1, 2, 3, 4] });
  // Another try from the same place takes the same ids.
  expect(promptOf(settlePaper(settled))).toEqual({ kind: 'ids', ids: [1, 2, 3, 4] });
});

test('going on after an end of turn or a stop text continues from the text, which does not have them', () => {
  for (const reason of ['end', 'stop'] as const) {
    const settled = settlePaper(addCompletion(once, completion('upon', reason)));
    expect(promptOf(settled)).toEqual({ kind: 'raw', text: 'Once upon' });
  }
});

test('an edit makes all of it prompt and forgets the ids; the same text is no edit', () => {
  const written = addCompletion(once, completion('upon'));
  expect(editPaper(written, 'Once upon')).toBe(written);
  const edited = editPaper(settlePaper(written), 'Once upon a');
  expect(edited.completions).toEqual([]);
  expect(promptOf(edited)).toEqual({ kind: 'raw', text: 'Once upon a' });
});

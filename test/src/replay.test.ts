import { describe, expect, test } from 'vitest';
import {
  askRecording,
  inquiryKey,
  noteText,
  pack,
  packRecording,
  readRecording,
  type Recording,
} from '../../src/replay.ts';
import type { Answers } from '../../workers/protocol.ts';
import { fakeAnswer, fakeLists, fakeRecord } from './fakeMemory.ts';
import { loaded } from './scriptedClient.ts';

const { model } = loaded;
const records = ['Mira', ' is', ' here'].map((text, position) => fakeRecord(model, position, text));
const inquiries = [
  { kind: 'recall', layer: 0, head: 'median', position: 2 },
  { kind: 'memory', layer: 0, head: 1, position: 2 },
  { kind: 'gates', layer: 0, from: 0, to: 3 },
] as const;
const recording: Recording = {
  title: 'Mira',
  source: 'a test',
  model,
  memory: loaded.memory,
  lists: fakeLists(model),
  turns: [
    { role: 'user', content: 'Mira is' },
    { role: 'assistant', content: 'here' },
  ],
  promptTokens: 2,
  records,
  start: { layer: 0, head: 1 },
  answers: inquiries.map((inquiry) => ({
    inquiry,
    answer: fakeAnswer(model, records, inquiry),
  })) as Recording['answers'],
};
const text = packRecording(recording);

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));
}

describe('a recording', () => {
  test('comes back as it was, to half precision', () => {
    const read = readRecording(text);
    expect(read.turns).toEqual(recording.turns);
    expect(read.records.map((record) => record.text)).toEqual(['Mira', ' is', ' here']);
    expect(read.records[2]!.experts).toEqual(records[2]!.experts);
    expect(read.records[2]!.candidates).toEqual(records[2]!.candidates);
    expect(largestDifference(read.records[2]!.written, records[2]!.written)).toBeLessThan(1e-3);
  });

  test('answers what it was asked when it was made, and nothing else', async () => {
    const ask = askRecording(readRecording(text));
    const asked = recording.answers[0]!.answer as { recall: Float32Array };
    const { recall, overwrittenBy } = await ask<'recall'>(inquiries[0]);
    expect(largestDifference(recall, asked.recall)).toBeLessThan(5e-4);
    expect([...overwrittenBy]).toEqual([2, -1, -1]);
    await expect(ask<'recall'>({ ...inquiries[0], position: 1 })).rejects.toMatchObject({
      name: 'Refused',
    });
  });

  test('keeps a matrix to 127ths of its largest number', async () => {
    const { cells } = await askRecording(readRecording(text))<'memory'>(inquiries[1]);
    const asked = recording.answers[1]!.answer as { cells: Float32Array };
    expect(largestDifference(cells, asked.cells)).toBeLessThan(0.5 / 127 + 1e-6);
    expect(largestDifference(cells, asked.cells)).toBeGreaterThan(0);
  });

  test('that is damaged is refused, with the reason', () => {
    const read = (change: (file: Record<string, unknown>) => void) => () => {
      const file = JSON.parse(text) as Record<string, unknown>;
      change(file);
      return readRecording(JSON.stringify(file));
    };
    const named = (name: string, message: RegExp) =>
      expect.objectContaining({ name, message: expect.stringMatching(message) as string });
    expect(() => readRecording('<!doctype html>')).toThrow(named('BadModel', /not JSON/));
    expect(read((file) => (file.format = 'x'))).toThrow(named('BadModel', /does not say/));
    expect(read((file) => (file.version = 2))).toThrow(named('Unsupported', /version 2/));
    expect(read((file) => (file.promptTokens = 9))).toThrow(named('BadModel', /prompt of 9/));
    expect(read((file) => delete file.lists)).toThrow(named('BadModel', /missing/));
    expect(read((file) => (file.records as unknown[]).shift())).toThrow(
      named('BadModel', /token 0/),
    );
    expect(
      read((file) => ((file.records as { written: { length: number } }[])[1]!.written.length = 99)),
    ).toThrow(named('BadModel', /99 f16/));
  });
});

describe('packed numbers', () => {
  test('half precision rounds to the nearest, keeps signs, infinities and small numbers', () => {
    const values = [0, -0, 1, -2.5, 65504, 1e9, -Infinity, 6e-8, 0.1, 2050, 1 / 3];
    const { base64 } = pack(Float32Array.from(values), 'f16');
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const halves = [...new Uint16Array(bytes.buffer)];
    // Bit patterns of IEEE 754 binary16.
    expect(halves).toEqual([
      0x0000, 0x8000, 0x3c00, 0xc100, 0x7bff, 0x7c00, 0xfc00, 0x0001, 0x2e66, 0x6801, 0x3555,
    ]);
  });

  test('inquiries are told apart by what they ask', () => {
    expect(inquiryKey(inquiries[0])).toBe('head=median kind=recall layer=0 position=2');
    expect(inquiryKey({ kind: 'lens', position: 2 })).not.toBe(
      inquiryKey({ kind: 'lens', position: 3 }),
    );
  });
});

describe('what is said of a recording', () => {
  const recall = Float32Array.from([1, 0.5, 0.25, 0.125]);

  test('gets the mean recall of the tokens that it names, once they are there', () => {
    expect(noteText('of it {1-2} are left', recall)).toBe('of it 38 % are left');
    expect(noteText('{0-0} and {3-3}', recall)).toBe('100 % and 13 %');
    expect(noteText('{2-4}', recall)).toBe('…');
    expect(noteText('{0-0}', null)).toBe('…');
  });

  test('is refused where it is no text at a token', () => {
    const withNote = (note: unknown) =>
      packRecording({ ...recording, notes: [note] as Recording['notes'] });
    expect(readRecording(withNote({ position: 1, text: 'Now.' })).notes).toHaveLength(1);
    expect(() => readRecording(withNote({ position: '1', text: 'Now.' }))).toThrow(/notes/);
    expect(() => readRecording(withNote('Now.'))).toThrow(/notes/);
  });
});

test.each([
  ['recall', 0, (answer: Answers['recall']) => ({ ...answer, loss: answer.loss.slice(1) })],
  ['memory', 1, (answer: Answers['memory']) => ({ ...answer, change: new Float32Array(3) })],
  ['gates', 2, (answer: Answers['gates']) => ({ ...answer, tokens: 2 })],
])('an answer about %s that is cut is refused', (_, index, cut) => {
  const answers = recording.answers.map((recorded, at) =>
    at === index ? { ...recorded, answer: cut(recorded.answer as never) } : recorded,
  ) as Recording['answers'];
  expect(() => readRecording(packRecording({ ...recording, answers }))).toThrow(/is cut/);
});

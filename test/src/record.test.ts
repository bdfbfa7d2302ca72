import { describe, expect, test } from 'vitest';
import { answersTo, inquiriesOf, placedNotes } from '../../src/record.ts';
import { inquiryKey } from '../../src/replay.ts';
import type { Inquiry } from '../../workers/protocol.ts';

const lists = { kda: [0, 1, 3], mla: [2], moe: [1, 2, 3] };
const aim = { layer: 1, head: 0, promptTokens: 3 };
const kinds = (inquiries: Inquiry[], kind: Inquiry['kind']) =>
  inquiries.filter((inquiry) => inquiry.kind === kind);

describe('the questions of a recording', () => {
  test('a short text is asked about at every token, the lens from where the answer begins', () => {
    const inquiries = inquiriesOf(lists, 10, aim);
    expect(kinds(inquiries, 'memory')).toHaveLength(10);
    expect(kinds(inquiries, 'reach')).toHaveLength(20);
    expect(kinds(inquiries, 'recall')).toHaveLength(20 + 2);
    expect(kinds(inquiries, 'lens').map((i) => 'position' in i && i.position)).toEqual([
      2, 3, 4, 5, 6, 7, 8, 9,
    ]);
    expect(kinds(inquiries, 'thumbnails')).toEqual([
      { kind: 'thumbnails', position: 0 },
      { kind: 'thumbnails', position: 8 },
      { kind: 'thumbnails', position: 9 },
    ]);
    expect(new Set(inquiries.map(inquiryKey)).size).toBe(inquiries.length);
  });

  test('a long text keeps to a bounded number of moments, the last among them', () => {
    const inquiries = inquiriesOf(lists, 5000, aim);
    const moments = kinds(inquiries, 'memory');
    expect(moments.length).toBeLessThanOrEqual(257);
    expect(moments.length).toBeGreaterThan(200);
    expect(moments.at(-1)).toMatchObject({ position: 4999 });
    expect(kinds(inquiries, 'recall').length).toBeLessThan(600);
  });

  test('are put one after another, and end when they are to', async () => {
    const asked: Inquiry[] = [];
    const ask = (inquiry: Inquiry) => {
      asked.push(inquiry);
      return Promise.resolve({ cells: new Float32Array(1) } as never);
    };
    const inquiries = inquiriesOf(lists, 2, aim);
    const reports: number[] = [];
    const answers = await answersTo(ask, inquiries, (done) => reports.push(done));
    expect(answers.map(({ inquiry }) => inquiry)).toEqual(inquiries);
    expect(reports.at(-1)).toBe(inquiries.length);
    asked.length = 0;
    const stopped = () => asked.length === 3;
    await expect(answersTo(ask, inquiries, () => {}, stopped)).rejects.toMatchObject({
      name: 'Refused',
      message: expect.stringContaining(`3 of ${inquiries.length}`) as string,
    });
  });
});

describe('what is said of a recording', () => {
  const texts = ['<s>', 'Mira', ' is', ' 1', '2', '.', ' Now', ' 7', '.', ' 12'];

  test('stands at the token that ends its words, with the tokens of what it names', () => {
    const placed = placedNotes(texts, [
      { upTo: 'Mira is 12', text: 'Of 12 {12} are left.' },
      { upTo: '.', text: '{7}, {Mira is}' },
      { upTo: '12', text: '' },
    ]);
    expect(placed).toEqual([
      { position: 4, text: 'Of 12 {3-4} are left.' },
      { position: 5, text: '{7-7}, {1-2}' },
      { position: 9, text: '' },
    ]);
  });

  test('is refused where the text does not have it', () => {
    expect(() => placedNotes(texts, [{ upTo: 'Tom', text: '' }])).toThrow(/"Tom"/);
  });
});

/**
 * Making a recording (src/replay.ts) of what an engine has taken in: which questions are put to it, and the answers. The
 * page and `npm run record` ask the same.
 */
import {
  PalimpsestError,
  type Inquiry,
  type LayerLists,
  type MemoryApi,
} from '../workers/protocol.ts';
import { textOf } from './ink.ts';
import type { RecordedAnswer } from './replay.ts';

/** Moments of a text that get a memory matrix and the rows of what is read; longer texts get as many, evenly spread. */
const mostMoments = 256;
/** Texts up to this long get their recall at every token; beyond it at the moments alone, since it grows with the square. */
const mostRecalled = 1024;
/** Tokens between two looks at all memories in small. */
const thumbnailTokens = 8;

/** What is looked at: a KDA layer, one of its heads, and where the answer begins. */
export interface Aim {
  layer: number;
  head: number;
  promptTokens: number;
}

/** All inquiries of a recording of `tokens` tokens, those about one moment after another. */
export function inquiriesOf(lists: LayerLists, tokens: number, aim: Aim): Inquiry[] {
  const { layer, head } = aim;
  const last = tokens - 1;
  const stride = Math.ceil(tokens / mostMoments);
  const isMoment = (position: number) => position % stride === 0 || position === last;
  const mla = lists.mla.find((other) => other > layer) ?? lists.mla.at(-1);
  const inquiries: Inquiry[] = [{ kind: 'gates', layer, from: 0, to: tokens }];
  for (let position = 0; position < tokens; position++) {
    if (tokens <= mostRecalled || isMoment(position)) {
      inquiries.push({ kind: 'recall', layer, head, position });
      inquiries.push({ kind: 'recall', layer, head: 'median', position });
    }
    if (position % thumbnailTokens === 0 || position === last) {
      if (isMoment(position)) inquiries.push({ kind: 'thumbnails', position });
    }
    if (!isMoment(position)) continue;
    inquiries.push({ kind: 'reach', layer, head, position });
    if (mla !== undefined) inquiries.push({ kind: 'reach', layer: mla, head, position });
    inquiries.push({ kind: 'memory', layer, head, position });
    if (lists.moe.includes(layer)) inquiries.push({ kind: 'router', layer, position });
    if (position >= aim.promptTokens - 1) inquiries.push({ kind: 'lens', position });
  }
  for (const other of lists.kda) {
    if (other !== layer)
      inquiries.push({ kind: 'recall', layer: other, head: 'median', position: last });
  }
  return inquiries;
}

/**
 * The answers to `inquiries`, one after another; `report` is told how many there are. Fails: Refused when `stopped` comes
 * true, and as MemoryApi.inspect.
 */
export async function answersTo(
  ask: MemoryApi['inspect'],
  inquiries: readonly Inquiry[],
  report: (done: number, total: number) => void,
  stopped: () => boolean = () => false,
): Promise<RecordedAnswer[]> {
  const answers: RecordedAnswer[] = [];
  for (const inquiry of inquiries) {
    if (stopped()) {
      throw new PalimpsestError(
        'Refused',
        `Recording ended at ${answers.length} of ${inquiries.length} questions. Save again when nothing is being written.`,
      );
    }
    report(answers.length, inquiries.length);
    answers.push({ inquiry, answer: await ask(inquiry) } as RecordedAnswer);
  }
  report(answers.length, inquiries.length);
  return answers;
}

/** Something to be said once a text has come to the end of `upTo`; {words} in it are looked up in the text. */
export interface Note {
  upTo: string;
  text: string;
}

/**
 * Notes with their places: the token that ends `upTo`, the first one after the last note's, and for {words} the tokens of
 * the first place where they stand. Fails (Error) for words that the text does not have.
 */
export function placedNotes(texts: readonly string[], notes: readonly Note[]) {
  const all = texts.map(textOf).join('');
  const starts: number[] = [];
  texts.reduce((at, text) => (starts.push(at), at + textOf(text).length), 0);
  const tokenAt = (character: number) => starts.findLastIndex((start) => start <= character);
  let from = 0;
  return notes.map(({ upTo, text }) => {
    const end = placeOf(all, upTo, from) + upTo.length;
    from = end;
    const told = text.replaceAll(/\{([^}]+)\}/g, (_, words: string) => {
      const first = placeOf(all, words, 0);
      return `{${tokenAt(first)}-${tokenAt(first + words.length - 1)}}`;
    });
    return { position: tokenAt(end - 1), text: told };
  });
}

function placeOf(all: string, words: string, from: number): number {
  const at = all.indexOf(words, from);
  if (at < 0) throw new Error(`The text does not say "${words}" after its character ${from}.`);
  return at;
}

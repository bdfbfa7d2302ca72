/**
 * Raw completion: one sheet of text. The model writes on where the text ends; whatever is then edited is prompt.
 * Pure functions over the sheet.
 */
import type { Prompt, Stop } from '../workers/protocol.ts';
import type { Answered } from './conversation.ts';
import type { Told } from './speaker.ts';

/** One way in which the model went on. */
export interface Completion {
  text: string;
  answered: Answered | null;
  /** Ids that stand for the sheet up to this completion's end, so that going on does not tokenize anew; null where they do not. */
  ids: number[] | null;
}

export interface Paper {
  prompt: string;
  /** The prompt's own ids, where it is the exact text of an earlier prompt and completion. */
  ids: number[] | null;
  /** Ways in which the model went on from the prompt, in order of making. */
  completions: Completion[];
  /** Index of the completion on screen; -1 for none. */
  shown: number;
}

export const blankPaper: Paper = { prompt: '', ids: null, completions: [], shown: -1 };

export function shownCompletion(paper: Paper): Completion | null {
  return paper.completions[paper.shown] ?? null;
}

/** All text on screen. */
export function paperText(paper: Paper): string {
  return paper.prompt + (shownCompletion(paper)?.text ?? '');
}

/** The sheet after a person's edit: everything is prompt. The same text is no edit. */
export function editPaper(paper: Paper, text: string): Paper {
  return text === paperText(paper) ? paper : { ...blankPaper, prompt: text };
}

/** The sheet before the model writes on from its end: what is on screen becomes the prompt. */
export function settlePaper(paper: Paper): Paper {
  const completion = shownCompletion(paper);
  if (!completion) return { ...paper, completions: [], shown: -1 };
  return { ...blankPaper, prompt: paperText(paper), ids: completion.ids };
}

/** What the engine is asked to continue: ids where they are known, since tokenizing joined text may cut it elsewhere. */
export function promptOf(paper: Paper): Prompt {
  return paper.ids ? { kind: 'ids', ids: paper.ids } : { kind: 'raw', text: paper.prompt };
}

/** The sheet with one more completion, shown. */
export function addCompletion(paper: Paper, completion: Completion): Paper {
  const completions = [...paper.completions, completion];
  return { ...paper, completions, shown: completions.length - 1 };
}

/** The sheet with its completions off it: the prompt alone. */
export function withdrawCompletions(paper: Paper): Paper {
  return { ...paper, completions: [], shown: -1 };
}

/**
 * A completion from what the engine said. Its ids are kept where the text ends as they do: not after a stop text, which
 * is in the ids alone, and not after an end-of-turn token, past which the model has nothing to say.
 */
export function toCompletion(stop: Stop | Told, answered: Answered): Completion {
  if (!('ids' in stop)) return { text: stop.text, answered, ids: null };
  const exact = stop.reason === 'length' || stop.reason === 'stopped' || stop.reason === 'context';
  return { text: stop.text, answered, ids: exact ? [...stop.promptIds, ...stop.ids] : null };
}

/**
 * What of a session outlives a reload of its page: its words, as text to be stored. Pure.
 */
import {
  type Conversation,
  emptyConversation,
  removeTurn,
  setTurn,
  type TurnNode,
} from './conversation.ts';
import { blankPaper, type Paper } from './paper.ts';

export interface Account {
  /** By the address of its model. */
  model: string;
  conversation: Conversation;
  paper: Paper;
}

/** What an account is made of. `writing` is the answer under way, `phase` 'waiting' while it has not begun. */
interface Session extends Account {
  writing: {
    target: { kind: 'turn'; id: number } | { kind: 'paper' };
    phase: string;
    text: string;
    tokens: number;
    begunTokens: number;
  } | null;
}

/** All that is said, an answer under way as far as it is shown, if it has begun; `ids` are its tokens. */
export function accountOf(
  { model, conversation, paper, writing }: Session,
  ids: number[],
): Account {
  if (writing?.target.kind !== 'turn') return { model, conversation, paper };
  const { id } = writing.target;
  // As where it is stopped: whoever comes back finds the question, and may have it answered.
  if (writing.phase === 'waiting')
    return { model, conversation: removeTurn(conversation, id), paper };
  const shown = ids.slice(0, writing.begunTokens + writing.tokens);
  const turn = { role: 'assistant' as const, content: writing.text, ids: shown };
  const failure = {
    name: 'Interrupted' as const,
    message: 'The page was left while this was written.',
  };
  const origin = { kind: 'failed' as const, failure };
  return { model, conversation: setTurn(conversation, id, turn, origin), paper };
}

/** Grows when accounts change their meaning: one of another version is not read. */
const version = 1;

/** An account as text. */
export function writeAccount({ model, conversation, paper }: Account): string {
  const { nodes, shown, nextId } = conversation;
  return JSON.stringify({
    version,
    model,
    conversation: { nodes: [...nodes.values()], shown: [...shown], nextId },
    paper,
  });
}

/** An account from its text; null if it is none of this version, or contradicts itself. */
export function readAccount(text: string): Account | null {
  try {
    const stored = JSON.parse(text) as {
      version: number;
      model: string;
      conversation: { nodes: TurnNode[]; shown: [number | null, number][]; nextId: number };
      paper: Paper;
    };
    if (stored.version !== version || typeof stored.model !== 'string') return null;
    const { nodes, shown, nextId } = stored.conversation;
    const tree = new Map(nodes.map((node) => [node.id, node]));
    const whole =
      nodes.every(
        ({ id, parent, turn }) =>
          id < nextId &&
          typeof turn.content === 'string' &&
          (parent === null || (parent < id && tree.has(parent))),
      ) && shown.every(([, child]) => tree.has(child));
    if (!whole) return null;
    const conversation =
      nodes.length > 0 ? { nodes: tree, shown: new Map(shown), nextId } : emptyConversation;
    return { model: stored.model, conversation, paper: readPaper(stored.paper) };
  } catch {
    return null;
  }
}

function readPaper(paper: Paper): Paper {
  const whole = typeof paper.prompt === 'string' && Array.isArray(paper.completions);
  return whole && (paper.prompt !== '' || paper.completions.length > 0) ? paper : blankPaper;
}

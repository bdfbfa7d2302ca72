/**
 * A conversation as a tree of turns. Editing a turn or answering again overwrites nothing: it adds a sibling,
 * and at every fork the tree remembers which branch is shown. All functions are pure: they return another tree.
 */
import type { Sampling, Stop, Turn } from '../workers/protocol.ts';
import type { Failure } from './errors.ts';
import type { Elsewhere, Piece, Told } from './speaker.ts';

/** How an answer came about, in figures. Times in milliseconds. */
export interface Answered extends Omit<Stop, 'ids' | 'text' | 'promptIds' | 'memory'> {
  sampling: Sampling;
  tokens: number;
  promptTokens: number;
  /** Who answered, where it was not this page's engine on the GPU, and what it told of its tokens. */
  elsewhere?: { by: Elsewhere; pieces: Piece[] };
}

/** Who wrote a turn: a person (typed or edited it), or the model, in whatever state its answer is. */
export type Origin =
  | { kind: 'person' }
  | { kind: 'pending' }
  | { kind: 'answered'; answered: Answered }
  | { kind: 'failed'; failure: Failure };

export interface TurnNode {
  id: number;
  parent: number | null;
  turn: Turn;
  origin: Origin;
}

export interface Conversation {
  nodes: ReadonlyMap<number, TurnNode>;
  /** Parent (null: the beginning) to the child that is shown. */
  shown: ReadonlyMap<number | null, number>;
  nextId: number;
}

export const emptyConversation: Conversation = { nodes: new Map(), shown: new Map(), nextId: 1 };

/** The figures of an answer, without its texts. */
export function toAnswered(
  stop: Stop | Told,
  sampling: Sampling,
  by: Elsewhere | null = null,
): Answered {
  const { reason, reusedTokens, prefillMs, firstTokenMs, decodeMs, contextUsed } = stop;
  const figures = {
    reason,
    reusedTokens,
    prefillMs,
    firstTokenMs,
    decodeMs,
    contextUsed,
    sampling,
  };
  if ('ids' in stop) {
    return { ...figures, tokens: stop.ids.length, promptTokens: stop.promptIds.length };
  }
  const { tokens, promptTokens, pieces } = stop;
  return { ...figures, tokens, promptTokens, ...(by ? { elsewhere: { by, pieces } } : {}) };
}

/** Add a turn under `parent` and show it. The added node is the last of `nodes`. */
export function addTurn(
  tree: Conversation,
  parent: number | null,
  turn: Turn,
  origin: Origin,
): { tree: Conversation; id: number } {
  const id = tree.nextId;
  const nodes = new Map(tree.nodes).set(id, { id, parent, turn, origin });
  const shown = new Map(tree.shown).set(parent, id);
  return { tree: { nodes, shown, nextId: id + 1 }, id };
}

/** Give a turn another text and origin, in place: an answer that ended, or begins again after it failed. */
export function setTurn(tree: Conversation, id: number, turn: Turn, origin: Origin): Conversation {
  const node = nodeOf(tree, id);
  return { ...tree, nodes: new Map(tree.nodes).set(id, { ...node, turn, origin }) };
}

/** Take a turn without children out; a sibling is shown in its place, if there is one. */
export function removeTurn(tree: Conversation, id: number): Conversation {
  const { parent } = nodeOf(tree, id);
  const beside = siblings(tree, id).filter((other) => other !== id);
  const nodes = new Map(tree.nodes);
  nodes.delete(id);
  const shown = new Map(tree.shown);
  const last = beside.at(-1);
  if (last === undefined) shown.delete(parent);
  else shown.set(parent, last);
  return { ...tree, nodes, shown };
}

/** Show the branch that `id` is on, down to it. */
export function showTurn(tree: Conversation, id: number): Conversation {
  const shown = new Map(tree.shown);
  for (let node = tree.nodes.get(id); node; node = parentOf(tree, node)) {
    shown.set(node.parent, node.id);
  }
  return { ...tree, shown };
}

/** The turns on screen, from the first to the last. */
export function shownPath(tree: Conversation): TurnNode[] {
  const path: TurnNode[] = [];
  let at = tree.shown.get(null);
  while (at !== undefined) {
    path.push(nodeOf(tree, at));
    at = tree.shown.get(at);
  }
  return path;
}

/** All children of this turn's parent, itself included, in order of making. */
export function siblings(tree: Conversation, id: number): number[] {
  const { parent } = nodeOf(tree, id);
  return [...tree.nodes.values()].filter((node) => node.parent === parent).map((node) => node.id);
}

/** What the model is asked to answer with turn `id`: all turns above it. An answer that failed before its first word is no turn. */
export function turnsBefore(tree: Conversation, id: number): Turn[] {
  const turns: Turn[] = [];
  let node = parentOf(tree, nodeOf(tree, id));
  for (; node; node = parentOf(tree, node)) {
    if (node.origin.kind !== 'failed' || node.turn.content !== '') turns.unshift(node.turn);
  }
  return turns;
}

function nodeOf(tree: Conversation, id: number): TurnNode {
  const node = tree.nodes.get(id);
  if (!node) throw new Error(`No turn ${id} in this conversation of ${tree.nodes.size} turns.`);
  return node;
}

function parentOf(tree: Conversation, node: TurnNode): TurnNode | undefined {
  return node.parent === null ? undefined : tree.nodes.get(node.parent);
}

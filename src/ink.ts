/**
 * Which tokens stand for which turn: the records of an engine are one row of tokens, control tokens included, and the page
 * shows turns. Pure functions over texts and positions.
 */

/** A token as it stands in a text. */
export interface InkToken {
  position: number;
  text: string;
}

/** What a token's text stands for in bytes: control characters come as pictures (␊), parts of characters as ⟨E4 BD⟩. */
export function bytesOf(piece: string): Uint8Array {
  const part = /^⟨([0-9A-F]{2}(?: [0-9A-F]{2})*)⟩$/.exec(piece)?.[1];
  if (part) return Uint8Array.from(part.split(' '), (byte) => parseInt(byte, 16));
  return encoder.encode(textOf(piece));
}

/** A token's text as it is read, with real line ends. */
export function textOf(piece: string): string {
  return piece.replaceAll(/[\u2400-\u241f]/g, (picture) =>
    String.fromCharCode(picture.charCodeAt(0) - 0x2400),
  );
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * The tokens of each text, found in order in the row of all tokens: null for a text that is not there from its first
 * character to its last. A token that only begins or ends in a text belongs to it. Bytes of a character that is spread
 * over tokens go to the last of them.
 */
export function tokensOfTexts(
  pieces: readonly string[],
  texts: readonly string[],
): (InkToken[] | null)[] {
  const bytes = pieces.map(bytesOf);
  const starts: number[] = [];
  let total = 0;
  for (const piece of bytes) {
    starts.push(total);
    total += piece.length;
  }
  const all = new Uint8Array(total);
  bytes.forEach((piece, position) => all.set(piece, starts[position]));

  let from = 0;
  return texts.map((text) => {
    const wanted = encoder.encode(text.trim());
    const at = wanted.length > 0 ? find(all, wanted, from) : -1;
    if (at < 0) return null;
    from = at + wanted.length;
    return cut(all, starts, at, from);
  });
}

/** The tokens from `first` on, at most `count`, as a text: an answer whose place is known. */
export function tokensFrom(pieces: readonly string[], first: number, count: number): InkToken[] {
  const bytes = pieces.slice(first, first + count).map(bytesOf);
  const starts: number[] = [];
  let total = 0;
  for (const piece of bytes) {
    starts.push(total);
    total += piece.length;
  }
  const all = new Uint8Array(total);
  bytes.forEach((piece, at) => all.set(piece, starts[at]));
  const tokens = cut(all, starts, 0, total);
  return tokens.map((token) => ({ ...token, position: token.position + first }));
}

function find(all: Uint8Array, wanted: Uint8Array, from: number): number {
  outer: for (let at = from; at + wanted.length <= all.length; at++) {
    for (let i = 0; i < wanted.length; i++) if (all[at + i] !== wanted[i]) continue outer;
    return at;
  }
  return -1;
}

function cut(all: Uint8Array, starts: number[], from: number, to: number): InkToken[] {
  const tokens: InkToken[] = [];
  let pending = from;
  starts.forEach((start, position) => {
    const end = starts[position + 1] ?? all.length;
    if (end <= from || start >= to || end === start) return;
    const until = Math.min(end, to);
    // Inside a character: its bytes wait for the token that ends it.
    const whole = until === to || (all[until]! & 0xc0) !== 0x80;
    tokens.push({ position, text: whole ? decoder.decode(all.subarray(pending, until)) : '' });
    if (whole) pending = until;
  });
  return tokens;
}

/** A turn as the page has it, as far as finding its tokens needs. */
export interface InkTurn {
  id: number;
  text: string;
  /** Position of its first token, where it is known: an answer's. */
  first: number | null;
  /** How many tokens it has, where that is known. */
  count: number | null;
  /** It is being written: its last tokens may not be in memory yet. */
  grows: boolean;
}

/**
 * The tokens of each turn, by the turn's id. An answer's are taken from its place, as far as their text is the turn's; a
 * turn that is not in the row of tokens as it stands has none.
 */
export function inkOfTurns(
  pieces: readonly string[],
  turns: readonly InkTurn[],
): Map<number, InkToken[]> {
  const inked = new Map<number, InkToken[]>();
  const found = tokensOfTexts(
    pieces,
    turns.map(({ text }) => text),
  );
  turns.forEach(({ id, text, first, count, grows }, index) => {
    let tokens = found[index] ?? null;
    if (first !== null) {
      const placed = tokensFrom(pieces, first, count ?? pieces.length);
      while (placed.length > 0 && !text.startsWith(joinedText(placed))) placed.pop();
      // The last tokens of an answer have been said before they are told of; of one that was cut short one is not taken in.
      const latest = count !== null && first + placed.length === pieces.length;
      const whole = grows || latest || joinedText(placed).trim() === text.trim();
      if (placed.length > 0 && whole) tokens = placed;
    }
    if (tokens && tokens.length > 0) inked.set(id, tokens);
  });
  return inked;
}

/** The tokens of each turn of a recording, by its place. Only where the answer begins is known for certain. */
export function inkOfRecording(recording: {
  records: readonly { text: string }[];
  turns: readonly { role: string; content: string }[];
  promptTokens: number;
}): Map<number, InkToken[]> {
  const { records, turns, promptTokens } = recording;
  return inkOfTurns(
    records.map((record) => record.text),
    turns.map(({ role, content }, id) => {
      const answers = role === 'assistant' && id === turns.length - 1;
      return { id, text: content, first: answers ? promptTokens : null, count: null, grows: false };
    }),
  );
}

export const joinedText = (tokens: readonly InkToken[]): string =>
  tokens.map(({ text }) => text).join('');

/**
 * A conversation's state as bytes, to be taken up by any engine with the same model: the recurrent memories and cache rows
 * as words, behind a header of JSON that says what they are. Whoever reads them trusts nothing.
 *
 *   8 bytes "PLMPSEST"   u32 version   u32 bytes of the header   header   padding to 4   recurrent words   rows, block by block
 */
import { presentLine } from './branches.ts';
import type { Fit } from './bookmark.ts';
import type { Kept, Standing } from './keep.ts';
import type { Piece } from './path.ts';
import { PalimpsestError } from './protocol.ts';
import type { RowBlock } from './state.ts';

const MAGIC = 'PLMPSEST';
const VERSION = 1;
const FIXED_BYTES = 16;
/** A header of so many bytes holds some 100,000 tokens. */
const MOST_HEADER_BYTES = 2e6;
/** The most that is written; of a longer conversation the tokens alone are of use. */
export const STATE_FILE_BYTES = 64e6;

/** What a state says of itself. */
interface Header {
  /** Of the model's files, by their hashes: see `modelIdentity`. */
  model: string;
  rowWords: number;
  recurrentWords: number;
  caches: number;
  /** Tokens that the words have in them, and those said after. */
  history: number[];
  said: number[];
  path: Piece[];
}

/** A state, read and found sound. */
export interface StateFile {
  history: number[];
  said: number[];
  path: Piece[];
  kept: Kept;
}

/**
 * The present line of a standing conversation as bytes; null where none can stand for it: nothing was said, it is too long,
 * interventions changed it, or the model's files have no hashes to know it by.
 */
export function writeState({ outline, kept }: Standing, fit: Fit): ArrayBuffer | null {
  const line = presentLine(outline);
  if (!kept || fit.model === '' || line.interventions.length > 0) return null;
  const at = kept.position;
  const header: Header = {
    model: fit.model,
    rowWords: fit.rowWords,
    recurrentWords: fit.recurrentWords,
    caches: fit.caches,
    history: line.history.slice(0, at),
    said: [...line.history.slice(at), ...line.said],
    path: pathUpTo(line.path, at),
  };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const rows = kept.blocks.flatMap(({ layers }) => layers);
  const start = wordStart(text.length);
  const words = [kept.recurrent, ...rows];
  const bytes = start + words.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (bytes > STATE_FILE_BYTES || text.length > MOST_HEADER_BYTES) return null;
  const file = new Uint8Array(bytes);
  file.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(file.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, text.length, true);
  file.set(text, FIXED_BYTES);
  // Caches in turn, each from its first row to its last: so blocks need not be told.
  let offset = start;
  const put = (part: Uint32Array) => {
    file.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), offset);
    offset += part.byteLength;
  };
  put(kept.recurrent);
  for (let cache = 0; cache < fit.caches; cache++) {
    for (const { layers } of kept.blocks) put(layers[cache]!);
  }
  return file.buffer;
}

/**
 * A state from its bytes, for an engine that must have what `fit` says. Fails: Refused for bytes that are no state, or of
 * another model; Unsupported for one of a device that keeps numbers otherwise, or longer than there is room for.
 */
export function readState(file: ArrayBuffer, fit: Fit): StateFile {
  const { header, start } = readHeader(file);
  const { history, said, path, rowWords, recurrentWords, caches } = header;
  if (fit.model === '' || header.model !== fit.model) {
    throw refused('it is of another model than the one that is loaded, or another version of it');
  }
  if (rowWords !== fit.rowWords || recurrentWords !== fit.recurrentWords || caches !== fit.caches) {
    throw unsupported('it is of a device that keeps numbers otherwise');
  }
  const tokens = history.length + said.length;
  if (tokens > fit.contextLimit) {
    throw unsupported(`it has ${tokens} tokens, and here is room for ${fit.contextLimit}`);
  }
  if ([...history, ...said].some((id) => id >= fit.vocabulary)) {
    throw refused(`it has tokens beyond the vocabulary of ${fit.vocabulary}`);
  }
  const cacheWords = history.length * rowWords;
  const words = recurrentWords + caches * cacheWords;
  if (file.byteLength !== start + 4 * words) {
    throw refused(`it has ${file.byteLength} bytes instead of ${start + 4 * words}`);
  }
  const recurrent = new Uint32Array(file.slice(start, start + 4 * recurrentWords));
  if (!new Float32Array(recurrent.buffer).every(Number.isFinite)) {
    throw refused('not all of its numbers are numbers');
  }
  const from = start + 4 * recurrentWords;
  const layers = Array.from({ length: caches }, (_, cache) => {
    const at = from + 4 * cache * cacheWords;
    return new Uint32Array(file.slice(at, at + 4 * cacheWords));
  });
  const block: RowBlock = { first: 0, end: history.length, layers };
  return {
    history,
    said,
    path,
    kept: { position: history.length, rowWords, recurrent, blocks: [block] },
  };
}

function readHeader(file: ArrayBuffer): { header: Header; start: number } {
  if (!(file instanceof ArrayBuffer) || file.byteLength < FIXED_BYTES)
    throw refused('it is too short');
  if (file.byteLength > STATE_FILE_BYTES) {
    throw refused(`it has ${file.byteLength} bytes, and at most ${STATE_FILE_BYTES} are read`);
  }
  const view = new DataView(file);
  const magic = String.fromCharCode(...new Uint8Array(file, 0, MAGIC.length));
  if (magic !== MAGIC) throw refused('it does not begin as one');
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw refused(`it is of version ${version}, and ${VERSION} is read`);
  const bytes = view.getUint32(12, true);
  if (bytes > MOST_HEADER_BYTES || FIXED_BYTES + bytes > file.byteLength) {
    throw refused('its header is longer than it may be');
  }
  let header: unknown;
  try {
    const text = new Uint8Array(file, FIXED_BYTES, bytes);
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text));
  } catch {
    throw refused('its header is no JSON');
  }
  if (!isHeader(header)) throw refused('its header contradicts itself');
  return { header, start: wordStart(bytes) };
}

function isHeader(value: unknown): value is Header {
  if (typeof value !== 'object' || value === null) return false;
  const { model, rowWords, recurrentWords, caches, history, said, path } = value as Header;
  const ids = (list: unknown) => Array.isArray(list) && list.every(isCount);
  if (typeof model !== 'string' || ![rowWords, recurrentWords, caches].every(isCount)) return false;
  if (!ids(history) || !ids(said) || history.length === 0 || !Array.isArray(path)) return false;
  let end = 0;
  for (const piece of path as (Piece | null)[]) {
    if (piece?.position !== end || !isCount(piece.tokens) || piece.tokens === 0) return false;
    if (piece.route !== 'chunk' && piece.route !== 'step') return false;
    end += piece.tokens;
  }
  return end === history.length;
}

const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32;

/** Where the words begin after a header of so many bytes. */
const wordStart = (headerBytes: number) => FIXED_BYTES + 4 * Math.ceil(headerBytes / 4);

function pathUpTo(path: readonly Readonly<Piece>[], end: number): Piece[] {
  return path
    .filter(({ position }) => position < end)
    .map((piece) => ({ ...piece, tokens: Math.min(piece.tokens, end - piece.position) }));
}

function refused(why: string): PalimpsestError {
  return new PalimpsestError('Refused', `This is no state to take up: ${why}.`);
}

function unsupported(why: string): PalimpsestError {
  return new PalimpsestError('Unsupported', `This state cannot be taken up here: ${why}.`);
}

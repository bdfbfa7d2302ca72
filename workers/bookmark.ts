/**
 * Where a conversation stood when its page was left: one record in IndexedDB, with the page's own account of it and the
 * engine's state. It outlives a reload and is for one model alone.
 */
import { presentLine } from './branches.ts';
import type { Standing } from './keep.ts';
import type { Shelf } from './store.ts';

/** Grows when what is stored changes its meaning: records of another version are not read. */
const VERSION = 1;

/** The most bytes of state that are stored; of a longer conversation the words stay. */
const STATE_BYTES = 64e6;

const KEY = ['conversation'];

/** What an engine must have in common with the one whose state is stored. */
export interface Fit {
  /** The model: its address, and the size and hash of each of its files. */
  model: string;
  vocabulary: number;
  contextLimit: number;
  /** See State. */
  rowWords: number;
  recurrentWords: number;
  caches: number;
}

interface Record {
  version: number;
  /** As the page gave it. */
  account: string;
  /** null where there is none to go on from. */
  state: (Standing & { model: string }) | null;
}

export class Bookmark {
  readonly #open: () => Promise<Shelf>;
  #shelf: Promise<Shelf> | null = null;

  /** `open` is called when the record is first needed. */
  constructor(open: () => Promise<Shelf>) {
    this.#open = open;
  }

  /** The page's account as it was stored last; null where there is none that can be read, or nothing can be stored here. */
  async account(): Promise<string | null> {
    return (await this.#record().catch(() => null))?.account ?? null;
  }

  /**
   * Store the page's account, and with it a state in place of the one that is stored. Without one that is left as it is.
   * Answers why the state is not stored, or ''. Fails: QuotaExceeded, and as the browser does where it stores nothing.
   */
  async store(account: string, state: (Standing & { model: string }) | null): Promise<string> {
    const bytes = state ? stateBytes(state) : 0;
    const note =
      bytes > STATE_BYTES
        ? `The memory of this conversation takes ${Math.round(bytes / 1e6)} MB and at most ${STATE_BYTES / 1e6} MB are stored: after a reload its text is read again.`
        : '';
    const shelf = await this.#opened();
    await shelf.transact('readwrite', async (on) => {
      const earlier = state ? null : readable(await on.get(KEY))?.state;
      const stored: Record = { version: VERSION, account, state: earlier ?? null };
      if (state && note === '') stored.state = state;
      on.put(KEY, stored);
    });
    return note;
  }

  /** The stored state, if it is of this model and whole; otherwise why it is not taken up, '' where none is stored. */
  async state(fit: Fit): Promise<Standing | string> {
    const record = await this.#record().catch(() => null);
    if (!record?.state) return '';
    return misfit(record.state, fit) || record.state;
  }

  /** Nothing is stored any more. */
  async remove(): Promise<void> {
    const shelf = await this.#opened();
    await shelf.transact('readwrite', async (on) => on.delete(KEY));
  }

  async #record(): Promise<Record | null> {
    const shelf = await this.#opened();
    return readable(await shelf.transact('readonly', (on) => on.get(KEY)));
  }

  #opened(): Promise<Shelf> {
    return (this.#shelf ??= this.#open());
  }
}

function readable(value: unknown): Record | null {
  const record = value as Record | undefined;
  return record?.version === VERSION ? record : null;
}

/** Bytes of what is large in a state. */
export function stateBytes({ outline, kept }: Standing): number {
  const taken = outline.lines.flatMap((line) => [...line.taken.values()]);
  const rows = kept ? kept.blocks.flatMap(({ layers }) => layers) : [];
  const arrays = [...taken, ...rows, ...(kept ? [kept.recurrent] : [])];
  return arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** Why a stored state cannot be taken up by an engine, for the reader; '' if it can. */
function misfit({ model, outline, kept }: Standing & { model: string }, fit: Fit): string {
  const again = 'Its text is read again with your next message.';
  if (model !== fit.model)
    return `The stored memory is of another model or version of it. ${again}`;
  const tokens = Math.max(...outline.lines.map(({ history }) => history.length));
  if (tokens > fit.contextLimit) {
    return `The stored memory has ${tokens} tokens and this device has room for ${fit.contextLimit}. ${again}`;
  }
  const damaged = `The stored memory is damaged. ${again}`;
  const line = presentLine(outline);
  if (!line || !outline.lines.every(isWhole)) return damaged;
  const { history } = line;
  if (!kept) return `No memory of this conversation was stored. ${again}`;
  if (kept.rowWords !== fit.rowWords || kept.recurrent.length !== fit.recurrentWords) {
    return `The stored memory is of a device that keeps numbers otherwise. ${again}`;
  }
  let end = 0;
  for (const block of kept.blocks) {
    const words = (block.end - block.first) * kept.rowWords;
    const right = block.layers.length === fit.caches && block.first === end;
    if (!right || block.layers.some(({ length }) => length !== words)) return damaged;
    end = block.end;
  }
  const covers = fit.caches === 0 || end === kept.position;
  return covers && kept.position <= history.length ? '' : damaged;

  function isWhole({ history, said, path }: Standing['outline']['lines'][number]): boolean {
    const known = [...history, ...said].every((id) => Number.isInteger(id) && id < fit.vocabulary);
    return known && path.reduce((at, { tokens }) => at + tokens, 0) === history.length;
  }
}

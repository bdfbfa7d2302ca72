/**
 * The lines of a conversation: each knows its tokens, how they were taken in, and the states to go back to. One line is
 * present: its state is on the GPU, in place. What the others need to become present is put aside.
 */
import type { Gpu } from './gpu.ts';
import type { Changes, Taken } from './interventions.ts';
import { Path, type Piece } from './path.ts';
import { type Branch, type Intervention, PalimpsestError } from './protocol.ts';
import type { Rows, Snapshot, State } from './state.ts';

/** A branch without anything of a GPU: enough to make it anew on another device. */
export interface LineOutline {
  readonly id: number;
  readonly parent: number | null;
  readonly forkedAt: number;
  readonly interventions: readonly Intervention[];
  /** What its interventions took from other tokens and branches, see `Changes`. */
  readonly taken: Taken;
  readonly history: readonly number[];
  readonly said: readonly number[];
  readonly path: readonly Readonly<Piece>[];
  /** Ends of prompts: where a conversation may go on from. */
  readonly marks: readonly number[];
}

/** All branches of a conversation, without anything of a GPU. */
export interface Outline {
  readonly present: number;
  readonly lines: readonly LineOutline[];
}

/** One branch as the engine holds it. */
export interface Line {
  readonly id: number;
  readonly parent: number | null;
  readonly forkedAt: number;
  readonly interventions: readonly Intervention[];
  readonly taken: Taken;
  changes: Changes | null;
  /** Ids the state has taken in, in order. */
  readonly history: number[];
  /** Ids after them that are said and not yet taken in. */
  said: number[];
  path: Path;
  /** States at ends of prompts, oldest first: where a conversation may go on from. */
  checkpoints: Snapshot[];
  /** Ends of prompts whose states went with their device: a replay brings them back. */
  marks: number[];
  /** States in between, oldest first, kept by a recording: where a replay may begin. */
  snapshots: Snapshot[];
  /** What this line needs to become present; null while it is, and once that went with its device. */
  aside: { end: Snapshot; rows: Rows } | null;
}

type Begun = Pick<Line, 'parent' | 'forkedAt' | 'interventions' | 'taken' | 'changes'>;

const fresh: Begun = {
  parent: null,
  forkedAt: 0,
  interventions: [],
  taken: new Map(),
  changes: null,
};

/** All lines, and which is present. */
export class Branches {
  readonly #gpu: Gpu;
  readonly #state: State;
  #lines: Line[] = [];
  #present: Line;
  #made = 0;

  constructor(gpu: Gpu, state: State) {
    this.#gpu = gpu;
    this.#state = state;
    this.#present = this.#add(fresh);
  }

  get present(): Line {
    return this.#present;
  }

  /** All lines as the page knows them. */
  list(): Branch[] {
    return this.#lines.map(asBranch);
  }

  /** Fails: Refused. */
  line(id: number): Line {
    const line = this.#lines.find((l) => l.id === id);
    if (line) return line;
    const ids = this.#lines.map((l) => l.id).join(', ');
    throw new PalimpsestError('Refused', `There is no branch ${id}; there are ${ids}.`);
  }

  /** Bytes of what lines hold on the GPU: states to go back to and what is put aside, shared ones once. */
  get bytes(): number {
    const kept = new Set(this.#lines.flatMap((l) => [...l.checkpoints, ...l.snapshots]));
    const aside = this.#lines.flatMap((l) => (l.aside ? [l.aside.end, l.aside.rows] : []));
    return [...kept, ...aside].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * A line that shares the present one's first `position` tokens and goes on with `next`; it becomes present. The state
   * stays where it is: bring it to `position` afterwards. States to go back to later than `unchanged` are not shared.
   */
  async fork(
    position: number,
    next: number,
    unchanged: number,
    interventions: readonly Intervention[],
    taken: Taken,
    changes: Changes | null,
  ): Promise<Line> {
    const parent = this.#present;
    await this.#putAside(parent);
    const begun = { parent: parent.id, forkedAt: position, interventions, taken, changes };
    const line = this.#add(begun);
    line.history.push(...parent.history.slice(0, position));
    line.said = [next];
    line.path = parent.path.copy();
    line.path.cut(position);
    line.checkpoints = parent.checkpoints.filter((s) => s.position <= unchanged);
    line.snapshots = parent.snapshots.filter((s) => s.position <= unchanged);
    line.marks = parent.marks.filter((position) => position <= unchanged);
    this.#present = line;
    return line;
  }

  /** An empty line beside the others; it becomes present, with an empty state. */
  async begin(): Promise<Line> {
    await this.#putAside(this.#present);
    this.#state.clear();
    return (this.#present = this.#add(fresh));
  }

  /** Forget lines, with all that only they hold. Fails: Refused for the present one. */
  drop(ids: readonly number[]): void {
    if (ids.includes(this.#present.id)) {
      throw new PalimpsestError(
        'Refused',
        `Branch ${this.#present.id} is the present one. Select or begin another one first.`,
      );
    }
    const dropped = ids.map((id) => this.line(id));
    this.#lines = this.#lines.filter((line) => !dropped.includes(line));
    for (const line of dropped) {
      for (const kept of new Set([...line.checkpoints, ...line.snapshots])) this.#release(kept);
      this.#free(line);
      if (!this.#lines.some(({ changes }) => changes === line.changes)) line.changes?.destroy();
      line.changes = null;
    }
  }

  /** Make a line present: its state comes in place, or is empty if it went with its device. */
  async select(line: Line): Promise<void> {
    if (line === this.#present) return;
    await this.#putAside(this.#present);
    if (line.aside) {
      const { end, rows } = line.aside;
      this.#state.putRows(rows);
      this.#state.restore(end);
      this.#state.drop(end);
      this.#state.drop(rows);
    } else this.#state.clear();
    line.aside = null;
    this.#present = line;
  }

  /** All that is known of the lines without the GPU, as it is at this moment. */
  outline(): Outline {
    const lines = this.#lines.map((line): LineOutline => {
      const { id, parent, forkedAt, interventions, taken, history, said } = line;
      const path = line.path.copy();
      path.cut(history.length); // of what was taken in last the id may not be known
      const ends = [...line.marks, ...line.checkpoints.map((c) => c.position)];
      return {
        ...{ id, parent, forkedAt, interventions, taken },
        history: [...history],
        said: [...said],
        path: path.pieces,
        marks: [...new Set(ends)].sort((a, b) => a - b),
      };
    });
    return { present: this.#present.id, lines };
  }

  /** Take up lines in place of the fresh one there is. None of their states is there yet. */
  resume(outline: Outline, changesOf: (line: LineOutline) => Changes | null): void {
    this.#lines = outline.lines.map((line) => ({
      ...line,
      changes: changesOf(line),
      history: [...line.history],
      said: [...line.said],
      path: Path.of(line.path),
      marks: [...line.marks],
      checkpoints: [],
      snapshots: [],
      aside: null,
    }));
    this.#made = 1 + Math.max(...outline.lines.map(({ id }) => id));
    this.#present = this.line(outline.present);
  }

  /** Forget all lines but a fresh one. The state must be cleared by the caller. */
  clear(): void {
    for (const line of this.#lines) {
      for (const snapshot of new Set([...line.checkpoints, ...line.snapshots]))
        this.#state.drop(snapshot);
      this.#free(line);
    }
    for (const changes of new Set(this.#lines.map((l) => l.changes))) changes?.destroy();
    this.#lines = [];
    this.#made = 0;
    this.#present = this.#add(fresh);
  }

  /** The present line goes back to its first `position` tokens. */
  cut(position: number): void {
    const line = this.#present;
    line.history.length = Math.min(line.history.length, position);
    line.said = [];
    line.path.cut(position);
    line.marks = line.marks.filter((mark) => mark <= position);
    for (const kept of ['checkpoints', 'snapshots'] as const) {
      while (line[kept].length > 0 && line[kept].at(-1)!.position > position) {
        this.#release(line[kept].pop()!);
      }
    }
  }

  /** Take a snapshot off the present line; it is freed unless another line holds it. */
  dropSnapshot(snapshot: Snapshot): void {
    const line = this.#present;
    line.snapshots = line.snapshots.filter((s) => s !== snapshot);
    this.#release(snapshot);
  }

  /** Likewise a checkpoint. */
  dropCheckpoint(snapshot: Snapshot): void {
    const line = this.#present;
    line.checkpoints = line.checkpoints.filter((s) => s !== snapshot);
    this.#release(snapshot);
  }

  /** Free the snapshots of a recording that ended, of all lines. */
  dropSnapshots(): void {
    const all = new Set(this.#lines.flatMap((l) => l.snapshots));
    for (const line of this.#lines) line.snapshots = [];
    for (const snapshot of all) this.#release(snapshot);
  }

  /** Free what a line has put aside. */
  #free({ aside }: Line): void {
    if (!aside) return;
    this.#state.drop(aside.end);
    this.#state.drop(aside.rows);
  }

  #release(snapshot: Snapshot): void {
    const held = this.#lines.some(
      (l) => l.checkpoints.includes(snapshot) || l.snapshots.includes(snapshot),
    );
    if (!held) this.#state.drop(snapshot);
  }

  #add(line: Begun): Line {
    const empty = { said: [], path: new Path(), checkpoints: [], marks: [], snapshots: [] };
    const added: Line = { id: this.#made++, history: [], ...line, ...empty, aside: null };
    this.#lines.push(added);
    return added;
  }

  async #putAside(line: Line): Promise<void> {
    line.aside = await this.#gpu.guard(`branch ${line.id}, put aside`, () => ({
      end: this.#state.snapshot(),
      rows: this.#state.keepRows(0, this.#state.position),
    }));
  }
}

/** A line as the page knows it. */
export function asBranch({ id, parent, forkedAt, history, said, interventions }: Line): Branch {
  return { id, parent, forkedAt, ids: [...history, ...said], interventions: [...interventions] };
}

/** An outline whose present line has its first `tokens` tokens at most. */
export function cutOutline(outline: Outline, tokens: number): Outline {
  const lines = outline.lines.map((line) => {
    if (line.id !== outline.present) return line;
    const path = Path.of(line.path);
    path.cut(tokens);
    const marks = line.marks.filter((mark) => mark <= tokens);
    return { ...line, history: line.history.slice(0, tokens), path: path.pieces, marks };
  });
  return { ...outline, lines };
}

/** An outline of some of its lines, the present one among them. */
export function outlineOf({ present, lines }: Outline, ids: readonly number[]): Outline {
  const wanted = lines.filter(({ id }) => id === present || ids.includes(id));
  const known = new Set(wanted.map(({ id }) => id));
  return {
    present,
    lines: wanted.map((line) =>
      line.parent === null || known.has(line.parent) ? line : { ...line, parent: null },
    ),
  };
}

/** The line that is present. */
export function presentLine({ present, lines }: Outline): LineOutline {
  return lines.find(({ id }) => id === present)!;
}

/** How many tokens two lines have in common, taken in under the same interventions. */
export function sharedTokens(a: Line, b: Line): number {
  const same = a.interventions.findIndex((intervention, i) => intervention !== b.interventions[i]);
  const common = same < 0 ? a.interventions.length : same;
  const own = [...a.interventions.slice(common), ...b.interventions.slice(common)];
  const most = Math.min(a.history.length, b.history.length, ...own.map(({ from }) => from));
  for (let i = 0; i < most; i++) if (a.history[i] !== b.history[i]) return i;
  return most;
}

/**
 * The lines of a conversation: each knows its tokens, how they were taken in, and the states to go back to. One line is
 * present: its state is on the GPU, in place. What the others need to become present is put aside.
 */
import type { Gpu } from './gpu.ts';
import type { Changes } from './interventions.ts';
import { Path } from './path.ts';
import { type Branch, type Intervention, PalimpsestError } from './protocol.ts';
import type { Rows, Snapshot, State } from './state.ts';

/** One branch as the engine holds it. */
export interface Line {
  readonly id: number;
  readonly parent: number | null;
  readonly forkedAt: number;
  readonly interventions: readonly Intervention[];
  readonly changes: Changes | null;
  /** Ids the state has taken in, in order. */
  readonly history: number[];
  /** Ids after them that are said and not yet taken in. */
  said: number[];
  path: Path;
  /** States at ends of prompts, oldest first: where a conversation may go on from. */
  checkpoints: Snapshot[];
  /** States in between, oldest first, kept by a recording: where a replay may begin. */
  snapshots: Snapshot[];
  /** What this line needs to become present; null while it is. */
  aside: { end: Snapshot; rows: Rows } | null;
}

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
    this.#present = this.#add({ parent: null, forkedAt: 0, interventions: [], changes: null });
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
    changes: Changes | null,
  ): Promise<Line> {
    const parent = this.#present;
    await this.#putAside(parent);
    const line = this.#add({ parent: parent.id, forkedAt: position, interventions, changes });
    line.history.push(...parent.history.slice(0, position));
    line.said = [next];
    line.path = parent.path.copy();
    line.path.cut(position);
    line.checkpoints = parent.checkpoints.filter((s) => s.position <= unchanged);
    line.snapshots = parent.snapshots.filter((s) => s.position <= unchanged);
    this.#present = line;
    return line;
  }

  /** Make a line present: its state comes in place. */
  async select(line: Line): Promise<void> {
    if (line === this.#present) return;
    await this.#putAside(this.#present);
    const { end, rows } = line.aside!;
    this.#state.putRows(rows);
    this.#state.restore(end);
    this.#state.drop(end);
    this.#state.drop(rows);
    line.aside = null;
    this.#present = line;
  }

  /** Forget all lines but a fresh one. The state must be cleared by the caller. */
  clear(): void {
    for (const line of this.#lines) {
      for (const snapshot of new Set([...line.checkpoints, ...line.snapshots]))
        this.#state.drop(snapshot);
      if (line.aside) {
        this.#state.drop(line.aside.end);
        this.#state.drop(line.aside.rows);
      }
    }
    for (const changes of new Set(this.#lines.map((l) => l.changes))) changes?.destroy();
    this.#lines = [];
    this.#made = 0;
    this.#present = this.#add({ parent: null, forkedAt: 0, interventions: [], changes: null });
  }

  /** The present line goes back to its first `position` tokens. */
  cut(position: number): void {
    const line = this.#present;
    line.history.length = Math.min(line.history.length, position);
    line.said = [];
    line.path.cut(position);
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

  #release(snapshot: Snapshot): void {
    const held = this.#lines.some(
      (l) => l.checkpoints.includes(snapshot) || l.snapshots.includes(snapshot),
    );
    if (!held) this.#state.drop(snapshot);
  }

  #add(line: Pick<Line, 'parent' | 'forkedAt' | 'interventions' | 'changes'>): Line {
    const empty = { said: [], path: new Path(), checkpoints: [], snapshots: [], aside: null };
    const added: Line = { id: this.#made++, history: [], ...line, ...empty };
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

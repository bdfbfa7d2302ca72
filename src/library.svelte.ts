/**
 * The models of this browser and this computer, as reactive state: what is stored, how much room there is, what is being
 * fetched, and what a person brought. Every way to change them is a method here; none of them throws, a failure becomes
 * part of the state.
 */
import {
  PalimpsestError,
  type CheckpointOffer,
  type CheckpointPlace,
  type GgufChoice,
  type HubRepository,
  type Manifest,
  type Room,
  type StoredModel,
  type WeightsStatus,
} from '../workers/protocol.ts';
import type { Weights } from './client.ts';
import { toFailure, type Failure } from './errors.ts';
import { formatCount } from './format.ts';
import { readAddress } from './model/address.ts';
import type { Folder } from './model/folder.ts';
import { saveModel, type Destination } from './model/save.ts';

/** What is being done to a model besides fetching it, or how that ended. */
export type Work =
  | { kind: 'verifying' | 'exporting' | 'copying'; doneBytes: number; totalBytes: number }
  | { kind: 'done'; text: string }
  | { kind: 'failed'; failure: Failure };

/** What is known of a model that was looked at. */
export interface Known {
  manifest: Manifest | null;
  status: WeightsStatus | null;
  failure: Failure | null;
}

/** A model that a person brought into this tab. `files` are read in place; null for an address. */
export interface Brought {
  model: string;
  name: string;
  files: File[] | null;
}

const nothingKnown: Known = { manifest: null, status: null, failure: null };
const ended = new PalimpsestError('Refused', 'The workers were ended by the page.');

export class Library {
  /** The last used first. */
  stored = $state.raw<StoredModel[]>([]);
  /** null until the browser has said. */
  room = $state.raw<Room | null>(null);
  brought = $state.raw<Brought[]>([]);
  /** Why the store could not be listed. */
  failure = $state.raw<Failure | null>(null);
  /** What the repository that was looked at last offers. */
  offer = $state.raw<HubRepository | null>(null);
  /** The safetensors checkpoint that was looked at last, and what it can become. */
  checkpoint = $state.raw<CheckpointOffer | null>(null);
  /** Why what was brought last could not be taken. */
  bringFailure = $state.raw<Failure | null>(null);
  /** True once the browser was asked for storage that it does not delete by itself, and did not agree. */
  persistRefused = $state.raw(false);
  /** By the model's name. */
  #known = $state.raw<Readonly<Record<string, Known>>>({});
  #work = $state.raw<Readonly<Record<string, Work>>>({});

  #weights: Weights;
  #uses: (model: string) => boolean;
  #askedToPersist = false;
  /** Listings of the store asked for, and the number of the one that is shown. */
  #listings = { asked: 0, shown: 0 };

  /** `uses` says whether the engine of this page reads a model or has it loaded. */
  constructor(weights: Weights, uses: (model: string) => boolean) {
    this.#weights = weights;
    this.#uses = uses;
    void this.refresh();
  }

  destroy(): void {
    this.#weights.destroy(ended);
  }

  known(model: string): Known {
    return this.#known[model] ?? nothingKnown;
  }

  work(model: string): Work | null {
    return this.#work[model] ?? null;
  }

  /** True while a model is fetched, copied, verified or exported. */
  busy(model: string): boolean {
    const work = this.work(model);
    return (
      this.known(model).status?.state === 'downloading' ||
      (work !== null && work.kind !== 'done' && work.kind !== 'failed')
    );
  }

  // -------------------------------------------------------------------------------------------- looking

  /** List the store and measure the room anew. */
  async refresh(): Promise<void> {
    const number = ++this.#listings.asked;
    try {
      const [stored, room] = await Promise.all([this.#weights.list(), this.#weights.room()]);
      if (number < this.#listings.shown) return; // a later one was answered first
      this.#listings.shown = number;
      [this.stored, this.room] = [stored, room];
    } catch (thrown) {
      if (thrown !== ended) this.failure = toFailure(thrown);
    }
  }

  /** Learn what a model is and how much of it is there, and follow that from here on. Fetches no weights. */
  async look(model: string): Promise<void> {
    try {
      const manifest = await this.#weights.describe(model);
      this.#learn(model, { manifest, failure: null });
      await this.#follow(model);
    } catch (thrown) {
      this.#learn(model, { failure: toFailure(thrown) });
    }
  }

  async #follow(model: string): Promise<void> {
    await this.#weights.watch(model, (status) => {
      const before = this.known(model).status?.state;
      this.#learn(model, { status });
      if (status.state === 'downloading' && status.place === 'disk') void this.#persistOnce();
      if (before !== undefined && before !== status.state) void this.refresh();
    });
  }

  // ------------------------------------------------------------------------------------------- fetching

  /** Fetch what is missing, or go on after a pause. */
  async download(model: string): Promise<void> {
    this.#tell(model, null);
    try {
      await this.#follow(model);
      await this.#weights.download(model);
      await this.#letGo(model);
    } catch (thrown) {
      // Refused is what a download that was cancelled ends with.
      const failure = toFailure(thrown);
      const told = failure.name === 'Refused' || (await this.#tells(model, failure));
      if (!told) this.#tell(model, { kind: 'failed', failure });
    }
    await this.refresh();
  }

  /** Whether the model's status says this failure, as it does of most; what is reported of it may be on its way still. */
  async #tells(model: string, { message }: Failure): Promise<boolean> {
    const status = await this.#weights.status(model).catch(() => null);
    if (status) this.#learn(model, { status });
    return status?.error?.message === message;
  }

  async pause(model: string): Promise<void> {
    await this.#try(model, () => this.#weights.pause(model));
  }

  /** End a download; what has arrived is kept. */
  async cancel(model: string): Promise<void> {
    await this.#try(model, () => this.#weights.cancel(model));
    await this.#letGo(model);
    await this.refresh();
  }

  /** Ask the browser not to delete what is stored when the disk gets full. */
  async askToPersist(): Promise<void> {
    this.#askedToPersist = true;
    const granted = await navigator.storage.persist().catch(() => false);
    this.persistRefused = !granted;
    await this.refresh();
  }

  /** With the first download, unless it is so already. */
  async #persistOnce(): Promise<void> {
    if (this.#askedToPersist || this.room?.persisted) return;
    await this.askToPersist();
  }

  // -------------------------------------------------------------------------------------------- keeping

  /** Compute every stored hash again; what is damaged is fetched again by the next use. */
  async verify(model: string): Promise<void> {
    await this.#try(model, async () => {
      const { pieces, damagedPieces } = await this.#weights.verify(
        model,
        this.#reporter(model, 'verifying'),
      );
      const text =
        damagedPieces === 0
          ? 'Verified: every stored byte hashes to what it should.'
          : `Damaged: ${formatCount(damagedPieces)} of ${formatCount(pieces)} pieces. They are dropped, and the next use fetches them again.`;
      this.#tell(model, { kind: 'done', text });
    });
    await this.refresh();
  }

  /** Write a stored model out as the .gguf files it consists of, hashes checked on the way. */
  async exportFiles(model: string, choose: () => Promise<Destination>): Promise<void> {
    let destination: Destination;
    try {
      destination = await choose();
    } catch (thrown) {
      // That is what a picker says that was closed: the person changed their mind.
      if ((thrown as Error).name === 'AbortError') return;
      return this.#tell(model, { kind: 'failed', failure: toFailure(thrown) });
    }
    await this.#try(model, async () => {
      const files = await saveModel(
        this.#weights,
        model,
        destination,
        this.#reporter(model, 'exporting'),
      );
      const text = files === 1 ? 'Exported as one file.' : `Exported as ${files} files.`;
      this.#tell(model, { kind: 'done', text });
    });
    await this.#letGo(model);
    await this.refresh();
  }

  /** Nobody reads it: other tabs may delete it. */
  async #letGo(model: string): Promise<void> {
    if (!this.#uses(model)) await this.#weights.close(model).catch(() => {}); // a worker that died holds nothing
  }

  /** Delete a model; true if it is gone. Refused, with the reason, while an engine of any tab uses it. */
  async remove(model: string): Promise<boolean> {
    let removed = false;
    await this.#try(model, async () => {
      await this.#letGo(model);
      await this.#weights.remove(model);
      removed = true;
      this.#known = without(this.#known, model);
      this.#tell(model, null);
    });
    await this.refresh();
    return removed;
  }

  // ------------------------------------------------------------------------------------------- bringing

  /**
   * Take what was dropped or picked: .gguf files as they lie there, or else a safetensors checkpoint, which becomes
   * `checkpoint`. Answers the name to load files by; null for a checkpoint, and if nothing can be taken.
   */
  async take(brought: Folder | Promise<Folder>): Promise<string | null> {
    this.checkpoint = null;
    let folder: Folder;
    try {
      folder = await brought;
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
      return null;
    }
    const { name, files, whole } = folder;
    const gguf = files.filter((file) => /\.gguf$/i.test(file.name));
    if (gguf.length > 0 || !files.some((file) => /\.safetensors$/i.test(file.name))) {
      return this.adopt(whole ? gguf : files);
    }
    await this.lookAtCheckpoint({ kind: 'files', name, files });
    return null;
  }

  /** Take .gguf files of this computer as they lie there. Answers the name to load them by; null if they cannot be taken. */
  async adopt(files: File[]): Promise<string | null> {
    this.bringFailure = null;
    try {
      const model = await this.#weights.adopt(files);
      const { name } = await this.#weights.describe(model);
      this.#bring({ model, name, files });
      return model;
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
      return null;
    }
  }

  /** Copy adopted files into the store. Answers the name to load the copy by. */
  async keep(model: string): Promise<string | null> {
    let kept: string | null = null;
    const report = this.#reporter(model, 'copying');
    await this.#try(model, async () => {
      kept = await this.#weights.keep(model, (p) => report(p.doneBytes, p.totalBytes));
      this.#tell(model, { kind: 'done', text: 'Copied into this browser.' });
    });
    await this.refresh();
    return kept;
  }

  /** Take the model at an address that a person typed. Answers its name; null if there is none. */
  async bringAddress(typed: string): Promise<string | null> {
    this.bringFailure = null;
    try {
      return await this.#bringNamed(readAddress(typed, location.protocol));
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
      return null;
    }
  }

  /** Look what a repository of the Hugging Face hub offers. */
  async lookAtRepository(repository: string, revision: string): Promise<void> {
    this.bringFailure = null;
    this.offer = this.checkpoint = null;
    try {
      this.offer = await this.#weights.repository(repository, revision);
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
    }
  }

  /** Take one of a repository's models. Answers the name to load it by; null if it cannot be had. */
  async bringChoice({ files }: GgufChoice): Promise<string | null> {
    return this.bringAddress(files[0]!.address);
  }

  /** Look what a safetensors checkpoint can become. Nothing of its weights is read. */
  async lookAtCheckpoint(place: CheckpointPlace): Promise<void> {
    this.bringFailure = null;
    this.checkpoint = null;
    try {
      this.checkpoint = await this.#weights.checkpoint(place);
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
    }
  }

  /** Take one of the models that the checkpoint can become. Answers its name; null if it cannot be had. */
  async bringImport(model: string): Promise<string | null> {
    this.bringFailure = null;
    try {
      return await this.#bringNamed(model);
    } catch (thrown) {
      this.bringFailure = toFailure(thrown);
      return null;
    }
  }

  async #bringNamed(model: string): Promise<string> {
    const { name } = await this.#weights.describe(model);
    this.#bring({ model, name, files: null });
    return model;
  }

  #bring(one: Brought): void {
    this.brought = [one, ...this.brought.filter(({ model }) => model !== one.model)];
  }

  // ---------------------------------------------------------------------------------------------- state

  #learn(model: string, part: Partial<Known>): void {
    this.#known = { ...this.#known, [model]: { ...this.known(model), ...part } };
  }

  #tell(model: string, work: Work | null): void {
    this.#work = work ? { ...this.#work, [model]: work } : without(this.#work, model);
  }

  #reporter(model: string, kind: 'verifying' | 'exporting' | 'copying') {
    this.#tell(model, { kind, doneBytes: 0, totalBytes: 0 });
    return (doneBytes: number, totalBytes: number) => {
      // Reports cross over from a worker: one may come after the end.
      if (this.work(model)?.kind === kind) this.#tell(model, { kind, doneBytes, totalBytes });
    };
  }

  async #try(model: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (thrown) {
      this.#tell(model, { kind: 'failed', failure: toFailure(thrown) });
    }
  }
}

function without<T>(all: Readonly<Record<string, T>>, key: string): Record<string, T> {
  return Object.fromEntries(Object.entries(all).filter(([name]) => name !== key));
}

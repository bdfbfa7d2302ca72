/**
 * All models of this worker: where each comes from, where it is kept, and its bytes, read by range.
 *
 * What is read has been hashed since it left the store.
 */
import {
  describeChoice,
  describeFiles,
  describeModel,
  fileAddress,
  isRemote,
  keptName,
} from './catalog.ts';
import {
  checkpointOf,
  findCheckpoint,
  makerOf,
  offerModels,
  type Found,
} from './checkpointModels.ts';
import { Download, type Source } from './download.ts';
import { openGguf } from './gguf.ts';
import { HUB_URL, listRepository } from './hub.ts';
import { fileSource, readFile } from './localFile.ts';
import {
  PalimpsestError,
  type CheckpointOffer,
  type CheckpointPlace,
  type HubRepository,
  type LoadProgress,
  type Manifest,
  type Room,
  type Shard,
  type StoredModel,
  type Verification,
  type WeightsApi,
  type WeightsStatus,
} from './protocol.ts';
import { Residents } from './residents.ts';
import { leafBytes, sha256 } from './sha256.ts';
import { freeBytes, memoryShelf, piecesOf, Store, type ModelRecord } from './store.ts';
import { inUnits, type Limits, type World } from './transfer.ts';

/** A model that was opened. */
interface Opened extends Source {
  /** Read in place, in the order of the shards; null for what is fetched. */
  files: File[] | null;
  placeNote: string;
  download: Download;
  /** Lets go of the lock that says the model is in use; null while it is not. */
  release: Promise<() => void> | null;
  repairedPieces: number;
  /** The span that was read last; null before the first. */
  lastRead: Span | null;
  /** What was read and found right since the model is in use: span by its name -> hash of its piece. */
  verified: Map<string, string>;
  reports: Set<(p: LoadProgress) => void>;
  watchers: Set<(s: WeightsStatus) => void>;
  /** When reports were last sent; Infinity while some are due. */
  toldAt: number;
  /** Whether a download has been under way since. */
  progressed: boolean;
}

/** What of a piece is read and hashed at a time. */
interface Span {
  /** Number of the piece. */
  number: number;
  /** First byte within the piece, a multiple of limits.spanBytes. */
  start: number;
}

const tellEveryMs = 100;
/** What is no longer, such as the beginning of a header, is read with its leaves alone where its span is not in memory. */
const glanceBytes = 64 * 1024;

export class Library implements WeightsApi {
  #world: World;
  #limits: Limits;
  #disk: Promise<{ store: Store } | { why: string }>;
  #memory: Store;
  #opened = new Map<string, Promise<Opened>>();
  /** Models that were found, by name: the choices of repositories and checkpoints that were looked at. */
  #found = new Map<string, ModelRecord>();
  /** By their identity. */
  #checkpoints = new Map<string, Found>();
  #residents: Residents;
  #never = new AbortController().signal;

  /** `openStore` fails where the browser gives no storage. */
  constructor(world: World, limits: Limits, openStore: () => Promise<Store>) {
    this.#world = world;
    this.#limits = limits;
    this.#residents = new Residents(world.clock, limits.spans);
    this.#memory = new Store(memoryShelf(limits.memoryBytes));
    this.#disk = openStore().then(
      (store) => ({ store }),
      (cause: unknown) => ({ why: cause instanceof Error ? cause.message : String(cause) }),
    );
  }

  // ------------------------------------------------------------------------------------------- opening

  async open(model: string, report: (p: LoadProgress) => void): Promise<Shard[]> {
    const opened = await this.#find(model, true);
    opened.reports.add(report);
    return opened.record.manifest.shards;
  }

  async describe(model: string): Promise<Manifest> {
    return (await this.#find(model)).record.manifest;
  }

  /** The model, opened if it is not. */
  async #find(model: string, again = false): Promise<Opened> {
    const before = this.#opened.get(model);
    // The reason of a failure may be that the model was changed: who tries again looks at it anew.
    if (before && !(again && (await before).download.state === 'failed')) return before;
    const opening = this.#describe(model).then((record) => this.#enter(record, null));
    this.#opened.set(model, opening);
    try {
      const opened = await opening;
      if (before) {
        const { reports, watchers, release, repairedPieces } = await before;
        Object.assign(opened, { reports, watchers, repairedPieces });
        (await release)?.();
      }
      return opened;
    } catch (cause) {
      if (before) this.#opened.set(model, before);
      else this.#opened.delete(model);
      throw cause;
    }
  }

  async #describe(model: string): Promise<ModelRecord> {
    const disk = await this.#disk;
    const stored = 'store' in disk ? await disk.store.record(model) : undefined;
    const found = this.#found.get(model);
    if (!found) return describeModel(this.#world, this.#limits, model, stored);
    const same =
      JSON.stringify(stored?.manifest.shards) === JSON.stringify(found.manifest.shards) &&
      (found.origin === null || stored!.validators[0] === found.validators[0]);
    return same ? stored! : found;
  }

  async #enter(record: ModelRecord, files: File[] | null): Promise<Opened> {
    const source: Source = {
      record,
      store: this.#memory,
      pieces: piecesOf(record),
      address: (shard) => {
        const { file } = record.manifest.shards[shard]!;
        if (isRemote(record.model)) return fileAddress(record.model, file);
        throw new PalimpsestError(
          'ShardCorrupt',
          `A piece of ${file} is damaged or missing in the store, and it came from this computer: remove it, and open the file again.`,
        );
      },
      make: makerOf(this.#world, this.#limits, record, () =>
        this.#checkpoints.get(checkpointOf(record.model) ?? ''),
      ),
    };
    const opened: Opened = Object.assign(source, {
      files,
      placeNote: '',
      download: new Download(this.#world, this.#limits, source, () => this.#changed(opened)),
      release: null,
      repairedPieces: 0,
      lastRead: null,
      verified: new Map<string, string>(),
      reports: new Set<(p: LoadProgress) => void>(),
      watchers: new Set<(s: WeightsStatus) => void>(),
      toldAt: 0,
      progressed: false,
    });
    if (!files) await this.#choosePlace(opened);
    return opened;
  }

  /** Disk, unless there is none or it has no room for what memory can hold. */
  async #choosePlace(opened: Opened): Promise<void> {
    const { manifest } = opened.record;
    const disk = await this.#disk;
    if ('why' in disk) {
      opened.placeNote = `This browser gives no storage here (${disk.why}): the model stays in memory until the tab closes.`;
    } else {
      opened.store = disk.store;
      await opened.download.survey();
      const lack = await opened.download.lackOfRoom();
      const begun = opened.download.receivedBytes > 0;
      if (lack === null || begun || manifest.bytes > this.#limits.memoryBytes) return;
      opened.placeNote = `${lack}: it stays in memory until the tab closes.`;
    }
    opened.store = this.#memory;
    await opened.download.survey();
  }

  /** From here on the model cannot be removed, by no tab, until it is closed. */
  async #use(opened: Opened): Promise<void> {
    if (opened.files) return;
    opened.release ??= this.#hold(opened);
    await opened.release;
  }

  async #hold(opened: Opened): Promise<() => void> {
    const { record } = opened;
    const release = await new Promise<() => void>((resolve, reject) => {
      const held = () => new Promise<void>((end) => resolve(end));
      this.#world.locks.request(useLock(record.model), { mode: 'shared' }, held).catch(reject);
    });
    try {
      await this.#choosePlace(opened);
      if (opened.store.place === 'memory' && record.manifest.bytes > this.#limits.memoryBytes) {
        throw new PalimpsestError(
          'QuotaExceeded',
          `${record.manifest.name} has ${inUnits(record.manifest.bytes)}; this browser gives no storage here, and memory is used ` +
            `up to ${inUnits(this.#limits.memoryBytes)}. Leave the private window, allow storage, or open the files themselves.`,
        );
      }
      record.usedAt = this.#world.clock.now();
      await this.#saveRecord(opened);
      opened.pieces = piecesOf(record);
      // Sweeping can wait for a better day; what it would have found missing, reading finds.
      const gone = await opened.store.sweep().catch(() => new Set<string>());
      const pins = await opened.store.pins(record.model);
      const lost = opened.pieces.filter(({ stated, slot }) => gone.has(stated ?? pins.get(slot)!));
      if (lost.length > 0) {
        opened.repairedPieces += lost.length;
        opened.download.note = `${lost.length} stored pieces were missing and are fetched again`;
      }
      await opened.download.survey();
      opened.verified.clear();
      return release;
    } catch (cause) {
      release();
      opened.release = null;
      throw cause;
    }
  }

  /** A full disk keeps nobody from reading what is there whole: then the date of its last use is all that is lost. */
  async #saveRecord({ store, record, download }: Opened): Promise<void> {
    try {
      await store.save(record);
    } catch (cause) {
      if ((cause as Error).name !== 'QuotaExceeded') throw cause;
      if (download.whole) return;
      await download.checkRoom();
      throw cause;
    }
  }

  async close(model: string): Promise<void> {
    const opened = await this.#opened.get(model);
    if (!opened) return;
    this.#opened.delete(model);
    await opened.download.cancel();
    this.#residents.forget(`${model} `);
    (await opened.release)?.();
  }

  // ------------------------------------------------------------------------------------------- reading

  async read(model: string, shard: number, offset: number, bytes: number): Promise<ArrayBuffer> {
    const opened = await this.#opened.get(model);
    if (!opened) throw new PalimpsestError('Refused', `${model} is not open. Open it first.`);
    const { record, files, pieces } = opened;
    const end = offset + bytes;
    const listed = record.manifest.shards[shard];
    const sound = Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(end);
    if (!listed || !sound || bytes < 0 || end > listed.bytes) {
      throw new PalimpsestError(
        'Refused',
        `Bytes ${offset} to ${end} of shard ${shard} of ${model} do not exist.`,
      );
    }
    if (files) return readFile(files[shard]!, offset, end);
    await this.#use(opened);
    let number = pieces.findIndex((piece) => piece.shard === shard);
    while (number + 1 < pieces.length && pieces[number + 1]!.shard === shard) {
      if (pieces[number + 1]!.start > offset) break;
      number++;
    }
    const within = offset - pieces[number]!.start;
    const first: Span = { number, start: within - (within % this.#limits.spanBytes) };
    const little = bytes > 0 && bytes <= glanceBytes && within + bytes <= pieces[number]!.bytes;
    if (little && !this.#residents.has(keyOf(opened, first))) {
      return this.#glance(opened, number, within, within + bytes);
    }
    const spans: Span[] = [];
    const startOf = (span: Span) => pieces[span.number]!.start + span.start;
    let next: Span | null = bytes > 0 ? first : null;
    while (next && pieces[next.number]!.shard === shard && startOf(next) < end) {
      spans.push(next);
      next = this.#after(opened, next);
    }
    const forward = this.#goesForward(opened, spans);
    const whole = new Uint8Array(bytes);
    for (const span of spans) {
      const from = Math.max(offset - startOf(span), 0);
      const to = Math.min(end - startOf(span), this.#endOf(opened, span) - span.start);
      await this.#withSpan(opened, span, forward, (loaded) =>
        whole.set(new Uint8Array(loaded, from, to - from), startOf(span) + from - offset),
      );
    }
    return whole.buffer;
  }

  /** Whether a range begins where the last one ended, which it is from here on. Several may be under way. */
  #goesForward(opened: Opened, spans: Span[]): boolean {
    const { lastRead } = opened;
    const [first] = spans;
    if (!first) return false;
    opened.lastRead = spans.at(-1)!;
    if (!lastRead || isSame(first, lastRead)) return true;
    const next = this.#after(opened, lastRead);
    return next !== null && isSame(first, next);
  }

  /** What `use` makes of a verified span; while it is read and hashed, those after it are begun with if reads go forward. */
  #withSpan<T>(
    opened: Opened,
    span: Span,
    forward: boolean,
    use: (bytes: ArrayBuffer) => T,
  ): Promise<T> {
    const used = this.#residents.with(keyOf(opened, span), () => this.#loadSpan(opened, span), use);
    let next = this.#after(opened, span);
    for (let ahead = 1; forward && next && ahead < this.#limits.spans; ahead++) {
      const following = next;
      if (!opened.download.present.has(following.number)) break;
      this.#residents.ahead(keyOf(opened, following), () => this.#loadSpan(opened, following));
      next = this.#after(opened, following);
    }
    return used;
  }

  async #loadSpan(opened: Opened, span: Span): Promise<ArrayBuffer> {
    const end = this.#endOf(opened, span);
    const { bytes, hash } = await this.#load(opened, span.number, span.start, end);
    await this.#noteVerified(opened, span, hash);
    return bytes;
  }

  /** Where a span ends within its piece. */
  #endOf({ pieces }: Opened, { number, start }: Span): number {
    return Math.min(start + this.#limits.spanBytes, pieces[number]!.bytes);
  }

  /** The span that follows in the model; null after the last. */
  #after({ pieces }: Opened, { number, start }: Span): Span | null {
    const next = start + this.#limits.spanBytes;
    if (next < pieces[number]!.bytes) return { number, start: next };
    return number + 1 < pieces.length ? { number: number + 1, start: 0 } : null;
  }

  /** Bytes [from, to) of a piece, with as little else as can be verified. */
  async #glance(opened: Opened, number: number, from: number, to: number): Promise<ArrayBuffer> {
    const start = from - (from % leafBytes);
    const end = Math.min(Math.ceil(to / leafBytes) * leafBytes, opened.pieces[number]!.bytes);
    const { bytes } = await this.#load(opened, number, start, end);
    return bytes.slice(from - start, to - start);
  }

  /**
   * Bytes [start, end) of a piece from the store, and the hash of the piece, which they agree with; the piece is fetched again
   * if it is not there or damaged. Both are multiples of leafBytes, or the piece's end.
   */
  async #load(
    opened: Opened,
    number: number,
    start: number,
    end: number,
  ): Promise<{ bytes: ArrayBuffer; hash: string }> {
    const { record, store, download } = opened;
    const { file } = record.manifest.shards[opened.pieces[number]!.shard]!;
    for (let repairs = 0; repairs < 2; repairs++) {
      await download.want(number);
      const piece = opened.pieces[number]!;
      const expected = piece.stated ?? (await store.lookUp(record.model, piece)).sha256;
      const found = expected === null ? 'missing' : await store.sound(expected, start, end);
      if (expected !== null && typeof found !== 'string') return { bytes: found, hash: expected };
      if (expected !== null) await store.dropPiece(expected);
      opened.repairedPieces++;
      download.note = `A stored piece of ${file} was ${String(found)} and is fetched again`;
      download.lost(number);
    }
    throw new PalimpsestError(
      'ShardCorrupt',
      `The storage of this browser gives back other bytes of ${file} than were stored, twice. The disk may be failing.`,
    );
  }

  /** Once every piece has been read and found right, the store learns of it. */
  async #noteVerified(opened: Opened, span: Span, hash: string): Promise<void> {
    const { verified, pieces, store } = opened;
    const before = verified.size;
    verified.set(keyOf(opened, span), hash);
    const { spanBytes } = this.#limits;
    const spans = pieces.reduce((sum, { bytes }) => sum + Math.ceil(bytes / spanBytes), 0);
    if (verified.size === before || verified.size < spans) return;
    await store.markVerified(new Set(verified.values()), this.#world.clock.now()).catch(() => {}); // a date, no more
  }

  // --------------------------------------------------------------------------------------- downloading

  async status(model: string): Promise<WeightsStatus> {
    return this.#statusOf(await this.#find(model));
  }

  async watch(model: string, report: (s: WeightsStatus) => void): Promise<void> {
    const opened = await this.#find(model);
    opened.watchers.add(report);
    tell(opened.watchers, report, this.#statusOf(opened));
  }

  async download(model: string): Promise<void> {
    const opened = await this.#find(model, true);
    if (opened.files) return;
    await this.#use(opened);
    if (!opened.download.whole) opened.download.start();
    await Promise.all(opened.pieces.map((_, number) => opened.download.want(number)));
  }

  async pause(model: string): Promise<void> {
    await (await this.#opened.get(model))?.download.pause();
  }

  async cancel(model: string): Promise<void> {
    await (await this.#opened.get(model))?.download.cancel();
  }

  #statusOf(opened: Opened): WeightsStatus {
    const { record, store, files, download, pieces, placeNote, repairedPieces } = opened;
    const { model, manifest } = record;
    const totalBytes = manifest.bytes;
    const storedBytes = files ? totalBytes : download.storedBytes;
    const receivedBytes = files ? totalBytes : download.receivedBytes;
    const { note, error } = download;
    const whole = files !== null || download.whole;
    const bytesPerSec = whole ? 0 : download.bytesPerSec;
    const idle = whole ? 'complete' : receivedBytes > 0 ? 'partial' : 'absent';
    return {
      model,
      name: manifest.name,
      license: manifest.license,
      place: files ? 'files' : store.place,
      placeNote,
      state: download.state === 'idle' || whole ? idle : download.state,
      totalBytes,
      storedBytes,
      receivedBytes,
      pieces: pieces.length,
      storedPieces: files ? pieces.length : download.present.size,
      repairedPieces,
      bytesPerSec,
      secondsLeft: bytesPerSec > 0 ? (totalBytes - receivedBytes) / bytesPerSec : null,
      note,
      error,
    };
  }

  /** Tell whoever listens, at most every tellEveryMs, the last state always. */
  #changed(opened: Opened): void {
    opened.progressed ||= opened.download.state === 'downloading';
    if (opened.toldAt === Infinity) return;
    const waitMs = opened.toldAt + tellEveryMs - this.#world.clock.now();
    if (waitMs <= 0) return this.#tell(opened);
    opened.toldAt = Infinity;
    void this.#world.clock.sleep(waitMs, this.#never).then(() => this.#tell(opened));
  }

  #tell(opened: Opened): void {
    opened.toldAt = this.#world.clock.now();
    const status = this.#statusOf(opened);
    for (const watcher of opened.watchers) tell(opened.watchers, watcher, status);
    if (opened.progressed) {
      const progress: LoadProgress = {
        phase: 'download',
        doneBytes: status.receivedBytes,
        totalBytes: status.totalBytes,
        note: status.note,
      };
      for (const report of opened.reports) tell(opened.reports, report, progress);
    }
    opened.progressed = opened.download.state === 'downloading';
  }

  // -------------------------------------------------------------------------------------------- keeping

  async list(): Promise<StoredModel[]> {
    const disk = await this.#disk;
    const stores = 'store' in disk ? [disk.store, this.#memory] : [this.#memory];
    const models = (await Promise.all(stores.map((store) => store.list()))).flat();
    return models.sort((a, b) => b.usedAt - a.usedAt);
  }

  async verify(
    model: string,
    report: (doneBytes: number, totalBytes: number) => void,
  ): Promise<Verification> {
    const found = await this.#stored(model);
    if (!found) throw notStored(model);
    const { record, store } = found;
    const hold = () => this.#verifyPieces(record, store, report);
    return this.#world.locks.request(useLock(model), { mode: 'shared' }, hold);
  }

  async #verifyPieces(
    record: ModelRecord,
    store: Store,
    report: (doneBytes: number, totalBytes: number) => void,
  ): Promise<Verification> {
    const right: string[] = [];
    const opened = await this.#opened.get(record.model)?.catch(() => undefined);
    let doneBytes = 0;
    let pieces = 0;
    for (const [number, piece] of piecesOf(record).entries()) {
      doneBytes += piece.bytes;
      const { sha256: expected, held } = await store.lookUp(record.model, piece);
      if (expected === null || !held) continue;
      pieces++;
      const bytes = await store.piece(expected);
      if (bytes && (await sha256(bytes)) === expected) {
        freeBytes(bytes);
        right.push(expected);
      } else {
        await store.dropPiece(expected);
        opened?.download.lost(number);
      }
      report(doneBytes, record.manifest.bytes);
    }
    await store.markVerified(right, this.#world.clock.now()).catch(() => {}); // as above
    return { pieces, damagedPieces: pieces - right.length };
  }

  async remove(model: string): Promise<void> {
    const found = await this.#stored(model);
    if (!found) throw notStored(model);
    const { record, store } = found;
    const removed = await this.#world.locks.request(
      useLock(model),
      { mode: 'exclusive', ifAvailable: true },
      async (lock) => {
        if (lock === null) return false;
        await store.remove(model);
        return true;
      },
    );
    if (!removed) {
      throw new PalimpsestError(
        'Refused',
        `${record.manifest.name} is in use, in this tab or another. Load another model or close the tab, then remove it.`,
      );
    }
    this.#opened.delete(model);
  }

  async room(): Promise<Room> {
    const disk = await this.#disk;
    const { quota = null, usage = null } = await this.#world.estimate();
    return {
      place: 'store' in disk ? 'disk' : 'memory',
      placeNote: 'why' in disk ? `This browser gives no storage here (${disk.why}).` : '',
      quotaBytes: quota,
      usedBytes: usage,
      freeBytes: quota === null || usage === null ? null : Math.max(quota - usage, 0),
      persisted: await this.#world.persisted(),
    };
  }

  async #stored(model: string): Promise<{ record: ModelRecord; store: Store } | undefined> {
    const disk = await this.#disk;
    for (const store of 'store' in disk ? [disk.store, this.#memory] : [this.#memory]) {
      const record = await store.record(model);
      if (record) return { record, store };
    }
    return undefined;
  }

  // --------------------------------------------------------------------------------------- bringing one

  async repository(repository: string, revision: string): Promise<HubRepository> {
    const hub = { url: HUB_URL, fetch: this.#world.fetch, waitMs: this.#limits.stallMs };
    const listed = await listRepository(hub, repository, revision);
    for (const choice of listed.gguf) {
      const record = describeChoice(choice, listed.license, this.#limits.pieceBytes);
      if (record) this.#found.set(record.model, record);
    }
    return listed;
  }

  async checkpoint(place: CheckpointPlace): Promise<CheckpointOffer> {
    const found = await findCheckpoint(place);
    const { offer, records } = await offerModels(this.#world, this.#limits, found, this.#never);
    this.#checkpoints.set(found.identity, found);
    for (const record of records) this.#found.set(record.model, record);
    return offer;
  }

  async adopt(files: File[]): Promise<string> {
    const { record, sorted } = describeFiles(files, this.#limits.pieceBytes);
    await openGguf(sorted.map(fileSource)).catch((cause: unknown) => {
      // What the engine does not read, llama.cpp may.
      if ((cause as Error).name !== 'Unsupported') throw cause;
    });
    const { model } = record;
    this.#opened.set(model, this.#enter(record, sorted));
    return model;
  }

  async keep(model: string, report: (p: LoadProgress) => void): Promise<string> {
    const adopted = await this.#opened.get(model);
    const disk = await this.#disk;
    if (!adopted?.files || 'why' in disk) {
      throw new PalimpsestError(
        'Refused',
        'why' in disk
          ? `This browser gives no storage here (${disk.why}). Use the files in place.`
          : `${model} is not a name that adopt gave. Choose the files first.`,
      );
    }
    const { store } = disk;
    const { files } = adopted;
    const kept = keptName(model);
    const before = await store.record(kept);
    const record = { ...adopted.record, model: kept, usedAt: this.#world.clock.now() };
    const { name, bytes: totalBytes } = record.manifest;
    const { quota = Infinity, usage = 0 } = await this.#world.estimate();
    if (!before && totalBytes > quota - usage) {
      const free = inUnits(Math.max(quota - usage, 0));
      throw new PalimpsestError(
        'QuotaExceeded',
        `${name} needs ${inUnits(totalBytes)}, ${free} free. Remove a stored model, or use the files in place.`,
      );
    }
    await this.#world.locks.request(useLock(kept), { mode: 'shared' }, async () => {
      await store.save(record);
      let doneBytes = 0;
      for (const piece of piecesOf(record)) {
        if (!(await store.lookUp(kept, piece)).held) {
          const { start, bytes, shard } = piece;
          const whole = await readFile(files[shard]!, start, start + bytes);
          await store.putPiece(kept, piece, await sha256(whole), whole, this.#world.clock.now());
        }
        doneBytes += piece.bytes;
        report({ phase: 'download', doneBytes, totalBytes, note: `Copying ${name}` });
      }
    });
    return kept;
  }
}

/** By slot, which tells versions of a file apart. */
function keyOf({ record, pieces }: Opened, { number, start }: Span): string {
  return `${record.model} ${pieces[number]!.slot} ${start}`;
}

function isSame(a: Span, b: Span): boolean {
  return a.number === b.number && a.start === b.start;
}

function useLock(model: string): string {
  return `palimpsest:use:${model}`;
}

function notStored(model: string): PalimpsestError {
  return new PalimpsestError('Refused', `${model} is not stored in this browser.`);
}

/** Call a listener of another thread; one that fails is not called again. */
function tell<T>(listeners: Set<(value: T) => void>, listener: (value: T) => void, value: T): void {
  void (async () => listener(value))().catch(() => listeners.delete(listener));
}

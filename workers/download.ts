/**
 * One model on its way into the store.
 *
 * Several connections, one piece each, the pieces that somebody waits for first:
 *   lock the piece over all tabs -> ask the server for what is missing of it -> store finished ranges as parts
 *   -> join -> SHA-256 -> present.
 * A server that knows no ranges is asked once for the whole shard, and what is there already is skipped. What is made here,
 * from a checkpoint, comes the same way but for the server.
 */
import { takeCommon } from './common.ts';
import { PalimpsestError, type ErrorName } from './protocol.ts';
import { Sha256, sha256 } from './sha256.ts';
import { freeBytes, piecesOf, type ModelRecord, type Piece, type Store } from './store.ts';
import {
  ask,
  inUnits,
  isSetback,
  patiently,
  probe,
  said,
  silence,
  stoppedBy,
  unlessSilent,
  type Answer,
  type Limits,
  type Setback,
  type World,
} from './transfer.ts';

/** The rate is the mean over so long. */
const rateWindowMs = 8_000;
/** A piece that arrives so many times with a wrong hash is wrong at the source. */
const wrongHashes = 3;
/** What is made is stored so many parts at a time: small beside a piece, and several reads of a checkpoint. */
const madeParts = 16;

/** Makes `bytes` of the one shard of a model, from `offset` on; `tell` hears of failures that are waited out. */
export type Make = (
  offset: number,
  bytes: number,
  tell: (note: string) => void,
  signal: AbortSignal,
) => Promise<Uint8Array>;

/** A model that is open, and where its bytes come from and go to. */
export interface Source {
  record: ModelRecord;
  store: Store;
  /** In the order of the bytes; replaced when validators are learnt, numbered alike. */
  pieces: Piece[];
  /** Where a shard lies. */
  address(shard: number): string;
  /** For a model that is made here instead of fetched; otherwise null. */
  make: Make | null;
}

interface Waiter {
  resolve(): void;
  reject(reason: unknown): void;
}

/** The download of one model: what is there, what is under way, who waits for what. Pieces go by their number. */
export class Download {
  state: 'idle' | 'downloading' | 'paused' | 'failed' = 'idle';
  error: { name: ErrorName; message: string } | null = null;
  note = '';
  /** Numbers of the pieces that are present. */
  readonly present = new Set<number>();
  storedBytes = 0;

  #world: World;
  #limits: Limits;
  #source: Source;
  #changed: () => void;
  #queue: number[] = [];
  #waiting = new Map<number, Waiter[]>();
  /** Bytes that are there of pieces that are not present. */
  #partial = new Map<number, number>();
  #busy = new Set<Promise<void>>();
  /** Ends all connections of the current run. */
  #run = new AbortController();
  /** Shards that the server gives only whole. */
  #unranged = new Set<number>();
  /** Shards whose validators were asked for since the model was opened. */
  #probed = new Set<number>();
  /** Shards that changed once while under way; their hashes alone decide from then on. */
  #replaced = new Set<number>();
  /** Shards of several pieces that arrived with a wrong hash once. */
  #damaged = new Set<number>();
  /** Pieces that the common storage was asked for, and whether it had them. */
  #common = new Map<number, boolean>();
  /** Times that a piece arrived with a wrong hash. */
  #wrong = new Map<number, number>();
  /** Joining takes two pieces of memory, so it is done one at a time. */
  #joining: Promise<unknown> = Promise.resolve();
  #arrivals: { at: number; bytes: number }[] = [];

  /** `changed` is called whenever a figure here changes, which is often. */
  constructor(world: World, limits: Limits, source: Source, changed: () => void) {
    this.#world = world;
    this.#limits = limits;
    this.#source = source;
    this.#changed = changed;
  }

  /** Read from the store what is there. */
  async survey(): Promise<void> {
    const { record, store, pieces } = this.#source;
    const held = await store.held();
    const pins = await store.pins(record.model);
    const partial = await store.partial();
    this.present.clear();
    this.#partial.clear();
    this.storedBytes = 0;
    pieces.forEach(({ stated, slot, bytes }, number) => {
      const hash = stated ?? pins.get(slot);
      if (hash !== undefined && held.has(hash)) {
        this.present.add(number);
        this.storedBytes += bytes;
      } else if (partial.has(slot)) {
        this.#partial.set(number, partial.get(slot)!);
      }
    });
    this.#changed();
  }

  /** Bytes present, and those of pieces under way. */
  get receivedBytes(): number {
    let sum = this.storedBytes;
    for (const bytes of this.#partial.values()) sum += bytes;
    return sum;
  }

  /** Mean over the last seconds; 0 when nothing is under way. */
  get bytesPerSec(): number {
    const now = this.#world.clock.now();
    const [first, ...later] = this.#arrivals.filter(({ at }) => at > now - rateWindowMs);
    if (this.state !== 'downloading' || later.length === 0) return 0;
    // What the first brought had been on its way before its time was taken.
    const bytes = later.reduce((sum, arrival) => sum + arrival.bytes, 0);
    return (1000 * bytes) / Math.max(now - first!.at, 1);
  }

  /** True if every piece is present, and every shard has the hash that is stated for it. */
  get whole(): boolean {
    const { pieces, record } = this.#source;
    if (this.present.size < pieces.length) return false;
    return record.manifest.shards.every((_, shard) => this.#sealed(shard));
  }

  /** Resolves when the piece is present and its shard is what its manifest states; begins or goes on as needed. */
  want(number: number): Promise<void> {
    if (this.present.has(number) && this.#sealed(this.#source.pieces[number]!.shard)) {
      return Promise.resolve();
    }
    const waits = new Promise<void>((resolve, reject) => {
      const waiters = this.#waiting.get(number) ?? [];
      this.#waiting.set(number, [...waiters, { resolve, reject }]);
    });
    const place = this.#queue.indexOf(number);
    if (place > 0) this.#queue.unshift(...this.#queue.splice(place, 1));
    if (this.state === 'idle' || this.state === 'failed') this.start();
    return waits;
  }

  /** Begin, or go on after a pause or a failure. Harmless when under way. */
  start(): void {
    if (this.state === 'downloading') return;
    this.state = 'downloading';
    this.error = null;
    this.#arrivals = [];
    this.#run = new AbortController();
    this.#track(this.#prepare(this.#run.signal));
    this.#changed();
  }

  /** Hold. Whoever waits goes on waiting. */
  async pause(): Promise<void> {
    if (this.state === 'downloading') await this.#halt('paused');
  }

  /** End. Whoever waits is told so. */
  async cancel(): Promise<void> {
    if (this.state === 'idle') return;
    const waiting = this.#takeWaiting();
    await this.#halt('idle');
    const why = 'The download was cancelled. What has arrived is kept.';
    for (const { reject } of waiting) reject(new PalimpsestError('Refused', why));
  }

  /** A piece that was present turned out damaged: it is missing again. */
  lost(number: number): void {
    if (!this.present.delete(number)) return;
    this.storedBytes -= this.#source.pieces[number]!.bytes;
    if (this.state === 'downloading') {
      this.#queue.unshift(number);
      this.#pump();
    }
    this.#changed();
  }

  // --------------------------------------------------------------------------------------------- a run

  /** Before the first byte: is it still the same file, what is missing, is there room? Then the connections go. */
  async #prepare(signal: AbortSignal): Promise<void> {
    await this.survey();
    await this.#learnValidators(signal);
    await this.checkRoom();
    signal.throwIfAborted();
    const { pieces, record } = this.#source;
    const numbers = Array.from(pieces.keys());
    const missing = numbers.filter((number) => !this.present.has(number));
    this.#queue = [
      ...missing.filter((number) => this.#waiting.has(number)),
      ...missing.filter((number) => !this.#waiting.has(number)),
    ];
    for (const shard of record.manifest.shards.keys()) await this.#seal(shard);
  }

  /**
   * Pieces of a shard that has a hash only as a whole belong to a version of it, which a validator names: that is asked for
   * before any is fetched. (Where no hash is stated at all it was asked for when the model was opened, and stays.)
   */
  async #learnValidators(signal: AbortSignal): Promise<void> {
    const { record } = this.#source;
    let learnt = false;
    for (const [shard, { file, bytes }] of record.manifest.shards.entries()) {
      const mine = this.#numbersOf(shard);
      if (this.#sealed(shard) || this.#probed.has(shard)) continue;
      if (mine.every((number) => this.present.has(number))) continue;
      const { stallMs } = this.#limits;
      const seen = await this.#patiently(signal, () =>
        probe(this.#world, stallMs, this.#source.address(shard), signal),
      );
      if (seen.totalBytes !== null && seen.totalBytes !== bytes) throw changedFile(file);
      this.#probed.add(shard);
      if (!seen.ranged) this.#unranged.add(shard);
      if (seen.validator === record.validators[shard]) continue;
      await this.#source.store.learn(record, shard, { validator: seen.validator });
      learnt = true;
    }
    if (!learnt) return;
    this.#source.pieces = piecesOf(record);
    await this.survey();
  }

  /** Refuse what will not fit, before anything is fetched. Fails: QuotaExceeded. */
  async checkRoom(): Promise<void> {
    const { store } = this.#source;
    if (store.place === 'memory') return;
    const lack = await this.lackOfRoom();
    if (lack === null) return;
    throw new PalimpsestError(
      'QuotaExceeded',
      `${lack}. Remove a stored model or free room on the disk.`,
    );
  }

  /** "NAME needs 26.1 GB, 18.0 GB free", or null if what is missing fits or the browser does not say. */
  async lackOfRoom(): Promise<string | null> {
    const { name, bytes } = this.#source.record.manifest;
    const { connections, pieceBytes } = this.#limits;
    const missingBytes = bytes - this.receivedBytes;
    const { quota, usage } = await this.#world.estimate();
    if (missingBytes === 0 || quota === undefined || usage === undefined) return null;
    const freeBytes = Math.max(quota - usage, 0);
    // Pieces lie there twice for a moment: as parts, and joined.
    const joinBytes = Math.min(connections * pieceBytes, missingBytes);
    if (missingBytes + joinBytes <= freeBytes) return null;
    const joining = missingBytes <= freeBytes ? ` and ${inUnits(joinBytes)} to assemble it` : '';
    return `${name} needs ${inUnits(missingBytes)}${joining}, ${inUnits(freeBytes)} free`;
  }

  /** Give every idle connection something to do. */
  #pump(): void {
    const { pieces } = this.#source;
    const { signal } = this.#run;
    while (this.state === 'downloading' && this.#busy.size < this.#limits.connections) {
      const number = this.#queue.shift();
      if (number === undefined) break;
      const { shard } = pieces[number]!;
      if (!this.#unranged.has(shard)) {
        this.#track(this.#bring([number], false, signal));
        continue;
      }
      const rest = this.#queue.filter((other) => pieces[other]!.shard === shard);
      this.#queue = this.#queue.filter((other) => pieces[other]!.shard !== shard);
      const together = [number, ...rest].sort((a, b) => a - b);
      this.#track(this.#bring(together, true, signal));
    }
    if (this.state === 'downloading' && this.#busy.size === 0) {
      this.state = 'idle';
      this.#changed();
    }
  }

  /** Run one connection, then give its place to the next; a failure ends them all. */
  #track(work: Promise<void>): void {
    const { signal } = this.#run;
    const run: Promise<void> = work
      .catch((cause: unknown) => {
        if (!signal.aborted) void this.#fail(cause);
      })
      .then(() => {
        this.#busy.delete(run);
        if (!signal.aborted) this.#pump();
      });
    this.#busy.add(run);
  }

  /** End all connections, wait until each has put away what it has, and count that. */
  async #halt(state: 'paused' | 'idle' | 'failed'): Promise<void> {
    this.state = state;
    this.#run.abort();
    this.#changed();
    await Promise.all(this.#busy);
    if (this.state === state) await this.survey();
  }

  async #fail(cause: unknown): Promise<void> {
    const waiting = this.#takeWaiting();
    const error =
      cause instanceof PalimpsestError
        ? cause
        : new PalimpsestError('DownloadFailed', `The download broke off: ${said(cause)}`);
    const name = error.name as ErrorName;
    this.error = { name, message: error.message };
    await this.#halt('failed').catch(() => {}); // the store may be what failed
    const { manifest } = this.#source.record;
    if (name === 'QuotaExceeded' && this.receivedBytes > 0) {
      const kept = `${inUnits(this.receivedBytes)} of ${inUnits(manifest.bytes)}`;
      error.message += ` ${kept} of ${manifest.name} are kept; free room, then go on.`;
      if (this.state === 'failed') this.error = { name, message: error.message };
    }
    for (const { reject } of waiting) reject(error);
  }

  /** Everybody who waits; from here on the caller answers them. */
  #takeWaiting(): Waiter[] {
    const waiting = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    return waiting;
  }

  #patiently<T>(signal: AbortSignal, attempt: () => Promise<T | Setback>, gained?: () => number) {
    const tell = (note: string) => this.#say(note);
    return patiently(this.#world, this.#limits, signal, attempt, tell, gained);
  }

  #say(note: string): void {
    this.note = note;
    this.#changed();
  }

  #numbersOf(shard: number): number[] {
    const { pieces } = this.#source;
    return Array.from(pieces.keys()).filter((number) => pieces[number]!.shard === shard);
  }

  // ---------------------------------------------------------------------------------- one connection

  /**
   * Bring a piece, or as many pieces of a shard as are missing, into the store, under locks over all tabs: who waited for
   * them may find it there.
   */
  async #bring(numbers: number[], whole: boolean, signal: AbortSignal): Promise<void> {
    const { pieces, record } = this.#source;
    const { locks } = this.#world;
    const { shard, slot } = pieces[numbers[0]!]!;
    let gainedBytes = 0;
    const gained = (bytes: number) => void (gainedBytes += bytes);
    const work = () =>
      this.#patiently(
        signal,
        () => this.#attempt(numbers, gained, signal),
        () => gainedBytes,
      );
    const shardLock = `palimpsest:shard:${record.model}#${shard}`;
    if (whole) await locks.request(shardLock, { signal }, work);
    else {
      await locks.request(shardLock, { mode: 'shared', signal }, () =>
        locks.request(`palimpsest:piece:${slot}`, { signal }, work),
      );
    }
    await this.#seal(shard);
  }

  async #attempt(
    numbers: number[],
    gained: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<Setback | 'done'> {
    const { pieces, record, store } = this.#source;
    const missing: number[] = [];
    for (const number of numbers) {
      if (this.present.has(number)) continue;
      if ((await store.lookUp(record.model, pieces[number]!)).held) this.#arrived(number);
      else missing.push(number);
    }
    const first = missing[0];
    if (first === undefined) return 'done';
    const haveBytes = await store.partBytes(pieces[first]!.slot);
    this.#partial.set(first, haveBytes);
    if (haveBytes === pieces[first]!.bytes) {
      // All of it had arrived when something prevented the join.
      await this.#join(first);
      return this.#attempt(missing, gained, signal);
    }
    const { make } = this.#source;
    if (!make && haveBytes === 0 && !this.#common.has(first)) {
      const { common } = this.#world;
      const has = await takeCommon(common, pieces[first]!, store, this.#limits.partBytes);
      this.#common.set(first, has);
      if (has) return this.#attempt(missing, gained, signal);
    }
    return make
      ? this.#make(make, first, haveBytes, signal)
      : this.#pour(missing, haveBytes, gained, signal);
  }

  /** Make what is missing of a piece, and store it as it comes. */
  async #make(
    make: Make,
    number: number,
    haveBytes: number,
    signal: AbortSignal,
  ): Promise<Setback | 'done'> {
    const { slot, start, bytes } = this.#source.pieces[number]!;
    for (let at = haveBytes; at < bytes;) {
      const part = await make(
        start + at,
        Math.min(madeParts * this.#limits.partBytes, bytes - at),
        (note) => this.#say(note),
        signal,
      );
      signal.throwIfAborted();
      await this.#source.store.putPart(slot, at, part.slice().buffer);
      at += part.length;
      this.#count(number, part.length);
    }
    await this.#join(number);
    return this.present.has(number) ? 'done' : { kind: 'setback', why: this.note, waitMs: 0 };
  }

  /** Fetch pieces of one shard, the first from its byte `haveBytes` on, and store what arrives. */
  async #pour(
    missing: number[],
    haveBytes: number,
    gained: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<Setback | 'done'> {
    const { pieces } = this.#source;
    const [first, last] = [pieces[missing[0]!]!, pieces[missing.at(-1)!]!];
    const [from, until] = [first.start + haveBytes, last.start + last.bytes];
    const stop = stoppedBy(signal);
    try {
      const address = this.#source.address(first.shard);
      const answer = await ask(this.#world, this.#limits.stallMs, address, from, until, stop);
      if (isSetback(answer)) return answer;
      if (!answer.ranged && first.start > 0 && !this.#unranged.has(first.shard)) {
        this.#unranged.add(first.shard);
        this.#queue.unshift(...missing);
        return 'done';
      }
      const objection = await this.#objection(answer, missing[0]!);
      if (objection !== null) return { kind: 'setback', why: objection, waitMs: 0 };
      return await this.#receive(answer, missing, from, gained);
    } finally {
      stop.abort();
    }
  }

  /** Why an answer is not about the file that we have the beginning of; null if it is. Fails: DownloadFailed. */
  async #objection(answer: Answer, number: number): Promise<string | null> {
    const { record, pieces, store } = this.#source;
    const { shard, stated, slot } = pieces[number]!;
    const { file, bytes } = record.manifest.shards[shard]!;
    if (answer.totalBytes !== null && answer.totalBytes !== bytes) {
      return `The server says that ${file} has ${answer.totalBytes} bytes instead of ${bytes}`;
    }
    const before = record.validators[shard] ?? null;
    const { validator } = answer;
    if (validator === null || validator === before || this.#replaced.has(shard)) return null;
    if (stated === null) {
      // Once the whole was right, each piece has a hash to be held against.
      if (before === null || record.agreed[shard]) return null;
      throw changedFile(file);
    }
    if (before !== null) this.#replaced.add(shard);
    await store.learn(record, shard, { validator });
    if (before === null || !this.#partial.get(number)) return null;
    await store.dropParts(slot);
    this.#partial.delete(number);
    this.#changed();
    return `${file} was changed on the server; what had arrived of the earlier one was dropped`;
  }

  /** Store a body's bytes as parts of the missing pieces, from byte `at` of the shard on; join each that is full. */
  async #receive(
    answer: Answer,
    missing: number[],
    at: number,
    gained: (bytes: number) => void,
  ): Promise<Setback | 'done'> {
    const { pieces, store, record } = this.#source;
    const { partBytes, stallMs } = this.#limits;
    const reader = answer.body.getReader();
    const part = new Uint8Array(partBytes);
    let filled = 0;
    const putAway = async ({ slot, start }: Piece) => {
      if (filled > 0) await store.putPart(slot, at - filled - start, part.slice(0, filled).buffer);
      filled = 0;
    };
    let position = answer.position;
    let broken: string | null = null;
    let turn = 0;
    while (turn < missing.length && broken === null) {
      let chunk: ReadableStreamReadResult<Uint8Array> | typeof silence;
      try {
        chunk = await unlessSilent(reader.read(), this.#world.clock, stallMs);
      } catch (cause) {
        broken = `The connection broke (${said(cause)})`;
        break;
      }
      if (chunk === silence) broken = `Nothing arrived for ${stallMs / 1000} s`;
      else if (chunk.done) broken = 'The server ended its answer early';
      else {
        const end = position + chunk.value.length;
        while (turn < missing.length && at < end) {
          const number = missing[turn]!;
          const piece = pieces[number]!;
          const pieceEnd = piece.start + piece.bytes;
          const take = Math.min(partBytes - filled, pieceEnd - at, end - at);
          part.set(chunk.value.subarray(at - position, at - position + take), filled);
          filled += take;
          at += take;
          gained(take);
          this.#count(number, take);
          if (filled === partBytes || at === pieceEnd) await putAway(piece);
          if (at < pieceEnd) continue;
          await this.#join(number);
          const next = pieces[missing[++turn] ?? -1];
          if (next) at = next.start + (await store.partBytes(next.slot));
        }
        position = end;
      }
    }
    if (broken !== null) {
      const piece = pieces[missing[turn]!]!;
      await putAway(piece);
      const { file, bytes } = record.manifest.shards[piece.shard]!;
      return { kind: 'setback', why: `${broken} at byte ${at} of ${bytes} of ${file}`, waitMs: 0 };
    }
    return missing.every((number) => this.present.has(number))
      ? 'done'
      : { kind: 'setback', why: this.note, waitMs: 0 };
  }

  /** Count bytes that arrived of a piece. */
  #count(number: number, bytes: number): void {
    this.#partial.set(number, (this.#partial.get(number) ?? 0) + bytes);
    const at = this.#world.clock.now();
    const last = this.#arrivals.at(-1);
    if (last && at - last.at < 100) last.bytes += bytes;
    else this.#arrivals.push({ at, bytes });
    if (this.#arrivals[0]!.at < at - rateWindowMs) this.#arrivals.shift();
    this.#changed();
  }

  /** All bytes of a piece have arrived: present if its hash is right, otherwise dropped. Fails: ShardCorrupt. */
  #join(number: number): Promise<void> {
    return this.#inTurn(async () => {
      const { pieces, record, store } = this.#source;
      const piece = pieces[number]!;
      const { file } = record.manifest.shards[piece.shard]!;
      const whole = await store.joined(piece);
      if (whole === null) {
        this.note = `What is stored of ${file} from byte ${piece.start} on has gaps and was dropped`;
        await store.dropParts(piece.slot);
        this.#partial.delete(number);
        this.#changed();
        return;
      }
      const hash = await sha256(whole);
      // While a shard has still to be compared with its hash, what a piece of it was before binds nobody.
      const known = (await store.lookUp(record.model, piece)).sha256;
      const expected = this.#sealed(piece.shard) && known !== null ? known : hash;
      if (hash === expected) {
        await store.putPiece(record.model, piece, hash, whole, this.#world.clock.now());
        const { common } = this.#world;
        if (piece.stated && !this.#common.get(number)) void common?.write(hash, whole);
        freeBytes(whole);
        this.#arrived(number);
        return;
      }
      await store.dropParts(piece.slot);
      this.#partial.delete(number);
      const times = (this.#wrong.get(number) ?? 0) + 1;
      this.#wrong.set(number, times);
      this.note = `${file} from byte ${piece.start} on arrived damaged and was dropped`;
      this.#changed();
      if (times < wrongHashes) return;
      throw new PalimpsestError(
        'ShardCorrupt',
        `${file} from byte ${piece.start} on arrived ${times} times with SHA-256 ${hash.slice(0, 8)} or others ` +
          `instead of ${expected.slice(0, 8)}` +
          (piece.stated === null
            ? ', which it had at first. Remove the model to take what the server has now.'
            : ': the server has another file than the one expected.'),
      );
    });
  }

  #arrived(number: number): void {
    const piece = this.#source.pieces[number]!;
    this.#partial.delete(number);
    if (!this.present.has(number)) {
      this.present.add(number);
      this.storedBytes += piece.bytes;
    }
    if (this.#sealed(piece.shard)) this.#release(number);
    this.#changed();
  }

  /** True unless a shard of several pieces has still to be compared with the hash stated for the whole of it. */
  #sealed(shard: number): boolean {
    const { record } = this.#source;
    const { bytes, sha256: stated } = record.manifest.shards[shard]!;
    return stated === null || bytes <= record.pieceBytes || record.agreed[shard]!;
  }

  /** Compare a shard of several pieces, once all are present, with its stated hash; fetch it again once. Fails: ShardCorrupt. */
  #seal(shard: number): Promise<void> {
    return this.#inTurn(async () => {
      const { pieces, record, store } = this.#source;
      const mine = this.#numbersOf(shard);
      if (!mine.every((number) => this.present.has(number))) return;
      if (!this.#sealed(shard)) {
        const { file, sha256: stated } = record.manifest.shards[shard]!;
        const hash = new Sha256();
        for (const number of mine) {
          const { sha256: pinned } = await store.lookUp(record.model, pieces[number]!);
          const bytes = pinned === null ? undefined : await store.piece(pinned);
          if (!bytes || (await sha256(bytes)) !== pinned) {
            // Damaged since it arrived, or another tab found the whole wrong.
            if (pinned !== null) await store.dropPiece(pinned);
            return this.lost(number);
          }
          hash.update(new Uint8Array(bytes));
          freeBytes(bytes);
        }
        const seen = hash.digest();
        if (seen !== stated) {
          await store.unpin(
            record.model,
            mine.map((number) => pieces[number]!.slot),
          );
          this.note = `${file} arrived damaged and was dropped`;
          for (const number of mine.reverse()) this.lost(number);
          if (!this.#damaged.has(shard)) return void this.#damaged.add(shard);
          throw new PalimpsestError(
            'ShardCorrupt',
            `${file} arrived twice with SHA-256 ${seen.slice(0, 8)} or another instead of ${stated!.slice(0, 8)} and was ` +
              'dropped: the server has another file than the one expected.',
          );
        }
        await store.learn(record, shard, { agreed: true });
      }
      for (const number of mine) this.#release(number);
    });
  }

  #release(number: number): void {
    for (const { resolve } of this.#waiting.get(number) ?? []) resolve();
    this.#waiting.delete(number);
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#joining.then(work);
    this.#joining = turn.catch(() => {});
    return turn;
  }
}

function changedFile(file: string): PalimpsestError {
  return new PalimpsestError(
    'DownloadFailed',
    `${file} was changed on the server while it was being fetched. Open it again to get the one that is there.`,
  );
}

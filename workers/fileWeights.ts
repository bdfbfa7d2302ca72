/**
 * The tensors of a file on their way to the GPU: in the order in which they lie there, many at a time, the next bytes asked
 * for before those at hand are laid out. No more than two stretches of the file are in memory, and as many on their way into
 * the GPU, which holds what is written beside the buffers that it is for.
 */
import { type GgufFile, readExactly, type TensorEntry } from './gguf.ts';
import type { Gpu } from './gpu.ts';
import { putDown } from './measured.ts';
import { type LoadProgress, PalimpsestError } from './protocol.ts';
import { dequantize, packedRow, repack, rowBytes, rowUnit } from './quant.ts';
import { freeBytes } from './store.ts';
import type { MatrixPart, Wanted, WeightSource } from './weights.ts';

/** Bytes of a file read at a time, but for a single row or a vector that has more. */
const READ_BYTES = 2 * 1024 * 1024;
/** So many bytes that nobody wants are read rather than left out. */
const GAP_BYTES = 64 * 1024;

/** Bytes of a shard, and what is done with them. */
interface Range {
  shard: number;
  offset: number;
  byteLength: number;
  use: (bytes: Uint8Array) => void;
}

/** Ranges of one shard that are read together, in the order of their offsets. */
interface Stretch {
  offset: number;
  end: number;
  ranges: Range[];
}

/** A file as far as its tensors go. */
export type TensorFile = Pick<GgufFile, 'tensors' | 'shards'>;

export class FileWeights implements WeightSource {
  readonly #gpu: Gpu;
  readonly #file: TensorFile;
  readonly #report: (p: LoadProgress) => void;

  /** `report` is told how much of what is wanted is on the GPU. */
  constructor(gpu: Gpu, file: TensorFile, report: (p: LoadProgress) => void) {
    this.#gpu = gpu;
    this.#file = file;
    this.#report = report;
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    return [...this.#file.tensors.values()].reduce((sum, t) => sum + t.byteLength, 0);
  }

  entry(name: string): TensorEntry {
    const entry = this.#file.tensors.get(name);
    if (!entry)
      throw new PalimpsestError(
        'BadModel',
        `The file has no tensor ${name}, which this model needs.`,
      );
    return entry;
  }

  async bring(wanted: readonly Wanted[]): Promise<void> {
    const start = performance.now();
    const stretches = stretchesOf(wanted.flatMap((one) => this.#rangesOf(one)));
    const totalBytes = stretches.reduce((sum, { offset, end }) => sum + end - offset, 0);
    let doneBytes = 0;
    let busyMs = 0;
    let next = this.#read(stretches[0]);
    let written = Promise.resolve();
    for (const [i, { offset, end, ranges }] of stretches.entries()) {
      const bytes = (await next)!;
      if (this.#gpu.bytes.weights === 0) return; // the device was given up meanwhile
      next = this.#read(stretches[i + 1]);
      const begun = performance.now();
      for (const range of ranges) {
        const first = range.offset - offset;
        range.use(bytes.subarray(first, first + range.byteLength));
      }
      freeBytes(bytes.buffer as ArrayBuffer);
      busyMs += performance.now() - begun;
      await written;
      written = this.#gpu.written();
      written.catch(() => {}); // told when the next is waited for
      doneBytes += end - offset;
      this.#report({ phase: 'upload', doneBytes, totalBytes, note: '' });
    }
    await written;
    putDown('weights laid out', start, busyMs);
  }

  #read(stretch: Stretch | undefined): Promise<Uint8Array | undefined> {
    if (!stretch) return Promise.resolve(undefined);
    const { offset, end, ranges } = stretch;
    const read = readExactly(this.#file.shards[ranges[0]!.shard]!, offset, end - offset);
    read.catch(() => {}); // told when its turn comes
    return read;
  }

  #rangesOf(wanted: Wanted): Range[] {
    const entry = this.entry(wanted.shape.name);
    if ('part' in wanted) return this.#rowsOf(entry, wanted.part);
    const { shard, offset, byteLength, type, ne } = entry;
    const count = ne.reduce((a, b) => a * b, 1);
    const use = (bytes: Uint8Array) => wanted.take(dequantize(type, bytes, count));
    return [{ shard, offset, byteLength, use }];
  }

  #rowsOf({ shard, offset, type, ne }: TensorEntry, part: MatrixPart): Range[] {
    const cols = ne[0]!;
    const rowFileBytes = rowBytes(type, cols);
    const unit = rowUnit(type);
    const rangeRows = unit * Math.max(1, Math.floor(READ_BYTES / rowFileBytes / unit));
    const { codeWords, scaleWords } = packedRow(type, cols);
    const ranges: Range[] = [];
    for (let row = 0; row < part.rows; row += rangeRows) {
      const count = Math.min(rangeRows, part.rows - row);
      ranges.push({
        shard,
        offset: offset + (part.firstRow + row) * rowFileBytes,
        byteLength: count * rowFileBytes,
        use: (bytes) => {
          const { codes, scales } = repack(type, bytes, count, cols);
          this.#gpu.write(part.codes, (part.offset + row) * codeWords, codes);
          if (scales) this.#gpu.write(part.scales!, (part.offset + row) * scaleWords, scales);
        },
      });
    }
    return ranges;
  }
}

/** Neighbours together, as far as a read goes. */
function stretchesOf(ranges: Range[]): Stretch[] {
  const stretches: Stretch[] = [];
  for (const range of ranges.sort((a, b) => a.shard - b.shard || a.offset - b.offset)) {
    const end = range.offset + range.byteLength;
    const last = stretches.at(-1);
    const joins =
      last?.ranges[0]!.shard === range.shard &&
      range.offset <= last.end + GAP_BYTES &&
      end <= last.offset + READ_BYTES;
    if (joins) {
      last.end = Math.max(last.end, end);
      last.ranges.push(range);
    } else stretches.push({ offset: range.offset, end, ranges: [range] });
  }
  return stretches;
}

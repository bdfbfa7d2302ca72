/**
 * safetensors, Hugging Face's weights file: header and table of tensors, one file or several with an index.
 *
 *   u64 bytes of the header   header: JSON, padded with spaces   tensor data
 *   header   { NAME: { dtype, shape, data_offsets: [begin, end] in the tensor data }, ..., __metadata__: { ... } }
 *   index    model.safetensors.index.json: { weight_map: { NAME: FILE, ... } }
 *
 * Little-endian, C order. Only headers are read here; numbers are read by range when asked for. Nothing in a header is
 * believed: it is bounded before it is parsed, and the tensors must fill the rest of the file, side by side.
 * Source: huggingface/safetensors README and safetensors/src/tensor.rs (no holes, no overlaps).
 */
import type { ByteSource } from './gguf.ts';
import { isObject, parseJson, readJson, type Json, type JsonLimits } from './json.ts';
import { PalimpsestError } from './protocol.ts';
import { blockBytes, dequantize } from './quant.ts';

/** What numbers may be stored as. */
export type SafeType = 'F32' | 'F16' | 'BF16';

export interface SafeTensor {
  name: string;
  dtype: SafeType;
  /** Slowest extent first. */
  shape: number[];
  source: ByteSource;
  /** Absolute, in its file. */
  offset: number;
  byteLength: number;
}

/** Of a header. The largest models have some 20,000 tensors, 120 bytes each. */
const HEADER_LIMITS: JsonLimits = { bytes: 16 * 1024 * 1024, depth: 4, values: 1_000_000 };
const INDEX_LIMITS: JsonLimits = { bytes: 16 * 1024 * 1024, depth: 4, values: 300_000 };
const MOST_TENSORS = 65_536;
const NAME_LENGTH = 1024;
const DIMENSIONS = 8;

function bad(source: ByteSource, what: string): never {
  throw new PalimpsestError(
    'BadModel',
    `${source.name} ${what}. The file is damaged or incomplete; download it again.`,
  );
}

// ---------------------------------------------------------------------------------------------- one file

/**
 * The tensors of one file.
 * Fails: BadModel (not safetensors, truncated, contradictory), Unsupported (numbers of another kind), and as the source does.
 */
export async function readSafetensors(source: ByteSource): Promise<SafeTensor[]> {
  const { byteLength } = source;
  if (byteLength < 10) bad(source, `has ${byteLength} bytes, too few for safetensors`);
  const length = await readExactly(source, 0, 8);
  const headerBytes = Number(new DataView(length.buffer, length.byteOffset).getBigUint64(0, true));
  if (headerBytes > byteLength - 8) {
    bad(source, `has ${byteLength} bytes, and its header alone is to have ${headerBytes}`);
  }
  if (headerBytes > HEADER_LIMITS.bytes) {
    bad(source, `has a header of ${headerBytes} bytes; ${HEADER_LIMITS.bytes} are the most`);
  }
  const header = parseJson(
    await readExactly(source, 8, headerBytes),
    `The header of ${source.name}`,
    HEADER_LIMITS,
  );

  const tensors: SafeTensor[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.push(readEntry(source, 8 + headerBytes, name, entry));
  }
  if (tensors.length > MOST_TENSORS) {
    bad(source, `has ${tensors.length} tensors; ${MOST_TENSORS} are the most`);
  }
  seeThatTheyFill(source, 8 + headerBytes, tensors);
  return tensors;
}

async function readExactly(
  source: ByteSource,
  offset: number,
  byteLength: number,
): Promise<Uint8Array> {
  const bytes = await source.read(offset, byteLength);
  if (bytes.byteLength === byteLength) return bytes;
  return bad(
    source,
    `gave ${bytes.byteLength} bytes at ${offset} where ${byteLength} were asked for`,
  );
}

function readEntry(source: ByteSource, start: number, name: string, entry: Json): SafeTensor {
  if (name === '' || name.length > NAME_LENGTH) {
    bad(source, `has a tensor whose name has ${name.length} characters`);
  }
  if (!isObject(entry)) bad(source, `describes tensor ${name} by something that is no object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string') bad(source, `states no type for tensor ${name}`);
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
    throw new PalimpsestError(
      'Unsupported',
      `${source.name} stores tensor ${name} as ${dtype.slice(0, 20)}; BF16, F16 and F32 are read. Choose a checkpoint that is not quantised.`,
    );
  }
  if (!isSizes(shape) || shape.length > DIMENSIONS || shape.includes(0)) {
    bad(source, `gives tensor ${name} an impossible shape`);
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    bad(source, `does not say where tensor ${name} lies`);
  }
  const byteLength = offsets[1] - offsets[0];
  const needed = shape.reduce((a, b) => a * b, blockBytes(dtype));
  if (needed !== byteLength) {
    const sizes = `${shape.join(' x ')} ${dtype} need ${needed}`;
    bad(source, `gives tensor ${name} ${byteLength} bytes, but ${sizes}`);
  }
  return { name, dtype, shape, source, offset: start + offsets[0], byteLength };
}

function isSizes(value: Json | undefined): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && Number(n) >= 0);
}

/** Tensors lie side by side from the header to the end of the file, as the format demands. */
function seeThatTheyFill(source: ByteSource, start: number, tensors: SafeTensor[]): void {
  let end = start;
  for (const { name, offset, byteLength } of [...tensors].sort((a, b) => a.offset - b.offset)) {
    if (offset < end) bad(source, `has tensor ${name} in the place of another`);
    if (offset > end) bad(source, `has ${offset - end} bytes in front of tensor ${name} unused`);
    end = offset + byteLength;
  }
  if (end !== source.byteLength) {
    bad(source, `ends at byte ${source.byteLength}; its tensors end at ${end}`);
  }
}

// ------------------------------------------------------------------------------------------ several files

export const INDEX_FILE = 'model.safetensors.index.json';

/**
 * All tensors of a checkpoint by name, from those of its files that hold or list weights.
 * Fails: Refused (no weights among the files), BadModel (a file missing, an index that disagrees), and as `readSafetensors`.
 */
export async function openWeights(files: readonly ByteSource[]): Promise<Map<string, SafeTensor>> {
  const index = files.find(({ name }) => name === INDEX_FILE);
  const stated = index ? await readIndex(index) : null;
  const wanted = stated ? [...new Set(stated.values())] : weightFiles(files);
  const tensors = new Map<string, SafeTensor>();
  for (const file of wanted) {
    const source = files.find(({ name }) => name === file);
    if (!source) {
      throw new PalimpsestError(
        'BadModel',
        `${file} is missing: the checkpoint has ${wanted.length} files of weights. Give all of them.`,
      );
    }
    for (const tensor of await readSafetensors(source)) {
      const { name } = tensor;
      if (stated && stated.get(name) !== file) bad(source, `has tensor ${name}, unlike the index`);
      if (tensors.has(name)) bad(source, `has tensor ${name}, which another file has, too`);
      tensors.set(name, tensor);
    }
  }
  for (const [name, file] of stated ?? []) {
    if (!tensors.has(name)) bad(index!, `promises tensor ${name} in ${file}, which has none`);
  }
  return tensors;
}

/** Tensor -> file. */
async function readIndex(index: ByteSource): Promise<Map<string, string>> {
  const { weight_map: weightMap } = await readJson(index, INDEX_LIMITS);
  if (!isObject(weightMap)) bad(index, 'has no weight_map');
  const entries = Object.entries(weightMap);
  if (entries.length === 0 || entries.length > MOST_TENSORS) {
    bad(index, `lists ${entries.length} tensors; 1 to ${MOST_TENSORS} are possible`);
  }
  return new Map(
    entries.map(([name, file]) => {
      if (typeof file === 'string') return [name, file];
      return bad(index, `names no file for tensor ${name.slice(0, NAME_LENGTH)}`);
    }),
  );
}

/** The files of weights where there is no index: one, or NAME-00001-of-00003 and so on, complete. */
function weightFiles(files: readonly ByteSource[]): string[] {
  const names = files.map(({ name }) => name).filter((name) => name.endsWith('.safetensors'));
  if (names.length === 0) {
    throw new PalimpsestError(
      'Refused',
      'There is no .safetensors file among the files. Choose the whole folder of a checkpoint.',
    );
  }
  const count = Number(/-of-(\d{5})\.safetensors$/.exec(names[0])?.[1] ?? 1);
  if (count !== names.length) {
    throw new PalimpsestError(
      'BadModel',
      `${names[0]} is one of ${count}, and ${names.length} were given, without ${INDEX_FILE}. Give all files of one checkpoint.`,
    );
  }
  return names;
}

// ----------------------------------------------------------------------------------------------- numbers

/** `count` numbers from number `first` on, in C order. Fails: BadModel for a source that gives too little, and as it does. */
export async function readNumbers(
  { dtype, source, offset }: SafeTensor,
  first: number,
  count: number,
): Promise<Float32Array<ArrayBuffer>> {
  const width = blockBytes(dtype);
  const bytes = await readExactly(source, offset + first * width, count * width);
  return dequantize(dtype, bytes, count);
}

/**
 * A Hugging Face checkpoint as the GGUF file it would be. The file is never whole anywhere: its layout is worked out first,
 * and then any range of it is made when it is read, from the numbers of the checkpoint that it holds. So it opens as any
 * GGUF does, any piece of it can be made again, and what is in memory is the range asked for and one chunk.
 */
import {
  CONFIG_LIMITS,
  modelMetadata,
  readConfig,
  storedType,
  tensorRecipes,
  type Encoding,
  type Slab,
  type TensorRecipe,
} from './checkpoint.ts';
import { modelConfig, type ModelConfig } from './config.ts';
import { openGguf, type ByteSource } from './gguf.ts';
import { layOutGguf, type GgufLayout, type TensorPlace } from './ggufFile.ts';
import { tokenizerMetadata } from './hfTokenizer.ts';
import { readJson } from './json.ts';
import { PalimpsestError } from './protocol.ts';
import { quantize, rowBytes, type TensorType } from './quant.ts';
import { openWeights, readNumbers } from './safetensors.ts';
import { sha256 } from './sha256.ts';
import { createTokenizer } from './tokenizer.ts';

/** What the checkpoint itself does not say. Both go into the file; the licence '' where nobody stated it. */
export interface About {
  name: string;
  license: string;
}

/** The whole GGUF file, made where it is read. Reads fail with BadNumbers, and as the checkpoint's files do. */
export interface ImportedGguf extends ByteSource {
  config: ModelConfig;
  /** Numbers in all its tensors. */
  parameters: number;
  /**
   * Lower-case hex: the same for the same layout made from files of the same names and sizes. Pieces of two imports may be
   * put together only where it is equal.
   */
  fingerprint: string;
}

/** To be counted up when the same layout gets other bytes. */
const RECIPE_VERSION = 1;

/** Numbers decoded at a time: 16 MiB as f32, an expert's matrix whole. One row, where a row has more. */
const CHUNK_NUMBERS = 4 * 1024 * 1024;

/** A checkpoint whose headers are read. */
export interface Checkpoint {
  /** The GGUF file that it becomes in this encoding. Fails: Unsupported and BadModel, for what the engine would refuse. */
  as(encoding: Encoding): Promise<ImportedGguf>;
}

/** The GGUF file that a checkpoint becomes in this encoding: `openCheckpoint`, then `as`. */
export async function importCheckpoint(
  files: readonly ByteSource[],
  about: About,
  encoding: Encoding,
): Promise<ImportedGguf> {
  return (await openCheckpoint(files, about)).as(encoding);
}

/**
 * Read what a checkpoint says of itself. `files` are those of its folder, by their plain names; others than config.json, the
 * tokenizer's and the weights' are not read. Nothing of the weights but their headers is read yet.
 * Fails: Refused (a file missing), BadModel, Unsupported, and as the files do.
 */
export async function openCheckpoint(
  files: readonly ByteSource[],
  about: About,
): Promise<Checkpoint> {
  const configFile = files.find(({ name }) => name === 'config.json');
  if (!configFile) {
    throw new PalimpsestError(
      'Refused',
      'There is no config.json among the files. Choose the whole folder of a checkpoint.',
    );
  }
  const stated = readConfig(await readJson(configFile, CONFIG_LIMITS));
  const recipes = tensorRecipes(stated, await openWeights(files));
  const tokenizer = await tokenizerMetadata(files, stated);
  const listed = files.map(({ name, byteLength }) => `${name} ${byteLength}`).sort();
  return {
    as: (encoding) =>
      ggufOf(
        `${about.name}-${encoding}.gguf`,
        recipes,
        layOutGguf(
          [...modelMetadata(stated, about, encoding), ...tokenizer],
          recipes.map((recipe) => ({ ...recipe, type: storedType(recipe, encoding) })),
        ),
        listed,
      ),
  };
}

async function ggufOf(
  name: string,
  recipes: TensorRecipe[],
  { header, tensors, byteLength }: GgufLayout,
  listed: string[],
): Promise<ImportedGguf> {
  const source: ByteSource = {
    name,
    byteLength,
    async read(offset, bytes) {
      if (!(offset >= 0 && bytes >= 0 && offset + bytes <= byteLength)) {
        throw new PalimpsestError(
          'Refused',
          `${name} has ${byteLength} bytes; ${bytes} from ${offset} on were asked for.`,
        );
      }
      const out = new Uint8Array(bytes);
      if (offset < header.length) out.set(header.subarray(offset, offset + bytes));
      for (const [i, place] of tensors.entries()) {
        const from = Math.max(offset, place.offset);
        const until = Math.min(offset + bytes, place.offset + place.byteLength);
        if (from >= until) continue;
        const wanted = out.subarray(from - offset, until - offset);
        await fillTensor(recipes[i], place, from - place.offset, wanted);
      }
      return out;
    },
  };
  const config = await configOf({ ...source, read: (...range) => headerAlone(header, ...range) });
  const identity = utf8.encode([RECIPE_VERSION, ...listed, await sha256(header)].join('\n'));
  const parameters = tensors.reduce((sum, { ne }) => sum + ne.reduce((a, b) => a * b, 1), 0);
  return { ...source, config, parameters, fingerprint: await sha256(identity) };
}

const utf8 = new TextEncoder();

/** The file opened as the engine will open it, so that what cannot run is refused before weights are fetched. */
async function configOf(source: ByteSource): Promise<ModelConfig> {
  const opened = await openGguf([source]);
  createTokenizer(opened.metadata);
  return modelConfig(opened);
}

/** A range of the file with zeros where the tensors are: whoever reads a header reads a little beyond it. */
function headerAlone(header: Uint8Array, offset: number, bytes: number): Promise<Uint8Array> {
  const out = new Uint8Array(bytes);
  out.set(header.subarray(offset, offset + bytes));
  return Promise.resolve(out);
}

/** Bytes of a tensor from `byteOffset` on, as many as `out` takes. */
async function fillTensor(
  recipe: TensorRecipe,
  { type, ne: [cols] }: TensorPlace,
  byteOffset: number,
  out: Uint8Array,
): Promise<void> {
  const perRow = rowBytes(type, cols);
  const perChunk = Math.max(1, Math.floor(CHUNK_NUMBERS / cols));
  const firstRow = Math.floor(byteOffset / perRow);
  const endRow = Math.ceil((byteOffset + out.length) / perRow);
  let slabStart = 0; // its first row, in the tensor
  for (const slab of recipe.slabs) {
    const end = Math.min(endRow, slabStart + slab.rows);
    for (let row = Math.max(firstRow, slabStart); row < end; row += perChunk) {
      const rows = Math.min(perChunk, end - row);
      const numbers = await slabRows(slab, cols, row - slabStart, rows);
      checkNumbers(recipe.name, slab, type, numbers);
      const stored = encode(type, numbers);
      const at = row * perRow - byteOffset; // in `out`; the first row may begin before it, the last end after it
      const skipped = Math.max(0, -at);
      out.set(stored.subarray(skipped, out.length - at), at + skipped);
    }
    slabStart += slab.rows;
  }
}

/** Rows [first, first + rows) of a slab, [rows, cols]. */
async function slabRows(
  slab: Slab,
  cols: number,
  first: number,
  rows: number,
): Promise<Float32Array> {
  if (slab.change === 'turned') {
    const run = await readNumbers(slab.source, slab.first, slab.rows * cols);
    return Float32Array.from(
      { length: rows * cols },
      (_, i) => run[(i % cols) * slab.rows + first + Math.floor(i / cols)],
    );
  }
  const numbers = await readNumbers(slab.source, slab.first + first * cols, rows * cols);
  return slab.change === 'minusExp' ? numbers.map((value) => -Math.exp(value)) : numbers;
}

/** The largest f16 below 64: the largest scale of a block that loads (quant.ts). */
const LARGEST_SCALE = 63.96875;

/** The largest magnitude that a type can store and that loads. */
const LARGEST: Partial<Record<TensorType, number>> = {
  F16: 65504,
  Q8_0: 127 * LARGEST_SCALE,
  Q4_0: 8 * LARGEST_SCALE,
};

function checkNumbers(name: string, slab: Slab, type: TensorType, numbers: Float32Array): void {
  const largest = LARGEST[type] ?? 3.4028234663852886e38;
  let odd: number | undefined;
  // A loop: a callback for each number would take longer than quantising them.
  for (let i = 0; i < numbers.length; i++) {
    if (!(Math.abs(numbers[i]) <= largest)) odd ??= numbers[i];
  }
  if (odd === undefined) return;
  const advice = Number.isFinite(odd) ? 'Choose F32 or BF16.' : 'Get the checkpoint again.';
  throw new PalimpsestError(
    'BadNumbers',
    `Tensor ${slab.source.name} holds ${odd}, which ${name} as ${type} cannot. ${advice}`,
  );
}

function encode(type: TensorType, numbers: Float32Array): Uint8Array {
  if (type === 'F32') return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  return quantize(type as Exclude<Encoding, 'F32'>, numbers);
}

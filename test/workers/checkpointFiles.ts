/** A checkpoint's files for tests: as byte sources, and as the numbers in them, read straight from the format's definition. */
import type { WrittenTensor } from '../../tools/fixtures/safetensorsWriter.ts';
import { memorySource } from './ggufWriter.ts';

/** Files by name. */
export type Folder = Map<string, Uint8Array>;

export const sources = (files: Folder) =>
  [...files].map(([name, bytes]) => memorySource(name, bytes));

export interface CheckpointTensor extends WrittenTensor {
  numbers: Float32Array;
}

/** Every tensor of all .safetensors files, in their order. F16 without subnormals, infinities and NaN. */
export function checkpointTensors(files: Folder): CheckpointTensor[] {
  const found: CheckpointTensor[] = [];
  for (const [file, bytes] of files) {
    if (!file.endsWith('.safetensors')) continue;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const start = 8 + Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start))) as Record<
      string,
      Pick<WrittenTensor, 'dtype' | 'shape'> & { data_offsets: [number, number] }
    >;
    for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const width = dtype === 'F32' ? 4 : 2;
      const number = (i: number): number => {
        const at = start + offsets[0] + i * width;
        if (dtype === 'F32') return view.getFloat32(at, true);
        const bits = view.getUint16(at, true);
        if (dtype === 'BF16') return new Float32Array(new Uint32Array([bits << 16]).buffer)[0];
        const sign = bits & 0x8000 ? -1 : 1;
        return sign * (1 + (bits & 1023) / 1024) * 2 ** (((bits >> 10) & 31) - 15);
      };
      const count = (offsets[1] - offsets[0]) / width;
      const numbers = Float32Array.from({ length: count }, (_, i) => number(i));
      const own = bytes.subarray(start + offsets[0], start + offsets[1]);
      found.push({ name, dtype, shape, bytes: own, numbers });
    }
  }
  return found;
}

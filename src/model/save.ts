/** Writing a stored model out as files: into a place that the person picks, or through the browser's downloads. */
import type { Weights } from '../client.ts';

/** Takes files one after another. */
export interface Destination {
  begin(file: string): Promise<FileWriter>;
}

interface FileWriter {
  write(bytes: ArrayBuffer): Promise<void>;
  /** The file is whole. */
  close(): Promise<void>;
  /** It will not be. */
  abort(): Promise<void>;
}

/** Pickers that only some browsers have; https://wicg.github.io/file-system-access. */
interface Pickers {
  showSaveFilePicker?: (options: { suggestedName: string }) => Promise<FileSystemFileHandle>;
  showDirectoryPicker?: (options: { mode: 'readwrite' }) => Promise<FileSystemDirectoryHandle>;
}

const rangeBytes = 8 * 1024 * 1024;

/** Where to? A file for one shard, a folder for several. To be called by a click. Fails if the person cancels. */
export async function chooseDestination(name: string, shards: number): Promise<Destination> {
  const { showSaveFilePicker, showDirectoryPicker } = globalThis as Pickers;
  if (shards === 1 && showSaveFilePicker) {
    const file = await showSaveFilePicker.call(globalThis, { suggestedName: `${name}.gguf` });
    return { begin: () => file.createWritable() };
  }
  if (shards > 1 && showDirectoryPicker) {
    const folder = await showDirectoryPicker.call(globalThis, { mode: 'readwrite' });
    return {
      begin: async (file) => (await folder.getFileHandle(file, { create: true })).createWritable(),
    };
  }
  return { begin: (file) => Promise.resolve(downloadOf(file)) };
}

/** A file among the browser's downloads. Its parts are Blobs: browsers move those out of memory. */
function downloadOf(file: string): FileWriter {
  let parts: Blob[] = [];
  return {
    write: async (bytes) => void parts.push(new Blob([bytes])),
    async close() {
      const address = URL.createObjectURL(new Blob(parts, { type: 'application/octet-stream' }));
      const link = document.createElement('a');
      link.href = address;
      link.download = file;
      link.click();
      // Not at once: the browser has yet to begin.
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    },
    abort: async () => void (parts = []),
  };
}

/** Write all shards of a model that is stored whole. Answers how many files that were. Fails as `read` and the destination do. */
export async function saveModel(
  weights: Weights,
  model: string,
  destination: Destination,
  report: (doneBytes: number, totalBytes: number) => void,
): Promise<number> {
  const shards = await weights.open(model);
  const totalBytes = shards.reduce((sum, { bytes }) => sum + bytes, 0);
  let doneBytes = 0;
  for (const [shard, { file, bytes }] of shards.entries()) {
    const writer = await destination.begin(file);
    try {
      for (let at = 0; at < bytes; at += rangeBytes) {
        const range = await weights.read(model, shard, at, Math.min(rangeBytes, bytes - at));
        doneBytes += range.byteLength;
        await writer.write(range);
        report(doneBytes, totalBytes);
      }
    } catch (cause) {
      await writer.abort().catch(() => {}); // the first failure is the one to tell
      throw cause;
    }
    await writer.close();
  }
  return shards.length;
}

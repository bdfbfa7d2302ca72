/** Files that a person dropped or picked, and the folder that they were in. */
import { PalimpsestError } from '../../workers/protocol.ts';

export interface Folder {
  /** The folder's name; a word in its place where files were taken one by one. */
  name: string;
  files: File[];
  /** All of a folder was taken, of which a model may be a part. */
  whole: boolean;
}

const unnamed = 'checkpoint';

/** What a file input was given: files, or a folder with `webkitdirectory`. Files further down are left out. */
export function pickedFolder(picked: Iterable<File>): Folder {
  const files = [...picked];
  const name = files[0]?.webkitRelativePath.split('/')[0] ?? '';
  if (name === '') return { name: unnamed, files, whole: false };
  const own = files.filter((file) => file.webkitRelativePath.split('/').length === 2);
  return { name, files: own, whole: true };
}

/**
 * What was dropped. To be called while the event is under way: a browser forgets its folders afterwards.
 * Fails: Refused, for a folder that cannot be read.
 */
export function droppedFolder(dropped: DataTransfer | null): Promise<Folder> {
  const entries = [...(dropped?.items ?? [])].map((item) => item.webkitGetAsEntry());
  const files = [...(dropped?.files ?? [])];
  const folder = entries.find((entry) => entry?.isDirectory);
  if (!folder) return Promise.resolve({ name: unnamed, files, whole: false });
  return readFolder(folder as FileSystemDirectoryEntry).catch((cause: unknown) => {
    throw new PalimpsestError(
      'Refused',
      `The folder ${folder.name} cannot be read (${String(cause)}). Choose it with "Open a folder".`,
    );
  });
}

async function readFolder(folder: FileSystemDirectoryEntry): Promise<Folder> {
  const reader = folder.createReader();
  const files: File[] = [];
  for (;;) {
    // A browser gives a hundred at a time, and none when all were given.
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (entries.length === 0) return { name: folder.name, files, whole: true };
    for (const entry of entries) {
      if (!entry.isFile) continue;
      files.push(
        await new Promise<File>((resolve, reject) =>
          (entry as FileSystemFileEntry).file(resolve, reject),
        ),
      );
    }
  }
}

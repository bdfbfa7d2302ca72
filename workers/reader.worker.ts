/** A thread that reads the store and hashes what it read (readers.ts). */
import { expose, transfer } from 'comlink';
import type { ReaderApi } from './readers.ts';
import { indexedShelf, Store } from './store.ts';

const store = new Store(indexedShelf('palimpsest'));

expose({
  async sound(...range) {
    const found = await store.sound(...range);
    return typeof found === 'string' ? found : transfer(found, [found]);
  },
} satisfies ReaderApi);

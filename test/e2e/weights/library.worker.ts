/** The weights worker once more, with as many readers as its name says: Reading as JSON. */
import { expose } from 'comlink';
import { browserLibrary, type Reading } from '../../../workers/browserLibrary.ts';

expose(browserLibrary(JSON.parse(self.name) as Reading));

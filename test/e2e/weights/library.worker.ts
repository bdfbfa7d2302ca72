/** The weights worker once more, with as many reading threads as its name says. */
import { expose } from 'comlink';
import { browserLibrary } from '../../../workers/browserLibrary.ts';

expose(browserLibrary(Number(self.name)));

/** The weights worker: one source of verified bytes for the page and, through a port of its own, for the engine. */
import { expose } from 'comlink';
import { browserLibrary } from './browserLibrary.ts';

expose(browserLibrary());

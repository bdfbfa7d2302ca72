/**
 * The weights worker once more, for a frame on another site that a person gave this site's own storage: a shared worker
 * stands in that storage, while the frame and its own workers stand in the surrounding site's.
 */
import { expose } from 'comlink';
import { browserLibrary } from './browserLibrary.ts';

const library = browserLibrary();

addEventListener('connect', (event) => expose(library, (event as MessageEvent).ports[0]));

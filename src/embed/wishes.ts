/** What the frame's address asks for: read once, every part checked; what makes no sense is as if it were not there. */
import { themes, version, views, type Draw, type Look, type Theme } from './protocol.ts';

export interface Wishes {
  /** The origin of the page around, and the key that it knows this frame by; null for a frame that nobody drives. */
  parent: { origin: string; key: string } | null;
  /** The version that the page around speaks. */
  version: number;
  prompt: string;
  /** Absolute URL, as the weights worker takes it. */
  model: string;
  /** Whose server the model comes from, in words. */
  source: string;
  /** The model is on another origin: nothing is asked there before a person agrees. */
  foreign: boolean;
  /** Name of a recording to play; '' for none. */
  replay: string;
  theme: Theme;
  look: Look;
  draw: Draw;
}

/**
 * `page` is the frame's own address, with the wishes in its fragment. `allowed` are the origins that may drive the frame,
 * as its page lists them; an empty list allows any that names itself.
 */
export function readWishes(page: URL, allowed: readonly string[]): Wishes {
  const asked = new URLSearchParams(page.hash.slice(1));
  const embedded = new URL('models/palimpsest-150m/', page);
  embedded.search = embedded.hash = '';
  const model = readModel(asked.get('model') ?? '', page) ?? embedded;
  const foreign = model.origin !== page.origin;
  const seed = whole(asked.get('seed'), 0xffffffff);
  const layer = whole(asked.get('layer'), 999);
  const head = asked.get('head') === 'median' ? 'median' : whole(asked.get('head'), 999);
  const view = views.find((name) => name === asked.get('view'));
  return {
    parent: readParent(asked, allowed),
    version: whole(asked.get('version'), 0xffff) ?? version,
    prompt: (asked.get('prompt') ?? '').slice(0, 4_000),
    model: model.href,
    source: foreign ? model.host : page.host,
    foreign,
    replay: /^[\w-]{1,64}$/.test(asked.get('replay') ?? '') ? asked.get('replay')! : '',
    theme: themes.find((theme) => theme === asked.get('theme')) ?? 'auto',
    look: {
      ...(view && { view }),
      ...(layer !== null && { layer }),
      ...(head !== null && { head }),
    },
    draw: seed === null ? {} : { seed },
  };
}

function readParent(asked: URLSearchParams, allowed: readonly string[]): Wishes['parent'] {
  const origin = asked.get('parent') ?? '';
  const key = asked.get('key') ?? '';
  if (!/^[0-9a-f]{32}$/.test(key) || !URL.canParse(origin)) return null;
  // Exactly an origin: no path, no pattern, not "null".
  if (origin.includes('*')) return null;
  if (!/^https?:$/.test(new URL(origin).protocol) || new URL(origin).origin !== origin) return null;
  if (allowed.length > 0 && !allowed.includes(origin)) return null;
  return { origin, key };
}

/** A folder beside the page, or an https address elsewhere. A page around must not reach what runs on this computer. */
function readModel(named: string, page: URL): URL | null {
  if (named === '' || named.length > 2_048 || !URL.canParse(named, page)) return null;
  const model = new URL(named, page);
  model.hash = '';
  if (model.origin === page.origin) model.search = '';
  else if (model.protocol !== 'https:' || model.username !== '' || model.password !== '')
    return null;
  if (!/(\/|\.gguf)$/.test(model.pathname)) model.pathname += '/';
  return model;
}

function whole(text: string | null, most: number): number | null {
  return text !== null && /^\d{1,10}$/.test(text) && Number(text) <= most ? Number(text) : null;
}

/** The selection of a look, as the memory takes it up (src/memory.svelte.ts). */
export function selectionOf({ layer, head }: Look): URLSearchParams {
  const selection = new URLSearchParams();
  if (layer !== undefined) selection.set('layer', String(layer));
  if (head !== undefined) selection.set('head', String(head));
  return selection;
}

/** Where a recording lies, by its name. */
export function recordingAddress(name: string): URL {
  return new URL(`replays/${name}.json`, document.baseURI);
}

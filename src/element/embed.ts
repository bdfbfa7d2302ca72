/**
 * `<palimpsest-model prompt="..." view="memory">`: the playground in a frame on someone's page, and a typed way to drive
 * it. The file stands alone and is small; the model, its weights and its views are the frame's, and the frame is another
 * origin's. Nothing but the frame's own small page is fetched before a person presses its button.
 */
import { PalimpsestError } from '../../workers/protocol.ts';
import {
  readHello,
  themes,
  version,
  views,
  type Answers,
  type Call,
  type Draw,
  type Events,
  type Look,
  type Outcome,
  type Snapshot,
  type Theme,
  type View,
  type WidgetModel,
  type WidgetToken,
} from '../embed/protocol.ts';
import { talk, type Asked, type Talk } from './talk.ts';

/** An answer as it is written: iterate over its tokens, or await its `outcome`. Leaving the loop ends the answer. */
export interface Generation extends AsyncIterable<WidgetToken> {
  /** Fails as the widget says. */
  readonly outcome: Promise<Outcome>;
}

export interface GenerateOptions extends Draw {
  /** In a conversation of its own, rather than after what was said. */
  begin?: boolean;
  /** Ends the answer; what is written stays. One that is aborted before has nothing asked, and fails with its reason. */
  signal?: AbortSignal;
}

const helloMs = 30_000;
/** A frame that keeps leaving its page is not followed. */
const mostFrames = 4;
const sandbox =
  'allow-scripts allow-popups allow-popups-to-escape-sandbox allow-downloads' +
  ' allow-same-origin allow-storage-access-by-user-activation';

/**
 * Attributes: `prompt`, `view`, `model` (an https address, or a folder beside the frame's page), `replay` (the name of a
 * recording), `layer`, `head`, `theme`, `src` (the frame's page, if it is not beside this file), `isolated` (no storage:
 * the frame has an origin of its own). All but `theme`, `view`, `layer` and `head` are read when the frame is made.
 */
export class PalimpsestModel extends HTMLElement {
  static observedAttributes: string[] = ['theme', 'view', 'layer', 'head'];

  #frame: HTMLIFrameElement | null = null;
  /** Stands in the frame's place where there is none for a reason. */
  #note: HTMLElement | null = null;
  #frames = 0;
  #key = '';
  /** The line to the frame; resolves with its hello. */
  #line = promised<Talk>();
  #talk: Talk | null = null;
  #timer = 0;
  #told: Partial<Events> = {};
  #seen = new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && this.#open(),
    { rootMargin: '300px' },
  );
  readonly #hear = (event: MessageEvent) => this.#greet(event);

  connectedCallback(): void {
    if (getComputedStyle(this).display === 'inline') this.style.display = 'block';
    addEventListener('message', this.#hear);
    this.#seen.observe(this);
  }

  disconnectedCallback(): void {
    removeEventListener('message', this.#hear);
    this.#seen.disconnect();
    this.#close('The widget was taken off the page.');
    this.#frames = 0;
  }

  /** Moved by `moveBefore` the frame stays, and all that is under way in it. */
  connectedMoveCallback(): void {}

  attributeChangedCallback(name: string): void {
    if (!this.#talk) return;
    const { theme, ...look } = this.#wishes();
    const said =
      name === 'theme'
        ? this.#talk.call('theme', { theme: theme ?? 'auto' })
        : this.#talk.call('look', { look });
    said.catch(() => {}); // the frame shows what it cannot do
  }

  /** Have the model loaded. Where weights must be fetched, it waits until a person agrees in the frame. */
  load(): Promise<WidgetModel> {
    return this.#call('load', {});
  }

  /** Have the model answer. Loads it first, as `load` does. */
  generate(prompt: string, options: GenerateOptions = {}): Generation {
    const { begin = false, signal, ...draw } = options;
    const tokens: WidgetToken[] = [];
    let more = promised<void>();
    const wake = () => {
      more.resolve();
      more = promised();
    };
    let over = false;
    const stop = () => void this.stop().catch(() => {});
    const ask = async () => {
      signal?.throwIfAborted();
      return this.#call('generate', { prompt, begin, draw }, (token) => {
        tokens.push(token);
        wake();
      });
    };
    const outcome = ask().finally(() => {
      over = true;
      signal?.removeEventListener('abort', stop);
      wake();
    });
    outcome.catch(() => {}); // who iterates hears of it there
    signal?.addEventListener('abort', stop);
    return {
      outcome,
      async *[Symbol.asyncIterator]() {
        try {
          for (;;) {
            while (tokens.length > 0) yield tokens.shift()!;
            if (over) break;
            await more.promise;
          }
          await outcome;
        } finally {
          if (!over) stop();
        }
      },
    };
  }

  /** End the answer that is being written; what is written stays. */
  async stop(): Promise<void> {
    await this.#call('stop', {});
  }

  /** The conversation, to go on from in another widget. Once a person has written in the frame, it asks them first. */
  snapshot(): Promise<Snapshot> {
    return this.#call('snapshot', {});
  }

  /** Go on from a snapshot: the next answer is the one that would have followed it. */
  async restore(snapshot: Snapshot): Promise<void> {
    await this.#call('restore', { snapshot });
  }

  /** Look at another view, layer, head or token. */
  async setView(look: View | Look): Promise<void> {
    await this.#call('look', { look: typeof look === 'string' ? { view: look } : look });
  }

  /** Hear of `name`: what was told last, if anything was, and all that comes. Answers what ends it. */
  on<E extends keyof Events>(name: E, hear: (value: Events[E]) => void): () => void {
    const last = this.#told[name];
    if (last) hear(last);
    const listen = (event: Event) => hear((event as CustomEvent<Events[E]>).detail);
    this.addEventListener(`palimpsest-${name}`, listen);
    return () => this.removeEventListener(`palimpsest-${name}`, listen);
  }

  // ------------------------------------------------------------------------------------------- frame

  #wishes(): Look & { theme?: Theme } {
    const number = (name: string) => {
      const text = this.getAttribute(name) ?? '';
      return /^\d{1,3}$/.test(text) ? Number(text) : undefined;
    };
    const head = this.getAttribute('head');
    return {
      view: views.find((view) => view === this.getAttribute('view')),
      theme: themes.find((theme) => theme === this.getAttribute('theme')),
      layer: number('layer'),
      head: head === 'median' ? head : number('head'),
    };
  }

  get #page(): URL {
    const src = this.getAttribute('src');
    return src
      ? new URL(src, document.baseURI)
      : new URL(/* @vite-ignore */ 'embed.html', import.meta.url);
  }

  #open(): void {
    if (this.#frame || !this.isConnected) return;
    this.#seen.disconnect();
    const page = this.#page;
    this.#key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
      byte.toString(16).padStart(2, '0'),
    ).join('');
    const wishes = new URLSearchParams({ parent: origin, key: this.#key, version: `${version}` });
    for (const name of ['prompt', 'model', 'replay', 'view', 'layer', 'head', 'theme']) {
      const value = this.getAttribute(name);
      if (value !== null) wishes.set(name, value);
    }
    page.hash = `${wishes}`;
    const frame = document.createElement('iframe');
    const isolated = this.hasAttribute('isolated');
    // A frame of the page's own origin could take its sandbox off: it would only look like one.
    if (isolated || page.origin !== origin) {
      const allowed = isolated ? sandbox.replace('allow-same-origin ', '') : sandbox;
      frame.setAttribute('sandbox', allowed);
    }
    frame.allow = 'clipboard-write';
    frame.referrerPolicy = 'no-referrer';
    frame.title = this.title || 'Palimpsest: a language model with a memory';
    frame.style.cssText =
      'display:block;width:100%;height:100%;min-height:inherit;border:0;color-scheme:inherit';
    let loads = 0;
    frame.onload = () => {
      // The second page in the frame is not the one that was opened: begin again, with a key that it does not know.
      if (++loads > 1 && this.#frame === frame) {
        this.#close('The frame went to another page.');
        if (++this.#frames < mostFrames) this.#open();
      }
    };
    frame.src = page.href;
    this.#frame = frame;
    this.#note?.remove();
    this.#timer = window.setTimeout(
      () => this.#close(`The widget at ${page.host} did not answer in ${helloMs / 1000} s.`),
      helloMs,
    );
    this.append(frame);
  }

  #close(why: string): void {
    clearTimeout(this.#timer);
    this.#talk?.cut(why);
    this.#line.reject(new PalimpsestError('Refused', why));
    this.#line = promised();
    this.#talk = null;
    this.#told = {};
    this.#frame?.remove();
    this.#frame = null;
    this.#note?.remove();
    if (!this.isConnected) return;
    this.#note = document.createElement('p');
    this.#note.textContent = why;
    this.append(this.#note);
  }

  /** The frame's hello: from its window, of its origin, with its key, and once. */
  #greet({ source, origin: from, data: message, ports }: MessageEvent): void {
    const frame = this.#frame;
    if (!frame || this.#talk || !source || source !== frame.contentWindow) return;
    if (from !== (this.hasAttribute('isolated') ? 'null' : this.#page.origin)) return;
    try {
      const hello = readHello(message, 'The hello');
      if (hello.key !== this.#key || ports.length !== 1) return;
      if (hello.version !== version) {
        this.#close(
          `The widget speaks version ${hello.version}, this page's embed.js version ${version}. Take both from one place.`,
        );
        return;
      }
    } catch {
      return; // some other message
    }
    clearTimeout(this.#timer);
    this.#talk = talk(
      ports[0]!,
      () => performance.now(),
      (name, value) => {
        this.#told[name] = value;
        if (name === 'size' && 'height' in value) frame.style.height = `${value.height}px`;
        this.dispatchEvent(new CustomEvent(`palimpsest-${name}`, { detail: value }));
      },
      (why) => this.#close(why),
    );
    this.#line.resolve(this.#talk);
  }

  async #call<C extends Call>(
    call: C,
    asked: Asked<C>,
    onToken?: (token: WidgetToken) => void,
  ): Promise<Answers[C]> {
    if (!this.isConnected) throw new PalimpsestError('Refused', 'Put the widget on a page first.');
    this.#open();
    return (await this.#line.promise).call(call, asked, onToken);
  }
}

/** A promise with its two ends; unheard it fails silently. */
function promised<T>() {
  const ends = Promise.withResolvers<T>();
  ends.promise.catch(() => {});
  return ends;
}

if (!customElements.get('palimpsest-model')) {
  customElements.define('palimpsest-model', PalimpsestModel);
}

declare global {
  interface HTMLElementTagNameMap {
    'palimpsest-model': PalimpsestModel;
  }
}

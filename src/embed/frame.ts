/** The widget's page, inside the frame: says hello to the page around, and shows the widget. */
import { mount } from 'svelte';
import { startClient, startWeights } from '../client.ts';
import { startProcessor } from '../cpu/speaker.ts';
import '../style.css';
import { version } from './protocol.ts';
import { serve } from './serve.ts';
import './frame.css';
import Frame from './Frame.svelte';
import type { Widget } from './widget.svelte.ts';
import { readWishes } from './wishes.ts';

const target = document.getElementById('app');
if (!target) throw new Error('embed.html has no element #app.');

/** Origins that may drive the widget, as whoever hosts this page lists them; none listed: all that embed it. */
const allowed = document.querySelector<HTMLMetaElement>('meta[name="palimpsest-parents"]');
const wishes = readWishes(
  new URL(location.href),
  (allowed?.content ?? '').split(/\s+/).filter(Boolean),
);
// The key is between the page around and this script.
history.replaceState(null, '', `${location.pathname}${location.search}`);

mount(Frame, {
  target,
  props: { wishes, workshop: { startWeights, startClient, startProcessor }, connect },
});

/**
 * Offer the page around a line: one message, to its exact origin, with one end of a channel. This window hears no
 * messages, so nobody else can speak to the widget at all.
 */
function connect(widget: Widget, onCut: (reason: string) => void) {
  const { parent: around } = wishes;
  if (!around || window.parent === window) return null;
  const { port1, port2 } = new MessageChannel();
  const line = serve(
    port1,
    {
      load: () => widget.load(),
      generate: (request, tell) => widget.generate(request, tell),
      stop: () => widget.stop().then(() => null),
      snapshot: () => widget.snapshot(),
      restore: ({ snapshot }) => widget.restore(snapshot),
      look: ({ look }) => Promise.resolve(widget.setLook(look)),
      theme: ({ theme }) => Promise.resolve(widget.setTheme(theme)),
    },
    () => performance.now(),
    onCut,
  );
  const hello = { palimpsest: 'hello', version, key: around.key };
  window.parent.postMessage(hello, around.origin, [port2]);
  return line;
}

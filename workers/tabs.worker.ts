/**
 * Introduces the tabs of a site to the one of them that has the engine. A shared worker, since only from there can a tab
 * be handed a port; it knows no more than who serves, and outlives every tab but the last. That a tab has ended it is not
 * told: the next one to serve says so, and whoever hears that asks again.
 */
import type { TabsMessage } from './protocol.ts';

const tabs = new Set<MessagePort>();
let serving: MessagePort | null = null;

const say = (tab: MessagePort, message: TabsMessage, ports: MessagePort[] = []) =>
  tab.postMessage(message, ports);

addEventListener('connect', (event) => {
  const [tab] = (event as MessageEvent).ports;
  if (!tab) return;
  tabs.add(tab);
  tab.onmessage = ({ data: message, ports }: MessageEvent<TabsMessage>) => {
    switch (message) {
      case 'serve':
        serving = tab;
        for (const other of tabs) if (other !== tab) say(other, 'serve');
        return;
      case 'guest':
        if (serving && ports[0]) say(serving, 'guest', [ports[0]]);
        return;
      case 'leave':
        if (serving === tab) serving = null;
        return;
      default:
        message satisfies never;
    }
  };
});

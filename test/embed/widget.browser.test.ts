/** The widget's own state, over a client that is answered by hand. What a page around sees of it is the e2e tests'. */
import { flushSync } from 'svelte';
import { expect, test, vi } from 'vitest';
import type { Weights } from '../../src/client.ts';
import { Widget } from '../../src/embed/widget.svelte.ts';
import { readWishes } from '../../src/embed/wishes.ts';
import { Memory } from '../../src/memory.svelte.ts';
import { PalimpsestError } from '../../workers/protocol.ts';
import { loaded, ScriptedClient } from '../src/scriptedClient.ts';

test('a conversation that its engine cannot forget ends with the reason', async () => {
  const client = new ScriptedClient();
  const weights: Partial<Weights> = {
    status: () => Promise.reject(new Error('not asked')),
    destroy: () => {},
  };
  const wishes = readWishes(new URL('https://host/embed.html'), []);
  const workshop = {
    startWeights: () => weights as Weights,
    startClient: () => client,
    startProcessor: () => client,
  };
  const widget = new Widget(wishes, workshop, new Memory());
  client.found.resolve(loaded.device);
  const said = widget.say('Who?');
  await vi.waitFor(() => expect(client.loads).toHaveLength(1));
  client.loads[0]!.resolve(loaded);
  await vi.waitFor(() => expect(client.generations).toHaveLength(1));
  client.generations[0]!.end();
  await said;
  expect(widget.state.kind).toBe('ready');
  client.reset = () => Promise.reject(new PalimpsestError('DeviceLost', 'It is gone.'));
  await widget.startOver();
  flushSync();
  expect(widget.turns).toEqual([]);
  expect(widget.state).toEqual({
    kind: 'failed',
    failure: { name: 'DeviceLost', message: 'It is gone.' },
  });
  widget.destroy();
});

/** The widget's own state and what is shown of it, over a client that is answered by hand. What a page around sees of it is the e2e tests'. */
import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { page } from 'vitest/browser';
import type { Weights } from '../../src/client.ts';
import Frame from '../../src/embed/Frame.svelte';
import type { Widget } from '../../src/embed/widget.svelte.ts';
import { readWishes } from '../../src/embed/wishes.ts';
import { packRecording } from '../../src/replay.ts';
import { PalimpsestError } from '../../workers/protocol.ts';
import { fakeLists, fakeRecord } from '../src/fakeMemory.ts';
import { loaded, ScriptedClient } from '../src/scriptedClient.ts';

let client: ScriptedClient;
let widget: Widget;
let shown: ReturnType<typeof mount>;

const texts = ['Mira', ' is', ' here', 'Yes'];
const recording = packRecording({
  title: 'Mira',
  source: 'made by a test',
  model: loaded.model,
  memory: loaded.memory,
  lists: fakeLists(loaded.model),
  turns: [
    { role: 'user', content: 'Mira is here' },
    { role: 'assistant', content: 'Yes' },
  ],
  promptTokens: 3,
  records: texts.map((text, position) => fakeRecord(loaded.model, position, text)),
  start: { layer: 0, head: 0 },
  answers: [],
});

beforeEach(() => {
  const headers = { 'content-type': 'application/json' };
  vi.spyOn(globalThis, 'fetch').mockImplementation(
    async () => new Response(recording, { headers }),
  );
  client = new ScriptedClient();
  client.found.resolve(loaded.device);
  const weights: Partial<Weights> = {
    status: () => Promise.reject(new Error('not asked')),
    destroy: () => {},
  };
  shown = mount(Frame, {
    target: document.body,
    props: {
      wishes: readWishes(new URL('https://host/embed.html#replay=mira'), []),
      workshop: {
        startWeights: () => weights as Weights,
        startClient: () => client,
        startProcessor: () => client,
      },
      connect: (made: Widget) => {
        widget = made;
        return null;
      },
    },
  });
  flushSync();
});
afterEach(async () => {
  await unmount(shown);
  vi.restoreAllMocks();
  document.body.replaceChildren();
});

test('what is asked of a model that is not here yet is shown until it is; the recording is not being written', async () => {
  await expect.element(page.getByText('A recording of scripted')).toBeVisible();
  const said = widget.say('Who?');
  const waits = page.getByText('“Who?” is answered when the model is here.');
  await expect.element(waits).toBeVisible();
  expect(document.querySelectorAll('.caret')).toHaveLength(0);
  client.loads[0]!.resolve(loaded);
  await vi.waitFor(() => expect(client.generations).toHaveLength(1));
  await expect.element(page.getByText('Reads', { exact: true })).toBeVisible();
  expect(waits.elements()).toHaveLength(0);
  client.generations[0]!.write('Me');
  await expect.element(page.getByText('Me', { exact: true })).toBeVisible();
  client.generations[0]!.end();
  await said;
});

test('a conversation that its engine cannot forget ends with the reason', async () => {
  const said = widget.say('Who?');
  await vi.waitFor(() => expect(client.loads).toHaveLength(1));
  client.loads[0]!.resolve(loaded);
  await vi.waitFor(() => expect(client.generations).toHaveLength(1));
  client.generations[0]!.end();
  await said;
  expect(widget.state.kind).toBe('ready');
  client.reset = () => Promise.reject(new PalimpsestError('DeviceLost', 'It is gone.'));
  await widget.startOver();
  expect(widget.turns).toEqual([]);
  await expect.element(page.getByRole('alert')).toHaveTextContent('The GPU went away. It is gone.');
});

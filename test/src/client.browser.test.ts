import { afterEach, describe, expect, test, vi } from 'vitest';
import { connect, connectWeights, type Client, type Weights } from '../../src/client.ts';
import { toFailure } from '../../src/errors.ts';
import { greedy } from '../../src/sampling.ts';
import {
  PalimpsestError,
  type LoadProgress,
  type Prompt,
  type Token,
} from '../../workers/protocol.ts';
import { startFakeClient, startFakeWeights } from './fakeClient.ts';

const folder = 'https://host/models/m/';
const chat = (content: string): Prompt => ({ kind: 'chat', turns: [{ role: 'user', content }] });

let weights: Weights;
let client: Client;

afterEach(() => {
  const over = new PalimpsestError('Refused', 'the test is over');
  client.destroy(over);
  weights.destroy(over);
});

function start(): void {
  weights = startFakeWeights();
  client = startFakeClient(weights);
}

async function ready(): Promise<Client> {
  start();
  await client.load(folder, () => {});
  return client;
}

describe('calls to the workers', () => {
  test('a model is described by its manifest, and the GPU named, without a load', async () => {
    start();
    expect(await client.describe(folder)).toMatchObject({ bytes: 110_701_024 });
    expect(await client.device()).toMatchObject({ name: 'fake gpu' });
  });

  test('the engine reads its weights from the other worker, and reports progress', async () => {
    start();
    const reports: LoadProgress[] = [];
    const loaded = await client.load(folder, (report) => reports.push(report));
    expect(loaded.model.layers).toHaveLength(30);
    // The total is known only to the weights worker.
    expect(reports[0]).toMatchObject({ phase: 'download', totalBytes: 110_701_024 });
    await vi.waitFor(() => expect(reports.at(-1)?.phase).toBe('compile'));
  });

  test('tokens arrive one by one before the end', async () => {
    const tokens: Token[] = [];
    const stop = await (await ready()).generate(chat('hi'), greedy, (token) => tokens.push(token));
    expect(tokens.map((token) => token.text)).toEqual(['You ', 'said: ', 'hi']);
    expect(stop).toMatchObject({ reason: 'end', text: 'You said: hi', ids: [4, 6, 2] });
  });

  test('a generation can be stopped', async () => {
    await ready();
    const stop = await client.generate(chat('long'), { ...greedy, maxTokens: 9999 }, (token) => {
      if (token.text === 'word3 ') client.stop();
    });
    expect(stop.reason).toBe('stopped');
  });
});

describe('failures on the other side', () => {
  test('keep their name and message', async () => {
    await ready();
    const thrown = await client.generate(chat('fail BadNumbers'), greedy, () => {}).catch((e) => e);
    expect(toFailure(thrown)).toEqual({ name: 'BadNumbers', message: 'fake failure, 3 tokens' });
  });

  test('come through two workers', async () => {
    start();
    const thrown = await client.load('https://host/absent/', () => {}).catch((e) => e);
    expect(toFailure(thrown)).toMatchObject({ name: 'DownloadFailed' });
    expect(toFailure(thrown).message).toContain('answered 404');
  });

  test('a worker whose code cannot be had fails every call, those under way and later ones', async () => {
    const missing = () =>
      new Worker(new URL('/no-such-worker.js', location.href), { type: 'module' });
    weights = connectWeights(missing());
    client = connect(missing(), weights);
    const early = client.describe(folder).catch((e) => toFailure(e).name);
    expect(await early).toBe('DownloadFailed');
    expect(await client.tokenize(chat('')).catch((e) => toFailure(e).name)).toBe('DownloadFailed');
  });

  test('destroying ends what is under way, with the reason given', async () => {
    await ready();
    const running = client.generate(chat('long'), greedy, () => {}).catch((e) => e);
    client.destroy(new PalimpsestError('DeviceLost', 'gone'));
    expect(toFailure(await running)).toEqual({ name: 'DeviceLost', message: 'gone' });
    expect(await client.reset().catch((e) => toFailure(e).name)).toBe('DeviceLost');
  });

  test('the weights outlive an engine, and the model it loaded is not in use any more', async () => {
    await ready();
    client.destroy(new PalimpsestError('DeviceLost', 'gone'));
    client = startFakeClient(weights);
    await client.load(folder, () => {});
    await weights.remove('https://host/models/stored/');
    expect(await weights.remove(folder).catch((e) => toFailure(e))).toMatchObject({
      name: 'Refused',
    });
    client.destroy(new PalimpsestError('Refused', 'another model'));
    await weights.remove(folder);
  });
});

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { writeAccount } from '../../src/account.ts';
import { greedy } from '../../src/sampling.ts';
import type { Endpoint } from '../../src/remote/endpoint.ts';
import { Session } from '../../src/session.svelte.ts';
import type { Elsewhere, Told } from '../../src/speaker.ts';
import { PalimpsestError, type Prompt } from '../../workers/protocol.ts';
import { loaded, ScriptedClient } from './scriptedClient.ts';

const model = 'https://host/models/m/';

let clients: ScriptedClient[];
let session: Session;

beforeEach(() => {
  localStorage.clear();
  clients = [];
  session = new Session(() => {
    const client = new ScriptedClient();
    clients.push(client);
    return client;
  }, model);
});

afterEach(() => session.destroy());

const client = () => clients.at(-1)!;
const generation = () => client().generations.at(-1)!;
const texts = () => session.path.map((node) => node.turn.content);
const lastNode = () => session.path.at(-1)!;
const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

function chatTurns(prompt: Prompt) {
  if (prompt.kind !== 'chat') throw new Error(`a ${prompt.kind} prompt`);
  return prompt.turns;
}

async function makeReady(mode: 'chat' | 'raw' = 'chat') {
  void session.load();
  client()
    .loads.at(-1)!
    .resolve({ ...loaded, model: { ...loaded.model, mode } });
  await vi.waitFor(() => expect(session.status.kind).toBe('ready'));
}

/** Ask, and answer with these tokens. */
async function exchange(question: string, ...answer: string[]) {
  void session.send(question);
  generation().write(...answer);
  generation().end();
  await vi.waitFor(() => expect(session.busy).toBe(false));
}

test('what was said is shown again where WebGPU is gone since', async () => {
  await makeReady();
  await exchange('Hello', 'Good ', 'day.');
  const said = writeAccount(session.account());
  session.destroy();
  ScriptedClient.account = said;
  try {
    const chosen: string[] = [];
    session = new Session(({ kind }) => {
      chosen.push(kind);
      clients.push(new ScriptedClient());
      return client();
    }, model);
    client().found.reject(new PalimpsestError('NoWebGPU', 'no adapter'));
    await vi.waitFor(() => expect(texts()).toEqual(['Hello', 'Good day.']));
    expect(chosen).toEqual(['gpu', 'cpu']);
    expect(session.status).toEqual({ kind: 'absent' });
  } finally {
    ScriptedClient.account = null;
  }
});

describe('loading', () => {
  test('nothing is loaded unasked; only the manifest is read for the size', async () => {
    await vi.waitFor(() => expect(session.modelBytes).toBe(123));
    expect(session.status).toEqual({ kind: 'absent' });
    expect(client().loads).toHaveLength(0);
  });

  test('what the GPU is, or that there is none, is known before anything is loaded', async () => {
    const { device } = loaded;
    client().found.resolve(device);
    await vi.waitFor(() => expect(session.device).toEqual(device));
    expect(session.status).toEqual({ kind: 'absent' });

    const other = new Session(() => {
      clients.push(new ScriptedClient());
      return client();
    }, model);
    const refused = client();
    refused.found.reject(new PalimpsestError('LimitTooSmall', 'too small'));
    await vi.waitFor(() => expect(other.status.kind).toBe('failed'));
    expect(other.status).toMatchObject({
      failure: { name: 'LimitTooSmall', message: 'too small' },
    });
    expect(client()).toBe(refused);
    expect(refused.loads).toHaveLength(0);
    other.destroy();
  });

  test('progress is shown, then what was loaded', async () => {
    const done = session.load();
    void session.load();
    expect(client().loads).toHaveLength(1);
    expect(client().loads[0]!.model).toBe(model);
    client().loads[0]!.report({ phase: 'download', doneBytes: 5, totalBytes: 10, note: 'a' });
    expect(session.status).toMatchObject({ kind: 'loading', progress: { doneBytes: 5 } });
    client().loads[0]!.resolve(loaded);
    await done;
    expect(session.status).toEqual({ kind: 'ready' });
    expect(session.loaded?.model.name).toBe('scripted');
    expect(session.memory?.latentBytes).toBe(30);
  });

  test('a prompt sent before waits, and is answered when the model is there', async () => {
    void session.send('hello');
    expect(session.writing?.phase).toBe('waiting');
    expect(client().generations).toHaveLength(0);
    client().loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
    expect(chatTurns(generation().prompt)).toEqual([{ role: 'user', content: 'hello' }]);
  });

  test('a load that fails says why; trying again begins with other workers and answers what waits', async () => {
    void session.send('hello');
    client().loads[0]!.reject(new PalimpsestError('OutOfMemory', 'no room'));
    await vi.waitFor(() => expect(session.status.kind).toBe('failed'));
    expect(session.status).toEqual({
      kind: 'failed',
      failure: { name: 'OutOfMemory', message: 'no room' },
    });
    expect(session.writing?.phase).toBe('waiting');
    void session.load();
    expect(clients).toHaveLength(2);
    expect(clients[0]!.destroyed).toBe(true);
    client().loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
  });

  test('a load can be broken off and begun again', async () => {
    void session.send('hello');
    session.cancelLoad();
    expect(session.status).toEqual({ kind: 'absent' });
    expect(session.busy).toBe(false);
    expect(texts()).toEqual(['hello']);
    expect(clients[0]!.destroyed).toBe(true);
    // The first load ends only now, and changes nothing.
    clients[0]!.loads[0]!.resolve(loaded);
    await Promise.resolve();
    expect(session.status.kind).toBe('absent');
    await makeReady();
    expect(clients).toHaveLength(2);
  });

  test('stop takes back a prompt that waits, and lets the load go on', async () => {
    void session.send('hello');
    await session.stop();
    expect(texts()).toEqual(['hello']);
    expect(session.busy).toBe(false);
    client().loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(session.status.kind).toBe('ready'));
    expect(client().generations).toHaveLength(0);
    void session.answer(lastNode().id);
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
  });

  test('another model leaves the words and forgets the ids', async () => {
    await makeReady();
    await exchange('a', 'A');
    await session.chooseModel('https://host/models/other/');
    expect(session.status.kind).toBe('absent');
    expect(session.loaded).toBeNull();
    expect(texts()).toEqual(['a', 'A']);
    expect(lastNode().turn.ids).toBeUndefined();
    await makeReady();
    expect(client().loads[0]!.model).toBe('https://host/models/other/');
  });
});

describe('answering', () => {
  beforeEach(() => makeReady());

  test('text streams once a frame, and the answer keeps its ids and figures', async () => {
    void session.send('hi');
    expect(session.writing?.phase).toBe('reading');
    generation().write('Hel', 'lo');
    await nextFrame();
    await nextFrame();
    expect(session.writing).toMatchObject({ phase: 'writing', text: 'Hello', tokens: 2 });
    expect(session.contextUsed).toBe(12);
    generation().write('!');
    generation().end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(lastNode().turn).toEqual({ role: 'assistant', content: 'Hello!', ids: [100, 101, 102] });
    expect(lastNode().origin).toMatchObject({ kind: 'answered', answered: { tokens: 3 } });
    expect(session.memory?.latentBytes).toBe(60);
  });

  test('the next prompt carries the whole conversation, ids included', async () => {
    await exchange('a', 'A');
    void session.send('b');
    expect(chatTurns(generation().prompt)).toEqual([
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'A', ids: [100] },
      { role: 'user', content: 'b' },
    ]);
  });

  test('a system line comes first, if there is one', async () => {
    session.setSystem('Be brief.');
    void session.send('a');
    expect(chatTurns(generation().prompt)[0]).toEqual({ role: 'system', content: 'Be brief.' });
  });

  test('nothing is sent while an answer is under way, nor an empty text', async () => {
    await session.send('  \n');
    expect(texts()).toEqual([]);
    void session.send('a');
    await session.send('b');
    expect(texts()).toEqual(['a', '']);
    expect(client().generations).toHaveLength(1);
  });

  test('stop keeps what is written', async () => {
    void session.send('a');
    generation().write('Ha');
    await session.stop();
    expect(client().stops).toBe(1);
    expect(session.busy).toBe(false);
    expect(lastNode().turn.content).toBe('Ha');
    expect(lastNode().origin).toMatchObject({ answered: { reason: 'stopped' } });
    await session.stop();
    expect(client().stops).toBe(1);
  });

  test('a token that arrives after the end of its answer does not get into the next', async () => {
    await exchange('a', 'A');
    const first = generation();
    void session.send('b');
    first.write('late');
    generation().write('B');
    await nextFrame();
    await nextFrame();
    expect(session.writing?.text).toBe('B');
  });

  test('again adds an answer beside the first, to the same prompt, with another seed', async () => {
    session.setSampling({ ...greedy, temperature: 1 });
    await exchange('a', 'A');
    const first = lastNode();
    const { seed } = generation().sampling;
    void session.regenerate(first.id);
    await vi.waitFor(() => expect(client().generations).toHaveLength(2));
    expect(chatTurns(generation().prompt)).toEqual([{ role: 'user', content: 'a' }]);
    expect(generation().sampling.seed).not.toBe(seed);
    generation().write('B');
    generation().end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(texts()).toEqual(['a', 'B']);
    session.show(first.id);
    expect(texts()).toEqual(['a', 'A']);
  });

  test('a seed that is kept is used again', async () => {
    session.setFreshSeed(false);
    session.setSampling({ ...greedy, temperature: 1, seed: 77 });
    await exchange('a', 'A');
    void session.regenerate(lastNode().id);
    await vi.waitFor(() => expect(client().generations).toHaveLength(2));
    expect(client().generations.map((made) => made.sampling.seed)).toEqual([77, 77]);
  });

  test('again stops an answer under way first', async () => {
    void session.send('a');
    generation().write('A');
    const id = lastNode().id;
    void session.regenerate(id);
    await vi.waitFor(() => expect(client().generations).toHaveLength(2));
    expect(session.conversation.nodes.get(id)?.turn.content).toBe('A');
  });

  test('editing a question branches and asks; the first branch stays', async () => {
    await exchange('a', 'A');
    const question = session.path[0]!;
    await session.edit(question.id, 'a2');
    expect(chatTurns(generation().prompt)).toEqual([{ role: 'user', content: 'a2' }]);
    generation().write('A2');
    generation().end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(texts()).toEqual(['a2', 'A2']);
    session.show(question.id);
    expect(texts()).toEqual(['a', 'A']);
  });

  test('editing an answer branches; the next prompt goes on from the edit, which has no ids', async () => {
    await exchange('a', 'A');
    await session.edit(lastNode().id, 'Mine');
    expect(client().generations).toHaveLength(1);
    void session.send('b');
    expect(chatTurns(generation().prompt)[1]).toEqual({ role: 'assistant', content: 'Mine' });
  });

  test('an edit that changes nothing does nothing', async () => {
    await exchange('a', 'A');
    await session.edit(session.path[0]!.id, 'a');
    await session.edit(session.path[0]!.id, ' ');
    expect(session.conversation.nodes.size).toBe(2);
  });

  test('starting over forgets, with one step back', async () => {
    await exchange('a', 'A');
    await session.startOver();
    expect(texts()).toEqual([]);
    expect(client().resets).toBe(1);
    expect(session.contextUsed).toBe(0);
    await session.goBack();
    expect(texts()).toEqual(['a', 'A']);
    expect(session.previous).toBeNull();
  });

  test('what is sent while the last conversation is being forgotten waits for that', async () => {
    await exchange('a', 'A');
    let forgotten = () => {};
    client().reset = () => new Promise((resolve) => (forgotten = resolve));
    const over = session.startOver();
    await expect.poll(texts).toEqual([]);
    void session.send('b');
    expect(client().generations).toHaveLength(1);
    forgotten();
    await over;
    await expect.poll(() => client().generations).toHaveLength(2);
    generation().write('B');
    generation().end();
    await expect.poll(texts).toEqual(['b', 'B']);
  });
});

describe('failing', () => {
  beforeEach(() => makeReady());

  test('an answer that fails keeps its text and says why; trying again branches', async () => {
    void session.send('a');
    generation().write('Ha');
    generation().reject(new PalimpsestError('BadNumbers', 'NaN at position 12'));
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(lastNode().turn).toEqual({ role: 'assistant', content: 'Ha', ids: [100] });
    expect(lastNode().origin).toEqual({
      kind: 'failed',
      failure: { name: 'BadNumbers', message: 'NaN at position 12' },
    });
    expect(session.status.kind).toBe('ready');
    await session.regenerate(lastNode().id);
    expect(session.conversation.nodes.size).toBe(3);
  });

  test('an answer that failed before its first word is tried again in its place', async () => {
    void session.send('a');
    generation().reject(new PalimpsestError('ContextFull', '101 tokens, 100 fit'));
    await vi.waitFor(() => expect(session.busy).toBe(false));
    const { id } = lastNode();
    await session.regenerate(id);
    expect(session.conversation.nodes.size).toBe(2);
    generation().write('A');
    generation().end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(session.conversation.nodes.get(id)?.turn.content).toBe('A');
  });

  test('a lost device ends the answer under way, and reloading goes on with the conversation', async () => {
    await exchange('a', 'A');
    void session.send('b');
    generation().write('B');
    client().lose('the driver was updated');
    await vi.waitFor(() => expect(session.busy).toBe(false));
    const failure = { name: 'DeviceLost', message: 'the driver was updated' };
    expect(session.status).toEqual({ kind: 'failed', failure });
    expect(lastNode().turn.content).toBe('B');
    expect(lastNode().origin).toEqual({ kind: 'failed', failure });
    void session.reload();
    await vi.waitFor(() => expect(clients).toHaveLength(2));
    client().loads[0]!.resolve(loaded);
    await vi.waitFor(() => expect(session.status.kind).toBe('ready'));
    void session.send('c');
    expect(chatTurns(generation().prompt).map((turn) => turn.ids)).toEqual([
      undefined,
      [100],
      undefined,
      [100],
      undefined,
    ]);
  });

  test('an answer that fails by a lost device makes the whole model lost', async () => {
    void session.send('a');
    generation().reject(new PalimpsestError('DeviceLost', 'gone'));
    await vi.waitFor(() => expect(session.status.kind).toBe('failed'));
  });

  test('a device lost while nothing is under way is told at once', async () => {
    client().lose('sleep');
    await vi.waitFor(() => expect(session.status.kind).toBe('failed'));
    void session.send('a');
    expect(session.writing?.phase).toBe('waiting');
    expect(clients).toHaveLength(2);
  });
});

describe('the sheet of raw text', () => {
  beforeEach(() => makeReady());

  async function write(reason: 'length' | 'end', ...tokens: string[]) {
    await vi.waitFor(() => expect(session.busy).toBe(true));
    generation().write(...tokens);
    generation().end(reason);
    await vi.waitFor(() => expect(session.busy).toBe(false));
  }

  test('the model writes on where the text ends, and goes on by ids', async () => {
    session.editSheet('Once');
    void session.writeOn();
    expect(generation().prompt).toEqual({ kind: 'raw', text: 'Once' });
    await write('length', ' upon');
    expect(session.paper).toMatchObject({ prompt: 'Once', completions: [{ text: ' upon' }] });
    void session.writeOn();
    expect(generation().prompt).toEqual({ kind: 'ids', ids: [1, 2, 100] });
    await write('length', ' a');
    expect(session.paper).toMatchObject({ prompt: 'Once upon', completions: [{ text: ' a' }] });
  });

  test('another way on, switched and withdrawn', async () => {
    session.editSheet('Once');
    void session.writeOn();
    await write('end', ' upon');
    void session.writeOtherwise();
    await write('end', ' more');
    expect(session.paper.completions.map(({ text }) => text)).toEqual([' upon', ' more']);
    session.showCompletion(0);
    expect(session.paper.shown).toBe(0);
    await session.withdraw();
    expect(session.paper).toMatchObject({ prompt: 'Once', completions: [] });
  });

  test('a failure is told beside the sheet, and what was written stays', async () => {
    session.editSheet('Once');
    void session.writeOn();
    generation().write(' upon');
    generation().reject(new PalimpsestError('ContextFull', 'full'));
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(session.paperFailure?.name).toBe('ContextFull');
    expect(session.paper.completions).toMatchObject([{ text: ' upon', answered: null }]);
    session.editSheet('Once upon a');
    expect(session.paperFailure).toBeNull();
  });

  test('an empty sheet is not sent, and none is edited while the model writes', async () => {
    await session.writeOn();
    expect(client().generations).toHaveLength(0);
    session.editSheet('Once');
    void session.writeOn();
    session.editSheet('Twice');
    expect(session.paper.prompt).toBe('Once');
  });
});

test('a model without a chat template takes raw text only', async () => {
  expect(session.mode).toBe('chat');
  await makeReady('raw');
  expect(session.rawOnly).toBe(true);
  expect(session.mode).toBe('paper');
});

test('a prompt that waited for a model without a chat template is continued on the sheet', async () => {
  void session.send('Once upon');
  client().loads[0]!.resolve({ ...loaded, model: { ...loaded.model, mode: 'raw' } });
  await vi.waitFor(() => expect(client().generations).toHaveLength(1));
  expect(generation().prompt).toEqual({ kind: 'raw', text: 'Once upon' });
  expect(session.path).toEqual([]);
  generation().write(' a time');
  generation().end();
  await vi.waitFor(() => expect(session.paper.completions).toHaveLength(1));
});

test('settings outlive the session', () => {
  session.setSampling({ ...greedy, temperature: 0.4 });
  session.setMode('paper');
  session.setSystem('Be brief.');
  session.setFreshSeed(false);
  const next = new Session(() => new ScriptedClient(), model);
  expect(next.sampling.temperature).toBe(0.4);
  expect(next.mode).toBe('paper');
  expect(next.system).toBe('Be brief.');
  expect(next.freshSeed).toBe(false);
  next.destroy();
});

describe('who answers', () => {
  const processor: Elsewhere = {
    kind: 'cpu',
    name: 'scripted',
    place: 'this processor',
    mode: 'chat',
    contextLimit: 64,
  };
  const endpoint: Endpoint = {
    base: 'https://host/v1',
    key: 'secret',
    model: { id: 'kimi', dialect: 'vllm', contextLimit: 1000 },
    probabilities: true,
  };
  const told = (text: string): Told => ({
    reason: 'end',
    text,
    tokens: 2,
    promptTokens: 9,
    reusedTokens: 0,
    prefillMs: 1,
    firstTokenMs: 2,
    decodeMs: 3,
    contextUsed: 11,
    pieces: [],
  });
  /** The client under way answers as a speaker that is not this page's engine. */
  const load = (elsewhere: Elsewhere) =>
    client()
      .loads.at(-1)!
      .resolve(elsewhere as never);
  const tell = (text: string) => generation().resolve(told(text) as never);

  test('without WebGPU the processor does, and says why; nothing is fetched before it is asked', async () => {
    client().found.reject(new PalimpsestError('NoWebGPU', 'no adapter'));
    await vi.waitFor(() => expect(session.engine).toEqual({ kind: 'cpu', why: 'no adapter' }));
    expect(session.status).toEqual({ kind: 'absent' });
    expect(clients.flatMap(({ loads }) => loads)).toHaveLength(0);
    void session.send('hello');
    load(processor);
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
    tell('hi there');
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(lastNode().turn).toEqual({ role: 'assistant', content: 'hi there' });
    expect(lastNode().origin).toMatchObject({ answered: { elsewhere: { by: processor } } });
    expect(session.contextLimit).toBe(64);
    expect(session.loaded).toBeNull();
  });

  test('a prompt that waits for a GPU that is not there is answered by the processor', async () => {
    void session.send('hello');
    client().loads[0]!.reject(new PalimpsestError('NoWebGPU', 'no adapter'));
    await vi.waitFor(() => expect(clients).toHaveLength(2));
    await vi.waitFor(() => expect(client().loads).toHaveLength(1));
    load(processor);
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
    expect(chatTurns(generation().prompt)).toEqual([{ role: 'user', content: 'hello' }]);
  });

  test('an endpoint does: the conversation goes on, without token ids of another tokenizer', async () => {
    await makeReady();
    await exchange('one', 'first');
    expect(lastNode().turn.ids).toEqual([100]);
    void session.chooseEngine({ kind: 'remote', endpoint });
    await vi.waitFor(() => expect(clients).toHaveLength(2));
    await vi.waitFor(() => expect(client().loads).toHaveLength(1));
    load({ ...processor, kind: 'remote', contextLimit: 1000 });
    await vi.waitFor(() => expect(session.status.kind).toBe('ready'));
    expect(session.uses(model)).toBe(false);
    void session.send('two');
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
    expect(chatTurns(generation().prompt)).toEqual([
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 'first' },
      { role: 'user', content: 'two' },
    ]);
    tell('second');
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(texts()).toEqual(['one', 'first', 'two', 'second']);
    expect(JSON.stringify([...session.conversation.nodes])).not.toContain(endpoint.key);
    expect(JSON.stringify({ ...localStorage })).not.toContain(endpoint.key);
  });

  test('another is asked besides: the same prompt, and what it says is no part of the conversation', async () => {
    await makeReady();
    const local = client();
    session.beside.choose({ kind: 'remote', endpoint });
    void session.send('one');
    await vi.waitFor(() => expect(clients).toHaveLength(2));
    load({ ...processor, kind: 'remote' });
    await vi.waitFor(() => expect(client().generations).toHaveLength(1));
    expect(generation().prompt).toEqual(local.generations[0]!.prompt);
    local.generations[0]!.write('from here');
    local.generations[0]!.end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    generation().write('from ', 'there');
    expect(session.beside.asides.get(lastNode().id)).toMatchObject({
      text: 'from there',
      running: true,
    });
    tell('from there!');
    await vi.waitFor(() =>
      expect(session.beside.asides.get(lastNode().id)).toMatchObject({
        text: 'from there!',
        running: false,
        answered: { tokens: 2 },
      }),
    );
    expect(texts()).toEqual(['one', 'from here']);

    void session.send('two');
    await vi.waitFor(() => expect(client().generations).toHaveLength(2));
    generation().reject(new PalimpsestError('RemoteFailed', 'cut'));
    local.generations[1]!.end();
    await vi.waitFor(() => expect(session.busy).toBe(false));
    expect(session.beside.asides.get(lastNode().id)).toMatchObject({
      failure: { name: 'RemoteFailed', message: 'cut' },
      running: false,
    });
  });
});

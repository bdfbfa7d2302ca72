/**
 * The widget's line, both ends over a real MessageChannel: what is asked is answered; what is malformed, oversized, too
 * much or crafted reaches nothing.
 */
import { afterEach, describe, expect, test } from 'vitest';
import {
  limits,
  meter,
  readHello,
  readReply,
  readRequest,
  version,
  type Answers,
  type Request,
  type Snapshot,
} from '../../src/embed/protocol.ts';
import { serve, type Desk, type Port } from '../../src/embed/serve.ts';
import { talk, type Talk } from '../../src/element/talk.ts';
import { PalimpsestError } from '../../workers/protocol.ts';
import { random } from '../reference/random.ts';
import { below, mutateValue } from '../workers/mutate.ts';

const snapshot: Snapshot = {
  format: 'palimpsest-snapshot',
  version: 1,
  model: 'https://host/models/tiny/',
  turns: [
    { role: 'user', content: 'Who?' },
    { role: 'assistant', content: 'You.', ids: [1, 2, 3] },
  ],
  draw: { seed: 7, temperature: 0.5 },
  look: { view: 'memory', layer: 3, head: 'median', token: 'newest' },
};
const model = {
  name: 'tiny',
  parameters: 1000,
  layers: 4,
  contextLimit: 64,
  engine: 'gpu' as const,
};
const outcome: Answers['generate'] = {
  text: 'You.',
  ids: [1],
  reason: 'end',
  promptTokens: 3,
  firstTokenMs: 1.5,
  decodeMs: 2,
  seed: 1,
};
const token = { id: 1, position: 3, text: 'You.', logprob: -0.25 };

/** One of each. */
const requests: Request[] = [
  { id: 1, call: 'load' },
  { id: 2, call: 'generate', prompt: 'Who?', begin: true, draw: { seed: 1, stop: ['\n'] } },
  { id: 3, call: 'stop' },
  { id: 4, call: 'snapshot' },
  { id: 5, call: 'restore', snapshot },
  { id: 6, call: 'look', look: { view: 'gates', head: 2 } },
  { id: 7, call: 'theme', theme: 'dark' },
];

let opened: Port[] = [];
afterEach(() => {
  for (const port of opened) port.close();
  opened = [];
});

/** Both ends, with a desk that writes down what reaches it; the clock stands still unless moved. */
function ends() {
  const { port1, port2 } = new MessageChannel();
  opened.push(port1, port2);
  const reached: Request[] = [];
  const cuts: string[] = [];
  const clock = { ms: 0 };
  const note = <A>(request: Request, answer: A) => {
    reached.push(request);
    return Promise.resolve(answer);
  };
  const desk: Desk = {
    load: (request) => note(request, model),
    generate: (request, tell) => {
      tell(token);
      return note(request, outcome);
    },
    stop: (request) => note(request, null),
    snapshot: (request) => note(request, snapshot),
    restore: (request) => note(request, null),
    look: (request) => note(request, null),
    theme: (request) => note(request, null),
  };
  const line = serve(
    port1,
    desk,
    () => clock.ms,
    (reason) => cuts.push(reason),
  );
  return { port: port2, line, desk, reached, cuts, clock };
}

/** Until all messages that are under way have been taken. */
async function settled(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  for (let round = 0; round < 3; round++) {
    const back = new Promise((resolve) => (port2.onmessage = resolve));
    port1.postMessage(null);
    await back;
  }
  port1.close();
}

describe('a talk through the line', () => {
  function connected() {
    const frame = ends();
    const heard: unknown[] = [];
    const broken: string[] = [];
    const line: Talk = talk(
      frame.port,
      () => frame.clock.ms,
      (name, value) => heard.push([name, value]),
      (why) => broken.push(why),
    );
    return { ...frame, talk: line, heard, broken };
  }

  test('every call is answered, and an answer streams its tokens', async () => {
    const { talk: line, reached } = connected();
    const tokens: unknown[] = [];
    expect(await line.call('load', {})).toEqual(model);
    const asked = { prompt: 'Who?', begin: false, draw: { topK: 4 } };
    expect(await line.call('generate', asked, (one) => tokens.push(one))).toEqual(outcome);
    expect(tokens).toEqual([token]);
    expect(await line.call('stop', {})).toBeNull();
    expect(await line.call('snapshot', {})).toEqual(snapshot);
    expect(await line.call('restore', { snapshot })).toBeNull();
    expect(await line.call('look', { look: { view: 'reach' } })).toBeNull();
    expect(await line.call('theme', { theme: 'dark' })).toBeNull();
    expect(reached.map(({ call }) => call)).toEqual(requests.map(({ call }) => call));
    expect(reached[1]).toEqual({ id: 2, call: 'generate', ...asked });
  });

  test('a failure keeps its name and its words', async () => {
    const { talk: line, desk } = connected();
    desk.load = () => Promise.reject(new PalimpsestError('NoWebGPU', 'There is no GPU here.'));
    const failed = line.call('load', {});
    await expect(failed).rejects.toThrow('There is no GPU here.');
    await expect(failed).rejects.toHaveProperty('name', 'NoWebGPU');
  });

  test('events are told, and only sound ones', async () => {
    const { talk: line, line: frame, heard, broken } = connected();
    frame.say('size', { height: 300 });
    await settled();
    expect(heard).toEqual([['size', { height: 300 }]]);
    frame.say('size', { height: 1e9 });
    await settled();
    expect(heard).toHaveLength(1);
    expect(broken).toEqual(['height is no number from 0 to 20000.']);
    await expect(line.call('stop', {})).rejects.toThrow('height is no number');
  });

  test('a frame that answers what nobody asked, or answers otherwise, is left', async () => {
    for (const reply of [
      { reply: 'value', id: 99, value: null },
      { reply: 'value', id: 1, value: { ...model, evil: true } },
      { reply: 'value', id: 1, value: null },
      { reply: 'event', name: 'constructor', value: {} },
      { reply: '__proto__' },
      'palimpsest',
    ]) {
      const { port1, port2 } = new MessageChannel();
      opened.push(port1, port2);
      const broken: string[] = [];
      const line = talk(
        port1,
        () => 0,
        () => {},
        (why) => broken.push(why),
      );
      const call = line.call('load', {});
      call.catch(() => {});
      port2.postMessage(reply);
      await settled();
      expect(broken, JSON.stringify(reply)).toHaveLength(1);
      await expect(call).rejects.toHaveProperty('name', 'Refused');
    }
  });

  test('a frame that floods the page is left', async () => {
    const { line: frame, broken, heard } = connected();
    for (let i = 0; i < limits.replyBurst + 1; i++) frame.say('size', { height: i % 7 });
    await expect.poll(() => broken).toEqual(['The frame floods the page.']);
    expect(heard).toHaveLength(limits.replyBurst);
  });
});

describe('a page around that means no harm', () => {
  function connected() {
    const frame = ends();
    const line = talk(
      frame.port,
      () => frame.clock.ms,
      () => {},
      () => {},
    );
    return { ...frame, talk: line };
  }

  test('asks what makes no sense as often as it likes: it is told so, and heard on', async () => {
    const { talk: line, reached, cuts } = connected();
    for (let i = 0; i < 3 * limits.strikes; i++) {
      const asked = { prompt: 'Who?', begin: false, draw: { maxTokens: 1e6 } };
      await expect(line.call('generate', asked)).rejects.toThrow('maxTokens is no whole number');
    }
    expect(await line.call('load', {})).toEqual(model);
    expect(reached).toHaveLength(1);
    expect(cuts).toEqual([]);
  });

  test('moves a slider that the widget follows: looks that wait are one, and the last is where it is', async () => {
    const { talk: line, reached, cuts, clock } = connected();
    const looks = Array.from({ length: 500 }, (_, layer) => line.call('look', { look: { layer } }));
    const other = line.call('theme', { theme: 'dark' });
    await settled();
    expect(reached).toHaveLength(20);
    clock.ms += 1000;
    await Promise.all([...looks, other]);
    expect(reached).toHaveLength(22);
    expect(reached.at(-2)).toMatchObject({ look: { layer: 499 } });
    expect(cuts).toEqual([]);
  });

  test('hears of it when the frame hears nothing more', async () => {
    const { talk: line, desk, port, line: frame } = connected();
    desk.load = () => new Promise(() => {});
    const loading = line.call('load', {});
    await settled();
    frame.cut();
    await expect(loading).rejects.toThrow('does not hear this page any more');
    await expect(line.call('stop', {})).rejects.toHaveProperty('name', 'Refused');
    port.close();
  });
});

describe('what a request may be', () => {
  test.each(requests.map((request) => [request.call, request]))(
    '%s is read whole',
    (_, request) => {
      expect(readRequest(structuredClone(request), 'It')).toEqual(request);
    },
  );

  const polluted = JSON.parse('{"id":1,"call":"load","__proto__":{"polluted":true}}') as unknown;
  const deep = JSON.parse(
    '{"id":1,"call":"look","look":{"__proto__":{"polluted":true},"view":"memory"}}',
  ) as unknown;
  const cases: [what: string, message: unknown][] = [
    ['nothing', null],
    ['a text', 'load'],
    ['a list', ['load']],
    ['no id', { call: 'load' }],
    ['a fraction for an id', { id: 1.5, call: 'load' }],
    ['an unknown call', { id: 1, call: 'evaluate' }],
    ['an inherited call', { id: 1, call: 'constructor' }],
    ['__proto__ as a call', { id: 1, call: '__proto__' }],
    ['a field too many', { id: 1, call: 'load', model: 'https://host/' }],
    ['a prototype', polluted],
    ['a prototype further in', deep],
    ['an oversized prompt', { ...requests[1], prompt: 'a'.repeat(limits.textLength + 1) }],
    ['a prompt that is no text', { ...requests[1], prompt: { toString: null } }],
    ['a temperature that is no number', { ...requests[1], draw: { temperature: NaN } }],
    ['endless tokens', { ...requests[1], draw: { maxTokens: Infinity } }],
    ['too many stop texts', { ...requests[1], draw: { stop: Array(9).fill('a') } }],
    ['a view there is not', { id: 1, call: 'look', look: { view: 'storage' } }],
    ['a layer below zero', { id: 1, call: 'look', look: { layer: -1 } }],
    ['a theme there is not', { id: 1, call: 'theme', theme: 'url(https://host/)' }],
    ['a snapshot of another format', restoring({ format: 'other' })],
    ['a snapshot of another version', restoring({ version: 2 })],
    ['a snapshot with too many turns', restoring({ turns: Array(257).fill(snapshot.turns[0]) })],
    ['a turn of nobody', restoring({ turns: [{ role: 'developer', content: '' }] })],
    ['ids that are no ids', restoring({ turns: [{ ...snapshot.turns[1], ids: [-1] }] })],
    ['too many ids', restoring({ turns: [{ ...snapshot.turns[1], ids: Array(16_385).fill(1) }] })],
    ['a state that is no buffer', restoring({ state: { byteLength: 8 } })],
    ['a state behind a view', restoring({ state: new Uint8Array(8) })],
    ['a state too large', restoring({ state: new ArrayBuffer(limits.stateBytes + 1) })],
    ['bytes for a text', { ...requests[1], prompt: new ArrayBuffer(8) }],
  ];
  function restoring(change: object) {
    return { id: 1, call: 'restore', snapshot: { ...snapshot, ...change } };
  }
  test.each(cases)('%s is refused', (_, message) => {
    expect(() => readRequest(message, 'It')).toThrow(PalimpsestError);
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });

  test('a snapshot with a state is taken as it is', () => {
    const message = restoring({ state: new ArrayBuffer(limits.stateBytes) });
    expect(readRequest(message, 'It')).toEqual(message);
  });

  test('what is read is a copy: nothing else of the message comes along', () => {
    const message = structuredClone(requests[4]) as { snapshot: Snapshot };
    const read = readRequest(message, 'It') as { snapshot: Snapshot };
    expect(read.snapshot).not.toBe(message.snapshot);
    expect(read.snapshot.turns[1]).not.toBe(message.snapshot.turns[1]);
    expect(Object.getPrototypeOf(read.snapshot)).toBe(Object.prototype);
  });

  test('a hello is a hello and nothing else', () => {
    const hello = { palimpsest: 'hello', version, key: 'k' };
    expect(readHello(hello, 'It')).toEqual(hello);
    for (const other of [{ ...hello, port: 1 }, { ...hello, key: 'k'.repeat(65) }, {}, null]) {
      expect(() => readHello(other, 'It')).toThrow(PalimpsestError);
    }
  });
});

describe('who misbehaves is not heard any more', () => {
  test('too many requests at once', async () => {
    const { port, reached, cuts } = ends();
    for (let i = 0; i < limits.requestBurst + 10; i++) port.postMessage({ id: i, call: 'stop' });
    await expect.poll(() => cuts).toHaveLength(1);
    await settled();
    expect(reached).toHaveLength(limits.requestBurst);
  });

  test('requests at a rate that is allowed', async () => {
    const { port, reached, cuts, clock } = ends();
    for (let i = 0; i < 3 * limits.requestBurst; i++) {
      clock.ms += 1000 / limits.requestsPerSec;
      port.postMessage({ id: i, call: 'stop' });
      await settled();
    }
    expect(cuts).toEqual([]);
    expect(reached).toHaveLength(3 * limits.requestBurst);
  });

  test('nonsense, answered with a refusal until there is too much of it', async () => {
    const { port, reached, cuts } = ends();
    const replies: unknown[] = [];
    port.onmessage = ({ data: reply }) => replies.push(reply);
    for (let i = 0; i < limits.strikes + 3; i++) port.postMessage({ id: i, call: 'evaluate' });
    await expect.poll(() => cuts).toHaveLength(1);
    expect(reached).toEqual([]);
    await expect.poll(() => replies.length).toBe(limits.strikes);
    port.postMessage({ id: 1, call: 'load' });
    await settled();
    expect(reached).toEqual([]);
  });

  test('more waiting requests than there is room for', async () => {
    const { port, desk } = ends();
    desk.load = () => new Promise(() => {});
    const refusals: unknown[] = [];
    port.onmessage = ({ data: reply }) => refusals.push(reply);
    for (let i = 0; i < limits.pending + 2; i++) port.postMessage({ id: i, call: 'load' });
    await expect.poll(() => refusals).toHaveLength(2);
    expect(readReply(refusals[0], 'It')).toMatchObject({ reply: 'failed', name: 'Refused' });
  });
});

/** What a message of this kind must be made of, said apart from the readers that let it through. */
function isSound(request: Request): boolean {
  const keys = {
    load: '',
    generate: 'begin,draw,prompt',
    stop: '',
    snapshot: '',
    restore: 'snapshot',
    look: 'look',
    theme: 'theme',
  };
  const given = Object.keys(request).filter((key) => key !== 'id' && key !== 'call');
  if (given.sort().join() !== keys[request.call] || !Number.isSafeInteger(request.id)) return false;
  const text = JSON.stringify(request);
  if (text.includes('__proto__":') || text.includes('"evil"') || text.includes('null'))
    return false;
  if (request.call === 'generate') {
    const { maxTokens = 1, temperature = 0, seed = 0, stop = [] } = request.draw;
    const sizes = stop.every((one) => one.length <= 256) && request.prompt.length <= 65_536;
    return sizes && maxTokens <= 2048 && temperature <= 2 && seed >= 0 && seed < 2 ** 32;
  }
  if (request.call === 'restore') {
    const { turns } = request.snapshot;
    const ids = turns.flatMap((turn) => turn.ids ?? []);
    return turns.length <= 256 && ids.every((id) => Number.isInteger(id) && id >= 0);
  }
  return true;
}

/** A message with something in it that has harmed other programs. */
function poisoned(next: () => number, message: object): unknown {
  const poisons: ((message: object) => unknown)[] = [
    (m) => Object.defineProperty(m, '__proto__', { value: { polluted: true }, enumerable: true }),
    (m) => ({ ...m, evil: new Uint8Array(64) }),
    (m) => ({ ...m, id: 2 ** below(next, 64) }),
    (m) => ({ ...m, call: ['constructor', 'toString', '__proto__', 'load\0'][below(next, 4)] }),
    (m) => ({ ...m, prompt: 'x'.repeat(65_537) }),
    (m) => new Map(Object.entries(m)),
    (m) => [m],
    (m) => ({ ...m, draw: { stop: new Set(['a']) }, look: new Date(0) }),
    (m) => ({ ...m, then: 'load', toJSON: 'load' }),
  ];
  return poisons[below(next, poisons.length)]!(structuredClone(message));
}

test('of 10,000 crafted messages only sound ones reach anything, and nothing is left behind', async () => {
  const next = random(20_261);
  const before = Object.getOwnPropertyNames(Object.prototype).join();
  const count = { taken: 0, cut: 0, untouched: 0 };
  let frame = ends();
  for (let i = 0; i < 10_000; i++) {
    if (frame.cuts.length > 0) {
      count.cut += 1;
      frame.port.close();
      opened = [];
      frame = ends();
    }
    frame.clock.ms += 1000;
    const sound = requests[below(next, requests.length)]!;
    const kind = below(next, 10);
    const message =
      kind === 0 ? sound : kind < 4 ? poisoned(next, sound) : mutateValue(next, sound);
    const known = frame.reached.length;
    frame.port.postMessage(message);
    await settled();
    const got = frame.reached.slice(known);
    if (kind === 0) {
      expect(got).toEqual([sound]);
      count.untouched += 1;
    }
    for (const request of got) expect(isSound(request), JSON.stringify(request)).toBe(true);
    count.taken += got.length;
  }
  expect(count.untouched).toBeGreaterThan(800);
  expect(count.taken).toBeLessThan(7_000);
  expect(count.cut).toBeGreaterThan(300);
  expect(Object.getOwnPropertyNames(Object.prototype).join()).toBe(before);
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
});

test('a meter lets through what it says, over any time', () => {
  let ms = 0;
  const inTime = meter(10, 5, () => ms);
  let passed = 0;
  for (; ms < 10_000; ms += 10) if (inTime()) passed += 1;
  expect(passed).toBeGreaterThanOrEqual(5);
  expect(passed).toBeLessThanOrEqual(105);
});

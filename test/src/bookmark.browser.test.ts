/** What the page stores of a conversation, and what it makes of it after a reload. */
import { afterEach, expect, test, vi } from 'vitest';
import { type Account, accountOf, readAccount, writeAccount } from '../../src/account.ts';
import { addTurn, emptyConversation } from '../../src/conversation.ts';
import { blankPaper } from '../../src/paper.ts';
import { Session } from '../../src/session.svelte.ts';
import { loaded, ScriptedClient } from './scriptedClient.ts';

const model = 'https://host/models/m/';

const question = { role: 'user' as const, content: 'Who?' };
const answer = { role: 'assistant' as const, content: 'Me.', ids: [7, 8] };
const asked = addTurn(emptyConversation, null, question, { kind: 'person' });
const answered = addTurn(asked.tree, asked.id, answer, { kind: 'pending' });
const account: Account = { model, conversation: answered.tree, paper: blankPaper };

let sessions: Session[] = [];
let clients: ScriptedClient[] = [];
afterEach(() => {
  for (const session of sessions) session.destroy();
  [sessions, clients] = [[], []];
  ScriptedClient.account = null;
});

function visit(of = model): Session {
  const session = new Session(() => {
    const client = new ScriptedClient();
    clients.push(client);
    return client;
  }, of);
  sessions.push(session);
  return session;
}

test('an account is the same after it was written; what is none is not read', () => {
  expect(readAccount(writeAccount(account))).toEqual(account);
  const paper = { ...blankPaper, prompt: 'Once' };
  expect(readAccount(writeAccount({ ...account, paper }))).toEqual({ ...account, paper });
  const text = writeAccount(account);
  expect(readAccount('')).toBeNull();
  expect(readAccount(text.slice(0, -5))).toBeNull();
  expect(readAccount(text.replace('"version":1', '"version":0'))).toBeNull();
  expect(readAccount(text.replace('"parent":1', '"parent":5'))).toBeNull();
  expect(readAccount(text.replace('"Me."', '5'))).toBeNull();
  expect(readAccount(text.replace('"shown":[[null,1]', '"shown":[[null,9]'))).toBeNull();
});

test('an answer under way is stored as far as it is shown, with the ids of just that', () => {
  const target = { kind: 'turn' as const, id: answered.id };
  const writing = { target, phase: 'writing', text: 'Me a', tokens: 2, begunTokens: 1 };
  const { conversation } = accountOf({ ...account, writing }, [1, 2, 3, 4, 5]);
  expect(conversation.nodes.get(answered.id)).toMatchObject({
    turn: { content: 'Me a', ids: [1, 2, 3] },
    origin: { kind: 'failed', failure: { name: 'Interrupted' } },
  });
  // One that has not begun has no place: the question can be answered.
  const waiting = { ...writing, phase: 'waiting', text: '', tokens: 0, begunTokens: 0 };
  const unanswered = accountOf({ ...account, writing: waiting }, []).conversation;
  expect([unanswered.nodes, unanswered.shown]).toEqual([asked.tree.nodes, asked.tree.shown]);
});

test('the page after a reload has the conversation, and the engine its state before it is asked anything', async () => {
  ScriptedClient.account = writeAccount(account);
  const session = visit();
  await vi.waitFor(() => expect(session.path.map(({ turn }) => turn)).toEqual([question, answer]));
  const { bookmark } = clients[0]!;
  const order: string[] = [];
  bookmark.takeUp = async () => {
    order.push(session.status.kind);
    return { tokens: 0, branch: null, note: 'The stored memory is of another model.' };
  };
  void session.send('And?');
  clients[0]!.loads[0]!.resolve(loaded);
  await vi.waitFor(() => expect(clients[0]!.generations).toHaveLength(1));
  expect(order).toEqual(['loading']);
  expect(session.bookmark.note).toBe('The stored memory is of another model.');
  const { prompt } = clients[0]!.generations[0]!;
  expect(prompt).toMatchObject({ turns: [question, answer, { content: 'And?' }] });
});

test('the model comes back with it, but for files of this computer, whose ids go', async () => {
  ScriptedClient.account = writeAccount({ ...account, model: 'https://host/models/other/' });
  const other = visit();
  await vi.waitFor(() => expect(other.model).toBe('https://host/models/other/'));
  expect(other.path[1]!.turn.ids).toEqual([7, 8]);
  other.destroy();

  ScriptedClient.account = writeAccount({ ...account, model: 'file:1' });
  const session = visit();
  await vi.waitFor(() => expect(session.path).toHaveLength(2));
  await vi.waitFor(() => expect(session.path[1]!.turn.ids).toBeUndefined());
  expect(session.model).toBe(model);
});

test('a model that is chosen before the conversation is there stays; ids of another go', async () => {
  ScriptedClient.account = writeAccount({ ...account, model: 'https://host/models/other/' });
  const session = visit();
  const choosing = session.chooseModel('https://host/models/chosen/');
  await vi.waitFor(() => expect(session.path).toHaveLength(2));
  await choosing;
  expect(session.path[1]!.turn.ids).toBeUndefined();
  expect(session.model).toBe('https://host/models/chosen/');
});

test('while the engine puts back what a lost GPU had, the page says so and the answer goes on', async () => {
  const session = visit();
  void session.send('a');
  const [load] = clients[0]!.loads;
  load!.resolve(loaded);
  await vi.waitFor(() => expect(clients[0]!.generations).toHaveLength(1));
  clients[0]!.generations[0]!.write('A');
  load!.report({ phase: 'restore', doneBytes: 0, totalBytes: 1, note: 'gone' });
  load!.report({ phase: 'upload', doneBytes: 5, totalBytes: 10, note: '' });
  expect(session.recovery).toMatchObject({ phase: 'upload', doneBytes: 5 });
  expect(session.status.kind).toBe('ready');
  load!.report({ phase: 'restore', doneBytes: 1, totalBytes: 1, note: '' });
  expect(session.recovery).toBeNull();
  clients[0]!.generations[0]!.write('B');
  clients[0]!.generations[0]!.end();
  await vi.waitFor(() => expect(session.path.at(-1)!.turn.content).toBe('AB'));
});

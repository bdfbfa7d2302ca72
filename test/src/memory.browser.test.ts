import axe from 'axe-core';
import { flushSync, mount, unmount, type ComponentProps } from 'svelte';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { page, userEvent } from 'vitest/browser';
import App from '../../src/App.svelte';
import { writeAccount } from '../../src/account.ts';
import { addTurn, emptyConversation } from '../../src/conversation.ts';
import { blankPaper } from '../../src/paper.ts';
import { packRecording, type RecordedAnswer } from '../../src/replay.ts';
import '../../src/style.css';
import { PalimpsestError, type Branch, type Inquiry } from '../../workers/protocol.ts';
import { startFakeClient, startFakeWeights } from './fakeClient.ts';
import { fakeAnswer, fakeLists, fakeRecall, fakeRecord } from './fakeMemory.ts';
import { loaded, ScriptedClient } from './scriptedClient.ts';

let app: ReturnType<typeof mount> | null = null;

function open(startClient: ComponentProps<typeof App>['startClient'] = startFakeClient) {
  const target = document.createElement('div');
  target.id = 'app';
  document.body.append(target);
  app = mount(App, {
    target,
    props: { startClient, startWeights: startFakeWeights, page: new URL('https://host/') },
  });
  flushSync();
}

beforeEach(async () => {
  localStorage.clear();
  ScriptedClient.account = null;
  history.replaceState(null, '', location.pathname + location.search);
  await page.viewport(1280, 900);
});

afterEach(async () => {
  if (app) await unmount(app);
  app = null;
  document.body.replaceChildren();
  vi.restoreAllMocks();
});

const message = page.getByRole('textbox', { name: 'Message' });
const answers = page.getByRole('article', { name: 'The model' });
const time = page.getByRole('slider', { name: 'Time, in tokens' });
const card = (name: string) => page.getByRole('button', { name: new RegExp(`^${name}`) });
const token = (position: number) =>
  document.querySelector<HTMLElement>(`[data-token="${position}"]`)!;

const inkAt = (position: number) => Number(token(position).style.getPropertyValue('--fresh'));
/** The share of what is kept best (the tenth from the top, of so few tokens the second newest), squared. */
const fakeInk = (position: number, at: number) => {
  const newest = at < 9 ? 1 : 0;
  return Math.min(1, fakeRecall(at - position) / fakeRecall(newest)) ** 2;
};

/** "one two" is asked, and answered by "You said: one two": six tokens in all. */
async function ask() {
  await message.fill('one two');
  await userEvent.keyboard('{Enter}');
  await expect.element(answers.last()).toHaveTextContent('You said: one two');
  await expect.element(page.getByRole('button', { name: 'Send' })).toBeVisible();
  await expect.element(time).toHaveAttribute('aria-valuemax', '5');
}

describe('the palimpsest', () => {
  test('every token has the ink that its recall gives it', async () => {
    open();
    await ask();
    for (const position of [0, 3, 5]) {
      await expect.poll(() => inkAt(position)).toBeCloseTo(fakeInk(position, 5), 2);
    }
    expect(document.querySelectorAll('[data-token]')).toHaveLength(6);
  });

  test('a token that is pressed shows the memory as it was then; later ones are not written yet', async () => {
    open();
    await ask();
    token(3).click();
    await expect.element(time).toHaveAttribute('aria-valuenow', '3');
    await expect.poll(() => inkAt(0)).toBeCloseTo(fakeInk(0, 3), 2);
    expect(token(4).className).toContain('unwritten');
    expect(token(3).getAttribute('aria-current')).toBe('true');
    expect(location.hash).toContain('token=3');
    await page.getByRole('button', { name: 'now' }).click();
    await expect.element(time).toHaveAttribute('aria-valuenow', '5');
  });

  test('what was said of one text is never shown of another, be it as long', async () => {
    open();
    await ask();
    await expect.poll(() => inkAt(0)).toBeCloseTo(fakeInk(0, 5), 2);
    const ended = page.getByRole('button', { name: 'New conversation' });
    await ended.click();
    await expect.poll(() => document.querySelector('.selection')).toBeNull();
    await message.fill('faint two');
    await userEvent.keyboard('{Enter}');
    await expect.element(answers.last()).toHaveTextContent('You said: faint two');
    await expect.element(ended).toBeVisible();
    await expect.element(time).toHaveAttribute('aria-valuemax', '5');
    await expect.poll(() => inkAt(0)).toBeLessThan(0.1);
    expect(inkAt(2)).toBeGreaterThan(0.5);
  });

  test('a line leads from the token that overwrote to what it overwrote, and the sentence tells it', async () => {
    open();
    await ask();
    token(2).click();
    await expect.element(page.getByText(/it overwrote 25 % of “one”/)).toBeVisible();
    await expect.poll(() => document.querySelectorAll('svg path[stroke-width]').length).toBe(1);
  });

  test('the arrow keys go from token to token, in the text and on the timeline', async () => {
    open();
    await ask();
    document.querySelector<HTMLElement>('.ink')!.focus();
    await userEvent.keyboard('{ArrowLeft}{ArrowLeft}');
    await expect.element(time).toHaveAttribute('aria-valuenow', '3');
    (time.element() as HTMLElement).focus();
    await userEvent.keyboard('{Home}{ArrowRight}');
    await expect.element(time).toHaveAttribute('aria-valuenow', '1');
    await userEvent.keyboard('{End}');
    await expect.element(time).toHaveAttribute('aria-valuenow', '5');
  });

  test('ink can be put away for the rendered text', async () => {
    open();
    await ask();
    await page.getByRole('button', { name: 'Ink', exact: true }).click();
    await expect.poll(() => document.querySelector('[data-token]')).toBeNull();
    await expect.element(answers.last()).toHaveTextContent('You said: one two');
  });
});

describe('the instruments', () => {
  test('each opens in place, says what it shows and its formula, and draws', async () => {
    open();
    await ask();
    for (const name of ['Reach', 'Memory', 'Forgetting', 'Experts', 'Next word', 'Bytes']) {
      await card(name).last().click();
    }
    for (const name of [
      /^Write strength/,
      /^Weight with which/,
      /^The memory of head/,
      /^Half-life of/,
      /^Router/,
      /^Entropy/,
    ]) {
      const image = page.getByRole('img', { name }).first();
      const colours = () => {
        const canvas = image.element() as HTMLCanvasElement;
        canvas.scrollIntoView(); // it is drawn where it is seen, and what is above may still grow
        const { width, height } = canvas;
        if (width < 100 || height === 0) return 0;
        const pixels = canvas.getContext('2d')!.getImageData(0, 0, width, height).data.buffer;
        return new Set(new Uint32Array(pixels)).size;
      };
      await expect.poll(colours, { message: String(name), timeout: 5000 }).toBeGreaterThan(2);
    }
    await page.getByRole('button', { name: 'Formula' }).first().click();
    const link = page.getByRole('link', { name: 'All formulas: docs/MATH.md' }).first();
    await expect.element(link).toBeVisible();
    const whole = await fetch((link.element() as HTMLAnchorElement).href);
    expect(await whole.text()).toContain('u  = beta (v - S^T k)');
  });

  test('one that opens at the edge of the panel comes into view, also where it takes another one’s place', async () => {
    for (const width of [1280, 380]) {
      await page.viewport(width, 600);
      open();
      await ask();
      if (width === 380) await page.getByRole('button', { name: 'Memory', exact: true }).click();
      const seen = (title: Element) => {
        const panel = document.querySelector('#panel')!.getBoundingClientRect();
        const { top, bottom } = title.closest('section')!.getBoundingClientRect();
        return top >= panel.top && Math.min(bottom, top + 100) <= panel.bottom;
      };
      for (const name of ['Next word', 'Change the memory', 'Forgetting']) {
        (card(name).last().element() as HTMLElement).click();
        await expect.element(card(name).last()).toHaveAttribute('aria-expanded', 'true');
        await expect.poll(() => seen(card(name).last().element())).toBe(true);
      }
      await unmount(app!);
      app = null;
      document.body.replaceChildren();
      localStorage.clear();
    }
  });

  test('a layer is chosen with the arrow keys, a head from its list, and both are in the address', async () => {
    open();
    await ask();
    const layer = page
      .getByRole('radiogroup', { name: 'Layer' })
      .getByRole('radio', { checked: true });
    const before = layer.element().getAttribute('aria-label');
    (layer.element() as HTMLElement).focus();
    await userEvent.keyboard('{ArrowRight}');
    expect(layer.element().getAttribute('aria-label')).not.toBe(before);
    await page.getByRole('combobox', { name: /^head/ }).selectOptions('2');
    await expect.poll(() => location.hash).toContain('head=2');
  });

  test('numbers are saved as they are', async () => {
    open();
    await ask();
    let saved: Blob | null = null;
    vi.spyOn(URL, 'createObjectURL').mockImplementation((blob) => {
      saved = blob as Blob;
      return 'blob:none';
    });
    vi.spyOn(HTMLAnchorElement.prototype, 'click').mockImplementation(() => {});
    const files = page.getByRole('group', { name: /^Save writes-layer/ });
    (files.getByRole('button', { name: 'CSV' }).element() as HTMLElement).click();
    const csv = await saved!.text();
    const lines = csv.trim().split('\r\n');
    expect(lines[0]).toBe('token,text,head,write strength,written,known');
    expect(lines).toHaveLength(1 + 6 * 9);
    expect(Number(lines[1]!.split(',')[4])).toBe(1);
    (files.getByRole('button', { name: 'PNG' }).element() as HTMLElement).click();
    await expect.poll(() => saved!.type).toBe('image/png');
    expect(saved!.size).toBeGreaterThan(500);

    const timeline = page.getByRole('group', { name: 'Save timeline' });
    (timeline.getByRole('button', { name: 'CSV' }).element() as HTMLElement).click();
    const ticks = (await saved!.text()).trim().split('\r\n');
    expect(ticks[0]).toBe('token,text,by,written');
    expect(ticks).toHaveLength(1 + 6);
    expect(Math.max(...ticks.slice(1).map((line) => Number(line.split(',').at(-1))))).toBe(1);
    (timeline.getByRole('button', { name: 'SVG' }).element() as HTMLElement).click();
    const svg = await saved!.text();
    expect(svg.match(/<rect/g)!.length).toBeGreaterThanOrEqual(6);
  });

  test('a picture that the browser does not draw is refused with what to take instead', async () => {
    open();
    await ask();
    vi.spyOn(OffscreenCanvas.prototype, 'convertToBlob').mockRejectedValue(new Error('too large'));
    const files = page.getByRole('group', { name: 'Save palimpsest' });
    await files.getByRole('button', { name: 'PNG' }).click();
    await expect.element(files.getByRole('alert')).toHaveTextContent('take the SVG');
  });
});

describe('going on differently', () => {
  test('with another candidate: a branch beside the answer, and back', async () => {
    open();
    await ask();
    await card('Next word').click();
    token(2).click();
    await page.getByRole('button', { name: 'Go on with Then' }).click();
    await expect.element(answers.last()).toHaveTextContent('You Then and on');
    await expect.element(page.getByRole('group', { name: 'answer 2 of 2' })).toBeVisible();
    await card('Change the memory').click();
    await page.getByRole('button', { name: 'branch 0' }).click();
    await expect.element(answers.last()).toHaveTextContent('You said: one two');
  });

  test('interventions are planned, undone, tried and listed beside their branch', async () => {
    open();
    await ask();
    await card('Change the memory').click();
    token(1).click();
    await page.getByRole('combobox', { name: /^From token 1/ }).selectOptions('zero');
    await page.getByRole('button', { name: 'Add' }).click();
    await page.getByRole('button', { name: 'Add' }).click();
    await page.getByRole('button', { name: 'undo' }).first().click();
    expect(page.getByText(/^emptied at token 1, in 23 layers/).elements()).toHaveLength(1);
    await page.getByRole('button', { name: 'Write the answer again so' }).click();
    await expect
      .element(page.getByText(/from 0 after token 1/))
      .toHaveTextContent('emptied at token 1');
    // The untouched branch stands beside it unasked: both texts, what both expected, how far their memories lie apart.
    const untouched = page.getByRole('region', { name: 'Branch 0' });
    await expect.element(untouched).toHaveTextContent('untouched');
    await expect.element(untouched).toHaveTextContent('You said: one two');
    await expect
      .element(page.getByRole('region', { name: 'Branch 1' }))
      .toHaveTextContent('emptied at token 1');
    await expect.element(page.getByText('They part at token 2.')).toBeVisible();
    await expect.element(page.getByRole('table', { name: /^What could come after/ })).toBeVisible();
    for (const name of [/^Difference of the memories/, /^Difference of the memory of head 0/]) {
      const figure = page.getByRole('img', { name });
      await expect.element(figure).toBeInTheDocument();
      const height = () => {
        figure.element().scrollIntoView(); // it is drawn where it is seen
        return figure.element().getBoundingClientRect().height;
      };
      await expect.poll(height, { timeout: 5000 }).toBeGreaterThan(10);
    }
    await page.getByRole('button', { name: 'branch 0' }).click();
    await page.getByRole('button', { name: 'compare' }).click();
    await expect.element(page.getByRole('region', { name: 'Branch 1' })).toBeVisible();
  });
});

test('a conversation that begins anew has none of the branches of the last one', async () => {
  open();
  await ask();
  await card('Next word').click();
  token(2).click();
  await page.getByRole('button', { name: 'Go on with Then' }).click();
  await expect.element(answers.last()).toHaveTextContent('You Then and on');
  await card('Change the memory').click();
  const branches = page.getByRole('button', { name: /^branch \d/ });
  await expect.poll(() => branches.elements().length).toBeGreaterThan(0);
  await page.getByRole('button', { name: 'New conversation' }).click();
  await ask();
  await expect.poll(() => branches.elements().length).toBe(0);
});

/** A page with a model loaded and "one" asked; each recording of it is told records by hand, by their positions. */
async function openTold(branches: Branch[] = []) {
  const client = new ScriptedClient();
  client.memory.branches = () => Promise.resolve(branches);
  const tells: ((...positions: number[]) => void)[] = [];
  client.memory.watch = (watch, onFrame) => {
    const told = (position: number) => fakeRecord(loaded.model, position, `word${position} `);
    if (watch)
      tells.push((...positions) => onFrame({ kind: 'tokens', records: positions.map(told) }));
    return Promise.resolve();
  };
  open(() => client);
  await message.fill('one');
  await userEvent.keyboard('{Enter}');
  client.loads[0]!.resolve(loaded);
  await expect.poll(() => tells).toHaveLength(1);
  return { client, tells };
}

test('no branch is chosen while an answer is written; one that cannot be had says why', async () => {
  const branches = [0, 1].map((id) => ({
    id,
    parent: null,
    forkedAt: 0,
    ids: [],
    interventions: [],
  }));
  const { client, tells } = await openTold(branches);
  const why = 'Another tab writes. Wait for it.';
  client.memory.select = () => Promise.reject(new PalimpsestError('Refused', why));
  tells[0]!(0, 1, 2);
  await card('Change the memory').click();
  const other = page.getByRole('button', { name: 'branch 1' });
  await expect.element(other).toBeDisabled();
  client.generations[0]!.end();
  await other.click();
  await expect.element(page.getByText(why)).toBeVisible();
  client.memory.select = () => Promise.resolve();
  await other.click();
  await expect.element(other).toHaveAttribute('aria-pressed', 'true');
  expect(page.getByText(why).elements()).toHaveLength(0);
});

test('a conversation that begins anew shows nothing of the last one, however late that is forgotten', async () => {
  const { client, tells } = await openTold();
  client.reset = () => new Promise(() => {}); // another tab writes
  tells[0]!(0, 1, 2);
  await expect.element(time).toHaveAttribute('aria-valuemax', '2');
  client.generations[0]!.end();
  await page.getByRole('button', { name: 'New conversation' }).click();
  await expect.poll(() => document.querySelector('.selection')).toBeNull();
  tells[0]!(3);
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  expect(document.querySelector('.selection')).toBeNull();
});

test('an answer that is stopped before its first word says so, and tells no time of one', async () => {
  const { client } = await openTold();
  await page.getByRole('button', { name: 'Stop' }).click();
  await expect.element(answers.last()).toHaveTextContent('Stopped before the first word.');
  expect(client.stops).toBe(1);
  expect(answers.last().element().textContent).not.toMatch(/first after/);
});

test('what was said of a stored memory is said until something is written', async () => {
  const question = { role: 'user' as const, content: 'Who are you?' };
  const { tree } = addTurn(emptyConversation, null, question, { kind: 'person' });
  const model = 'https://host/models/palimpsest-150m/';
  ScriptedClient.account = writeAccount({ model, conversation: tree, paper: blankPaper });
  const client = new ScriptedClient();
  const note = 'The stored memory is of another model.';
  client.bookmark.takeUp = () => Promise.resolve({ tokens: 0, branch: null, note });
  open(() => client);
  await expect.element(page.getByText('Who are you?')).toBeVisible();
  await message.fill('And?');
  client.loads[0]!.resolve(loaded);
  await expect.element(page.getByText(note)).toBeVisible();
  await userEvent.keyboard('{Enter}');
  await vi.waitFor(() => expect(client.generations).toHaveLength(1));
  client.generations[0]!.write('Me');
  await expect.poll(() => page.getByText(note).elements()).toHaveLength(0);
});

test('what is told late of a recording that was ended is not shown', async () => {
  const { tells } = await openTold();
  tells[0]!(0, 1, 2);
  await expect.element(time).toHaveAttribute('aria-valuemax', '2');
  const watching = page.getByRole('checkbox', { name: 'watch while it writes' });
  tells[0]!(3);
  await watching.click();
  tells[0]!(4);
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  expect(document.querySelector('.selection')).toBeNull();
  await watching.click();
  await expect.poll(() => tells).toHaveLength(2);
  tells[0]!(5);
  tells[1]!(0, 1, 2, 3);
  await expect.element(time).toHaveAttribute('aria-valuemax', '3');
});

describe('a first visit', () => {
  const { model } = loaded;
  const texts = ['<s>', 'Mira', ' is', ' here', 'Yes', '.'];
  const records = texts.map((text, position) => fakeRecord(model, position, text));
  const inquiries = records.map(({ position }): Inquiry => ({
    kind: 'recall',
    layer: 0,
    head: 1,
    position,
  }));
  const file = packRecording({
    title: 'Mira',
    source: 'made by a test',
    model,
    memory: loaded.memory,
    lists: fakeLists(model),
    turns: [
      { role: 'user', content: 'Mira is here' },
      { role: 'assistant', content: 'Yes.' },
    ],
    promptTokens: 4,
    records,
    start: { layer: 0, head: 1 },
    answers: inquiries.map(
      (inquiry) => ({ inquiry, answer: fakeAnswer(model, records, inquiry) }) as RecordedAnswer,
    ),
  });

  beforeEach(() => {
    const answer = () => new Response(file, { headers: { 'content-type': 'application/json' } });
    vi.spyOn(globalThis, 'fetch').mockImplementation(() => Promise.resolve(answer()));
  });

  test('a recording plays by itself, labelled, though nothing can be computed here', async () => {
    // A scripted client never loads a model: what is seen comes from the recording alone.
    open(() => new ScriptedClient());
    await expect.element(page.getByText(/A recording of scripted, made by a test/)).toBeVisible();
    await expect.element(page.getByText('of a recording')).toBeVisible();
    await expect.element(page.getByText(/^context/).first()).toBeVisible();
    await expect.element(time).toHaveAttribute('aria-valuenow', '5');
    await expect.poll(() => inkAt(1)).toBeCloseTo(fakeInk(1, 5), 2);
  });

  test('what the reader has of their own takes its place, and it comes back only where it is asked for', async () => {
    const question = { role: 'user' as const, content: 'Who are you?' };
    const { tree } = addTurn(emptyConversation, null, question, { kind: 'person' });
    const model = 'https://host/models/palimpsest-150m/';
    ScriptedClient.account = writeAccount({ model, conversation: tree, paper: blankPaper });
    open(() => new ScriptedClient());
    await expect.element(page.getByText('Who are you?')).toBeVisible();
    const replayed = page.getByText('of a recording');
    await expect.poll(() => replayed.elements()).toHaveLength(0);
    await page.getByRole('button', { name: 'Play the first-visit recording' }).click();
    await expect.element(replayed).toBeVisible();
    await page.getByRole('button', { name: 'Raw text' }).click();
    await expect.poll(() => replayed.elements()).toHaveLength(0);
  });

  test('no change can be planned in it, and that is said', async () => {
    localStorage.setItem('palimpsest.opened', JSON.stringify(['change']));
    open(() => new ScriptedClient());
    await expect.element(page.getByText('A recording cannot be changed.')).toBeVisible();
    await expect.element(page.getByRole('button', { name: 'Add', exact: true })).toBeDisabled();
  });

  test('what it does not hold is drawn neither as kept nor as faded, and that is said', async () => {
    open(() => new ScriptedClient());
    await expect.poll(() => inkAt(1)).toBeCloseTo(fakeInk(1, 5), 2);
    expect(document.querySelectorAll('.ink.unknown')).toHaveLength(0);
    await page.getByRole('combobox', { name: 'head' }).selectOptions('0');
    await expect.element(page.getByText(/written.* This is not in the recording/)).toBeVisible();
    await expect.element(page.getByText('still in memory: not known')).toBeVisible();
    expect(document.querySelectorAll('.ink.unknown')).toHaveLength(2);
  });

  test('a text that was left for a recording has all its ink when it is looked at again', async () => {
    open();
    await ask();
    await page.getByRole('button', { name: 'Play the first-visit recording' }).click();
    await expect.element(page.getByText('of a recording')).toBeVisible();
    await page.getByRole('button', { name: 'Back to your own text' }).first().click();
    await expect.element(answers.last()).toHaveTextContent('You said: one two');
    await expect.poll(() => document.querySelectorAll('[data-token]').length).toBe(6);
  });

  test('one that is dropped plays; one that cannot is told where it is seen, be the panel a closed sheet', async () => {
    await page.viewport(700, 600);
    const client = new ScriptedClient();
    open(() => client);
    await expect.element(page.getByText('of a recording')).toBeInTheDocument();
    const panel = page.getByRole('complementary', { name: 'The model' });
    const drop = (text: string) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([text], 'mine.json'));
      for (const type of ['dragover', 'drop'])
        document.body.dispatchEvent(
          new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }),
        );
    };
    drop('{}');
    await expect.element(page.getByText(/it does not say "palimpsest/)).toBeInViewport();
    drop(file);
    await expect.poll(() => panel.elements()).toHaveLength(0);
    await message.fill('one');
    await userEvent.keyboard('{Enter}');
    drop(file);
    await expect.element(page.getByText('An answer is being written.')).toBeInViewport();
  });

  test('hints come one at a time, and not again once they are enough', async () => {
    open(() => new ScriptedClient());
    const hint = page.getByRole('complementary', { name: /^Hint/ });
    await expect.element(hint).toHaveTextContent('1 of 7');
    await page.getByRole('button', { name: 'Next', exact: true }).click();
    await expect.element(hint).toHaveTextContent('2 of 7');
    await page.getByRole('button', { name: 'Enough' }).click();
    expect(hint.elements()).toHaveLength(0);
    expect(localStorage.getItem('palimpsest.tour')).toBe('7');
  });

  test('“Ask it yourself” loads the model and puts the cursor in the box', async () => {
    const client = new ScriptedClient();
    open(() => client);
    await page.getByRole('button', { name: 'Ask it yourself' }).click();
    expect(client.loads).toHaveLength(1);
    await expect.element(message).toHaveFocus();
    // Why nothing arrives is said where the reader waits.
    const note = 'Nothing arrived from https://host/models/m/m.gguf; trying again in 2 s';
    client.loads[0]!.report({ phase: 'download', doneBytes: 0, totalBytes: 9, note });
    const told = page.getByText('Nothing arrived from host/…/m.gguf; trying again in 2 s');
    await expect.element(told).toBeVisible();
    await expect.element(told).toHaveAttribute('title', note);
  });

  test.each(['light', 'dark'])('axe finds nothing serious, %s', async (theme) => {
    localStorage.setItem('palimpsest.theme', JSON.stringify(theme));
    localStorage.setItem(
      'palimpsest.opened',
      JSON.stringify(['writes', 'reach', 'logits', 'change', 'bytes']),
    );
    open(() => new ScriptedClient());
    await expect.element(time).toHaveAttribute('aria-valuenow', '5');
    // Until the last token's ink has dried.
    await new Promise((resolve) => setTimeout(resolve, 400));
    const { violations } = await axe.run(document.body);
    const serious = violations.filter(
      ({ impact }) => impact === 'serious' || impact === 'critical',
    );
    expect(
      serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`),
    ).toEqual([]);
  });
});

import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { page, userEvent } from 'vitest/browser';
import App from '../../src/App.svelte';
import '../../src/style.css';
import { startFakeClient, startFakeWeights } from './fakeClient.ts';

let app: ReturnType<typeof mount> | null = null;

async function open(address = 'https://host/') {
  const target = document.createElement('div');
  target.id = 'app';
  document.body.append(target);
  app = mount(App, {
    target,
    props: {
      startWeights: startFakeWeights,
      startClient: startFakeClient,
      page: new URL(address),
    },
  });
  flushSync();
}

beforeEach(async () => {
  localStorage.clear();
  await page.viewport(1280, 800);
});

afterEach(async () => {
  if (app) await unmount(app);
  app = null;
  document.body.replaceChildren();
});

const message = page.getByRole('textbox', { name: 'Message' });
const send = page.getByRole('button', { name: 'Send' });
const stop = page.getByRole('button', { name: 'Stop' });
const log = page.getByRole('log');
const bar = page.getByRole('progressbar');
const answers = page.getByRole('article', { name: 'The model' });

async function ask(text: string) {
  await message.fill(text);
  await userEvent.keyboard('{Enter}');
}

async function answered(text: string) {
  await expect.element(answers.last()).toHaveTextContent(text);
  await expect.element(send).toBeVisible();
}

describe('from opening to an answer', () => {
  test('nothing is loaded unasked; the size is told', async () => {
    await open();
    await expect
      .element(page.getByRole('button', { name: 'Load the model (111 MB)' }))
      .toBeVisible();
    expect(bar.elements()).toHaveLength(0);
    await expect.element(send).toBeDisabled();
  });

  test('the first letter starts the load, and a prompt sent meanwhile is answered', async () => {
    await open('https://host/?model=models/slow/');
    await message.fill('hi');
    await expect.element(bar).toHaveAttribute('aria-valuenow');
    await expect
      .element(bar)
      .toHaveAttribute('aria-valuetext', expect.stringContaining('of 111 MB'));
    await page.getByRole('button', { name: 'Cancel' }).click();
    expect(bar.elements()).toHaveLength(0);
    await page.getByRole('combobox', { name: 'Model' }).selectOptions('Palimpsest 150M');
    await userEvent.click(message);
    await userEvent.keyboard('{Enter}');
    await answered('You said: hi');
    await expect.element(log).toHaveTextContent('hi');
  });

  test('an example is asked by one click', async () => {
    await open();
    await page.getByRole('button', { name: 'What is photosynthesis?' }).click();
    await answered('You said: What is photosynthesis?');
    await expect.element(message).toHaveFocus();
    await expect.element(page.getByText('fake gpu')).toBeVisible();
  });

  test('a second prompt continues the conversation', async () => {
    await open();
    await ask('one');
    await answered('You said: one');
    await ask('two');
    await answered('You said: two');
    expect(answers.elements()).toHaveLength(2);
  });
});

describe('the keyboard', () => {
  test('Enter sends, Shift+Enter begins a line, Enter of an input method does neither', async () => {
    await open();
    await message.fill('a');
    await userEvent.keyboard('{Shift>}{Enter}{/Shift}b');
    await expect.element(message).toHaveValue('a\nb');
    message
      .element()
      .dispatchEvent(
        new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true }),
      );
    await expect.element(message).toHaveValue('a\nb');
    await userEvent.keyboard('{Enter}');
    await expect.element(message).toHaveValue('');
    await expect.element(page.getByRole('article', { name: 'You' })).toHaveTextContent('a b');
    // As ink the text stands as it was written, line ends and all.
    await answered('You said: a b');
  });

  test('Escape stops, and the focus stays in the box', async () => {
    await open();
    await ask('long');
    await expect.element(answers.last()).toHaveTextContent('word3');
    await userEvent.keyboard('{Escape}');
    await expect.element(page.getByText(/stopped$/)).toBeVisible();
    await expect.element(message).toHaveFocus();
  });

  test('is spoken of only where there is one', async () => {
    await open();
    await ask('long');
    await expect.element(message).toHaveAttribute('placeholder', 'Esc stops');
    await unmount(app!);
    document.body.replaceChildren();
    const real = matchMedia;
    vi.stubGlobal('matchMedia', (query: string) => real(query.replace('(pointer: coarse)', 'all')));
    await open();
    await ask('long');
    await expect.element(stop).toBeVisible();
    await expect.element(message).toHaveAttribute('placeholder', 'Write to the model');
    vi.unstubAllGlobals();
  });

  test('pressing Stop leaves the focus in the box', async () => {
    await open();
    await ask('long');
    await expect.element(answers.last()).toHaveTextContent('word3');
    await stop.click();
    await expect.element(send).toBeVisible();
    await expect.element(message).toHaveFocus();
  });

  test('everything can be reached by Tab, and the focus is seen', async () => {
    await open();
    await ask('one');
    await answered('You said: one');
    const unreached = new Set(
      [
        ...document.querySelectorAll<HTMLElement>('button, input, textarea, select, summary'),
      ].filter(
        // What is left out by tabindex is reached by arrow keys from its neighbour.
        (element) =>
          element.checkVisibility() &&
          element.tabIndex >= 0 &&
          // So are the radio buttons of a group from the one that is checked.
          !element.matches('[type=radio]:not(:checked)') &&
          !(element as HTMLButtonElement).disabled,
      ),
    );
    expect(unreached.size).toBeGreaterThan(8);
    for (let presses = 0; presses < 120 && unreached.size > 0; presses++) {
      await userEvent.keyboard('{Tab}');
      const focused = document.activeElement as HTMLElement;
      if (unreached.delete(focused) && focused.tagName === 'BUTTON') {
        expect(getComputedStyle(focused).outlineStyle).toBe('solid');
        expect(getComputedStyle(focused.closest('.actions') ?? focused).opacity).not.toBe('0');
      }
    }
    expect([...unreached].map((element) => element.outerHTML)).toEqual([]);
  });
});

describe('branches', () => {
  test('an edited question is a branch; the arrows switch', async () => {
    await open();
    await ask('one');
    await answered('You said: one');
    await page.getByRole('button', { name: 'Edit' }).first().click();
    const wording = page.getByRole('textbox', { name: 'Another wording' });
    await expect.element(wording).toHaveFocus();
    await wording.fill('two');
    await userEvent.keyboard('{Enter}');
    await answered('You said: two');
    await expect.element(message).toHaveFocus();
    await page.getByRole('button', { name: 'Previous wording' }).click();
    await expect.element(answers.last()).toHaveTextContent('You said: one');
    await expect.element(page.getByRole('group', { name: 'wording 1 of 2' })).toBeVisible();
  });

  test('Escape leaves a turn as it was and gives the focus back', async () => {
    await open();
    await ask('one');
    await answered('You said: one');
    const edit = page.getByRole('button', { name: 'Edit' }).first();
    await edit.click();
    await userEvent.keyboard('x{Escape}');
    await expect.element(edit).toHaveFocus();
    await expect.element(log).not.toHaveTextContent('onex');
  });

  test('again says when greedy choice would only repeat itself, and offers to draw', async () => {
    await open();
    await ask('one');
    await answered('You said: one');
    await page.getByRole('button', { name: 'Again' }).click();
    await page.getByRole('button', { name: 'Draw at a temperature of 0.7' }).click();
    await expect.element(page.getByRole('group', { name: 'answer 2 of 2' })).toBeVisible();
    await expect.element(page.getByText(/seed \d+/)).toBeVisible();
  });
});

describe('the settings', () => {
  test('open from below the message box, say in words what they do, and hold numbers in range', async () => {
    await open();
    await page.getByRole('button', { name: 'Greedy, up to 192 tokens' }).click();
    await expect.element(page.getByText('Settings')).toHaveFocus();
    const temperature = page.getByRole('spinbutton', { name: 'Temperature' });
    await temperature.fill('9');
    await userEvent.keyboard('{Tab}');
    await expect.element(temperature).toHaveValue(2);
    await expect.element(page.getByText(/^Drawn at temperature 2\./)).toBeVisible();
    await expect.element(page.getByRole('slider', { name: 'Temperature' })).toHaveValue('2');
    await page.getByRole('button', { name: 'Greedy', exact: true }).click();
    await expect.element(temperature).toHaveValue(0);
    await expect
      .element(page.getByText(/^Greedy: the most probable token each time\./))
      .toBeVisible();
  });

  test('a drawn seed stays until another is wanted, and every setting reaches the engine', async () => {
    await open();
    await page.getByText('Settings').click();
    await page.getByRole('button', { name: 'Varied' }).click();
    const seed = page.getByRole('spinbutton', { name: 'Seed' });
    await page.getByRole('button', { name: 'New seed' }).click();
    const drawn = (seed.element() as HTMLInputElement).value;
    await page.getByRole('spinbutton', { name: 'Longest answer' }).fill('2');
    await ask('one two three');
    await expect
      .element(page.getByText(`seed ${drawn} · cut at the longest answer allowed`))
      .toBeVisible();
    await expect.element(answers.last()).toHaveTextContent('2 tokens');
    await expect.element(seed).toHaveValue(Number(drawn));
  });
});

describe('a link', () => {
  const addressed = (hash: string) => history.replaceState(null, '', hash);
  afterEach(() => addressed(location.pathname + location.search));

  test('that cannot be read is told, and stays in the address until that is noted', async () => {
    addressed('#prompt=What%20is%20%E0%A4&layer=1');
    await open();
    const told = page.getByText(/^Not all of this link could be read\. Left out: prompt “What is/);
    await expect.element(told).toBeVisible();
    await ask('one');
    await answered('You said: one');
    expect(location.hash).toContain('prompt=');
    await page.getByRole('button', { name: 'Close' }).first().click();
    expect(told.elements()).toHaveLength(0);
    await expect.poll(() => location.hash).toMatch(/^#layer=\d+&head=/);
  });

  test('of which a part cannot be read is offered without it', async () => {
    addressed('#prompt=Hi&topK=many');
    await open();
    const told = page.getByText('asks a model: “Hi”. Not all of this link could be read');
    await expect.element(told).toHaveTextContent('Left out: topK “many”.');
    await page.getByRole('button', { name: 'No', exact: true }).click();
    expect(page.getByText('Not all of this link').elements()).toHaveLength(0);
  });
});

describe('copying an answer', () => {
  const copy = page.getByRole('button', { name: 'Copy', exact: true });
  afterEach(() => vi.restoreAllMocks());

  test('says that it is done', async () => {
    const write = vi.spyOn(navigator.clipboard, 'writeText').mockResolvedValue();
    await open();
    await ask('one');
    await answered('You said: one');
    await copy.click();
    await expect.element(page.getByRole('button', { name: 'Copied' })).toBeVisible();
    expect(write).toHaveBeenCalledWith('You said: one');
  });

  test.each([true, false])('where the browser refuses it is selected, ink: %s', async (inked) => {
    localStorage.setItem('palimpsest.inked', JSON.stringify(inked));
    vi.spyOn(navigator.clipboard, 'writeText').mockRejectedValue(new Error('no permission'));
    await open();
    await ask('one');
    await answered('You said: one');
    await copy.click();
    await expect.element(page.getByRole('alert')).toHaveTextContent('press Ctrl C or ⌘ C');
    expect(getSelection()!.toString().trim()).toBe('You said: one');
  });
});

describe('failures', () => {
  const alert = page.getByRole('alert');

  test('a model that cannot be loaded', async () => {
    await open('https://host/?model=models/fail-OutOfMemory/');
    await ask('one');
    await expect.element(alert).toHaveTextContent('The GPU has no memory left');
    await expect
      .element(alert.getByRole('button', { name: 'Answer on the processor' }))
      .toBeVisible();
    await expect.element(alert.getByRole('button', { name: 'Try again' })).toBeVisible();
    await userEvent.keyboard('{Escape}');
    await expect.element(page.getByRole('button', { name: 'Answer', exact: true })).toBeVisible();
  });

  test('an answer that breaks down keeps its text', async () => {
    await open();
    await ask('fail BadNumbers');
    await expect.element(alert).toHaveTextContent('The computation broke down');
    await expect.element(answers.last()).toHaveTextContent('You said: fail');
    await expect.element(alert.getByRole('button', { name: 'Try again' })).toBeVisible();
  });

  test('a full context offers another conversation', async () => {
    await open();
    await ask('fail ContextFull');
    await alert.getByRole('button', { name: 'New conversation' }).click();
    await expect.element(page.getByRole('list', { name: 'Examples' })).toBeVisible();
    await page.getByRole('button', { name: 'Back to the last conversation' }).click();
    await expect.element(log).toHaveTextContent('fail ContextFull');
  });

  test('a lost device is reloaded, and the conversation goes on', async () => {
    await open();
    await ask('lose');
    await expect.element(alert).toHaveTextContent('The GPU went away');
    await expect.element(answers.last()).toHaveTextContent('Broken off');
    await alert.getByRole('button', { name: 'Reload the model' }).click();
    await expect.element(page.getByText('fake gpu')).toBeVisible();
    await ask('two');
    await answered('You said: two');
    expect(answers.elements()).toHaveLength(2);
  });

  test('a software adapter is no failure, but told', async () => {
    await open('https://host/?model=models/software/');
    await message.fill('one');
    await expect.element(page.getByText(/on your own processor/)).toBeVisible();
    await userEvent.keyboard('{Enter}');
    await answered('You said: one');
    await expect.element(page.getByText(/No GPU was found/)).toBeVisible();
  });
});

describe('raw text', () => {
  test('the model writes on in place, and the reader goes on from there', async () => {
    await open();
    await page.getByRole('button', { name: 'Raw text' }).click();
    await message.fill('say upon a time');
    await send.click();
    await expect.element(log).toHaveTextContent('upon a time');
    await expect.element(message).toHaveValue('say upon a timeupon a time');
    await page.getByRole('button', { name: 'Take back' }).click();
    await expect.element(message).toHaveValue('say upon a time');
    await expect.poll(() => log.element().textContent).toBe('');
  });

  test('what is seen and what is edited lie on each other', async () => {
    await open();
    await page.getByRole('button', { name: 'Raw text' }).click();
    await message.fill('say ' + 'many words in a row, '.repeat(30));
    await send.click();
    await expect.element(page.getByRole('button', { name: 'Take back' })).toBeVisible();
    const box = message.element() as HTMLTextAreaElement;
    const copy = document.querySelector<HTMLElement>('.copy')!;
    expect(copy.textContent.replace('\u200b', '')).toBe(box.value);
    expect(box.getBoundingClientRect()).toEqual(copy.getBoundingClientRect());
    expect(box.scrollHeight).toBe(box.clientHeight);
    const style = (element: HTMLElement) => {
      const { font, letterSpacing, whiteSpace, overflowWrap, padding, lineHeight } =
        getComputedStyle(element);
      return { font, letterSpacing, whiteSpace, overflowWrap, padding, lineHeight };
    };
    expect(style(box)).toEqual(style(copy));
  });

  test('a model without a chat template has no chat', async () => {
    await open('https://host/?model=models/raw/');
    await message.fill('say more');
    await expect.element(page.getByRole('button', { name: 'Chat' })).toBeDisabled();
    // What was typed before the model was there is not lost.
    await expect.element(message).toHaveValue('say more');
    await expect.element(message).toHaveFocus();
    await send.click();
    await expect.element(log).toHaveTextContent('more');
    await expect.element(page.getByText(/has no chat template/)).toBeVisible();
  });
});

describe('the look', () => {
  test('light or dark is as the system says until chosen, and remembered', async () => {
    await open();
    const { dataset } = document.documentElement;
    expect(dataset.theme).toBe(
      matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light',
    );
    const button = page.getByRole('button', { name: /^Light or dark/ });
    await button.click();
    expect(dataset.theme).toBe('light');
    await button.click();
    expect(dataset.theme).toBe('dark');
    await unmount(app!);
    document.body.replaceChildren();
    dataset.theme = '';
    await open();
    expect(dataset.theme).toBe('dark');
  });

  test.each([320, 380, 700, 1440])('nothing is cut off at a width of %d', async (width) => {
    await page.viewport(width, 780);
    await open();
    await ask(`one ${'longwordwithoutanyspaces'.repeat(8)}`);
    await answered('You said: one');
    expect(document.documentElement.scrollWidth).toBeLessThanOrEqual(width);
    expect(document.documentElement.scrollHeight).toBe(780);
    await expect.element(message).toBeInViewport();
    await expect.element(send).toBeInViewport();
  });

  test('on a narrow screen the instruments are a sheet that Escape closes', async () => {
    await page.viewport(380, 780);
    await open();
    const memory = page.getByRole('button', { name: 'Memory' });
    const panel = page.getByRole('complementary', { name: 'The model' });
    expect(panel.elements()).toHaveLength(0);
    await memory.click();
    await expect.element(panel).toBeVisible();
    await expect.element(page.getByRole('button', { name: 'Close' })).toHaveFocus();
    await userEvent.keyboard('{Escape}');
    expect(panel.elements()).toHaveLength(0);
    await expect.element(memory).toHaveFocus();
  });

  test.each(['light', 'dark'])('ink on paper has a contrast of 4.5 and more, %s', async (theme) => {
    await open();
    document.documentElement.dataset.theme = theme;
    const token = (name: string) =>
      luminance(getComputedStyle(document.documentElement).getPropertyValue(name));
    const contrast = (one: string, other: string) => {
      const [dark = 0, light = 0] = [token(one), token(other)].sort((a, b) => a - b);
      return (light + 0.05) / (dark + 0.05);
    };
    for (const paper of ['--paper', '--raised', '--sunk']) {
      for (const ink of ['--ink', '--ink-2', '--accent']) {
        expect(contrast(ink, paper), `${ink} on ${paper}`).toBeGreaterThanOrEqual(4.5);
      }
      // Edges of boxes and bars.
      expect(contrast('--line-2', paper), `--line-2 on ${paper}`).toBeGreaterThanOrEqual(3);
    }
    expect(contrast('--on-ink', '--ink')).toBeGreaterThanOrEqual(4.5);
    expect(contrast('--ink-2', '--line')).toBeGreaterThanOrEqual(4.5);
  });
});

/** Relative luminance of #rrggbb, as WCAG 2 defines it. */
function luminance(hex: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const share = parseInt(hex.trim().slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/**
 * A conversation laid out by a model's chat template: which text, which control tokens, and where the token ids of an
 * answer go that the model wrote itself. Knows nothing of vocabularies; `tokenizer.ts` turns the spans into ids.
 *
 * **Who may write control tokens.** Only the template. What a person types is ordinary text, even where it reads
 * `<|im_end|>`, and still the template sees what was typed, so that templates that trim contents or look into them
 * work. The conversation is rendered twice, with the help of characters that occur nowhere in it or in the template:
 *
 *  - plainly, but for a *cut* inside every control token that a content holds. It hides the token from the search and
 *    is taken out afterwards; the text between two control tokens stays in one piece, and is encoded as if the whole
 *    prompt had been encoded at once.
 *  - safely: with *veils* for all characters that begin a control token, and a cut in front of a content that could go
 *    on with one the template begins. What is found there, the template wrote, whatever it does to the contents (lower
 *    case, replacements, joins).
 *
 * Where both hold the same control tokens, the plain rendering stands; otherwise the safe one, unveiled. A template
 * that writes other tokens because of what a content says is thus told less, never fooled. A content that comes with
 * its ids is replaced by one more such character, its *place*.
 *
 * **Templates come from untrusted files** and Jinja is a programming language: the template's length and the work of a
 * rendering are bounded, so it ends. A bound is reached in a second or two.
 */
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { PalimpsestError, type Role, type Turn } from './protocol.ts';

/** A stretch of text: ordinary, or one control token. */
export interface Stretch {
  kind: 'text' | 'control';
  text: string;
}

/** A stretch of a prompt. */
export type Span = Stretch | { kind: 'ids'; ids: readonly number[] };

/** What the template may name beside the conversation; '' where the file has no such token. */
export interface TemplateTokens {
  /** Texts of all control tokens. */
  controls: readonly string[];
  bos: string;
  eos: string;
}

export type LayOut = (turns: readonly Turn[], options: { generate: boolean }) => Span[];

/** The layout of Kimi K2 and Kimi Linear, for files that carry their tokens but no template. */
export const kimiTemplate =
  "{% for message in messages %}{{ '<|im_' + message.role + '|>' + message.role + '<|im_middle|>' }}" +
  "{{ message.content + '<|im_end|>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}";

/** The control tokens that layout needs. */
export const kimiControls = ['system', 'user', 'assistant', 'middle', 'end'].map(
  (n) => `<|im_${n}|>`,
);

/**
 * A chat template, ready to lay out conversations. A template that does not parse fails when it is first used, so that
 * a file whose template is broken still completes raw text.
 *
 * The returned function fails: Refused (turns that make no sense, or that the template declines), BadModel (the
 * template is broken or runs too long).
 */
export function chatTemplate(source: string, tokens: TemplateTokens): LayOut {
  const controls = tokens.controls.filter((text) => text !== '');
  const goesOn = endingsOf(controls);
  const firsts = new Set(controls.map(firstCharacter));
  let program: Program | undefined;

  return (turns, { generate }) => {
    checkTurns(turns, generate);
    program ??= compile(source);
    const contents = turns.map((turn) => (turn.ids ? '' : turn.content.toWellFormed()));
    const unused = privateCharacters(source + contents.join(''));
    const cut = unused();
    const veils = new Map([...firsts].map((first) => [first, unused()]));
    const places = turns.map((turn) => (turn.ids ? unused() : ''));

    const variables = {
      add_generation_prompt: generate,
      bos_token: tokens.bos,
      eos_token: tokens.eos,
      tools: null,
      documents: null,
    };
    const today = new Date();
    const write = (written: readonly string[]) =>
      splitAt(
        render(program!, today, {
          ...variables,
          messages: turns.map(({ role }, i) => ({ role, content: places[i] || written[i] })),
        }),
        controls,
      );

    const plain = contents.map((content) => cutInside(content, controls, cut));
    const safe = contents.map((content) =>
      // In front of the first character a template that trims would leave.
      replaceCharacters(
        goesOn(content.trim()) ? content.replace(/\S/, `${cut}$&`) : content,
        veils,
      ),
    );
    let spans = write(plain);
    if (safe.some((content, i) => content !== plain[i])) {
      const safely = write(safe);
      if (controlsOf(safely) !== controlsOf(spans)) {
        const unveil = new Map([...veils].map(([first, veil]) => [veil, first]));
        spans = safely.map(({ kind, text }) => ({ kind, text: replaceCharacters(text, unveil) }));
      }
    }

    const placed = new Map(places.flatMap((place, i) => (place ? [[place, turns[i].ids!]] : [])));
    return spans.flatMap((stretch) =>
      stretch.kind === 'text' ? fill(stretch.text.replaceAll(cut, ''), placed) : [stretch],
    );
  };
}

/**
 * A text split at some words, as llama.cpp does it: the longest word first over the whole text, then the next over
 * what is left. The words come back as `control`. No span is empty.
 */
export function splitAt(text: string, words: readonly string[]): Stretch[] {
  const present = words.filter((word) => word !== '' && text.includes(word));
  present.sort((a, b) => b.length - a.length);
  let stretches: Stretch[] = [{ kind: 'text', text }];
  for (const word of present) {
    stretches = stretches.flatMap((stretch): Stretch[] => {
      if (stretch.kind === 'control') return [stretch];
      const [first, ...rest] = stretch.text.split(word);
      return [
        { kind: 'text', text: first },
        ...rest.flatMap((text): Stretch[] => [
          { kind: 'control', text: word },
          { kind: 'text', text },
        ]),
      ];
    });
  }
  return stretches.filter((stretch) => stretch.text !== '');
}

function checkTurns(turns: readonly Turn[], generate: boolean): void {
  const roles: readonly Role[] = ['system', 'user', 'assistant'];
  if (turns.length === 0) {
    throw new PalimpsestError('Refused', 'The conversation has no turns. Send at least one.');
  }
  turns.forEach(({ role, content, ids }, i) => {
    const turn = `Turn ${i + 1} of ${turns.length}`;
    if (!roles.includes(role)) {
      throw new PalimpsestError(
        'Refused',
        `${turn} has the role "${role}". Use ${roles.join(', ')}.`,
      );
    }
    if (typeof content !== 'string') {
      throw new PalimpsestError(
        'Refused',
        `${turn} has no text (${typeof content}). Send a string.`,
      );
    }
    if (ids && role !== 'assistant') {
      throw new PalimpsestError(
        'Refused',
        `${turn} (${role}) carries token ids; only what the model wrote may. Send its text alone.`,
      );
    }
  });
  if (generate && turns[turns.length - 1].role === 'assistant') {
    throw new PalimpsestError(
      'Refused',
      'The last turn is already an answer. End with a turn of the user to get another.',
    );
  }
}

// ------------------------------------------------------------------------------------ hiding control tokens

/** A content with a cut past the first character of every control token in it. */
function cutInside(content: string, controls: readonly string[], cut: string): string {
  const cuts = new Set<number>();
  for (const control of controls) {
    const past = firstCharacter(control).length;
    for (let at = content.indexOf(control); at >= 0; at = content.indexOf(control, at + 1)) {
      cuts.add(at + past);
    }
  }
  const bounds = [0, ...[...cuts].sort((a, b) => a - b), content.length];
  return bounds
    .slice(1)
    .map((to, i) => content.slice(bounds[i], to))
    .join(cut);
}

/** Whether a text could go on with a control token begun before it: it opens with the end of one, or lies within one. */
function endingsOf(controls: readonly string[]): (text: string) => boolean {
  const endings = new Set<string>();
  for (const control of controls) {
    for (let i = 1; i < control.length; i++) endings.add(control.slice(i));
  }
  const longest = Math.max(0, ...[...endings].map((ending) => ending.length));
  return (text) => {
    if (text === '') return false;
    for (let n = 1; n <= Math.min(text.length, longest); n++) {
      if (endings.has(text.slice(0, n))) return true;
    }
    return text.length < longest && controls.some((control) => control.includes(text));
  };
}

function controlsOf(stretches: readonly Stretch[]): string {
  return JSON.stringify(stretches.flatMap(({ kind, text }) => (kind === 'control' ? [text] : [])));
}

/** A text split where ids take a place. */
function fill(text: string, placed: ReadonlyMap<string, readonly number[]>): Span[] {
  return splitAt(text, [...placed.keys()]).map((stretch) =>
    stretch.kind === 'control' ? { kind: 'ids', ids: placed.get(stretch.text)! } : stretch,
  );
}

/** Hands out private-use characters that `text` does not contain, each one once. */
function privateCharacters(text: string): () => string {
  const taken = new Set(text.match(/\p{Co}/gu));
  const ranges = [
    [0xe000, 0xf8ff],
    [0xf0000, 0xffffd],
    [0x100000, 0x10fffd],
  ];
  const free = (function* () {
    for (const [from, to] of ranges) {
      for (let code = from; code <= to; code++) {
        const character = String.fromCodePoint(code);
        if (!taken.has(character)) yield character;
      }
    }
  })();
  return () => {
    const { value, done } = free.next();
    if (!done) return value;
    throw new PalimpsestError(
      'Refused',
      'The conversation uses up all 137,468 private-use characters of Unicode. Leave some out.',
    );
  };
}

function firstCharacter(text: string): string {
  return String.fromCodePoint(text.codePointAt(0)!);
}

function replaceCharacters(text: string, by: ReadonlyMap<string, string>): string {
  for (const [from, to] of by) text = text.replaceAll(from, to);
  return text;
}

// ------------------------------------------------------------------------------------------------ rendering

type Program = ReturnType<typeof parse>;
type Value = ReturnType<Interpreter['evaluate']>;

/** Characters of a template, and of a run of white space in it: the parser takes quadratic time over such a run. */
const longestTemplate = 262_144;
const whiteRunLimit = 1_000;

/** Work a rendering may take, in evaluations: a template needs some dozens per turn, and copies each content a few times. */
const evaluations = 1_000_000;
const evaluationsPerTurn = 5_000;
const evaluationsPerCharacter = 1;

/** What else costs as much as one evaluation: characters or elements of a value, parts of one met for the first time. */
const lengthPerEvaluation = 64;
const partsPerEvaluation = 16;
/** What one pass of a loop costs beside its body. */
const evaluationsPerPass = 8;

/** Numbers a template may ask of range(). */
const longestRange = 100_000;

function compile(source: string): Program {
  if (source.length > longestTemplate || longestWhiteRun(source) > whiteRunLimit) {
    throw new PalimpsestError(
      'BadModel',
      `The model's chat template has ${source.length} characters, ${longestWhiteRun(source)} of them white space in a row; ` +
        `at most ${longestTemplate} and ${whiteRunLimit} are read. Use raw completion, or another file.`,
    );
  }
  try {
    return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (error) {
    throw broken(error);
  }
}

function longestWhiteRun(text: string): number {
  let longest = 0;
  for (let i = 0, run = 0; i < text.length; i++) {
    run = /\s/.test(text[i]) ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  return longest;
}

/** An interpreter that gives up when its budget is spent. */
class Bounded extends Interpreter {
  #left: number;
  /** Expressions that a loop goes through. */
  readonly #lists = new WeakSet<object>();
  /** Values paid for, and never to change: only namespaces do. */
  readonly #weighed = new WeakSet<object>();

  constructor(global: Environment, budget: number) {
    super(global);
    this.#left = budget;
  }

  override evaluate(...[node, scope]: Parameters<Interpreter['evaluate']>): Value {
    // {% for item in iterable %}, or {% for item in iterable.lhs if … %}; the parser's classes are not exported.
    const { iterable } = (node ?? {}) as { iterable?: { lhs?: object } };
    if (iterable) this.#lists.add(iterable.lhs ?? iterable);
    const value = super.evaluate(node, scope);
    const length = lengthOf(value.value);
    this.#pay(1 + length / lengthPerEvaluation);
    if (node && this.#lists.has(node)) this.#pay(length * evaluationsPerPass);
    if (!this.#weighed.has(value)) this.#weigh(value);
    return value;
  }

  /** Pays for the parts of a value. A list may hold another twice: what printing it would visit is what counts. */
  #weigh(value: Value): void {
    let changes = false;
    const parts = [value];
    while (parts.length > 0) {
      const part = parts.pop()!;
      changes ||= part.type === 'NamespaceValue';
      this.#pay(1 / partsPerEvaluation);
      if (typeof part.value !== 'object' || part.value === null) continue;
      this.#pay(lengthOf(part.value) / partsPerEvaluation);
      if (Array.isArray(part.value)) for (const inner of part.value) parts.push(inner);
      else if (part.value instanceof Map)
        for (const inner of part.value.values()) parts.push(inner);
    }
    if (!changes) this.#weighed.add(value);
  }

  #pay(price: number): void {
    this.#left -= price;
    if (this.#left >= 0) return;
    throw new PalimpsestError(
      'BadModel',
      "The model's chat template runs without end or builds values without bound. Use raw completion, or another file.",
    );
  }
}

function lengthOf(value: unknown): number {
  if (typeof value === 'string' || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}

function render(
  program: Program,
  today: Date,
  variables: { messages: { content: string }[] },
): string {
  const environment = new Environment();
  const globals = {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    strftime_now: (format: unknown) => strftime(today, String(format)),
    raise_exception: (reason: unknown) => {
      throw new PalimpsestError(
        'Refused',
        `The model's chat template declines this conversation: ${String(reason)}`,
      );
    },
    ...variables,
  };
  for (const [name, value] of Object.entries(globals)) environment.set(name, value);
  const budget = variables.messages.reduce(
    (sum, { content }) => sum + evaluationsPerTurn + evaluationsPerCharacter * content.length,
    evaluations,
  );
  try {
    return String(new Bounded(environment, budget).run(program).value).toWellFormed();
  } catch (error) {
    throw broken(error);
  }
}

/** What a template throws, as an error of ours. */
function broken(error: unknown): PalimpsestError {
  if (error instanceof PalimpsestError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new PalimpsestError(
    'BadModel',
    `The model's chat template failed: ${reason}. Use raw completion, or another file.`,
  );
}

/** Python's range(). */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (!(count <= longestRange)) {
    throw new Error(`range(${start}, ${stop}, ${step}) is longer than ${longestRange}`);
  }
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** The codes of strftime that templates date a system line with, in English, local time. */
function strftime(date: Date, format: string): string {
  const english = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat('en-US', options).format(date);
  const two = (n: number) => String(n).padStart(2, '0');
  const codes: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    b: () => english({ month: 'short' }),
    B: () => english({ month: 'long' }),
    a: () => english({ weekday: 'short' }),
    A: () => english({ weekday: 'long' }),
    H: () => two(date.getHours()),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    '%': () => '%',
  };
  return format.replace(/%(.)/g, (code, letter: string) => codes[letter]?.() ?? code);
}

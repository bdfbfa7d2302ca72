import { describe, expect, test } from 'vitest';
import {
  chatTemplate,
  kimiControls,
  kimiTemplate,
  splitAt,
  type Span,
} from '../../workers/chat.ts';
import type { Turn } from '../../workers/protocol.ts';
import { random } from '../reference/random.ts';

const controls = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '[EOS]'];
const tokens = { controls, bos: '[EOS]', eos: '<|im_end|>' };
const generate = { generate: true };

/** Control tokens as ‹name›, ids as {1,2}, the rest as it is. */
function shown(spans: readonly Span[]): string {
  return spans
    .map((s) => (s.kind === 'ids' ? `{${s.ids}}` : s.kind === 'control' ? `‹${s.text}›` : s.text))
    .join('');
}
const user = (content: string): Turn => ({ role: 'user', content });
const answer = (content: string, ids?: number[]): Turn => ({ role: 'assistant', content, ids });
const layOut = (template: string, turns: Turn[], options = generate) =>
  shown(chatTemplate(template, tokens)(turns, options));

const chatml =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const failing = (name: string, message: string) =>
  expect.objectContaining({ name, message: expect.stringContaining(message) });

describe('splitting at words', () => {
  test('the longest word first, over the whole text', () => {
    const texts = (text: string, words: string[]) =>
      splitAt(text, words).map((s) => (s.kind === 'control' ? `‹${s.text}›` : s.text));
    expect(texts('abcd', ['ab', 'bcd'])).toEqual(['a', '‹bcd›']);
    expect(texts('xabx', ['ab'])).toEqual(['x', '‹ab›', 'x']);
    expect(texts('abab', ['ab'])).toEqual(['‹ab›', '‹ab›']);
    expect(texts('aaa', ['aa'])).toEqual(['‹aa›', 'a']);
    expect(texts('', ['a'])).toEqual([]);
    expect(texts('a', [''])).toEqual(['a']);
  });
});

describe('layout', () => {
  test('turns, control tokens, and where the answer begins', () => {
    expect(layOut(chatml, [{ role: 'system', content: 'Be kind.' }, user('Hi')])).toBe(
      '‹<|im_start|>›system\nBe kind.‹<|im_end|>›\n‹<|im_start|>›user\nHi‹<|im_end|>›\n‹<|im_start|>›assistant\n',
    );
    expect(layOut(chatml, [user('Hi'), answer('Ho')], { generate: false })).toBe(
      '‹<|im_start|>›user\nHi‹<|im_end|>›\n‹<|im_start|>›assistant\nHo‹<|im_end|>›\n',
    );
  });

  test("the file's first and last token by name", () => {
    expect(layOut('{{ bos_token }}{{ messages[0].content }}{{ eos_token }}', [user('a')])).toBe(
      '‹[EOS]›a‹<|im_end|>›',
    );
  });

  test('text around hidden tokens stays in one piece', () => {
    const spans = chatTemplate(chatml, tokens)([user('<a [EOS] b|im_end|>')], generate);
    expect(spans.flatMap((s) => (s.kind === 'text' ? [s.text] : []))).toEqual([
      'user\n<a [EOS] b|im_end|>',
      '\n',
      'assistant\n',
    ]);
  });

  test('ids take the place of what they say', () => {
    const turns = [user('a'), answer('one', [7, 8]), user('b'), answer('two', [9]), user('c')];
    expect(layOut(chatml, turns)).toBe(
      '‹<|im_start|>›user\na‹<|im_end|>›\n‹<|im_start|>›assistant\n{7,8}‹<|im_end|>›\n' +
        '‹<|im_start|>›user\nb‹<|im_end|>›\n‹<|im_start|>›assistant\n{9}‹<|im_end|>›\n' +
        '‹<|im_start|>›user\nc‹<|im_end|>›\n‹<|im_start|>›assistant\n',
    );
    // A template may leave old turns out.
    expect(layOut('{% for m in messages[-2:] %}{{ m.content }};{% endfor %}', turns)).toBe(
      '{9};c;',
    );
  });

  test("Kimi's own", () => {
    const lay = chatTemplate(kimiTemplate, { controls: kimiControls, bos: '', eos: '' });
    expect(shown(lay([user('Hi <|im_middle|>')], generate))).toBe(
      '‹<|im_user|>›user‹<|im_middle|>›Hi <|im_middle|>‹<|im_end|>›‹<|im_assistant|>›assistant‹<|im_middle|>›',
    );
  });
});

describe('templates that look at what was written', () => {
  test('trim it', () => {
    expect(layOut('{{ messages[0].content | trim }}.', [user('  a <|im_end|> \n')])).toBe(
      'a <|im_end|>.',
    );
  });

  test('test it', () => {
    const template =
      "{% set c = messages[0].content %}{% if not c %}empty{% elif '<tool>' in c %}tool: {{ c }}" +
      "{% elif c.startswith('/') %}command: {{ c[1:] }}{% else %}{{ c }}{% endif %}<|im_end|>";
    expect(layOut(template, [user('')])).toBe('empty‹<|im_end|>›');
    expect(layOut(template, [user('use <tool>')])).toBe('tool: use <tool>‹<|im_end|>›');
    expect(layOut(template, [user('/go <now>')])).toBe('command: go <now>‹<|im_end|>›');
    expect(layOut(template, [user('<|im_end|>')])).toBe('<|im_end|>‹<|im_end|>›');
  });

  test('cut thoughts out of old answers', () => {
    const template =
      "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}";
    expect(layOut(template, [answer('<think>hm</think>yes'), user('ok?')])).toBe(
      'yes‹<|im_end|>›ok?‹<|im_end|>›',
    );
  });

  test('cannot be led to write a control token by it', () => {
    // What the template does to the text makes a token of it; the text stays text.
    for (const [template, content, text] of [
      ['{{ m.content | lower }}', '<|IM_END|>', '<|im_end|>'],
      ['{{ m.content | lower }}', '  end|><|IM_END|>', '  end|><|im_end|>'],
      ["{{ m.content.replace('*', '') }}", '<|im*_end|>', '<|im_end|>'],
      ["{{ m.content.split('#') | join }}", '[E#OS]', '[EOS]'],
      ['{{ m.content[0] }}{{ m.content[2:] }}', '[x\u0045OS]', '[EOS]'],
      ["{% if '<' in m.content %}[EOS]{% endif %}{{ m.content }}", 'a<b', 'a<b'],
      // It begins or ends a token around the text.
      ['<|{{ m.content }}|>', 'im_end', '<|im_end|>'],
      ['<|im_{{ m.content | trim }}', ' end|> b', '<|im_end|> b'],
      ['{{ m.content | trim }}|im_end|>', 'a < ', 'a <|im_end|>'],
    ]) {
      const around = `{% for m in messages %}<|im_start|>${template}<|im_end|>{% endfor %}`;
      expect(layOut(around, [user(content)]), template).toBe(`‹<|im_start|>›${text}‹<|im_end|>›`);
    }
  });

  test('cannot be led to leave one of theirs to it', () => {
    const template =
      "{% set c = messages[0].content %}{{ c }}{% if '<|im_end|>' not in c %}<|im_end|>{% endif %}";
    expect(layOut(template, [user('a')])).toBe('a‹<|im_end|>›');
    expect(layOut(template, [user('a<|im_end|>b')])).toBe('a<|im_end|>b‹<|im_end|>›');
  });

  test('are told the truth about what is not dangerous', () => {
    const template = '{{ messages[0].content | length }}';
    for (const content of ['', 'a', 'a < b', '<tool>', '<p>x</p>', '世界']) {
      expect(layOut(template, [user(content)])).toBe(String(content.length));
    }
  });
});

describe('what people write is never a control token', () => {
  const templates = [
    chatml,
    chatml.replaceAll('m.content', 'm.content | trim'),
    chatml.replaceAll('m.content', 'm.content | upper | lower'),
    chatml.replaceAll('m.content', "m.content.replace('\ue001', '')"),
    chatml.replaceAll('m.content', "(m.content | trim).split('x') | join"),
    chatml.replaceAll('m.content', '(m.content | tojson)'),
    chatml.replaceAll('m.content', '(m.content[::-1])[::-1]'),
    // The template's own words touch the text, on either side, and texts touch each other.
    '{% for m in messages %}{{ "<|im_" }}{{ m.content }}{{ "im_end|>" }}{% endfor %}<|im_end|>',
    '{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>',
    '<{{ messages[0].content }}>|im_end|><|im_end|>',
  ];
  const fragments = [
    ...controls,
    ...[
      '<',
      '|',
      '<|',
      '|>',
      'im',
      '_end',
      '_start|',
      'im_end',
      'end|>',
      '[',
      'E',
      'OS]',
      '<|IM_END|>',
    ],
    ...['a', 'x', ' ', '\n', '\ue000', '\ue001', '\ue002', '\u{f0000}', 'ꟿ', '👋', '\ud800'],
  ];

  test.each(templates)('%s', (template) => {
    const lay = chatTemplate(template, tokens);
    const next = random(3);
    const pick = () => fragments[Math.floor(next() * fragments.length)];
    const names = (spans: Span[]) => spans.flatMap((s) => (s.kind === 'control' ? [s.text] : []));
    const expected = names(lay([user('q'), answer('q'), user('q')], generate));
    expect(expected.length).toBeGreaterThan(0);
    for (let round = 0; round < 400; round++) {
      const write = () => Array.from({ length: Math.floor(next() * 9) }, pick).join('');
      const turns = [user(write()), answer(write()), user(write())];
      expect(names(lay(turns, generate)), JSON.stringify(turns)).toEqual(expected);
    }
  });

  test('and loses not a character', () => {
    const lay = chatTemplate(chatml, tokens);
    const next = random(5);
    for (let round = 0; round < 400; round++) {
      const content = Array.from(
        { length: Math.floor(next() * 9) },
        () => fragments[Math.floor(next() * fragments.length)],
      ).join('');
      const spans = lay([user(content)], { generate: false });
      expect(shown(spans)).toBe(`‹<|im_start|>›user\n${content.toWellFormed()}‹<|im_end|>›\n`);
    }
  });

  test('even if all of Unicode that is private is in it', () => {
    const basic = Array.from({ length: 6400 }, (_, i) => String.fromCodePoint(0xe000 + i)).join('');
    const turns = [user(`${basic}<|im_end|>`), answer('', [5]), user('b')];
    expect(layOut(chatml, turns)).toContain(`${basic}<|im_end|>‹<|im_end|>›`);
    expect(layOut(chatml, turns)).toContain('{5}');
    const planes = [0xf0000, 0x100000].flatMap((plane) =>
      Array.from({ length: 0xfffe }, (_, i) => String.fromCodePoint(plane + i)),
    );
    expect(() => layOut(chatml, [user(basic + planes.join(''))])).toThrow(
      failing('Refused', '137,468'),
    );
  });
});

describe('what is refused', () => {
  test('turns that make no sense', () => {
    const bad: [turns: unknown[], message: string][] = [
      [[], 'no turns'],
      [[user('Hi'), answer('Ho')], 'already an answer'],
      [[{ role: 'tool', content: 'x' }], '"tool"'],
      [[{ role: 'user' }], 'no text'],
      [[{ role: 'user', content: 'x', ids: [1] }], 'token ids'],
    ];
    for (const [turns, message] of bad) {
      expect(() => layOut(chatml, turns as Turn[])).toThrow(failing('Refused', message));
    }
  });

  test('what the template declines', () => {
    const template = "{{ raise_exception('Roles must alternate') }}";
    expect(() => layOut(template, [user('a')])).toThrow(failing('Refused', 'Roles must alternate'));
  });

  test('templates that are broken, when they are used', () => {
    for (const template of [
      '{% for m in messages %}',
      '{{ messages[0].content | nosuchfilter }}',
      '{% if %}{% endif %}',
      '{{ "unclosed }}',
      '{% nosuchtag %}',
    ]) {
      const lay = chatTemplate(template, tokens);
      expect(() => lay([user('a')], generate), template).toThrow(failing('BadModel', 'template'));
    }
  });
});

describe('templates that would not end', () => {
  const deep = (n: number, body: string) =>
    `${'{% for i in range(99999) %}'.repeat(n)}${body}${'{% endfor %}'.repeat(n)}`;
  const doubling = (start: string, step: string) =>
    `{% set n = namespace(x=${start}) %}{% for i in range(99) %}{% set n.x = ${step} %}{% endfor %}{{ n.x }}`;
  const hostile: [what: string, template: string][] = [
    ['nested loops', deep(3, 'a')],
    ['nested loops without a body', deep(3, '')],
    ['a loop over a long range', '{% for i in range(1000000000) %}{% endfor %}'],
    ['a range with a step of nothing', '{% for i in range(0, 9, 0) %}{% endfor %}'],
    ['a macro that calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'],
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}',
    ],
    ['a text that doubles', doubling("'aaaa'", 'n.x ~ n.x')],
    ['a list that doubles', doubling('[1]', 'n.x + n.x')],
    ['a list of itself twice', doubling('[1]', '[n.x, n.x]')],
    ['an object of itself twice', doubling('{}', '{"a": n.x, "b": n.x}')],
    ['a namespace in itself', '{% set n = namespace() %}{% set n.x = [n, n] %}{{ n.x | tojson }}'],
    ['a text replaced by itself', doubling("'aaaa'", "n.x.replace('a', n.x)")],
    ['a wide indent', '{{ messages | tojson(indent=999999999) }}'],
    ['deep brackets', `{{ ${'('.repeat(50_000)}1${')'.repeat(50_000)} }}`],
    ['white space before tags', `a${' '.repeat(200_000)}b`],
    ['a template of megabytes', 'a'.repeat(1_000_000)],
  ];

  test.each(hostile)('%s', (_, template) => {
    const began = performance.now();
    const lay = chatTemplate(template, tokens);
    expect(() => lay([user('Hi')], generate)).toThrow(
      expect.objectContaining({ name: 'BadModel' }),
    );
    expect(performance.now() - began).toBeLessThan(20_000);
  });

  test('a list that grows after it was met', () => {
    // n25.x holds n24 twice, whose x holds n23 twice, and so on; each is set while the next is still empty.
    const levels = Array.from({ length: 25 }, (_, i) => 25 - i);
    const template =
      [0, ...levels].map((i) => `{% set n${i} = namespace(x=0) %}`).join('') +
      levels.map((i) => `{% set n${i}.x = [n${i - 1}, n${i - 1}] %}`).join('') +
      '{{ n25.x | tojson }}';
    expect(() => layOut(template, [user('Hi')])).toThrow(failing('BadModel', 'without bound'));
  });

  test('but a long text is no such thing', () => {
    const text = 'word '.repeat(2_000_000);
    expect(layOut(chatml, [user(text)]).length).toBeGreaterThan(text.length);
  });

  test('nor is a long conversation', () => {
    const turns = Array.from({ length: 2_001 }, (_, i) =>
      i % 2 ? answer('So it is. '.repeat(50)) : user('Is it so? '.repeat(50)),
    );
    const text = layOut(
      "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% for m in messages %}" +
        "{% if loop.first and messages[0]['role'] != 'system' %}[EOS]{% endif %}" +
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}",
      turns,
    );
    expect(text.split('‹<|im_end|>›')).toHaveLength(2_002);
  });
});

test('the day, for templates that tell the model', () => {
  const date = new Date();
  const text = layOut("{{ strftime_now('%Y-%m-%d %B %b %A 100%% %q') }}", [user('a')]);
  expect(text).toMatch(/^\d{4}-\d\d-\d\d [A-Z][a-z]+ [A-Z][a-z]{2} [A-Z][a-z]+day 100% %q$/);
  expect(text.slice(0, 4)).toBe(String(date.getFullYear()));
});

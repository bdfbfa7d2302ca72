import { describe, expect, test } from 'vitest';
import { blockRenderer } from '../../src/markdown.ts';

const renderBlocks = (text: string) => blockRenderer()(text);

/** The rendered text in a document that runs and fetches nothing, to be looked at. */
function render(text: string): HTMLElement {
  return new DOMParser().parseFromString(renderBlocks(text).join(''), 'text/html').body;
}

describe('what the text means is shown', () => {
  test('paragraphs, emphasis, lists, tables and code', () => {
    const body = render(
      'One **bold** `code`\n\n1. a\n2. b\n   - c\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n> said\n\n- [x] done\n',
    );
    expect(render('# One\n\n##### Two').innerHTML).toBe('<h3>One</h3><h6>Two</h6>');
    expect(body.querySelector('strong')?.textContent).toBe('bold');
    expect(body.querySelector('p > code')?.textContent).toBe('code');
    expect(body.querySelectorAll('ol > li')).toHaveLength(2);
    expect(body.querySelector('ol ul li')?.textContent).toBe('c');
    expect(body.querySelectorAll('td')).toHaveLength(2);
    expect(body.querySelector('blockquote')?.textContent.trim()).toBe('said');
    expect(body.querySelector<HTMLInputElement>('input')?.disabled).toBe(true);
  });

  test('a code block keeps its text, names its language and can be copied', () => {
    const body = render('```python\nif a < b:\n    print("<b>")\n```');
    expect(body.querySelector('pre')?.textContent).toBe('if a < b:\n    print("<b>")\n');
    expect(body.querySelector('.language')?.textContent).toBe('python');
    expect(body.querySelector('button.copy')?.textContent).toBe('Copy');
  });

  test('a link opens elsewhere and tells nothing of this page', () => {
    const link = render('[there](https://example.org/x?a=1&b=2)').querySelector('a');
    expect(link?.getAttribute('href')).toBe('https://example.org/x?a=1&b=2');
    expect(link?.getAttribute('rel')).toContain('noopener');
    expect(link?.getAttribute('rel')).toContain('noreferrer');
    expect(link?.getAttribute('target')).toBe('_blank');
  });
});

describe('what the text may not do', () => {
  const attacks = [
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    'text <img src="https://evil.example/pixel.png"> text',
    '![pixel](https://evil.example/pixel.png)',
    '![pixel][p]\n\n[p]: https://evil.example/pixel.png',
    '[click](javascript:alert(1))',
    '[click](JaVaScRiPt:alert(1))',
    '[click](&#106;avascript:alert(1))',
    '[click](data:text/html,<script>alert(1)</script>)',
    '[click](vbscript:x)',
    '[click](blob:https://host/x)',
    '<a href="javascript:alert(1)">x</a>',
    '<javascript:alert(1)>',
    '<svg onload=alert(1)><use href="https://evil.example/x.svg#a"/></svg>',
    '<iframe src="https://evil.example"></iframe>',
    '<style>@import url(https://evil.example/x.css)</style>',
    '<p style="background:url(https://evil.example/x)">x</p>',
    '<form action="https://evil.example"><button>Send</button></form>',
    '<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>',
    '<details open ontoggle=alert(1)>x</details>',
    '<base href="https://evil.example/">',
    '<meta http-equiv=refresh content="0;url=https://evil.example">',
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    '```html\n<img src=x onerror=alert(1)>\n```',
    '`<img src=x onerror=alert(1)>`',
    '<div id="app" class="button copy" tabindex=1 data-x=1>x</div>',
    '[x](https://e.org "onmouseover=alert(1)")',
    '[x](https://e.org"onmouseover="alert(1))',
  ];

  test.each(attacks)('%s', (attack) => {
    const whole = `Before\n\n${attack}\n\nafter`;
    // A text that streams is rendered at every length.
    for (let length = 1; length <= whole.length; length++) {
      const body = render(whole.slice(0, length));
      const forbidden =
        'script, img, svg, math, iframe, style, form, base, meta, link, details, [style], [id]';
      expect(body.querySelector(forbidden)).toBeNull();
      for (const element of body.querySelectorAll('*')) {
        for (const { name, value } of element.attributes) {
          expect(name).not.toMatch(/^(on|src|data-|form|action)/i);
          if (name === 'href') expect(value).toMatch(/^(https?|mailto):/i);
        }
        if (element.tagName === 'BUTTON') expect(element.className).toBe('copy');
      }
    }
  });

  test('HTML in the text is shown as it stands, not dropped', () => {
    expect(render('a <b>bold</b> <script>x</script>').textContent.trim()).toBe(
      'a <b>bold</b> <script>x</script>',
    );
  });

  test('an image is a link with its name', () => {
    const link = render('![a cat](https://example.org/cat.png)').querySelector('a');
    expect(link?.textContent).toBe('[image: a cat]');
    expect(link?.getAttribute('href')).toBe('https://example.org/cat.png');
  });
});

describe('text that is still being written', () => {
  test('a code block that is open is code', () => {
    const body = render('So:\n\n```js\nconst a = 1;\n// and');
    expect(body.querySelector('pre')?.textContent).toBe('const a = 1;\n// and\n');
  });

  test('blocks that are complete stay as they are, to the letter', () => {
    const text = 'First *one*.\n\n- a\n- b\n\nThen `code`.\n\n```\nx\n```\n\nLast.';
    const whole = renderBlocks(text);
    expect(whole).toHaveLength(5);
    for (let length = 1; length < text.length; length++) {
      const blocks = renderBlocks(text.slice(0, length));
      expect(blocks.slice(0, -1)).toEqual(whole.slice(0, blocks.length - 1));
    }
  });

  test('however long the last block grows, those before it stay the same objects: the page leaves them alone', () => {
    const growing = blockRenderer();
    const start = 'First *one*.\n\n- a\n- b\n\n';
    const [first, second] = growing(start);
    expect(first).toBeTypeOf('object'); // a TrustedHTML, which is itself alone
    let text = start;
    for (let word = 0; word < 500; word++) {
      text += ` word ${word}`;
      const blocks = growing(text);
      expect([blocks.length, blocks[0] === first, blocks[1] === second]).toEqual([3, true, true]);
    }
  });

  test('nothing is nothing', () => {
    expect(renderBlocks('')).toEqual([]);
    expect(renderBlocks('\n\n')).toEqual([]);
  });
});

/**
 * Markdown of the model's text, as safe HTML, block by block: while text streams only its last block changes.
 * Raw HTML in the text is shown as written, never interpreted; images are named, never fetched; what marked makes of the
 * rest is still sanitised, so that no slip there reaches the page.
 */
import DOMPurify from 'dompurify';
import { Marked } from 'marked';

const marked = new Marked({
  gfm: true,
  breaks: true,
  async: false,
  renderer: {
    html: ({ text }) => escape(text),
    // Below the page's own headings.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    image({ href, text }) {
      return `<a href="${escape(href)}">[image: ${escape(text || href)}]</a>`;
    },
    code({ text, lang }) {
      const language = lang?.match(/^[\w+#.-]{1,24}/)?.[0] ?? '';
      return (
        `<div class="code"><span class="language">${escape(language)}</span>` +
        `<button type="button" class="copy">Copy</button>` +
        `<pre tabindex="0"><code>${escape(text)}\n</code></pre></div>`
      );
    },
  },
});

const allowed = {
  ALLOWED_TAGS: (
    'a b blockquote br button code del div em h3 h4 h5 h6 hr i input li ol p pre span strong sub sup ' +
    'table tbody td th thead tr ul'
  ).split(' '),
  ALLOWED_ATTR: [
    'href',
    'title',
    'class',
    'type',
    'checked',
    'disabled',
    'start',
    'align',
    'tabindex',
  ],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  // Where the browser has Trusted Types, the page takes no text for HTML but this.
  RETURN_TRUSTED_TYPE: true,
};

const purifier = DOMPurify(window);
purifier.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  }
  // The only inputs are the boxes of task lists, which nobody but the text can tick.
  if (node.tagName === 'INPUT') {
    node.setAttribute('type', 'checkbox');
    node.setAttribute('disabled', '');
    node.setAttribute('aria-label', node.hasAttribute('checked') ? 'done' : 'to do');
  }
});

/**
 * Renders one text as it grows: its blocks (paragraphs, lists, code, ...) as safe HTML, in order. Any text is Markdown:
 * nothing fails. A block that was in the last rendering is the same object in the next, so that the page leaves it alone;
 * no other is kept, for what is half written never comes again. Where the browser has Trusted Types a block is a
 * TrustedHTML, which Svelte hands on as it is.
 */
export function blockRenderer(): (text: string) => string[] {
  let last = new Map<string, string>();
  return (text) => {
    const tokens = marked.lexer(text);
    const made = new Map<string, string>();
    const blocks = tokens
      .filter((token) => token.type !== 'space')
      .map((token) => {
        const dirty = marked.parser(Object.assign([token], { links: tokens.links }));
        const block = last.get(dirty) ?? made.get(dirty) ?? sanitised(dirty);
        made.set(dirty, block);
        return block;
      });
    last = made;
    return blocks;
  };
}

function sanitised(dirty: string): string {
  return purifier.sanitize(dirty, allowed) as unknown as string;
}

function escape(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
  };
  return text.replace(/[&<>"]/g, (character) => entities[character] ?? character);
}

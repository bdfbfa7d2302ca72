/** Where a model comes from: addresses as people type them, and as they are shown. */
import { PalimpsestError } from '../../workers/protocol.ts';

/**
 * The address of a model from what a person typed or pasted: a .gguf file, or a folder with a manifest. `protocol` is the
 * page's own. Fails: Refused.
 */
export function readAddress(typed: string, protocol: string): string {
  const text = typed.trim();
  if (!URL.canParse(text) || !/^https?:/i.test(text)) {
    throw new PalimpsestError(
      'Refused',
      `"${text}" is no address. It begins with https:// and ends in .gguf, or in / for a folder with a manifest.json.`,
    );
  }
  const address = new URL(text);
  address.hash = '';
  if (address.hostname === 'huggingface.co') {
    // What the browser shows for a file there is a page about it; the file lies beside it.
    address.pathname = address.pathname.replace(/^(\/[^/]+\/[^/]+)\/blob\//, '$1/resolve/');
    address.search = '';
  }
  const here = ['127.0.0.1', 'localhost'].includes(address.hostname);
  if (protocol === 'https:' && address.protocol === 'http:' && !here) {
    throw new PalimpsestError(
      'Refused',
      `Browsers let a page that came by https fetch nothing by http. Is there an https:// address of ${address.host}?`,
    );
  }
  if (!/(\/|\.gguf)$/.test(address.pathname)) {
    throw new PalimpsestError(
      'Refused',
      `${address.pathname.split('/').at(-1)} is not a .gguf file. An address ends in .gguf, or in / for a folder with a manifest.json.`,
    );
  }
  return address.href;
}

/** Where a model comes from, in few words: a host, this page, or this computer. */
export function sourceOf(model: string, page: string): string {
  if (!URL.canParse(model) || !/^https?:/.test(model)) return 'this computer';
  const { host, pathname } = new URL(model);
  if (host === new URL(page).host) return 'this page';
  const repository = /^\/([^/]+\/[^/]+)\/resolve\//.exec(pathname)?.[1];
  return repository && host === 'huggingface.co' ? `${host}/${repository}` : host;
}

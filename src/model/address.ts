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
  if (/\.safetensors(\.index\.json)?$/.test(address.pathname)) {
    throw new PalimpsestError(
      'Refused',
      `${address.pathname.split('/').at(-1)} is one file of a checkpoint, and an import needs them all. Give the page of its repository on huggingface.co, or download the folder and drop it here.`,
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

/** True for the page of a repository on the Hugging Face hub, of a folder in it, or of a file that is no model by itself. */
export function isRepository(typed: string): boolean {
  const text = typed.trim();
  if (!URL.canParse(text)) return false;
  const { host, pathname } = new URL(text);
  if (!['huggingface.co', 'hf.co'].includes(host) || pathname.endsWith('.gguf')) return false;
  return /^\/[^/]+\/[^/]+\/?((tree|blob|resolve)\/.*)?$/.test(pathname);
}

/** True for a model that is made here from a safetensors checkpoint (workers/checkpointModels.ts names them). */
export function isImport(model: string): boolean {
  return model.startsWith('import:');
}

/** Where a model comes from, in few words: a host, this page, or this computer. */
export function sourceOf(model: string, page: string): string {
  const address = model.replace(/^import:\w+:/, '');
  if (!URL.canParse(address) || !/^https?:/.test(address)) return 'this computer';
  const { host, pathname } = new URL(address);
  if (host === new URL(page).host) return 'this page';
  const repository = /^\/([^/]+\/[^/]+)\/(?:resolve|tree)\//.exec(pathname)?.[1];
  return repository && host === 'huggingface.co' ? `${host}/${repository}` : host;
}

/** A text with each address in it cut down to host and file. */
export function shortAddresses(text: string): string {
  return text.replace(/https?:\/\/\S*[^\s.,;)]/g, (address) => {
    if (!URL.canParse(address)) return address;
    const { host, pathname } = new URL(address);
    const [file, ...folders] = pathname.split('/').filter(Boolean).reverse();
    return [host, ...(folders.length > 0 ? ['…'] : []), ...(file ? [file] : [])].join('/');
  });
}

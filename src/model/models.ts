/** The models this page offers. A model is a folder URL, ending in "/", that holds a manifest and its shards. */

export interface ModelChoice {
  name: string;
  folder: string;
  /** One sentence for the picker. */
  about: string;
}

/**
 * The embedded model, and before it the one that the page's address names: `?model=models/tiny/`, a folder on the
 * page's own origin. Any other address is ignored: a link must not make a visitor fetch files from elsewhere.
 */
export function offeredModels(page: URL): ModelChoice[] {
  const embedded: ModelChoice = {
    name: 'Palimpsest 150M',
    folder: new URL('models/palimpsest-150m/', page).href,
    about: 'A small English chat model of the Kimi Linear architecture, made for this page.',
  };
  const named = page.searchParams.get('model');
  if (!named || !URL.canParse(named, page)) return [embedded];
  const folder = new URL(named, page);
  folder.search = '';
  folder.hash = '';
  if (!folder.pathname.endsWith('/')) folder.pathname += '/';
  if (folder.origin !== page.origin || folder.href === embedded.folder) return [embedded];
  const name = decodeURIComponent(folder.pathname.split('/').at(-2) ?? '');
  return [{ name, folder: folder.href, about: 'Named in this page’s address.' }, embedded];
}

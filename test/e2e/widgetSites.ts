/** Two sites, as widgets meet them: one has the widget and two tiny models, the other one articles. */
import { fixture } from '../reference/golden.ts';
import { modelFiles, openSite } from './site.ts';
import { tinyChat } from './tinyChat.ts';

const blank =
  '<!doctype html><meta charset="utf-8"><title>Blank</title><link rel="icon" href="data:,">';

/** Models as the chat model, for a first load each. */
export const rare = ['rare0', 'rare1', 'rare2', 'rare3'];

export interface Sites {
  /** Their origins: of the widget, and of articles. */
  widgets: string;
  articles: string;
  /** Keep weights back until `until`. */
  hold: (until: Promise<void>) => void;
  close: () => Promise<void>;
}

/** `built`: where the built page lies. */
export async function openSites(built: string): Promise<Sites> {
  let held: Promise<void> | null = null;
  const widgets = await openSite({
    built,
    files: {
      ...modelFiles('/models/tiny/', fixture('tiny-f32.gguf')),
      ...modelFiles('/models/chat/', 'tiny.gguf', tinyChat()),
      ...Object.assign(
        {},
        ...rare.map((name) => modelFiles(`/models/${name}/`, 'tiny.gguf', tinyChat())),
      ),
      '/blank.html': blank,
    },
    delay: (path) => (path.endsWith('.gguf') ? held : null),
  });
  const articles = await openSite({ built, files: { '/blank.html': blank } });
  return {
    widgets: widgets.origin,
    articles: articles.otherOrigin,
    hold: (until) => (held = until),
    close: async () => {
      await widgets.close();
      await articles.close();
    },
  };
}

/** Light or dark: as the system says, or as the reader chose here, remembered. */
import { recall, remember } from './settings.ts';

export const themes = ['auto', 'light', 'dark'] as const;
export type ThemeChoice = (typeof themes)[number];

/** The choice and what it comes to; `start` keeps the document in step with both. */
export class Theme {
  choice = $state<ThemeChoice>(
    recall('theme', (stored) => themes.find((theme) => theme === stored) ?? 'auto'),
  );
  #systemDark = $state(false);
  dark = $derived(this.choice === 'auto' ? this.#systemDark : this.choice === 'dark');

  choose(choice: ThemeChoice): void {
    this.choice = choice;
    remember('theme', choice);
  }

  /** As `choose`, for now: nothing is remembered. */
  show(choice: ThemeChoice): void {
    this.choice = choice;
  }

  /** Follow the system and mark the document; call inside an effect root. Returns what ends it. */
  start(): () => void {
    const query = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => (this.#systemDark = query.matches);
    follow();
    query.addEventListener('change', follow);
    $effect(() => {
      document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
    });
    return () => query.removeEventListener('change', follow);
  }
}

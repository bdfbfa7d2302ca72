/** What this page does about an engine that another tab of its site has, and where its engine is: one page, one answer. */
import type { Place, TabsChoice } from './joint.ts';

class Tabs {
  /** A person's, for this visit. */
  choice = $state.raw<TabsChoice>('share');
  /** null before a model was asked for. */
  place = $state.raw<Place | null>(null);
}

export const tabs = new Tabs();

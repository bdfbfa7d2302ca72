/** Following a link: what it asks is put to the model again, one prompt after the other, and the answers are checked. */
import { checkOf, type Link } from './link.ts';
import { shownCompletion } from './paper.ts';
import type { Session } from './session.svelte.ts';
import { remember } from './settings.ts';

/** offered: nothing is done before the reader agrees; same, other: the answers' tokens are the sender's, or are not. */
export type FollowState = 'offered' | 'following' | 'same' | 'other' | 'unchecked' | 'broken';

export class Following {
  readonly link: Link;
  state = $state<FollowState>('offered');
  tokens = $state(0);
  #session: Session;

  constructor(link: Link, session: Session) {
    this.link = link;
    this.#session = session;
  }

  /** Replay it, in a conversation of its own. Never throws: what fails stands in the conversation. */
  async follow(): Promise<void> {
    const { link } = this;
    const session = this.#session;
    this.state = 'following';
    const own = [session.sampling, session.freshSeed, session.system, session.mode] as const;
    await session.startOver();
    if (link.model !== '') await session.chooseModel(link.model);
    session.setMode(link.prompts.length > 0 ? 'chat' : 'paper');
    session.setFreshSeed(false);
    session.setSystem(link.system);
    for (const [at, seed] of link.seeds.entries()) {
      session.setSampling({ ...link.sampling, seed });
      if (link.prompts.length > 0) await session.send(link.prompts[at]!);
      else {
        session.editSheet(link.text);
        await session.writeOn();
      }
      if (!(await this.#answered())) break;
    }
    // The link's settings hold for now; the reader's own are there again at the next visit.
    remember('sampling', own[0]);
    remember('freshSeed', own[1]);
    remember('system', own[2]);
    remember('mode', own[3]);
    this.#compare();
  }

  /** Until the answer has ended; false where it failed or the reader stopped it. */
  async #answered(): Promise<boolean> {
    const session = this.#session;
    while (session.busy && session.status.kind !== 'failed') {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    if (session.status.kind === 'failed') return false;
    const { reason } = session.last ?? { reason: 'stopped' };
    return reason !== 'stopped';
  }

  #compare(): void {
    const { link } = this;
    const session = this.#session;
    const ids: number[] = [];
    let answers = 0;
    if (link.prompts.length > 0) {
      for (const { turn, origin } of session.path) {
        if (turn.role !== 'assistant' || origin.kind !== 'answered' || !turn.ids) continue;
        ids.push(...turn.ids);
        answers += 1;
      }
    } else {
      const completion = shownCompletion(session.paper);
      ids.push(...(completion?.ids?.slice(completion.answered?.promptTokens ?? 0) ?? []));
      answers = completion?.answered ? 1 : 0;
    }
    this.tokens = ids.length;
    if (answers < link.seeds.length) this.state = 'broken';
    else if (link.check === '') this.state = 'unchecked';
    else this.state = checkOf(ids) === link.check ? 'same' : 'other';
  }
}

/**
 * Greedy tokens, chosen on the GPU, whose steps are handed to it before what they take in is known here. A browser answers a
 * readback some milliseconds after the work is done; with steps waiting behind one another the GPU computes meanwhile.
 */
import type { Memory } from './memory.ts';
import type { Best, Model } from './model.ts';
import type { State } from './state.ts';

/** What the steps are made with. */
export interface Stepper {
  model: Model;
  memory: Memory;
  state: State;
  /** Make room for so many tokens in all. */
  reserve: (tokens: number) => Promise<void>;
  /** Whether someone waits for a moment at which the state is what the history says. */
  awaited: () => boolean;
}

/**
 * At most `count` tokens after `last`. When one is handed over, the step that takes it in is submitted, and it is in the history;
 * and mostly one step more, which takes in a token that is not known yet. Whoever breaks off has that step taken back.
 */
export async function* greedy(by: Stepper, last: number, count: number): AsyncGenerator<Best> {
  const { model, memory, state } = by;
  const { history } = memory.line;
  const under: Promise<Best>[] = [];
  const blind = () => state.position - history.length;
  const mayStepBlind = () => memory.line.changes === null && !memory.due && !by.awaited();
  let steps = 0;
  let failed = true;
  try {
    for (;;) {
      while (steps < count && (blind() === 0 || (blind() === 1 && mayStepBlind()))) {
        const at = state.position;
        if (steps > 0 && blind() === 0) await memory.rest({ keeps: false });
        if (steps > 0) await by.reserve(at + 1);
        await memory.before(at, at + 1);
        const best = model.decodeBest(state.position++);
        best.catch(() => {}); // awaited below; until then it must not count as unhandled
        under.push(best);
        memory.took(1, state.position, 'step');
        if (steps++ === 0) history.push(last);
        memory.keep.rest(); // of a step that is taken back the reading is dropped
      }
      const picked = await under.shift()!;
      if (under.length > 0) history.push(picked.id);
      failed = false;
      yield picked;
      if (under.length === 0) return;
      failed = true;
    }
  } finally {
    if (!failed && blind() > 0) {
      state.stepBack();
      memory.cut(state.position);
    }
  }
}

/** A real engine as tabs share it: the tiny golden model, in this process. */
import type { Shareable } from '../../../src/tabs/seats.ts';
import type { LastingEngine } from '../../../workers/lasting.ts';
import { readState, writeState } from '../../../workers/stateFile.ts';

export function shareable(engine: LastingEngine): Shareable {
  return {
    generate: (...asked) => engine.generate(...asked),
    stop: () => engine.stop(),
    reset: () => engine.reset(),
    tokenize: (prompt) => Promise.resolve(engine.encode(prompt)),
    memory: {
      layers: () => Promise.resolve(engine.layers()),
      watch: (...asked) => engine.watch(...asked),
      inspect: (inquiry) => engine.inspect(inquiry),
      branches: () => Promise.resolve(engine.branches()),
      fork: (...asked) => engine.fork(...asked),
      select: (branch) => engine.select(branch),
      beginBranch: () => engine.beginBranch(),
      dropBranches: (branches) => engine.dropBranches(branches),
      exportBranch: async () => {
        await engine.keep();
        return writeState(engine.standing, { model: 'tiny', ...engine.fit });
      },
      importBranch: (state) => engine.takeIn(readState(state, { model: 'tiny', ...engine.fit })),
      proceed: (...asked) => engine.proceed(...asked),
      compare: (a, b) => engine.compare(a, b),
      difference: (...asked) => engine.difference(...asked),
    },
    bookmark: {
      account: () => Promise.resolve(null),
      store: () => Promise.resolve(''),
      takeUp: () => Promise.resolve({ tokens: 0, branch: null, note: '' }),
    },
    bench: {
      bench: () => Promise.reject(new Error('nothing is measured here')),
      stopBench: () => {},
    },
  };
}

/** How tokens are chosen: the page's defaults, the range of each setting, and the settings said in words. */
import type { Sampling } from '../workers/protocol.ts';

/** The settings a reader sets by number. */
export type NumberSetting = Exclude<keyof Sampling, 'stop' | 'seed' | 'candidates'>;

export interface Range {
  label: string;
  least: number;
  most: number;
  step: number;
  /** Where the setting does nothing. Null where there is no such value. */
  neutral: number | null;
  meaning: string;
}

export const ranges: Record<NumberSetting, Range> = {
  temperature: {
    label: 'Temperature',
    least: 0,
    most: 2,
    step: 0.05,
    neutral: null,
    meaning: '0 always takes the most probable token. Higher lets less probable ones in.',
  },
  topK: {
    label: 'Top-k',
    least: 0,
    most: 200,
    step: 1,
    neutral: 0,
    meaning: 'Only the k most probable tokens. 0: all.',
  },
  topP: {
    label: 'Top-p',
    least: 0.05,
    most: 1,
    step: 0.01,
    neutral: 1,
    meaning: 'Only the most probable tokens that together reach this probability. 1: all.',
  },
  minP: {
    label: 'Min-p',
    least: 0,
    most: 0.5,
    step: 0.01,
    neutral: 0,
    meaning: 'Only tokens at least this probable, relative to the best. 0: all.',
  },
  repetitionPenalty: {
    label: 'Repetition penalty',
    least: 1,
    most: 2,
    step: 0.01,
    neutral: 1,
    meaning: 'Makes recent tokens less probable. 1: off. It also hurts copying and counting.',
  },
  repetitionWindow: {
    label: 'Penalty window',
    least: 0,
    most: 1024,
    step: 16,
    neutral: null,
    meaning: 'How many tokens back the penalty looks.',
  },
  maxTokens: {
    label: 'Longest answer',
    least: 1,
    most: 2048,
    step: 1,
    neutral: null,
    meaning: 'Tokens after which an answer ends, finished or not.',
  },
};

/** The settings that decide whether and from what a token is drawn. */
export type Draw = Pick<Sampling, 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty'>;

/** The most probable token each time: what the model itself would say, and the same on every run. */
export const mostProbable: Draw = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
};

/** A moderate draw: another seed gives another answer. */
export const varied: Draw = {
  temperature: 0.7,
  topK: 0,
  topP: 0.95,
  minP: 0.05,
  repetitionPenalty: 1.05,
};

/** What a newcomer starts with. */
export const greedy: Sampling = {
  ...mostProbable,
  repetitionWindow: 64,
  seed: 1,
  maxTokens: 192,
  stop: [],
  candidates: 0,
};

/** A seed nobody chose. Unsigned 32 bits. */
export function drawSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] as number;
}

/** The nearest value that `setting` may have. */
export function clamp(setting: NumberSetting, wanted: number): number {
  const { least, most, step } = ranges[setting];
  if (!Number.isFinite(wanted)) return greedy[setting];
  const held = Math.min(most, Math.max(least, wanted));
  return Number.isInteger(step) ? Math.round(held) : held;
}

/** Any unsigned 32-bit seed. */
export function clampSeed(wanted: number): number {
  return Number.isFinite(wanted) ? Math.min(0xffffffff, Math.max(0, Math.round(wanted))) : 1;
}

/** Settings as they were stored, every part checked: what is missing or not a number takes its default. */
export function readSampling(stored: unknown): Sampling {
  const parts = typeof stored === 'object' && stored !== null ? (stored as Partial<Sampling>) : {};
  const sampling = { ...greedy };
  for (const setting of Object.keys(ranges) as NumberSetting[]) {
    const value = parts[setting];
    if (typeof value === 'number') sampling[setting] = clamp(setting, value);
  }
  if (typeof parts.seed === 'number') sampling.seed = clampSeed(parts.seed);
  if (Array.isArray(parts.stop)) {
    sampling.stop = parts.stop.filter((text) => typeof text === 'string' && text !== '');
  }
  return sampling;
}

/** The settings in one or two sentences. */
export function describe(sampling: Sampling): string {
  const penalised = sampling.repetitionPenalty !== 1 && sampling.repetitionWindow > 0;
  const penalty = penalised ? `, recent tokens made less probable` : '';
  if (sampling.temperature === 0) {
    return `Greedy: the most probable token each time${penalty}. The same prompt gives the same answer.`;
  }
  const filters = [
    sampling.topK > 0 ? `the ${sampling.topK} best` : '',
    sampling.topP < 1 ? `the best ${Math.round(sampling.topP * 100)} % of probability` : '',
    sampling.minP > 0 ? `those at least ${sampling.minP} as probable as the best` : '',
  ].filter(Boolean);
  const from = filters.length ? ` from ${filters.join(', of ')}` : '';
  return `Drawn at temperature ${sampling.temperature}${from}${penalty}. The same seed gives the same answer.`;
}

/** Two or three words for a button. */
export function describeBriefly(sampling: Sampling): string {
  return sampling.temperature === 0 ? 'Greedy' : `Temperature ${sampling.temperature}`;
}

/** Would the same prompt be answered the same way under both settings, whatever is drawn? */
export function sameDraw(one: Sampling, other: Sampling): boolean {
  const keys: (keyof Sampling)[] = ['repetitionPenalty', 'repetitionWindow', 'maxTokens'];
  if (one.temperature !== 0 || other.temperature !== 0) {
    keys.push('temperature', 'topK', 'topP', 'minP', 'seed');
  }
  return (
    keys.every((key) => one[key] === other[key]) && one.stop.join('\0') === other.stop.join('\0')
  );
}

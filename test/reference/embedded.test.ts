import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { argmax } from './compare.ts';
import { fixtureJson } from './golden.ts';
import { emptyState, forward, openModel } from './model.ts';

/** An entry of chat.json; what the fields mean is in test/fixtures/README.md. */
interface Prompt {
  text: string;
  ids: number[];
  tokens: number[];
  exact: number[];
  exact_margin: number[];
}

const folder = fileURLToPath(new URL('../../public/models/palimpsest-150m', import.meta.url));
const steps = 12;

it('the embedded model prefers the recorded token at every step, by the recorded margin', () => {
  const prompt = fixtureJson<Prompt[]>('chat.json')[1];
  expect(prompt.text).toMatch(/^The capital of France is Paris/);
  const model = openModel(folder);
  const first = forward(model, prompt.ids, emptyState(model));
  const rest = forward(model, prompt.tokens.slice(0, steps - 1), first.state);

  const { vocabulary } = model.config;
  const rows = [first.logits.slice(-vocabulary)];
  for (let i = 0; i < steps - 1; i++) {
    rows.push(rest.logits.slice(i * vocabulary, (i + 1) * vocabulary));
  }
  rows.forEach((row, i) => {
    const best = argmax(row);
    expect(best, `step ${i}`).toBe(prompt.exact[i]);
    const second = row.with(best, -Infinity).reduce((a, b) => Math.max(a, b));
    expect(row[best] - second, `margin of step ${i}`).toBeCloseTo(prompt.exact_margin[i], 5);
  });
});

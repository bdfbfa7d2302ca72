/** Formulas as docs/MATH.md has them: the page shows the document's own words, not a copy. */
import math from '../docs/MATH.md?raw';

/** The item `* **name**...` of the document, in pieces of text and of `code`. Fails (Error) for a name that it does not have. */
export function formula(name: string): { text: string; code: boolean }[] {
  const item = new RegExp(
    `^\\* \\*\\*${name}\\*\\*([\\s\\S]*?)(?=^\\* |^\\s*$|(?![\\s\\S]))`,
    'm',
  ).exec(math);
  if (!item) throw new Error(`docs/MATH.md has no item "${name}".`);
  const text = `${name}${item[1]!}`.replaceAll(/\s+/g, ' ').replaceAll('**', '').trim();
  return text.split('`').map((piece, index) => ({ text: piece, code: index % 2 === 1 }));
}

/** The whole document, for a tab of its own. */
export const mathDocument = URL.createObjectURL(
  new Blob([math], { type: 'text/plain;charset=utf-8' }),
);

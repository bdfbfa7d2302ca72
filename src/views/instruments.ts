/** The instruments beside the text, in the order in which they stand. */
export const instruments = [
  'writes',
  'reach',
  'memory',
  'gates',
  'experts',
  'logits',
  'bytes',
  'change',
] as const;

export type Instrument = (typeof instruments)[number];

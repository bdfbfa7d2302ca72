/** Rates from an answer's figures. A rate that the figures cannot tell is null. */

/** Tokens per second while writing: the first token comes out of the prompt's pass, so `tokens - 1` steps took `decodeMs`. */
export function decodeRate(of: { tokens: number; decodeMs: number }): number | null {
  return of.tokens > 1 && of.decodeMs > 0 ? ((of.tokens - 1) / of.decodeMs) * 1000 : null;
}

/** Prompt tokens per second: those that were not in memory already. */
export function prefillRate(of: {
  promptTokens: number;
  reusedTokens: number;
  prefillMs: number;
}): number | null {
  const readTokens = of.promptTokens - of.reusedTokens;
  return readTokens > 0 && of.prefillMs > 0 ? (readTokens / of.prefillMs) * 1000 : null;
}

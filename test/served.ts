/** What llama.cpp said through a server, greedy: test/fixtures/served.json, recorded from tools/peers/llamaServer.mjs. */
export interface ServedAnswer {
  prompt: string;
  chunks: {
    choices: {
      text: string;
      logprobs: { content: { id: number; top_logprobs: { logprob: number }[] }[] } | null;
    }[];
    usage?: { prompt_tokens: number; completion_tokens: number };
  }[];
}

export interface Served {
  tiny: ServedAnswer;
  embedded: ServedAnswer;
}

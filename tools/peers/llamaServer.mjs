/**
 * llama.cpp behind OpenAI's protocol, for comparing with a real server: one model, greedy, raw text, with the
 * probabilities of its five best tokens.
 *
 *   cd tools/peers && npm install
 *   node llamaServer.mjs MODEL.gguf [PORT]
 *
 * llama.cpp comes through node-llama-cpp, which is no dependency of the project; see package.json beside this file.
 */
import { createServer } from 'node:http';
import { basename, resolve } from 'node:path';
import { getLlama } from 'node-llama-cpp';

const [file, port = '8090'] = process.argv.slice(2);
if (!file) {
  console.error('usage: node llamaServer.mjs MODEL.gguf [PORT]');
  process.exit(1);
}
// One thread: on a loaded machine several wait for each other longer than they compute.
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: 1 });
const model = await llama.loadModel({ modelPath: resolve(file) });
const context = await model.createContext({ contextSize: 1024, sequences: 1, threads: 1 });
const id = basename(file, '.gguf');

/** The greedy continuation of a text, token by token, with natural logarithms of the best tokens' probabilities. */
async function* continuation(prompt, most) {
  const sequence = context.getSequence();
  try {
    const tokens = model.tokenize(prompt, true);
    const generateNext = { token: true, probabilities: true, options: { temperature: 0 } };
    let fed = tokens;
    for (let made = 0; made < most; made++) {
      const last = [fed.at(-1), { generateNext }];
      const { next } = (await sequence.controlledEvaluate([...fed.slice(0, -1), last])).at(-1);
      const { token, probabilities } = next;
      if (model.isEogToken(token)) return { tokens: tokens.length, made, finish: 'stop' };
      const best = [...probabilities].sort(([, a], [, b]) => b - a).slice(0, 5);
      yield {
        id: token,
        text: model.detokenize([token]),
        logprob: Math.log(probabilities.get(token)),
        best: best.map(([other, p]) => ({
          id: other,
          token: model.detokenize([other]),
          logprob: Math.log(p),
        })),
      };
      fed = [token];
    }
    return { tokens: tokens.length, made: most, finish: 'length' };
  } finally {
    sequence.dispose();
  }
}

async function serve(request, reply) {
  reply.setHeader('Access-Control-Allow-Origin', '*');
  reply.setHeader('Access-Control-Allow-Headers', 'authorization, content-type');
  if (request.method === 'OPTIONS') return reply.writeHead(204).end();
  if (request.url === '/v1/models') {
    const data = [{ id, object: 'model', created: 0, owned_by: 'llamacpp', meta: { n_ctx: 1024 } }];
    return reply.setHeader('Content-Type', 'application/json').end(JSON.stringify({ data }));
  }
  if (request.url !== '/v1/completions') return reply.writeHead(404).end('{}');
  const parts = [];
  for await (const part of request) parts.push(part);
  const { prompt, max_tokens: most, temperature } = JSON.parse(Buffer.concat(parts).toString());
  if (temperature !== 0) return reply.writeHead(400).end('{"error":{"message":"greedy alone"}}');
  reply.writeHead(200, { 'Content-Type': 'text/event-stream' });
  const head = { id: 'cmpl-1', object: 'text_completion', created: 0, model: id };
  const say = (chunk) => reply.write(`data: ${JSON.stringify({ ...head, ...chunk })}\n\n`);
  const tokens = continuation(prompt, most);
  for (;;) {
    const { done, value } = await tokens.next();
    if (done) {
      const { finish, tokens: read, made } = value;
      say({ choices: [{ index: 0, text: '', finish_reason: finish, logprobs: null }] });
      say({ choices: [], usage: { prompt_tokens: read, completion_tokens: made } });
      return reply.end('data: [DONE]\n\n');
    }
    const { text, logprob, best, id: token } = value;
    const content = [{ id: token, token: text, logprob, top_logprobs: best }];
    say({ choices: [{ index: 0, text, finish_reason: null, logprobs: { content } }] });
  }
}

createServer((request, reply) => void serve(request, reply)).listen(Number(port), '127.0.0.1', () =>
  console.log(`${id} at http://127.0.0.1:${port}/v1`),
);

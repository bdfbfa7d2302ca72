/**
 * Many conversations with the tiny golden model in one process, to see that memory stays flat:
 *
 *   node tools/run.mjs soakTokens [--tokens 50000] [--seed 1]
 *
 * Conversations are drawn: greedy and not, gone on with, answered again, watched, branched. After each the engine forgets
 * it; then the GPU's bytes and, collected, the heap are read. Fails if either strays more than 5 % from where it was after
 * the first fifth of the tokens: until then the heap takes up the machine code of what runs often.
 */
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { FragileGpu, openLasting } from '../test/fragile.ts';
import { drawing } from '../test/draw.ts';
import { converse } from '../test/losses.ts';

const { values: options } = parseArgs({
  options: {
    tokens: { type: 'string', default: '50000' },
    seed: { type: 'string', default: '1' },
  },
});
const wanted = Number(options.tokens);
const seed = Number(options.seed);

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

interface Sample {
  tokens: number;
  gpuBytes: number;
  heapBytes: number;
  /** Heap, buffers outside it, and what native code holds. */
  processBytes: number;
}

const gpu = new FragileGpu();
const engine = await openLasting(gpu, { tuning: 'gpu' });
let tokens = 0;
let conversations = 0;

async function sample(): Promise<Sample> {
  await engine.reset();
  await engine.settled();
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20)); // what is let go is freed by the next turns
    collect();
  }
  const gpuBytes = Object.values(engine.memory()).reduce((a, b) => a + b, 0);
  const { heapUsed, arrayBuffers, rss } = process.memoryUsage();
  return { tokens, gpuBytes, heapBytes: heapUsed + arrayBuffers, processBytes: rss };
}

const samples: Sample[] = [];
const step = wanted / 20;
const began = performance.now();
while (tokens < wanted) {
  const said = await converse(engine, drawing(seed + conversations++), () => {});
  tokens += said.length;
  if (tokens >= (samples.length + 1) * step || tokens >= wanted) {
    samples.push(await sample());
    console.log(line(samples.at(-1)!));
  }
}
const seconds = Math.round((performance.now() - began) / 1000);
const settled = samples.findIndex((s) => s.tokens >= wanted / 5);
const stray = (of: (s: Sample) => number) => {
  const [first, ...later] = samples.slice(settled).map(of);
  return Math.max(0, ...later.map((value) => Math.abs(value - first!) / first!));
};
const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
const [gpuStray, heapStray] = [stray((s) => s.gpuBytes), stray((s) => s.heapBytes)];
console.log(
  `${tokens} tokens in ${conversations} conversations on ${engine.loaded.device.name}, ${seconds} s: ` +
    `GPU memory strays ${percent(gpuStray)}, heap ${percent(heapStray)}, process ${percent(stray((s) => s.processBytes))}`,
);
process.exit(gpuStray <= 0.05 && heapStray <= 0.05 ? 0 : 1); // Dawn's threads would keep the process

function line({ tokens, gpuBytes, heapBytes, processBytes }: Sample): string {
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;
  return `${String(tokens).padStart(6)} tokens  GPU ${mb(gpuBytes)}  heap ${mb(heapBytes)}  process ${mb(processBytes)}`;
}

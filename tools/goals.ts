/**
 * The figures that the project sets itself as goals, from all that measures them: each a plain number, or null with the
 * reason under `notes`. What this process cannot measure comes from files that other commands write on the same machine.
 */
import { readFileSync } from 'node:fs';
import { FULL, Gpu, WITH_MATRICES } from '../workers/gpu.ts';
import { SUBGROUP_MATRIX } from '../workers/subgroupMatrix.ts';
import type { BenchResult } from '../workers/protocol.ts';
import type { ChromiumFigures } from './benchChromium.ts';
import { shareOfFla, timeChunks } from './chunkTimes.ts';
import { largeGoals, measureLarge } from './largeModel.ts';
import { nodeGpu } from './nodeGpu.ts';
import { shape48B } from './shape48B.ts';

/** Tokens that FLA and the chain of kernels here are timed with. */
const CHUNK_TOKENS = 8192;

/** Tokens that a rate of decoding is of, at least. */
const DECODED = 128;

export interface GoalSources {
  /** A device of this machine; closed after use. */
  open: () => Promise<Gpu>;
  /** What workers/bench.ts found in this process. */
  bench: BenchResult;
  /** What tools/benchChromium.ts wrote; undefined: it was not run. */
  chromium: string | undefined;
  /** What tools/peers/fla.py printed; undefined likewise. */
  fla: string | undefined;
  runs: number;
  say: (line: string) => void;
}

/** Figures by name; those that are null have a note of the same name. */
export class Goals {
  readonly figures: Record<string, number | null> = {};
  readonly notes: Record<string, string> = {};

  set(name: string, figure: number | null | undefined, otherwise: string): void {
    this.figures[name] = figure ?? null;
    if (figure === null || figure === undefined) this.notes[name] = otherwise;
  }
}

/** Measure what is left to be measured, and put all together. The device of `bench` should be given back before. */
export async function gatherGoals(sources: GoalSources): Promise<Goals> {
  const { bench, chromium, fla, runs, say } = sources;
  const goals = new Goals();
  const { software } = bench.device;
  const noGpu = 'measured on GPUs only';
  const product = (rows: number) => bench.products.find((p) => p.rows === rows);
  const [large, fused, small] = [product(163840), product(12544), product(2304)];
  const refused = bench.refused.join(' ') || 'not measured';
  goals.set('stream_read_gbps', bench.stream?.median, refused);
  const least = (share: 'share' | 'togetherShare') =>
    large && fused ? Math.min(large[share], fused[share]) : null;
  goals.set('gemv_q4_0_large_share', least('togetherShare'), refused);
  goals.set('gemv_q4_0_2304x4096_share', small?.togetherShare, refused);
  goals.set('gemv_q4_0_large_in_turn_share', least('share'), refused);
  goals.set('gemv_q4_0_2304x4096_in_turn_share', small?.share, refused);
  for (const [name, { figure, note }] of Object.entries(
    software ? nothingLarge(noGpu) : await largeFigures(sources),
  )) {
    goals.set(name, figure, note);
  }
  goals.set('default_decode_tps', longDecode(bench), `a run decodes ${DECODED} tokens or more`);
  const page = chromium === undefined ? null : readChromium(chromium);
  const notRun = 'no --chromium FILE was given';
  goals.set('default_decode_chromium_tps', page?.bench ? longDecode(page.bench) : null, notRun);
  const prompt = (tokens: number) => bench.prompts.find((p) => p.tokens === tokens);
  goals.set('default_prefill_2048_tps', prompt(2048)?.tokensPerSec.median, noGpu);
  const chunks = await chunkShares(fla, runs, say, software ? noGpu : '');
  goals.set('kda_chunk_share_of_fla', chunks.lanes.figure, chunks.lanes.note);
  goals.set('kda_chunk_matrix_share_of_fla', chunks.matrices.figure, chunks.matrices.note);
  goals.set('ttft_32_ms', prompt(32)?.firstTokenMs.median, 'not measured');
  goals.set('cold_start_chromium_s', page?.coldStartSec.median, notRun);
  return goals;
}

/** Tokens per second of the short conversation, where its runs are long enough. */
function longDecode({ decode }: BenchResult): number | null {
  const [first] = decode;
  return first && first.tokens >= DECODED ? first.tokensPerSec.median : null;
}

function readChromium(file: string): ChromiumFigures {
  return JSON.parse(readFileSync(file, 'utf8')) as ChromiumFigures;
}

interface Figure {
  figure: number | null;
  note: string;
}

type Large = Record<keyof ReturnType<typeof largeGoals>, Figure>;

const nothingLarge = (note: string): Large => {
  const none = { figure: null, note };
  return {
    moe48b_decode_1k_ms: none,
    moe48b_bandwidth_share: none,
    million_speedup_over_mla: none,
    million_cache_share: none,
  };
};

async function largeFigures({ open, runs, say }: GoalSources): Promise<Large> {
  try {
    const contexts = [1024, 2 ** 20];
    const figures = await measureLarge({
      open,
      shape: shape48B,
      contexts,
      runs,
      kernels: false,
      say,
    });
    const note = 'this GPU has no room for a million tokens';
    const found = Object.entries(largeGoals(figures)).map(([name, figure]) => [
      name,
      { figure, note },
    ]);
    return Object.fromEntries(found) as Large;
  } catch (thrown) {
    return nothingLarge((thrown as Error).message);
  }
}

/** Shares of FLA's speed: by lanes in f32, and by subgroup matrices. */
async function chunkShares(
  fla: string | undefined,
  runs: number,
  say: (line: string) => void,
  not: string,
): Promise<Record<'lanes' | 'matrices', Figure>> {
  const none = (note: string): Figure => ({ figure: null, note });
  const reason = not || (fla === undefined ? 'no --fla FILE was given' : '');
  if (reason !== '' || fla === undefined) return { lanes: none(reason), matrices: none(reason) };
  const dawn = await nodeGpu({
    toggles: ['vulkan_enable_f16_on_nvidia', 'allow_unsafe_apis'],
    without: ['timestamp_quantization'],
  });
  const shares = {
    lanes: none('not measured'),
    matrices: none('this GPU has no subgroup matrices'),
  };
  const [lanes, matrices] = [FULL, WITH_MATRICES];
  for (const options of [lanes, matrices]) {
    const gpu = await Gpu.open(dawn, options);
    try {
      if (options === matrices && !gpu.has(SUBGROUP_MATRIX)) continue;
      const times = await timeChunks(gpu, runs, CHUNK_TOKENS);
      const figure = shareOfFla(times, fla);
      shares[times.by] = { figure, note: '' };
      const us = `${times.whole.median.toFixed(0)} us`;
      const name = `chunks of ${CHUNK_TOKENS} tokens, by ${times.by}`.padEnd(34);
      say(`${name} ${us}, ${(100 * figure).toFixed(1)} % of FLA's speed`);
    } catch (thrown) {
      shares[options === lanes ? 'lanes' : 'matrices'] = none((thrown as Error).message);
    } finally {
      gpu.destroy();
    }
  }
  return shares;
}

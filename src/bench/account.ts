/** A bench's figures as people read them: a table, and what limits the machine. */
import type { BenchResult, Spread } from '../../workers/protocol.ts';
import { formatBytes, formatCount, formatRate } from '../format.ts';

export interface Row {
  what: string;
  median: string;
  /** The least and the most; '' where it was measured as a whole. */
  spread: string;
  unit: string;
  /** Of the rate at which this memory is read; '' where that says nothing. */
  share: string;
}

/** Three digits that mean something, and no fewer than the whole number has: 0.0213, 1.42, 35.4, 3,014. */
export function formatFigure(x: number): string {
  if (x >= 100) return formatCount(x);
  if (x <= 0) return '0';
  return x.toFixed(Math.min(4, Math.max(0, 2 - Math.floor(Math.log10(x)))));
}

export function formatShare(share: number): string {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

function row(what: string, s: Spread, unit: string, share: number | null = null): Row {
  return {
    what,
    median: formatFigure(s.median),
    spread: `${formatFigure(s.least)} to ${formatFigure(s.most)}`,
    unit,
    share: share === null ? '' : formatShare(share),
  };
}

/** The table, as far as it has come. */
export function rowsOf(r: BenchResult): Row[] {
  const rows: Row[] = [];
  if (r.stream) rows.push(row('Reading memory', r.stream, 'GB/s'));
  for (const { rows: out, cols, gbps, share, together, togetherShare } of r.products) {
    const what = `4-bit product, ${formatCount(out)} × ${formatCount(cols)}`;
    rows.push(row(`${what}, one after another`, gbps, 'GB/s', share));
    rows.push(row(`${what}, many in one call`, together, 'GB/s', togetherShare));
  }
  r.decode.forEach(({ contextTokens, tokensPerSec, betweenMs }, index) => {
    const share = index === 0 ? r.tokenShare : null;
    rows.push(
      row(`Writing, after ${formatCount(contextTokens)} tokens`, tokensPerSec, 'tok/s', share),
    );
    if (index > 0) return;
    const { p50, p95 } = betweenMs;
    const spread = `95 % within ${formatFigure(p95)}`;
    rows.push({
      what: 'From one token to the next',
      median: formatFigure(p50),
      spread,
      unit: 'ms',
      share: '',
    });
  });
  for (const { tokens, tokensPerSec } of r.prompts) {
    rows.push(row(`Reading ${formatCount(tokens)} tokens`, tokensPerSec, 'tok/s'));
  }
  for (const { tokens, firstTokenMs } of r.prompts) {
    rows.push(row(`First token after ${formatCount(tokens)}`, firstTokenMs, 'ms'));
  }
  if (r.watched) rows.push(row('Writing, while the memory is watched', r.watched.on, 'tok/s'));
  return rows;
}

/** What keeps this machine from writing faster, in a sentence; '' while that is not known. */
export function limitOf(r: BenchResult): string {
  const [first] = r.decode;
  if (!first) return '';
  if (r.device.software) {
    return 'The processor computes everything here, in a GPU’s place: that is the limit, not its memory.';
  }
  const tokenMs = first.betweenMs.p50;
  const share = r.tokenShare === null ? '' : formatShare(r.tokenShare);
  const reads = `A token reads ${formatBytes(r.tokenBytes)} of weights`;
  if (r.tokenShare !== null && r.tokenShare >= 0.5) {
    return `${reads}, at ${share} of the rate at which this memory can be read at all: memory is the limit.`;
  }
  const timed = r.kernels.find(({ phase }) => phase === 'decode')?.rows;
  if (!timed) {
    return (
      share &&
      `${reads}, at ${share} of the rate at which this memory can be read: something else is the limit.`
    );
  }
  const calls = timed.reduce((sum, { calls }) => sum + calls, 0);
  const gpuMs = timed.reduce((sum, { us }) => sum + us.median, 0) / 1000;
  const of = `${formatFigure(tokenMs)} ms from one token to the next the GPU computes for ${formatFigure(gpuMs)}`;
  if (gpuMs < 0.6 * tokenMs) {
    return `Of the ${of}: the rest goes into handing it ${calls} calls a token, and reading the token back.`;
  }
  return `The GPU is the limit, not its memory: a token is ${calls} calls one after another, most too small to fill it, and weights are read at ${share} of the rate that memory has. Of the ${of}.`;
}

/** What watching costs, in a sentence; '' while that is not known. */
export function watchingOf({ watched }: BenchResult): string {
  if (!watched) return '';
  const { share, off } = watched;
  return `While the memory is watched it writes at ${formatShare(share)} of the ${formatRate(off.median)} tok/s it has unwatched in the same minute. Unwatched it makes the same ${watched.callsOff} calls a token as if nothing could be watched.`;
}

/** A file on a server as a byte source: ranges are asked for as they are read, and again where an answer breaks off. */
import type { ByteSource } from './gguf.ts';
import { PalimpsestError } from './protocol.ts';
import { sha256 } from './sha256.ts';
import {
  ask,
  isSetback,
  patiently,
  said,
  silence,
  stoppedBy,
  unlessSilent,
  type Limits,
  type Setback,
  type World,
} from './transfer.ts';

/** A file as whoever listed it describes it. */
export interface RemoteFile {
  name: string;
  address: string;
  bytes: number;
  /** Lower-case hex, where whoever listed it states it. */
  sha256: string | null;
}

/**
 * The file, read by range. `tell` hears of failures that are waited out. Reads fail with DownloadFailed (also where the
 * server knows no ranges, or the file became another one), and with the signal's reason when it is aborted. A read of the
 * whole file is held to its hash; a range has only the file's version and length to be held to.
 */
export function remoteSource(
  world: World,
  limits: Limits,
  { name, address, bytes, sha256: stated }: RemoteFile,
  tell: (note: string) => void,
  signal: AbortSignal,
): ByteSource {
  /** As first seen: ranges of two versions of a file must not meet. */
  let validator: string | null = null;

  /** Goes on filling `out` from `filled` on. Answers how far it came, and why not further. */
  async function fill(
    out: Uint8Array,
    offset: number,
    filled: number,
  ): Promise<{ filled: number; setback: Setback | null }> {
    const stop = stoppedBy(signal);
    const end = (why: string) => ({
      filled,
      setback: { kind: 'setback', why, waitMs: 0 } as const,
    });
    try {
      const answer = await ask(
        world,
        limits.stallMs,
        address,
        offset + filled,
        offset + out.length,
        stop,
      );
      if (isSetback(answer)) return { filled, setback: answer };
      if (!answer.ranged && offset + filled > 0) {
        throw failed(`The server of ${address} gives files whole only, not by range`);
      }
      if (answer.totalBytes !== null && answer.totalBytes !== bytes) {
        throw failed(
          `${address} has ${answer.totalBytes} bytes, not the ${bytes} it was listed with`,
        );
      }
      if (validator !== null && (answer.validator ?? validator) !== validator) {
        throw failed(`${address} was changed while it was read`);
      }
      validator ??= answer.validator;
      const reader = answer.body.getReader();
      while (filled < out.length) {
        const chunk = await unlessSilent(reader.read(), world.clock, limits.stallMs);
        if (chunk === silence) return end(`Nothing arrived from ${address}`);
        if (chunk.done) return end(`The answer of ${address} ended early`);
        const taken = chunk.value.subarray(0, out.length - filled);
        out.set(taken, filled);
        filled += taken.length;
      }
      return { filled, setback: null };
    } catch (cause) {
      if (cause instanceof PalimpsestError) throw cause;
      return end(`The connection to ${address} broke (${said(cause)})`);
    } finally {
      stop.abort();
    }
  }

  return {
    name,
    byteLength: bytes,
    async read(offset, byteLength) {
      const out = new Uint8Array(byteLength);
      let filled = 0;
      if (byteLength === 0) return out;
      const attempt = async () => {
        const outcome = await fill(out, offset, filled);
        filled = outcome.filled;
        return outcome.setback ?? out;
      };
      const read = await patiently(world, limits, signal, attempt, tell, () => filled);
      if (stated && byteLength === bytes) {
        const found = await sha256(read);
        if (found !== stated) {
          throw failed(
            `${address} arrived with SHA-256 ${found.slice(0, 8)} instead of ${stated.slice(0, 8)}, which it is listed with`,
          );
        }
      }
      return read;
    },
  };
}

function failed(what: string): PalimpsestError {
  return new PalimpsestError(
    'DownloadFailed',
    `${what}. Download the files yourself and open them.`,
  );
}

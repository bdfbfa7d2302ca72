/**
 * SHA-256 (FIPS 180-4). What is in memory whole is hashed by the browser, in one or in leaves; what is larger than memory should hold, such
 * as a file of many gigabytes, piece by piece by the class below: WebCrypto cannot go on from where it stopped.
 */

/** Lower-case hex digest of bytes in memory. */
export async function sha256(bytes: BufferSource): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
}

/**
 * Bytes of a leaf. WebCrypto copies what it hashes: copies up to this size lie in memory that Chromium's allocator keeps,
 * larger ones are mapped anew each time, and touching their pages takes as long as the hash.
 */
export const leafBytes = 512 * 1024;
export const digestBytes = 32;

/**
 * SHA-256 of each leaf of `bytes`, one after another (32 bytes each): says as surely as one hash over all of them whether
 * bytes are the same as before, and is had sooner.
 */
export async function sha256Leaves(bytes: ArrayBuffer): Promise<Uint8Array<ArrayBuffer>> {
  const leaves = Math.ceil(bytes.byteLength / leafBytes);
  const digests = new Uint8Array(leaves * digestBytes);
  const hash = async (leaf: number) => {
    const start = leaf * leafBytes;
    const part = new Uint8Array(bytes, start, Math.min(leafBytes, bytes.byteLength - start));
    digests.set(new Uint8Array(await crypto.subtle.digest('SHA-256', part)), leaf * digestBytes);
  };
  // Few at a time: each is copied when asked for. More than one, so that the thread that hashes always has the next.
  let next = 0;
  const lane = async () => {
    while (next < leaves) await hash(next++);
  };
  await Promise.all([lane(), lane()]);
  return digests;
}

const blockBytes = 64;

/** First 32 bits of the fractional parts of the cube roots (and square roots) of the first primes, exactly. */
function rootFractions(count: number, power: 2n | 3n): Int32Array {
  const words = new Int32Array(count);
  for (let n = 2n, i = 0; i < count; n++) {
    let prime = true;
    for (let d = 2n; d * d <= n; d++) if (n % d === 0n) prime = false;
    if (!prime) continue;
    // The largest r with r^power <= n 2^(32 power) is the root with 32 binary places.
    let root = 0n;
    for (let bit = 1n << 37n; bit > 0n; bit >>= 1n) {
      if ((root | bit) ** power <= n << (32n * power)) root |= bit;
    }
    words[i++] = Number(BigInt.asIntN(32, root));
  }
  return words;
}

const roundConstants = rootFractions(64, 3n);
const startState = rootFractions(8, 2n);

/** A hash over bytes that come piece by piece. */
export class Sha256 {
  #state = startState.slice();
  #schedule = new Int32Array(64);
  /** Bytes of a block that is not full yet. */
  #rest = new Uint8Array(blockBytes);
  #restBytes = 0;
  #totalBytes = 0;

  update(bytes: Uint8Array): this {
    this.#totalBytes += bytes.length;
    let at = 0;
    if (this.#restBytes > 0) {
      at = Math.min(blockBytes - this.#restBytes, bytes.length);
      this.#rest.set(bytes.subarray(0, at), this.#restBytes);
      this.#restBytes += at;
      if (this.#restBytes < blockBytes) return this;
      this.#compress(this.#rest, 0);
      this.#restBytes = 0;
    }
    for (; at + blockBytes <= bytes.length; at += blockBytes) this.#compress(bytes, at);
    this.#rest.set(bytes.subarray(at));
    this.#restBytes = bytes.length - at;
    return this;
  }

  /** Lower-case hex digest of everything so far. Ends the hash: no update after it. */
  digest(): string {
    const bits = BigInt(this.#totalBytes) * 8n;
    const zeros = (2 * blockBytes - 9 - (this.#totalBytes % blockBytes)) % blockBytes;
    const end = new Uint8Array(1 + zeros + 8);
    end[0] = 0x80;
    new DataView(end.buffer).setBigUint64(1 + zeros, bits);
    this.update(end);
    const digest = new DataView(new ArrayBuffer(32));
    this.#state.forEach((word, i) => digest.setInt32(4 * i, word));
    return hex(new Uint8Array(digest.buffer));
  }

  #compress(bytes: Uint8Array, at: number): void {
    const w = this.#schedule;
    for (let i = 0; i < 16; i++, at += 4) {
      w[i] = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
    }
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15]!;
      const y = w[i - 2]!;
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16]! + s0 + w[i - 7]! + s1) | 0;
    }
    const state = this.#state;
    let [a, b, c, d] = [state[0]!, state[1]!, state[2]!, state[3]!];
    let [e, f, g, h] = [state[4]!, state[5]!, state[6]!, state[7]!];
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + roundConstants[i]! + w[i]!) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    const words = [a, b, c, d, e, f, g, h];
    for (let i = 0; i < 8; i++) state[i] = (state[i]! + words[i]!) | 0;
  }
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Model files that something is wrong with, made from sound ones. */

/** The first half of a file, as an interrupted copy leaves it. */
export function firstHalf(bytes: Uint8Array): Uint8Array {
  return bytes.slice(0, bytes.length / 2);
}

/** The file with another `general.architecture`: `other-model`, as long a name as the sound one. */
export function otherArchitecture(bytes: Uint8Array): Uint8Array {
  const sound = 'kimi-linear';
  const key = Buffer.from(bytes).indexOf('general.architecture');
  const at = Buffer.from(bytes).indexOf(sound, key);
  if (key < 0 || at < 0) throw new Error(`the file names no architecture ${sound}`);
  const renamed = Uint8Array.from(bytes);
  renamed.set(Buffer.from('other-model'), at);
  return renamed;
}

/** The file with one bit of its last byte turned. */
export function turnedBit(bytes: Uint8Array): Uint8Array {
  const turned = Uint8Array.from(bytes);
  turned[turned.length - 1]! ^= 1;
  return turned;
}

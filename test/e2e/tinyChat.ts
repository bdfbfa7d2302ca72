/** The tiny model as a chat model: the same weights, and a chat template, which its file has none of. */
import { readFileSync } from 'node:fs';
import { fixture } from '../reference/golden.ts';

const key = 'tokenizer.chat_template';
const template = '{% for message in messages %}{{ message.content }}{% endfor %}';

/** The bytes of a GGUF file with one more key at the front: as long as a whole number of alignments, so nothing else moves. */
export function tinyChat(): Uint8Array {
  const file = readFileSync(fixture('tiny-f32.gguf'));
  const headerBytes = 24;
  const bytes = 8 + key.length + 4 + 8 + template.length;
  const padded = template + ' '.repeat(32 * Math.ceil(bytes / 32) - bytes);
  const text = (words: string) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(words.length));
    return Buffer.concat([length, Buffer.from(words)]);
  };
  const stringType = Buffer.from([8, 0, 0, 0]);
  const header = Buffer.from(file.subarray(0, headerBytes));
  header.writeBigUInt64LE(header.readBigUInt64LE(16) + 1n, 16);
  return Buffer.concat([header, text(key), stringType, text(padded), file.subarray(headerBytes)]);
}

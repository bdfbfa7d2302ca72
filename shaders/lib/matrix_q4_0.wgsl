// matrix_q4_0: a weight matrix [rows, COLS], 4 bits, groups of 32 columns.
//
//   w = d (q - 8)        exact in f32
//
// Shapes  codes  [rows, COLS/8] u32: word j of a group has columns 4j+t in the low, 16+4j+t in the high nibbles of byte t
//         scales [rows, SCALE_WORDS] u32: f16 d of two groups a word, the first in the low half; a row starts a word
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<u32>;
const BLOCK = 8u;
const SCALE_WORDS = (COLS / 32u + 1u) / 2u;

// The two f16 of a word. unpack2x16float may flush f16 subnormals to zero, so those are decoded as the integers they are.
fn f16_pair(word: u32) -> vec2f {
  let magnitude = vec2u(word, word >> 16u) & vec2u(0x7fffu);
  let sign = vec2u(word << 16u, word) & vec2u(0x80000000u);
  let subnormal = bitcast<vec2f>(bitcast<vec2u>(vec2f(magnitude) * 0x1p-24f) | sign);
  return select(unpack2x16float(word), subnormal, magnitude < vec2u(0x400u));
}

// The eight columns of word b of a row; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let word = codes[row * (COLS / 8u) + b];
  let pair = f16_pair(scales[row * SCALE_WORDS + b / 8u]);
  let d = select(pair.x, pair.y, (b & 4u) != 0u);
  return array<vec4f, 2>(
    d * less_eight(vec4u(word << 19u, word << 11u, word << 3u, word >> 5u)),
    d * less_eight(vec4u(word << 15u, word << 7u, word >> 1u, word >> 9u)),
  );
}

// q - 8 of codes q in bits 19 .. 22: as the highest bits of a mantissa, 1 + q / 16, they need no conversion.
fn less_eight(words: vec4u) -> vec4f {
  return fma(bitcast<vec4f>((words & vec4u(0x780000u)) | vec4u(0x3f800000u)), vec4f(16.0), vec4f(-24.0));
}

// Which four columns quad i of block b holds, in vec4s along the row: the low nibbles are columns 4j .. 4j+3 of their
// group of 32, the high ones 16+4j .. 16+4j+3, with j = b mod 4.
fn quad(b: u32, i: u32) -> u32 {
  return (b / 4u) * 8u + b % 4u + 4u * i;
}

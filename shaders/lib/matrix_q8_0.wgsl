// matrix_q8_0: a weight matrix [rows, COLS], signed bytes, groups of 32 columns.
//
//   w = d q              exact in f32
//
// Shapes  codes  [rows, COLS/8] vec2u: eight columns, the first in the lowest byte of x
//         scales [rows, SCALE_WORDS] u32: f16 d of two groups a word, the first in the low half; a row starts a word
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec2u>;
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

// The four signed bytes of a word, lowest first.
fn signed_bytes(word: u32) -> vec4i {
  return (vec4i(bitcast<i32>(word)) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u);
}

// Columns 8b .. 8b+7 of a row.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let words = codes[row * (COLS / 8u) + b];
  let pair = f16_pair(scales[row * SCALE_WORDS + b / 8u]);
  let d = select(pair.x, pair.y, (b & 4u) != 0u);
  return array<vec4f, 2>(d * vec4f(signed_bytes(words.x)), d * vec4f(signed_bytes(words.y)));
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  return 2u * b + i;
}

// matrix_q5_1: a weight matrix [rows, COLS], 5 bits and a minimum, groups of 32 columns.
//
//   w = d q + m          the product is exact, so the sum is rounded once, fused or not
//
// Shapes  codes  [rows, ROW_WORDS] u32. First COLS/8 words of low bits: word j of a group has columns 4j+t in the low,
//                16+4j+t in the high nibbles of byte t. Then COLS/32 words of fifth bits: bit c is column c of the group
//         scales [rows, COLS/32] u32: f16 d in the low half, f16 m in the high
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<u32>;
@group(1) @binding(1) var<storage, read> scales: array<u32>;
const BLOCK = 8u;
const ROW_WORDS = COLS / 8u + COLS / 32u;

// The two f16 of a word. unpack2x16float may flush f16 subnormals to zero, so those are decoded as the integers they are.
fn f16_pair(word: u32) -> vec2f {
  let magnitude = vec2u(word, word >> 16u) & vec2u(0x7fffu);
  let sign = vec2u(word << 16u, word) & vec2u(0x80000000u);
  let subnormal = bitcast<vec2f>(bitcast<vec2u>(vec2f(magnitude) * 0x1p-24f) | sign);
  return select(unpack2x16float(word), subnormal, magnitude < vec2u(0x400u));
}

// The four bytes of a word, lowest first.
fn bytes(word: u32) -> vec4u {
  return (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
}

// Bits first .. first+3 of a word, each as the fifth bit (16) of its own column.
fn fifth_bits(word: u32, first: u32) -> vec4u {
  return ((vec4u(word >> first) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(1u)) << vec4u(4u);
}

// The eight columns of word b of a row; quad() says which.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let word = codes[row * ROW_WORDS + b];
  let high = codes[row * ROW_WORDS + COLS / 8u + b / 4u];
  let dm = f16_pair(scales[row * (COLS / 32u) + b / 4u]);
  let first = 4u * (b % 4u);
  return array<vec4f, 2>(
    dm.x * vec4f(bytes(word & 0x0f0f0f0fu) | fifth_bits(high, first)) + dm.y,
    dm.x * vec4f(bytes((word >> 4u) & 0x0f0f0f0fu) | fifth_bits(high, first + 16u)) + dm.y,
  );
}

// Which four columns quad i of block b holds, in vec4s along the row: the low nibbles are columns 4j .. 4j+3 of their
// group of 32, the high ones 16+4j .. 16+4j+3, with j = b mod 4.
fn quad(b: u32, i: u32) -> u32 {
  return (b / 4u) * 8u + b % 4u + 4u * i;
}

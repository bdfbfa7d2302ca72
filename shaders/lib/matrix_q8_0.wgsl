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

// Rows row .. row + 3 times x, the columns of block b in the order of quad(): written out, so that no load waits for another.
fn four(row: u32, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  let r0 = block(row, b);
  let r1 = block(row + 1u, b);
  let r2 = block(row + 2u, b);
  let r3 = block(row + 3u, b);
  return vec4f(
    dot(r0[0], x0) + dot(r0[1], x1),
    dot(r1[0], x0) + dot(r1[1], x1),
    dot(r2[0], x0) + dot(r2[1], x1),
    dot(r3[0], x0) + dot(r3[1], x1),
  );
}
// The same with block c and another x.
fn fours(row: u32, b: u32, c: u32, x_b: mat2x4f, x_c: mat2x4f) -> vec4f {
  return four(row, b, x_b[0], x_b[1]) + four(row, c, x_c[0], x_c[1]);
}

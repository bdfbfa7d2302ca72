// matrix_f16: a weight matrix [rows, COLS] of f16; arithmetic stays f32, no shader-f16 needed.
//
// Shapes  codes [rows, COLS/8] vec4u, two columns a u32, the first in the low half
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec4u>;
const BLOCK = 8u;

// The two f16 of a word. unpack2x16float may flush f16 subnormals to zero, so those are decoded as the integers they are.
fn f16_pair(word: u32) -> vec2f {
  let magnitude = vec2u(word, word >> 16u) & vec2u(0x7fffu);
  let sign = vec2u(word << 16u, word) & vec2u(0x80000000u);
  let subnormal = bitcast<vec2f>(bitcast<vec2u>(vec2f(magnitude) * 0x1p-24f) | sign);
  return select(unpack2x16float(word), subnormal, magnitude < vec2u(0x400u));
}

// Columns 8b .. 8b+7 of a row.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let w = codes[row * (COLS / 8u) + b];
  return array<vec4f, 2>(
    vec4f(f16_pair(w.x), f16_pair(w.y)),
    vec4f(f16_pair(w.z), f16_pair(w.w)),
  );
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  return 2u * b + i;
}

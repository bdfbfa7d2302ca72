// matrix_bf16: a weight matrix [rows, COLS] of bf16, the upper halves of f32.
//
// Shapes  codes [rows, COLS/8] vec4u, two columns a u32, the first in the low half
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec4u>;
const BLOCK = 8u;

// Columns 8b .. 8b+7 of a row.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let w = codes[row * (COLS / 8u) + b];
  let first = w << vec4u(16u);
  let second = w & vec4u(0xffff0000u);
  return array<vec4f, 2>(
    bitcast<vec4f>(vec4u(first.x, second.x, first.y, second.y)),
    bitcast<vec4f>(vec4u(first.z, second.z, first.w, second.w)),
  );
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  return 2u * b + i;
}

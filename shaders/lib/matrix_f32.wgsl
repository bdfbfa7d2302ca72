// matrix_f32: a weight matrix [rows, COLS] of f32.
//
// Shapes  codes [rows, COLS/4] vec4f
const COLS = 2304u;
@group(1) @binding(0) var<storage, read> codes: array<vec4f>;
const BLOCK = 8u;

// Columns 8b .. 8b+7 of a row.
fn block(row: u32, b: u32) -> array<vec4f, 2> {
  let i = row * (COLS / 4u) + 2u * b;
  return array<vec4f, 2>(codes[i], codes[i + 1u]);
}

// Which four columns quad i of block b holds, in vec4s along the row.
fn quad(b: u32, i: u32) -> u32 {
  return 2u * b + i;
}

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

// For kernels that ask for blocks before there is an x: here that is what they are to ask for.
struct Four {
  row: u32,
}
fn ask_four(row: u32, b: u32) -> Four {
  return Four(row);
}
fn asked_four(asked: Four, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return four(asked.row, b, x0, x1);
}

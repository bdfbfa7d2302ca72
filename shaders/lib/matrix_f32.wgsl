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

// What four() reads, which can be asked for before there is an x, and of how many blocks at once: a column is a row's.
const AT_ONCE = 2u;
struct Four {
  low: mat4x4f,
  high: mat4x4f,
}
fn ask_four(row: u32, b: u32) -> Four {
  let r0 = block(row, b);
  let r1 = block(row + 1u, b);
  let r2 = block(row + 2u, b);
  let r3 = block(row + 3u, b);
  return Four(mat4x4f(r0[0], r1[0], r2[0], r3[0]), mat4x4f(r0[1], r1[1], r2[1], r3[1]));
}

// A compiler puts off each load until its turn, if it can: then blocks that were asked for at once come one after another. It
// cannot where the first one's words are kept back by bits of all of them, anded with a zero that it does not know to be one.
fn bits_of(asked: Four) -> u32 {
  let low = vec4u(bitcast<u32>(asked.low[0].x), bitcast<u32>(asked.low[1].x), bitcast<u32>(asked.low[2].x), bitcast<u32>(asked.low[3].x));
  let high = vec4u(bitcast<u32>(asked.high[0].x), bitcast<u32>(asked.high[1].x), bitcast<u32>(asked.high[2].x), bitcast<u32>(asked.high[3].x));
  let both = low | high;
  return both.x | both.y | both.z | both.w;
}
fn kept_back(asked: Four, zero: u32) -> Four {
  let low = asked.low;
  return Four(mat4x4f(held_four(low[0], zero), held_four(low[1], zero), held_four(low[2], zero), held_four(low[3], zero)), asked.high);
}
fn held_four(x: vec4f, zero: u32) -> vec4f {
  return bitcast<vec4f>(bitcast<vec4u>(x) | vec4u(zero));
}

// Rows row .. row + 3 times x, the columns of block b in the order of quad().
fn four(row: u32, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return asked_four(ask_four(row, b), b, x0, x1);
}
fn asked_four(asked: Four, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return x0 * asked.low + x1 * asked.high;
}

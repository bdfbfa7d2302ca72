// rows: four rows of a matrix at once, for the matrix_* libraries that have no such function: one after another, in little code.
//
//   four: y[i] = W[row + i, columns of block b] x
//
// x in the order of quad(); rows past the end give what is of no use.
// Links   matrix_*
fn four(row: u32, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  var sums = vec4f();
  for (var i = 0u; i < 4u; i++) {
    let w = block(row + i, b);
    sums[i] = dot(w[0], x0) + dot(w[1], x1);
  }
  return sums;
}

// For kernels that ask for blocks before there is an x: here that is what they are to ask for, one at a time.
const AT_ONCE = 1u;
struct Four {
  row: u32,
}
fn ask_four(row: u32, b: u32) -> Four {
  return Four(row);
}
fn bits_of(asked: Four) -> u32 {
  return 0u;
}
fn kept_back(asked: Four, zero: u32) -> Four {
  return asked;
}
fn asked_four(asked: Four, b: u32, x0: vec4f, x1: vec4f) -> vec4f {
  return four(asked.row, b, x0, x1);
}

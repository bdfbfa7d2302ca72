// rows: four rows of a matrix at once, for the matrix_* libraries that have no such function: one after another, in little code.
//
//   four: y[i] = W[row + i, columns of block b] x        fours: and those of block c, times another x
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
fn fours(row: u32, b: u32, c: u32, x_b: mat2x4f, x_c: mat2x4f) -> vec4f {
  var sums = vec4f();
  for (var i = 0u; i < 8u; i++) {
    let first = i < 4u;
    let w = block(row + i % 4u, select(c, b, first));
    sums[i % 4u] += dot(w[0], select(x_c[0], x_b[0], first)) + dot(w[1], select(x_c[1], x_b[1], first));
  }
  return sums;
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

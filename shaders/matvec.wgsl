// matvec: one or a few tokens through a matrix; also a stack of matrices, one per batch (heads).
//
//   y[t, n, r] = sum_c W[W_FIRST + n ROWS + r, c] x[t, n, c]        or, with ADD = 1, that much more
//
// Shapes  x [T, .., COLS]   y [T, .., ROWS]   W [BATCH ROWS, COLS] in any matrix_* format
//         x of (t, n) starts at X_FIRST + t X_TOKEN + n X_BATCH, y at Y_FIRST + t Y_TOKEN + n Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / 4, BATCH, T): one workgroup makes four rows; its lanes stride over the blocks of those rows, two at a time
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear
// W_FIRST, and ROWS where BATCH is more than 1, are multiples of 4.
const ROWS = 2304u;
const BATCH = 1u;
const W_FIRST = 0u;
const ADD = 0u;
const X_FIRST = 0u;
const X_TOKEN = 2304u;
const X_BATCH = 0u;
const Y_FIRST = 0u;
const Y_TOKEN = 2304u;
const Y_BATCH = 0u;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
fn input(first: u32, b: u32) -> mat2x4f {
  return mat2x4f(x[first + quad(b, 0u)], x[first + quad(b, 1u)]);
}

@compute @workgroup_size(SUM_LANES)
fn matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = group.x * 4u;
  let w_row = W_FIRST + group.y * ROWS + row;
  let x_first = (X_FIRST + group.z * X_TOKEN + group.y * X_BATCH) / 4u;
  var acc = vec4f();
  for (var b = lane.index; b < COLS / BLOCK; b += 2u * SUM_LANES) {
    let c = min(b + SUM_LANES, COLS / BLOCK - 1u);
    acc += fours(w_row, b, c, input(x_first, b), f32(b + SUM_LANES == c) * input(x_first, c));
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < min(ROWS - row, 4u)) { // the last group may have fewer rows
    let at = Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH + row + lane.index;
    y[at] = total[lane.index] + select(0.0, y[at], ADD == 1u);
  }
}

// matvec: one or a few tokens through a matrix; also a stack of matrices, one per batch (heads).
//
//   y[t, n, r] = sum_c W[W_FIRST + n ROWS + r, c] x[t, n, c]        or, with ADD = 1, that much more
//
// Shapes  x [T, .., COLS]   y [T, .., ROWS]   W [BATCH ROWS, COLS] in any matrix_* format
//         x of (t, n) starts at X_FIRST + t X_TOKEN + n X_BATCH, y at Y_FIRST + t Y_TOKEN + n Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / 4, BATCH, T): one workgroup makes four rows; its lanes stride over the blocks of those rows
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear
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
@compute @workgroup_size(SUM_LANES)
fn matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = group.x * 4u;
  let w_row = W_FIRST + group.y * ROWS + row;
  let x_first = (X_FIRST + group.z * X_TOKEN + group.y * X_BATCH) / 4u;
  let rows = min(ROWS - row, 4u); // the last group may have fewer; it repeats its last row
  var acc = vec4f();
  for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
    let x0 = x[x_first + quad(b, 0u)];
    let x1 = x[x_first + quad(b, 1u)];
    for (var r = 0u; r < 4u; r++) {
      let w = block(w_row + min(r, rows - 1u), b);
      acc[r] += dot(w[0], x0) + dot(w[1], x1);
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < rows) {
    let at = Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH + row + lane.index;
    y[at] = total[lane.index] + select(0.0, y[at], ADD == 1u);
  }
}

// matvec: one or a few tokens through a matrix; also a stack of matrices, one per batch (heads).
//
//   y[t, n, r] = sum_c W[W_FIRST + n ROWS + r, c] x[t, n, c]        or, with ADD = 1, that much more
//
// Shapes  x [T, .., COLS]   y [T, .., ROWS]   W [BATCH ROWS, COLS] in any matrix_* format
//         x of (t, n) starts at X_FIRST + t X_TOKEN + n X_BATCH, y at Y_FIRST + t Y_TOKEN + n Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / EACH, BATCH, T): one workgroup makes EACH rows; its lanes stride over the blocks of those rows
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear
// W_FIRST, and ROWS where BATCH is more than 1, are multiples of 4. EACH is 4, or 8 where rows are many: then x is read half as often.
// A call of few rows is little more than what a lane waits for memory: it asks for two blocks, and for what is in y, before it multiplies.
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
const EACH = 4u;
const BLOCKS = COLS / BLOCK;
const AHEAD = select(1u, AT_ONCE, EACH == 4u && BLOCKS > SUM_LANES); // blocks that a lane asks for at once
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// Block b of the rows, asked for (where there is none, the last) and multiplied.
fn ask(row: u32, b: u32) -> Eight {
  return ask_eight(row, min(b, BLOCKS - 1u), EACH == 8u);
}
fn product(asked: Eight, first: u32, b: u32) -> mat2x4f {
  return asked_eight(asked, b, x[first + quad(b, 0u)], x[first + quad(b, 1u)], EACH == 8u);
}

// What y holds of the lane's row among four, and what it is to hold.
fn held(at: u32, row: u32, lane: u32) -> f32 {
  return y[at + min(row + lane % 4u, ROWS - 1u)];
}
fn keep(at: u32, row: u32, sums: vec4f, before: f32, lane: u32) {
  if (lane < 4u && row + lane < ROWS) { // the last group may have fewer
    y[at + row + lane] = before + sums[lane];
  }
}

@compute @workgroup_size(SUM_LANES)
fn matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = group.x * EACH;
  let w_row = W_FIRST + group.y * ROWS + row;
  let x_first = (X_FIRST + group.z * X_TOKEN + group.y * X_BATCH) / 4u;
  let at = Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH;
  var before = vec2f();
  if (ADD == 1u) {
    before = vec2f(held(at, row, lane.index), held(at, row + EACH - 4u, lane.index));
  }
  let zero = select(0u, 0xffffffffu, row >= ROWS); // 0, but no compiler knows
  var acc = mat2x4f();
  for (var b = lane.index; b < BLOCKS; b += AHEAD * SUM_LANES) {
    var b0 = ask(w_row, b);
    var b1 = Eight();
    if (AHEAD > 1u) {
      b1 = ask(w_row, b + SUM_LANES);
    }
    b0.upper = kept_back(b0.upper, zero & (bits_of_eight(b0) | bits_of_eight(b1)));
    acc += product(b0, x_first, b);
    if (AHEAD > 1u && b + SUM_LANES < BLOCKS) {
      acc += product(b1, x_first, b + SUM_LANES);
    }
  }
  if (EACH == 8u) {
    let sums = workgroup_sums(0.0, acc[0], acc[1], lane);
    keep(at, row, sums.first, before.x, lane.index);
    keep(at, row + 4u, sums.second, before.y, lane.index);
  } else {
    keep(at, row, workgroup_sum(acc[0], lane), before.x, lane.index);
  }
}

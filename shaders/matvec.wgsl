// matvec: one or a few tokens through a matrix; also a stack of matrices, one per batch (heads).
//
//   y[t, n, r] = sum_c W[W_FIRST + n ROWS + r, c] x[t, n, c]        or, with ADD = 1, that much more
//
// Shapes  x [T, .., COLS]   y [T, .., ROWS]   W [BATCH ROWS, COLS] in any matrix_* format
//         x of (t, n) starts at X_FIRST + t X_TOKEN + n X_BATCH, y at Y_FIRST + t Y_TOKEN + n Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / 4, BATCH, T): one workgroup makes four rows; its lanes stride over the blocks of those rows
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear
// W_FIRST, and ROWS where BATCH is more than 1, are multiples of 4. A call is little more than what a lane waits for memory:
// it asks for two blocks, and for what is in y, before it multiplies.
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
const BLOCKS = COLS / BLOCK;
const AHEAD = select(1u, AT_ONCE, BLOCKS > SUM_LANES); // blocks that a lane asks for at once
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// Block b of four rows, asked for (where there is none, the last) and multiplied.
fn ask(row: u32, b: u32) -> Four {
  return ask_four(row, min(b, BLOCKS - 1u));
}
fn product(asked: Four, first: u32, b: u32) -> vec4f {
  return asked_four(asked, b, x[first + quad(b, 0u)], x[first + quad(b, 1u)]);
}

@compute @workgroup_size(SUM_LANES)
fn matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = group.x * 4u;
  let w_row = W_FIRST + group.y * ROWS + row;
  let x_first = (X_FIRST + group.z * X_TOKEN + group.y * X_BATCH) / 4u;
  let rows = min(ROWS - row, 4u); // the last group may have fewer
  let at = Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH + row + min(lane.index, rows - 1u);
  var before = 0.0;
  if (ADD == 1u) {
    before = y[at];
  }
  let zero = select(0u, 0xffffffffu, row >= ROWS); // 0, but no compiler knows
  var acc = vec4f();
  for (var b = lane.index; b < BLOCKS; b += AHEAD * SUM_LANES) {
    var b0 = ask(w_row, b);
    var b1 = Four();
    if (AHEAD > 1u) {
      b1 = ask(w_row, b + SUM_LANES);
      b0 = kept_back(b0, zero & (bits_of(b0) | bits_of(b1)));
    }
    acc += product(b0, x_first, b);
    if (AHEAD > 1u && b + SUM_LANES < BLOCKS) {
      acc += product(b1, x_first, b + SUM_LANES);
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < rows) {
    y[at] = before + total[lane.index];
  }
}

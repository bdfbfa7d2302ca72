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
// it asks for several blocks, and for what is in y, before it multiplies.
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
// Blocks of a row, those of a lane, and how many of these it asks for at once: as many as make the fewest trips.
const BLOCKS = COLS / BLOCK;
const ROUNDS = (BLOCKS + SUM_LANES - 1u) / SUM_LANES;
const TRIPS = (ROUNDS + AT_ONCE - 1u) / AT_ONCE;
const AHEAD = (ROUNDS + TRIPS - 1u) / TRIPS;
const EVEN = BLOCKS % (AHEAD * SUM_LANES) == 0u;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// Block b of four rows, asked for and multiplied; a lane's blocks past the last are the last, and nothing of x.
struct Asked {
  four: Four,
  x: mat2x4f,
}
fn ask(row: u32, first: u32, b: u32) -> Asked {
  let at = min(b, BLOCKS - 1u);
  return Asked(ask_four(row, at), mat2x4f(x[first + quad(at, 0u)], x[first + quad(at, 1u)]));
}
fn bits_asked(asked: Asked) -> u32 {
  return bits_of(asked.four) | bitcast<u32>(asked.x[0].x) | bitcast<u32>(asked.x[1].x);
}
fn product(asked: Asked, b: u32) -> vec4f {
  let there = EVEN | (b < BLOCKS);
  let x0 = select(vec4f(), asked.x[0], there);
  let x1 = select(vec4f(), asked.x[1], there);
  return asked_four(asked.four, min(b, BLOCKS - 1u), x0, x1);
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
    var b0 = ask(w_row, x_first, b);
    var b1 = Asked();
    var b2 = Asked();
    var b3 = Asked();
    if (AHEAD > 1u) {
      b1 = ask(w_row, x_first, b + SUM_LANES);
    }
    if (AHEAD > 2u) {
      b2 = ask(w_row, x_first, b + 2u * SUM_LANES);
    }
    if (AHEAD > 3u) {
      b3 = ask(w_row, x_first, b + 3u * SUM_LANES);
    }
    if (AHEAD > 1u) {
      b0.four = held(b0.four, zero & (bits_asked(b0) | bits_asked(b1) | bits_asked(b2) | bits_asked(b3)));
    }
    acc += product(b0, b);
    if (AHEAD > 1u) {
      acc += product(b1, b + SUM_LANES);
    }
    if (AHEAD > 2u) {
      acc += product(b2, b + 2u * SUM_LANES);
    }
    if (AHEAD > 3u) {
      acc += product(b3, b + 3u * SUM_LANES);
    }
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < rows) {
    y[at] = before + total[lane.index];
  }
}

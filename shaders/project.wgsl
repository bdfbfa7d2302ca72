// project: one token's residual row, normalised, through the rows of two matrices.
//
//   y[A_AT + r] = (mean x^2 + EPS)^-1/2 sum_c A[r, c] w[c] x[c]        y[B_AT + r] likewise of B
//
// Shapes  x, w [COLS]   y f32 from A_AT and B_AT   A [A_ROWS, COLS] from row A_FIRST, B [B_ROWS, COLS] from row B_FIRST, each in any format
// Grid    (A_ROWS / EACH + B_ROWS / EACH): one workgroup makes EACH rows of one matrix, so that x and w are read once for all of them
// Links   matrix_* for A, another as b for B, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts rmsNorm, linear
// The norm's scale is one number, so it may come after the product: its sum of squares is taken on the way.
// A_FIRST and B_FIRST are multiples of 4. EACH is 4 or 8, so that what is read of x and w counts less than weights where rows are many.
// How often a lane waits for memory counts as well: it asks for two blocks before it multiplies them, where others are few.
const A_ROWS = 12288u;
const B_ROWS = 288u;
const A_FIRST = 0u;
const B_FIRST = 0u;
const A_AT = 0u;
const B_AT = 12288u;
const EPS = 0.00001;
const EACH = 8u;
const A_GROUPS = (A_ROWS + EACH - 1u) / EACH;
const A_BLOCKS = COLS / BLOCK;
const B_BLOCKS = COLS / BLOCK_b;
const FEW = EACH == 4u || SUM_LANES <= 64u; // words that a multiprocessor waits for, with one block of each lane
const A_AHEAD = select(1u, AT_ONCE, FEW && A_BLOCKS > SUM_LANES); // blocks that a lane asks for at once
const B_AHEAD = select(1u, AT_ONCE_b, FEW && B_BLOCKS > SUM_LANES);
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<private> squares: f32;
var<private> acc: mat2x4f; // of four rows and, where EACH is 8, of four more

// Fours i and j of x times the norm's weights, the squares counted.
fn normed(i: u32, j: u32) -> mat2x4f {
  let x0 = x[i];
  let x1 = x[j];
  squares += dot(x0, x0) + dot(x1, x1);
  return mat2x4f(x0 * w[i], x1 * w[j]);
}

// Block b of the rows, asked for (where there is none, the last) and multiplied.
fn ask_a(row: u32, b: u32) -> Eight {
  return ask_eight(row, min(b, A_BLOCKS - 1u), EACH == 8u);
}
fn take_a(asked: Eight, b: u32) {
  let h = normed(quad(b, 0u), quad(b, 1u));
  acc += asked_eight(asked, b, h[0], h[1], EACH == 8u);
}
fn ask_b(row: u32, b: u32) -> Eight_b {
  return ask_eight_b(row, min(b, B_BLOCKS - 1u), EACH == 8u);
}
fn take_b(asked: Eight_b, b: u32) {
  let h = normed(quad_b(b, 0u), quad_b(b, 1u));
  acc += asked_eight_b(asked, b, h[0], h[1], EACH == 8u);
}

// Four sums, of rows at .. at + 3 of a matrix that has `rows`.
fn keep(y_at: u32, at: u32, rows: u32, sums: vec4f, lane: u32) {
  if (lane < 4u && at + lane < rows) {
    y[y_at + at + lane] = sums[lane];
  }
}

@compute @workgroup_size(SUM_LANES)
fn project(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let in_a = B_ROWS == 0u || group.x < A_GROUPS;
  let row = EACH * select(group.x - A_GROUPS, group.x, in_a);
  let zero = group.y; // 0, but no compiler knows
  if (in_a) {
    let first = A_FIRST + row;
    for (var b = lane.index; b < A_BLOCKS; b += A_AHEAD * SUM_LANES) {
      var b0 = ask_a(first, b);
      var b1 = Eight();
      if (A_AHEAD > 1u) {
        b1 = ask_a(first, b + SUM_LANES);
        b0 = eight_kept_back(b0, zero & (bits_of_eight(b0) | bits_of_eight(b1)));
      }
      take_a(b0, b);
      if (A_AHEAD > 1u && b + SUM_LANES < A_BLOCKS) {
        take_a(b1, b + SUM_LANES);
      }
    }
  } else {
    let first = B_FIRST + row;
    for (var b = lane.index; b < B_BLOCKS; b += B_AHEAD * SUM_LANES) {
      var b0 = ask_b(first, b);
      var b1 = Eight_b();
      if (B_AHEAD > 1u) {
        b1 = ask_b(first, b + SUM_LANES);
        b0 = eight_kept_back_b(b0, zero & (bits_of_eight_b(b0) | bits_of_eight_b(b1)));
      }
      take_b(b0, b);
      if (B_AHEAD > 1u && b + SUM_LANES < B_BLOCKS) {
        take_b(b1, b + SUM_LANES);
      }
    }
  }
  let sums = workgroup_sums(squares, acc[0], acc[1], lane);
  let scale = inverseSqrt(sums.one / f32(COLS) + EPS);
  let rows = select(B_ROWS, A_ROWS, in_a); // the last group may have fewer
  let y_at = select(B_AT, A_AT, in_a);
  keep(y_at, row, rows, scale * sums.first, lane.index);
  if (EACH == 8u) {
    keep(y_at, row + 4u, rows, scale * sums.second, lane.index);
  }
}

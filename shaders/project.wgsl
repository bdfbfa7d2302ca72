// project: one token's residual row, normalised, through the rows of two matrices.
//
//   y[A_AT + r] = (mean x^2 + EPS)^-1/2 sum_c A[r, c] w[c] x[c]        y[B_AT + r] likewise of B
//
// Shapes  x, w [COLS]   y f32 from A_AT and B_AT   A [A_ROWS, COLS] from row A_FIRST, B [B_ROWS, COLS] from row B_FIRST, each in any format
// Grid    (A_ROWS / EACH + B_ROWS / EACH): one workgroup makes EACH rows of one matrix, so that x and w are read once for all of them
// Links   matrix_* for A, another as b for B, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts rmsNorm, linear
// The norm's scale is one number, so it may come after the product: its sum of squares is taken on the way.
// A_FIRST and B_FIRST are multiples of 4; EACH is 8 or 16: where rows are many, what is read of x and w counts more than weights.
const A_ROWS = 12288u;
const B_ROWS = 288u;
const A_FIRST = 0u;
const B_FIRST = 0u;
const A_AT = 0u;
const B_AT = 12288u;
const EPS = 0.00001;
const EACH = 16u;
const A_GROUPS = (A_ROWS + EACH - 1u) / EACH;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<private> squares: f32;

// Fours i and j of x, their squares counted, times the norm's weights.
fn normed(i: u32, j: u32) -> mat2x4f {
  squares += dot(x[i], x[i]) + dot(x[j], x[j]);
  return mat2x4f(x[i] * w[i], x[j] * w[j]);
}

// Four sums, of rows at .. at + 3 of a matrix that has `rows`.
fn keep(y_at: u32, at: u32, rows: u32, sums: vec4f, lane: u32) {
  if (lane < 4u && at + lane < rows) {
    y[y_at + at + lane] = sums[lane];
  }
}

@compute @workgroup_size(SUM_LANES)
fn project(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let in_a = group.x < A_GROUPS;
  let row = EACH * select(group.x - A_GROUPS, group.x, in_a);
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  if (in_a) {
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let h = normed(quad(b, 0u), quad(b, 1u));
      sum0 += four(A_FIRST + row, b, h[0], h[1]);
      sum1 += four(A_FIRST + row + 4u, b, h[0], h[1]);
      if (EACH > 8u) {
        sum2 += four(A_FIRST + row + 8u, b, h[0], h[1]);
        sum3 += four(A_FIRST + row + 12u, b, h[0], h[1]);
      }
    }
  } else {
    for (var b = lane.index; b < COLS / BLOCK_b; b += SUM_LANES) {
      let h = normed(quad_b(b, 0u), quad_b(b, 1u));
      sum0 += four_b(B_FIRST + row, b, h[0], h[1]);
      sum1 += four_b(B_FIRST + row + 4u, b, h[0], h[1]);
      if (EACH > 8u) {
        sum2 += four_b(B_FIRST + row + 8u, b, h[0], h[1]);
        sum3 += four_b(B_FIRST + row + 12u, b, h[0], h[1]);
      }
    }
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  let rows = select(B_ROWS, A_ROWS, in_a); // the last group may have fewer
  let y_at = select(B_AT, A_AT, in_a);
  keep(y_at, row, rows, scale * workgroup_sum(sum0, lane), lane.index);
  keep(y_at, row + 4u, rows, scale * workgroup_sum(sum1, lane), lane.index);
  if (EACH > 8u) {
    keep(y_at, row + 8u, rows, scale * workgroup_sum(sum2, lane), lane.index);
    keep(y_at, row + 12u, rows, scale * workgroup_sum(sum3, lane), lane.index);
  }
}

// project: one token's residual row, normalised, through the rows of two matrices.
//
//   y[A_AT + r] = (mean x^2 + EPS)^-1/2 sum_c A[r, c] w[c] x[c]        y[B_AT + r] likewise of B
//
// Shapes  x, w [COLS]   y f32 from A_AT and B_AT   A [A_ROWS, COLS] from row A_FIRST, B [B_ROWS, COLS] from row B_FIRST, each in any format
// Grid    (A_ROWS / GROUP + B_ROWS / GROUP): one workgroup makes GROUP = 4 FOURS rows of one matrix
// Links   matrix_* for A, another as b for B, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts rmsNorm, linear
// The norm's scale is one number, so it may come after the product: its sum of squares is taken on the way.
const A_ROWS = 12288u;
const B_ROWS = 288u;
const A_FIRST = 0u;
const B_FIRST = 0u;
const A_AT = 0u;
const B_AT = 12288u;
const FOURS = 1u;
const EPS = 0.00001;
const GROUP = 4u * FOURS;
const A_GROUPS = (A_ROWS + GROUP - 1u) / GROUP;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn project(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let in_a = group.x < A_GROUPS;
  let row = GROUP * select(group.x - A_GROUPS, group.x, in_a);
  let last = select(B_ROWS, A_ROWS, in_a) - 1u; // a group may pass the end; it repeats the last row
  var acc: array<vec4f, FOURS>;
  var squares = 0.0;
  for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
    var x0: vec4f;
    var x1: vec4f;
    if (in_a) {
      x0 = x[quad(b, 0u)];
      x1 = x[quad(b, 1u)];
    } else {
      x0 = x[quad_b(b, 0u)];
      x1 = x[quad_b(b, 1u)];
    }
    squares += dot(x0, x0) + dot(x1, x1);
    if (in_a) {
      x0 *= w[quad(b, 0u)];
      x1 *= w[quad(b, 1u)];
      for (var r = 0u; r < GROUP; r++) {
        let c = block(A_FIRST + min(row + r, last), b);
        acc[r / 4u][r % 4u] += dot(c[0], x0) + dot(c[1], x1);
      }
    } else {
      x0 *= w[quad_b(b, 0u)];
      x1 *= w[quad_b(b, 1u)];
      for (var r = 0u; r < GROUP; r++) {
        let c = block_b(B_FIRST + min(row + r, last), b);
        acc[r / 4u][r % 4u] += dot(c[0], x0) + dot(c[1], x1);
      }
    }
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  let first = row + select(B_AT, A_AT, in_a);
  for (var i = 0u; i < FOURS; i++) {
    let total = scale * workgroup_sum(acc[i], lane);
    let r = 4u * i + lane.index;
    if (lane.index < 4u && row + r <= last) {
      y[first + r] = total[lane.index];
    }
  }
}

// expert_matvec: one or a few tokens, each through the experts chosen for it.
//
//   y[t, j, r] = sum_c W[ids[t, j], r, c] x[t, j, c]        for every slot j < TOP whose expert is in this part
//
// Shapes  ids [T, TOP] u32   W [COUNT ROWS, COLS] in any matrix_* format: experts FIRST .. FIRST + COUNT - 1
//         x of (t, j) starts at X_FIRST + t X_TOKEN + j X_BATCH, y at Y_FIRST + t Y_TOKEN + j Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / 4, TOP, T): as matvec, with the expert for the batch; a slot whose expert is in another part is left alone
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear, per expert
// ROWS is a multiple of 4.
const ROWS = 1024u;
const TOP = 8u;
const FIRST = 0u;
const COUNT = 256u;
const X_FIRST = 0u;
const X_TOKEN = 2304u;
const X_BATCH = 0u;
const Y_FIRST = 0u;
const Y_TOKEN = 8192u;
const Y_BATCH = 1024u;
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
fn input(first: u32, b: u32) -> mat2x4f {
  return mat2x4f(x[first + quad(b, 0u)], x[first + quad(b, 1u)]);
}

@compute @workgroup_size(SUM_LANES)
fn expert_matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let expert = ids[group.z * TOP + group.y] - FIRST; // wraps around for an expert before this part
  if (expert >= COUNT) {
    return;
  }
  let row = group.x * 4u;
  let w_row = expert * ROWS + row;
  let x_first = (X_FIRST + group.z * X_TOKEN + group.y * X_BATCH) / 4u;
  var acc = vec4f();
  for (var b = lane.index; b < COLS / BLOCK; b += 2u * SUM_LANES) {
    let c = min(b + SUM_LANES, COLS / BLOCK - 1u);
    let near = ask_four(w_row, b);
    let far = ask_four(w_row, c);
    let x_b = input(x_first, b);
    let x_c = f32(b + SUM_LANES == c) * input(x_first, c);
    acc += asked_four(near, b, x_b[0], x_b[1]) + asked_four(far, c, x_c[0], x_c[1]);
  }
  let total = workgroup_sum(acc, lane);
  if (lane.index < 4u) {
    y[Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH + row + lane.index] = total[lane.index];
  }
}

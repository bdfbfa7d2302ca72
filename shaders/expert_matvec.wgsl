// expert_matvec: one or a few tokens, each through the experts chosen for it.
//
//   y[t, j, r] = sum_c W[ids[t, j], r, c] x[t, j, c]        for every slot j < TOP whose expert is in this part
//
// Shapes  ids [T, TOP] u32   W [COUNT ROWS, COLS] in any matrix_* format: experts FIRST .. FIRST + COUNT - 1
//         x of (t, j) starts at X_FIRST + t X_TOKEN + j X_BATCH, y at Y_FIRST + t Y_TOKEN + j Y_BATCH (f32 units; x's multiples of 4)
// Grid    (ROWS / 4, TOP, T): as matvec, with the expert for the batch; a slot whose expert is in another part is left alone
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/layers.ts linear, per expert
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
@compute @workgroup_size(SUM_LANES)
fn expert_matvec(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let expert = ids[group.z * TOP + group.y] - FIRST; // wraps around for an expert before this part
  if (expert >= COUNT) {
    return;
  }
  let row = group.x * 4u;
  let w_row = expert * ROWS + row;
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
    y[Y_FIRST + group.z * Y_TOKEN + group.y * Y_BATCH + row + lane.index] = total[lane.index];
  }
}

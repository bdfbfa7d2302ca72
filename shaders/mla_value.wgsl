// mla_value: join what the slices of the cache said to one token's heads (log-sum-exp), and unfold the values from it.
//
//   context[h] = slices joined        o[h, r] = sum_c W[h, r, c] context[h, c]
//
// Shapes  as slices has them, LATENT = COLS   o [HEADS, VALUES]
//         W [HEADS VALUES, LATENT] in any matrix_* format
// Grid    (VALUES / GROUP, HEADS): one workgroup joins its head and makes GROUP rows
// Links   matrix_*, slices, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts mergeSlices, unfoldValues
const HEADS = 32u;
const VALUES = 128u;
const GROUP = 16u;
const LATENT = COLS;
@group(0) @binding(0) var<storage, read_write> o: array<f32>;

@compute @workgroup_size(SUM_LANES)
fn mla_value(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.y;
  take_context(head, lane);
  let last = VALUES - 1u; // a group may pass the end; it repeats the last row
  for (var row = group.x * GROUP; row < min((group.x + 1u) * GROUP, VALUES); row += 4u) {
    var acc = vec4f();
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let c0 = context[quad(b, 0u)];
      let c1 = context[quad(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let v = block(head * VALUES + min(row + r, last), b);
        acc[r] += dot(v[0], c0) + dot(v[1], c1);
      }
    }
    let total = workgroup_sum(acc, lane);
    if (lane.index < 4u && row + lane.index < VALUES) {
      o[head * VALUES + row + lane.index] = total[lane.index];
    }
  }
}

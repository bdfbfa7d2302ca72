// argmax_merge: the best of the slices that argmax found.
//
//   best[t] = (id, bits of its logit, count of NaN and infinity, bits of sum_i e^(logit_i - its logit))        the lowest id among equals
//
// Shapes  slices [T, SLICES] vec4u   best [T] vec4u; embed can read the ids where they lie (STRIDE = 4)
// Grid    (T): one workgroup per token
// Links   best
// Oracle  test/reference/compare.ts argmax
const SLICES = 64u;
@group(0) @binding(0) var<storage, read> slices: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> best: array<vec4u>;
@compute @workgroup_size(BEST_LANES)
fn argmax_merge(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var own = NONE;
  for (var s = lane; s < SLICES; s += BEST_LANES) {
    own = better(own, slices[group.x * SLICES + s]);
  }
  let won = workgroup_best(own, lane);
  if (lane == 0u) {
    best[group.x] = won;
  }
}

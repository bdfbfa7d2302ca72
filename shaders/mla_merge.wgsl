// mla_merge: join what the slices of the cache said into each head's context (log-sum-exp).
//
//   m = max_s top[s]      context = sum_s e^(top[s] - m) part[s] / sum_s e^(top[s] - m) sum[s]
//
// Shapes  stats [T, HEADS, SLICES] of (top, sum)   parts [T, HEADS, SLICES, LATENT]   context [T, HEADS, LATENT]
// Grid    (HEADS, T): one workgroup per head and token, four numbers per lane; a slice with sum 0 saw nothing, and its part is not read
// Links   none
// Oracle  test/reference/mla.ts mergeSlices
const HEADS = 32u;
const LATENT = 512u;
const SLICES = 64u;
@group(0) @binding(0) var<storage, read> stats: array<vec2f>;
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> context: array<vec4f>;
@compute @workgroup_size(128)
fn mla_merge(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = group.y * HEADS + group.x;
  var top = -3.4e38;
  for (var s = 0u; s < SLICES; s++) {
    top = max(top, stats[n * SLICES + s].x);
  }
  for (var i = lane; i < LATENT / 4u; i += 128u) {
    var sum = 0.0;
    var acc = vec4f();
    for (var s = 0u; s < SLICES; s++) {
      let slice = stats[n * SLICES + s];
      if (slice.y != 0.0) {
        let scale = exp(slice.x - top);
        sum += scale * slice.y;
        acc += scale * parts[(n * SLICES + s) * (LATENT / 4u) + i];
      }
    }
    context[n * (LATENT / 4u) + i] = acc / sum;
  }
}

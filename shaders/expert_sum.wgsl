// expert_sum: what a layer's experts say together.
//
//   y[t] = sum_j weights[t, j] down[t, j] + always[t]
//
// Shapes  weights [T, TOP]   down [T, TOP, D] the chosen experts' outputs   always [T, D] the shared expert's   y [T, D]
// Grid    (D / 256, T): four numbers per lane
// Links   none
// Oracle  test/reference/moe.ts moe, routedSum
const D = 2304u;
const TOP = 8u;
@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> down: array<vec4f>;
@group(0) @binding(2) var<storage, read> always: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@compute @workgroup_size(64)
fn expert_sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = group.x * 64u + lane;
  if (i >= D / 4u) {
    return;
  }
  var sum = always[group.y * (D / 4u) + i];
  for (var j = 0u; j < TOP; j++) {
    let slot = group.y * TOP + j;
    sum += weights[slot] * down[slot * (D / 4u) + i];
  }
  y[group.y * (D / 4u) + i] = sum;
}

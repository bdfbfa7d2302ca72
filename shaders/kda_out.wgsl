// kda_out: each head's output normed by itself, then gated.
//
//   y = o (mean o^2 + EPS)^-1/2 w sigmoid(gate)         the mean over one head's V numbers; a sigmoid, not SiLU
//
// Shapes  o, gate, y [T, H, V]   w [V], one for all heads
// Grid    (H, T): one workgroup per head and token
// Links   activation, sum_{tree,subgroup}
// Oracle  test/reference/kda.ts outNorm
const H = 32u;
const V = 128u;
const EPS = 0.00001;
@group(0) @binding(0) var<storage, read> o: array<f32>;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn kda_out(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let first = (group.y * H + group.x) * V;
  var squares = vec4f();
  for (var e = lane.index; e < V; e += SUM_LANES) {
    squares.x += o[first + e] * o[first + e];
  }
  let scale = inverseSqrt(workgroup_sum(squares, lane).x / f32(V) + EPS);
  for (var e = lane.index; e < V; e += SUM_LANES) {
    y[first + e] = o[first + e] * scale * w[e] * sigmoid(gate[first + e]);
  }
}

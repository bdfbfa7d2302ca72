// norm: root-mean-square norm of each token's row.
//
//   h = x (mean x^2 + EPS)^-1/2 w
//
// Shapes  x, h [T, D]   w [D]
// Grid    (T): one workgroup per token
// Links   sum_{tree,subgroup}
// Oracle  test/reference/layers.ts rmsNorm
const D = 2304u;
const EPS = 0.00001;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> h: array<vec4f>;
@compute @workgroup_size(SUM_LANES)
fn norm(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let first = group.x * (D / 4u);
  var squares = vec4f();
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    let v = x[first + i];
    squares += v * v;
  }
  let total = dot(workgroup_sum(squares, lane), vec4f(1.0));
  let scale = inverseSqrt(total / f32(D) + EPS);
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    h[first + i] = x[first + i] * scale * w[i];
  }
}

// add_norm: add a block's output to the residual stream and normalise the sum for the next block.
//
//   x <- x + y        h = x (mean x^2 + EPS)^-1/2 w
//
// Shapes  x, y [T, D]   w [D]   h [T, D]; with LAST = 1 only the last token is done, and h is [1, D]
// Grid    (T), or (1) with LAST: one workgroup per token; each lane reads again only what it wrote itself
// Links   sum_{tree,subgroup}, step
// Oracle  test/reference/layers.ts add, rmsNorm
const D = 2304u;
const EPS = 0.00001;
const LAST = 0u;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> h: array<vec4f>;
@compute @workgroup_size(SUM_LANES)
fn add_norm(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let token = select(group.x, step.tokens - 1u, LAST == 1u);
  let first = token * (D / 4u);
  var squares = vec4f();
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    let v = x[first + i] + y[first + i];
    x[first + i] = v;
    squares += v * v;
  }
  let total = dot(workgroup_sum(squares, lane), vec4f(1.0));
  let scale = inverseSqrt(total / f32(D) + EPS);
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    h[group.x * (D / 4u) + i] = x[first + i] * scale * w[i];
  }
}

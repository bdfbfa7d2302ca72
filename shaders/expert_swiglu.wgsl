// expert_swiglu: one token's residual row, normalised, through the first layers of its experts.
//
//   act[j, r] = silu(s sum_c G[e, r, c] w[c] x[c]) (s sum_c U[e, r, c] w[c] x[c])        e = ids[j], s = (mean x^2 + EPS)^-1/2
//
// Shapes  x, w [COLS]   ids [TOP] u32   act [TOP, WIDTH]   G, U [COUNT WIDTH, COLS]: experts FIRST .. FIRST + COUNT - 1, any format
// Grid    (WIDTH / 2, TOP): one workgroup makes two numbers; a slot whose expert is in another part is left alone
// Links   matrix_* for G, another as b for U, activation, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts swiglu
const WIDTH = 1024u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const EPS = 0.00001;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> act: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn expert_swiglu(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let expert = ids[group.y] - FIRST; // wraps around for an expert before this part
  if (expert >= COUNT) {
    return;
  }
  let row = expert * WIDTH + 2u * group.x;
  var acc = vec4f(); // gate, gate, up, up of the two rows
  var squares = 0.0;
  for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
    let x0 = x[quad(b, 0u)];
    let x1 = x[quad(b, 1u)];
    squares += dot(x0, x0) + dot(x1, x1);
    let g0 = x0 * w[quad(b, 0u)];
    let g1 = x1 * w[quad(b, 1u)];
    let u0 = x[quad_b(b, 0u)] * w[quad_b(b, 0u)];
    let u1 = x[quad_b(b, 1u)] * w[quad_b(b, 1u)];
    for (var r = 0u; r < 2u; r++) {
      let g = block(row + r, b);
      let u = block_b(row + r, b);
      acc[r] += dot(g[0], g0) + dot(g[1], g1);
      acc[r + 2u] += dot(u[0], u0) + dot(u[1], u1);
    }
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  let total = scale * workgroup_sum(acc, lane);
  if (lane.index < 2u) {
    act[group.y * WIDTH + 2u * group.x + lane.index] = silu(total[lane.index]) * total[lane.index + 2u];
  }
}

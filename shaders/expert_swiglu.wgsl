// expert_swiglu: one token's residual row, normalised, through the first layers of its experts and of the shared one.
//
//   act[j, r] = silu(s sum_c G[e, r, c] w[c] x[c]) (s sum_c U[e, r, c] w[c] x[c])        e = choose(j), s = (mean x^2 + EPS)^-1/2
//   act[TOP, r] likewise of the shared expert, whose gate is C[r] and whose up is C[SHARED + r]
//
// Shapes  x [COLS]   constants [w [COLS] | ..]   act [TOP, WIDTH | SHARED]   C [2 SHARED, COLS]
//         G, U [COUNT WIDTH, COLS]: experts FIRST .. FIRST + COUNT - 1   G, U, C in any format each
// Grid    (TOP WIDTH / 4 + SHARED / 4): one workgroup makes four numbers; a slot whose expert is in another part is left alone
// Links   matrix_* for G, others as b for U and as c for C, activation, router_{own,given}, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts swiglu
// Of several parts, the one with FIRST = 0 takes the shared expert, too.
const WIDTH = 1024u;
const SHARED = 1024u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const EPS = 0.00001;
const GROUPS = (WIDTH + 3u) / 4u; // of a slot
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> act: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn expert_swiglu(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let slot = min(group.x / GROUPS, TOP);
  let row = 4u * (group.x - slot * GROUPS);
  var expert = 0u;
  if (slot < TOP) {
    expert = choose(slot, group.x == 0u, lane) - FIRST; // wraps around for an expert before this part
    if (expert >= COUNT) {
      return;
    }
  }
  let last = select(SHARED, WIDTH, slot < TOP) - 1u; // a group may pass the end; it repeats the last row
  var gate = vec4f();
  var up = vec4f();
  var squares = 0.0;
  if (slot < TOP) {
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let x0 = x[quad(b, 0u)];
      let x1 = x[quad(b, 1u)];
      squares += dot(x0, x0) + dot(x1, x1);
      let g0 = x0 * constants[quad(b, 0u)];
      let g1 = x1 * constants[quad(b, 1u)];
      let u0 = x[quad_b(b, 0u)] * constants[quad_b(b, 0u)];
      let u1 = x[quad_b(b, 1u)] * constants[quad_b(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let at = expert * WIDTH + min(row + r, last);
        let g = block(at, b);
        let u = block_b(at, b);
        gate[r] += dot(g[0], g0) + dot(g[1], g1);
        up[r] += dot(u[0], u0) + dot(u[1], u1);
      }
    }
  } else {
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let x0 = x[quad_c(b, 0u)];
      let x1 = x[quad_c(b, 1u)];
      squares += dot(x0, x0) + dot(x1, x1);
      let h0 = x0 * constants[quad_c(b, 0u)];
      let h1 = x1 * constants[quad_c(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let g = block_c(min(row + r, last), b);
        let u = block_c(SHARED + min(row + r, last), b);
        gate[r] += dot(g[0], h0) + dot(g[1], h1);
        up[r] += dot(u[0], h0) + dot(u[1], h1);
      }
    }
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  let gates = scale * workgroup_sum(gate, lane);
  let ups = scale * workgroup_sum(up, lane);
  if (lane.index < 4u && row + lane.index <= last) {
    act[slot * WIDTH + row + lane.index] = silu(gates[lane.index]) * ups[lane.index];
  }
}

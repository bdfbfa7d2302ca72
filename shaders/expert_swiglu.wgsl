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
// Of several parts, the one with FIRST = 0 takes the shared expert, too. WIDTH and SHARED are multiples of 4.
const WIDTH = 1024u;
const SHARED = 1024u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const EPS = 0.00001;
const GROUPS = WIDTH / 4u; // of a slot
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> act: array<f32>;

fn normed(i: u32) -> vec4f {
  return x[i] * constants[i];
}
@compute @workgroup_size(SUM_LANES)
fn expert_swiglu(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let slot = min(group.x / GROUPS, TOP);
  let row = 4u * (group.x - slot * GROUPS);
  var gate = vec4f();
  var up = vec4f();
  var squares = 0.0;
  if (slot < TOP) {
    let expert = choose(slot, group.x == 0u, lane) - FIRST; // wraps around for an expert before this part
    if (expert >= COUNT) {
      return;
    }
    let at = expert * WIDTH + row;
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let x0 = x[quad(b, 0u)];
      let x1 = x[quad(b, 1u)];
      squares += dot(x0, x0) + dot(x1, x1);
      gate += four(at, b, normed(quad(b, 0u)), normed(quad(b, 1u)));
      up += four_b(at, b, normed(quad_b(b, 0u)), normed(quad_b(b, 1u)));
    }
  } else {
    for (var b = lane.index; b < COLS / BLOCK_c; b += SUM_LANES) {
      let x0 = x[quad_c(b, 0u)];
      let x1 = x[quad_c(b, 1u)];
      squares += dot(x0, x0) + dot(x1, x1);
      gate += four_c(row, b, normed(quad_c(b, 0u)), normed(quad_c(b, 1u)));
      up += four_c(SHARED + row, b, normed(quad_c(b, 0u)), normed(quad_c(b, 1u)));
    }
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  let gates = scale * workgroup_sum(gate, lane);
  let ups = scale * workgroup_sum(up, lane);
  if (lane.index < 4u) {
    act[slot * WIDTH + row + lane.index] = silu(gates[lane.index]) * ups[lane.index];
  }
}

// expert_swiglu: one token's residual row, normalised, through the first layers of its experts and of the shared one.
//
//   act[j, r] = silu(s sum_c G[e, r, c] w[c] x[c]) (s sum_c U[e, r, c] w[c] x[c])        e = choose(j), s = (mean x^2 + EPS)^-1/2
//   act[TOP, r] likewise of the shared expert, whose gate is C[r] and whose up is C[SHARED + r]
//
// Shapes  x [COLS]   constants [w [COLS] | ..]   act [TOP, WIDTH | SHARED]   C [2 SHARED, COLS]
//         G, U [COUNT WIDTH, COLS]: experts FIRST .. FIRST + COUNT - 1   G, U, C in any format each
// Grid    (TOP WIDTH / 4 + SHARED / 4): one workgroup makes four numbers; a slot whose expert is in another part is left alone
// Links   matrix_* for G, others as b for U and as c for C, activation, router_{own,logits,given}, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts swiglu
// Of several parts, the one with FIRST = 0 takes the shared expert, too. WIDTH and SHARED are multiples of 4.
// A lane asks for two blocks of both matrices before it multiplies; of the shared expert, which waits for no choice, for one.
const WIDTH = 1024u;
const SHARED = 1024u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const EPS = 0.00001;
const PER_SLOT = WIDTH / 4u; // workgroups of a slot
const BLOCKS = COLS / BLOCK;
const AHEAD = select(1u, min(AT_ONCE, AT_ONCE_b), BLOCKS > SUM_LANES);
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> act: array<f32>;
var<private> squares: f32;
var<private> gate: vec4f;
var<private> up: vec4f;

// Fours i and j of x and of the norm's weights.
struct Input {
  x: mat2x4f,
  w: mat2x4f,
}
fn ask_input(i: u32, j: u32) -> Input {
  return Input(mat2x4f(x[i], x[j]), mat2x4f(constants[i], constants[j]));
}
fn normed(i: u32) -> vec4f {
  return x[i] * constants[i];
}
// One times the other.
fn times(asked: Input) -> mat2x4f {
  return mat2x4f(asked.x[0] * asked.w[0], asked.x[1] * asked.w[1]);
}
fn bits_input(asked: Input) -> u32 {
  let x_bits = bitcast<u32>(asked.x[0].x) | bitcast<u32>(asked.x[1].x);
  return x_bits | bitcast<u32>(asked.w[0].x) | bitcast<u32>(asked.w[1].x);
}
fn add_squares(asked: Input) {
  squares += dot(asked.x[0], asked.x[0]) + dot(asked.x[1], asked.x[1]);
}

// Block b of four rows of gate and up, asked for (where there is none, the last) and multiplied.
struct Asked {
  gate: Four,
  up: Four_b,
  gate_input: Input,
  up_input: Input, // the same, where the formats are
}
fn ask(row: u32, b: u32) -> Asked {
  let at = min(b, BLOCKS - 1u);
  let gate_input = ask_input(quad(at, 0u), quad(at, 1u));
  return Asked(ask_four(row, at), ask_four_b(row, at), gate_input, ask_input(quad_b(at, 0u), quad_b(at, 1u)));
}
fn bits_asked(asked: Asked) -> u32 {
  return bits_of(asked.gate) | bits_of_b(asked.up) | bits_input(asked.gate_input) | bits_input(asked.up_input);
}
fn take(asked: Asked, b: u32) {
  add_squares(asked.gate_input);
  let gate_x = times(asked.gate_input);
  let up_x = times(asked.up_input);
  gate += asked_four(asked.gate, b, gate_x[0], gate_x[1]);
  up += asked_four_b(asked.up, b, up_x[0], up_x[1]);
}

@compute @workgroup_size(SUM_LANES)
fn expert_swiglu(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let slot = min(group.x / PER_SLOT, TOP);
  let row = 4u * (group.x - slot * PER_SLOT);
  let zero = group.y; // 0, but no compiler knows
  if (slot < TOP) {
    let expert = choose(slot, group.x == 0u, lane) - FIRST; // wraps around for an expert before this part
    if (expert >= COUNT) {
      return;
    }
    let at = expert * WIDTH + row;
    for (var b = lane.index; b < BLOCKS; b += AHEAD * SUM_LANES) {
      var b0 = ask(at, b);
      var b1 = Asked();
      if (AHEAD > 1u) {
        b1 = ask(at, b + SUM_LANES);
        let held_by = zero & (bits_asked(b0) | bits_asked(b1));
        b0.gate = kept_back(b0.gate, held_by);
        b0.up = kept_back_b(b0.up, held_by);
      }
      take(b0, b);
      if (AHEAD > 1u && b + SUM_LANES < BLOCKS) {
        take(b1, b + SUM_LANES);
      }
    }
  } else {
    for (var b = lane.index; b < COLS / BLOCK_c; b += SUM_LANES) {
      let input = ask_input(quad_c(b, 0u), quad_c(b, 1u));
      let first = ask_four_c(row, b);
      let second = ask_four_c(SHARED + row, b);
      let held_by = zero & (bits_of_c(first) | bits_of_c(second) | bits_input(input));
      add_squares(input);
      let h = times(input);
      gate += asked_four_c(kept_back_c(first, held_by), b, h[0], h[1]);
      up += asked_four_c(kept_back_c(second, held_by), b, h[0], h[1]);
    }
  }
  let sums = workgroup_sums(squares, gate, up, lane);
  let scale = inverseSqrt(sums.one / f32(COLS) + EPS);
  let gates = scale * sums.first;
  let ups = scale * sums.second;
  if (lane.index < 4u) {
    act[slot * WIDTH + row + lane.index] = silu(gates[lane.index]) * ups[lane.index];
  }
}

// expert_swiglu: one token's residual row, normalised, through the first layers of its experts and of the shared one.
//
//   act[j, r] = silu(s sum_c G[e, r, c] w[c] x[c]) (s sum_c U[e, r, c] w[c] x[c])        e = choose(j), s = (mean x^2 + EPS)^-1/2
//   act[TOP, r] likewise of the shared expert, whose gate is C[r] and whose up is C[SHARED + r]
//
// Shapes  x [COLS]   constants [w [COLS] | ..]   act [TOP, WIDTH | SHARED]   C [2 SHARED, COLS]
//         G, U [COUNT WIDTH, COLS]: experts FIRST .. FIRST + COUNT - 1   G, U, C in any format each
// Grid    ((TOP WIDTH + SHARED) / EACH): one workgroup makes EACH numbers; a slot whose expert is in another part is left alone
// Links   matrix_* for G, others as b for U and as c for C, activation, router_{own,logits,given}, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts swiglu
// Of several parts, the one with FIRST = 0 takes the shared expert, too. WIDTH and SHARED are multiples of EACH, which is 4 or 8.
// With 4 a lane asks for two blocks of both matrices before it multiplies; with 8 for as many words, and half as many workgroups choose.
const WIDTH = 1024u;
const SHARED = 1024u;
const FIRST = 0u;
const COUNT = 256u;
const TOP = 8u;
const EPS = 0.00001;
const EACH = 8u;
const PER_SLOT = WIDTH / EACH; // workgroups of a slot
const BLOCKS = COLS / BLOCK;
const AHEAD = select(1u, min(AT_ONCE, AT_ONCE_b), EACH == 4u && BLOCKS > SUM_LANES); // blocks that a lane asks for at once
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> act: array<f32>;
var<private> squares: f32;
var<private> gate: mat2x4f; // of the first four numbers and, where EACH is 8, of the others
var<private> up: mat2x4f;

fn normed(i: u32) -> vec4f {
  return x[i] * constants[i];
}
fn squares_of(i: u32, j: u32) -> f32 {
  return dot(x[i], x[i]) + dot(x[j], x[j]);
}

// Block b of the rows of gate and up, asked for (where there is none, the last) and multiplied.
struct Asked {
  gate: Eight,
  up: Eight_b,
}
fn ask(row: u32, b: u32) -> Asked {
  let at = min(b, BLOCKS - 1u);
  return Asked(ask_eight(row, at, EACH == 8u), ask_eight_b(row, at, EACH == 8u));
}
fn bits_asked(asked: Asked) -> u32 {
  return bits_of_eight(asked.gate) | bits_of_eight_b(asked.up);
}
fn take(asked: Asked, b: u32) {
  squares += squares_of(quad(b, 0u), quad(b, 1u));
  gate += asked_eight(asked.gate, b, normed(quad(b, 0u)), normed(quad(b, 1u)), EACH == 8u);
  up += asked_eight_b(asked.up, b, normed(quad_b(b, 0u)), normed(quad_b(b, 1u)), EACH == 8u);
}

fn leave(at: u32, gates: vec4f, ups: vec4f, i: u32) {
  if (i < 4u) {
    act[at + i] = silu(gates[i]) * ups[i];
  }
}

@compute @workgroup_size(SUM_LANES)
fn expert_swiglu(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let slot = min(group.x / PER_SLOT, TOP);
  let row = EACH * (group.x - slot * PER_SLOT);
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
        b0 = Asked(eight_kept_back(b0.gate, held_by), eight_kept_back_b(b0.up, held_by));
      }
      take(b0, b);
      if (AHEAD > 1u && b + SUM_LANES < BLOCKS) {
        take(b1, b + SUM_LANES);
      }
    }
  } else {
    for (var b = lane.index; b < COLS / BLOCK_c; b += SUM_LANES) {
      let first = ask_eight_c(row, b, EACH == 8u);
      let second = ask_eight_c(SHARED + row, b, EACH == 8u);
      let held_by = zero & (bits_of_eight_c(first) | bits_of_eight_c(second));
      let h0 = normed(quad_c(b, 0u));
      let h1 = normed(quad_c(b, 1u));
      squares += squares_of(quad_c(b, 0u), quad_c(b, 1u));
      gate += asked_eight_c(eight_kept_back_c(first, held_by), b, h0, h1, EACH == 8u);
      up += asked_eight_c(eight_kept_back_c(second, held_by), b, h0, h1, EACH == 8u);
    }
  }
  let sums = workgroup_sums(squares, gate[0], up[0], lane);
  let scale = inverseSqrt(sums.one / f32(COLS) + EPS);
  leave(slot * WIDTH + row, scale * sums.first, scale * sums.second, lane.index);
  if (EACH == 8u) {
    let low_sums = workgroup_sums(0.0, gate[1], up[1], lane);
    leave(slot * WIDTH + row + 4u, scale * low_sums.first, scale * low_sums.second, lane.index);
  }
}

// router_own: every workgroup of expert_swiglu chooses the experts itself, as route does. For few experts, whose router is
// sooner multiplied than waited for. Same function as router_given: link one.
//
//   logit[e] = s sum_c R[e, c] w[c] x[c]        s = (mean x^2 + EPS)^-1/2
//
// Shapes  constants [w [COLS] | R [EXPERTS, COLS] | bias [EXPERTS]]
//         chosen [ids [TOP] | from 64: bits of weights [TOP] | from 128: bits of logits [EXPERTS]] u32, written by one workgroup
// Links   activation, a sum, and what expert_swiglu binds
const EXPERTS = 8u;
const SCALE = 2.446;
const NORM = 1u;
const FOURS = (EXPERTS + 4u) / 4u;
const BIAS = (1u + EXPERTS) * (COLS / 4u);
@group(5) @binding(0) var<storage, read_write> chosen: array<u32>;
var<workgroup> picked: u32;

fn choose(slot: u32, speaks: bool, lane: Lane) -> u32 {
  var sums: array<vec4f, FOURS>; // of x^2, then of each expert
  for (var i = lane.index; i < COLS / 4u; i += SUM_LANES) {
    sums[0].x += dot(x[i], x[i]);
    let h = x[i] * constants[i];
    for (var e = 0u; e < EXPERTS; e++) {
      sums[(e + 1u) / 4u][(e + 1u) % 4u] += dot(h, constants[(1u + e) * (COLS / 4u) + i]);
    }
  }
  for (var i = 0u; i < FOURS; i++) {
    sums[i] = workgroup_sum(sums[i], lane);
  }
  let scale = inverseSqrt(sums[0].x / f32(COLS) + EPS);
  var scores: array<f32, EXPERTS>;
  var biased: array<f32, EXPERTS>;
  for (var e = 0u; e < EXPERTS; e++) {
    scores[e] = sigmoid(scale * sums[(e + 1u) / 4u][(e + 1u) % 4u]);
    biased[e] = scores[e] + constants[BIAS + e / 4u][e % 4u];
  }
  var ranks: array<u32, EXPERTS>;
  var total = 0.0;
  for (var e = 0u; e < EXPERTS; e++) {
    for (var other = 0u; other < EXPERTS; other++) {
      ranks[e] += u32(biased[other] > biased[e] || (biased[other] == biased[e] && other < e));
    }
    total += select(0.0, scores[e], ranks[e] < TOP);
  }
  if (lane.index == 0u) {
    for (var e = 0u; e < EXPERTS; e++) {
      if (ranks[e] == slot) {
        picked = e;
      }
      if (speaks && FIRST == 0u) {
        chosen[128u + e] = bitcast<u32>(scale * sums[(e + 1u) / 4u][(e + 1u) % 4u]);
        if (ranks[e] < TOP) {
          chosen[ranks[e]] = e;
          chosen[64u + ranks[e]] = bitcast<u32>(SCALE * scores[e] / select(1.0, total + 1e-20, NORM == 1u));
        }
      }
    }
  }
  return workgroupUniformLoad(&picked);
}

// router_own: every workgroup of expert_swiglu chooses the experts itself, as route does. For few experts, whose router is
// sooner multiplied than waited for. Same function as router_logits and router_given: link one.
//
//   logit[e] = s sum_c R[e, c] w[c] x[c]        s = (mean x^2 + EPS)^-1/2
//
// Shapes  constants [w [COLS] | R [EXPERTS, COLS] | bias [EXPERTS]]
//         chosen [ids [TOP] | from 64: bits of weights [TOP] | from 128: bits of logits [EXPERTS]] u32, written by one workgroup
// Links   activation, a sum, and what expert_swiglu binds
const EXPERTS = 8u;
const SCALE = 2.446;
const NORM = 1u;
const BIAS = 1u + EXPERTS; // in rows of COLS
@group(5) @binding(0) var<storage, read_write> chosen: array<u32>;
var<workgroup> logits: array<f32, EXPERTS>;
var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> biased: array<f32, EXPERTS>;
var<workgroup> ranked: array<u32, EXPERTS>; // best first

// Column four i of the router's row e: the last four experts may be fewer, the rows past them are of no use.
fn router(e: u32, i: u32, h: vec4f) -> f32 {
  return dot(h, constants[(1u + e) * (COLS / 4u) + i]);
}

fn choose(slot: u32, speaks: bool, lane: Lane) -> u32 {
  var squares = 0.0;
  for (var i = lane.index; i < COLS / 4u; i += SUM_LANES) {
    squares += dot(x[i], x[i]);
  }
  let scale = inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(COLS) + EPS);
  for (var e = 0u; e < EXPERTS; e += 4u) {
    var acc = vec4f();
    for (var i = lane.index; i < COLS / 4u; i += SUM_LANES) {
      let h = normed(i);
      acc += vec4f(router(e, i, h), router(e + 1u, i, h), router(e + 2u, i, h), router(e + 3u, i, h));
    }
    let total = scale * workgroup_sum(acc, lane);
    for (var at = e + lane.index; at < min(e + 4u, EXPERTS); at += SUM_LANES) {
      logits[at] = total[at - e];
      scores[at] = sigmoid(total[at - e]);
      biased[at] = scores[at] + constants[BIAS * (COLS / 4u) + at / 4u][at % 4u];
    }
  }
  workgroupBarrier();
  for (var e = lane.index; e < EXPERTS; e += SUM_LANES) {
    var rank = 0u;
    for (var other = 0u; other < EXPERTS; other++) {
      rank += u32(biased[other] > biased[e] || (biased[other] == biased[e] && other < e));
    }
    ranked[rank] = e;
  }
  workgroupBarrier();
  if (speaks && FIRST == 0u) {
    var sum = 0.0;
    for (var i = 0u; i < TOP; i++) {
      sum += scores[ranked[i]];
    }
    for (var i = lane.index; i < EXPERTS; i += SUM_LANES) {
      chosen[128u + i] = bitcast<u32>(logits[i]);
      if (i < TOP) {
        chosen[i] = ranked[i];
        chosen[64u + i] = bitcast<u32>(SCALE * scores[ranked[i]] / select(1.0, sum + 1e-20, NORM == 1u));
      }
    }
  }
  return workgroupUniformLoad(&ranked[slot]);
}

// router_early: every workgroup of moe_layer chooses the experts by itself; their router is asked for before the residual row is there.
//
//   logit = s R normed      score = sigmoid(logit)      ranked: by score + bias, highest first, of equals the lower id
//   weight = SCALE score / sum of the chosen scores (where NORM is 1)
//
// Shapes  constants [w [D] | R [EXPERTS, D] | bias [EXPERTS]]
//         chosen [ids [TOP] | from 64: bits of weights [TOP] | from 128: bits of logits [EXPERTS]] u32
// Links   activation, residual, a sum
// EXPERTS is SUM_LANES / 4 at most, TOP 64.
const EXPERTS = 8u;
const TOP = 4u;
const SCALE = 2.446;
const NORM = 1u;
const ROUTER_SHARERS = min(16u, SUM_LANES / EXPERTS / 4u * 4u); // lanes that share a row of R
const PADDED = (EXPERTS + 3u) / 4u * 4u;
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> chosen: array<u32>;
var<workgroup> logit_parts: array<f32, SUM_LANES>;
var<workgroup> logits: array<f32, EXPERTS>;
var<workgroup> biased: array<f32, PADDED>;
var<workgroup> taken: array<f32, PADDED>; // scores of the chosen, 0 of the others
var<workgroup> ranked: array<u32, EXPERTS>; // best first

// As much of a lane's share of its expert's row as registers hold, and the bias of expert `lane.index`.
struct Asked {
  near: mat4x4f,
  far: mat4x4f,
  farthest: mat4x4f,
  bias: f32,
}
fn ask_router(lane: Lane) -> Asked {
  let i = lane.index % ROUTER_SHARERS;
  let e = min(lane.index, EXPERTS - 1u);
  return Asked(
    router_fours(i, lane),
    router_fours(i + 4u * ROUTER_SHARERS, lane),
    router_fours(i + 8u * ROUTER_SHARERS, lane),
    constants[(1u + EXPERTS) * (D / 4u) + e / 4u][e % 4u],
  );
}

// Bits of all of it.
fn bits_of_router(asked: Asked) -> u32 {
  let near = bitcast<vec4u>(vec4f(asked.near[0].x, asked.near[1].x, asked.near[2].x, asked.near[3].x));
  let far = bitcast<vec4u>(vec4f(asked.far[0].x, asked.far[1].x, asked.far[2].x, asked.far[3].x));
  let last = bitcast<vec4u>(vec4f(asked.farthest[0].x, asked.farthest[1].x, asked.farthest[2].x, asked.farthest[3].x));
  let all = near | far | last;
  return (all.x | all.y) | (all.z | all.w) | bitcast<u32>(asked.bias);
}

// Fours i of the lane's row and three more, ROUTER_SHARERS apart, and their product with the normed row.
fn router_fours(i: u32, lane: Lane) -> mat4x4f {
  let row = (1u + min(lane.index / ROUTER_SHARERS, EXPERTS - 1u)) * (D / 4u);
  let i1 = min(i + ROUTER_SHARERS, D / 4u - 1u);
  let i2 = min(i + 2u * ROUTER_SHARERS, D / 4u - 1u);
  let i3 = min(i + 3u * ROUTER_SHARERS, D / 4u - 1u);
  return mat4x4f(constants[row + min(i, D / 4u - 1u)], constants[row + i1], constants[row + i2], constants[row + i3]);
}
fn normed_or_nothing(i: u32) -> vec4f {
  return select(0.0, 1.0, i < D / 4u) * normed[min(i, D / 4u - 1u)];
}
fn times_normed(row: mat4x4f, i: u32) -> f32 {
  let near = dot(row[0], normed_or_nothing(i)) + dot(row[1], normed_or_nothing(i + ROUTER_SHARERS));
  return near + dot(row[2], normed_or_nothing(i + 2u * ROUTER_SHARERS)) + dot(row[3], normed_or_nothing(i + 3u * ROUTER_SHARERS));
}

// The expert of a slot; scale is what take_residual gave.
fn choose(slot: u32, asked: Asked, scale: f32, lane: Lane) -> u32 {
  let share = lane.index % ROUTER_SHARERS;
  var part = times_normed(asked.near, share) + times_normed(asked.far, share + 4u * ROUTER_SHARERS);
  part += times_normed(asked.farthest, share + 8u * ROUTER_SHARERS);
  if (12u * ROUTER_SHARERS < D / 4u) {
    for (var i = share + 12u * ROUTER_SHARERS; i < D / 4u; i += 4u * ROUTER_SHARERS) {
      part += times_normed(router_fours(i, lane), i);
    }
  }
  logit_parts[lane.index] = scale * part;
  workgroupBarrier();
  let e = lane.index;
  var score = 0.0;
  if (e < EXPERTS) {
    var logit = 0.0;
    for (var i = e * ROUTER_SHARERS; i < (e + 1u) * ROUTER_SHARERS; i += 4u) {
      logit += (logit_parts[i] + logit_parts[i + 1u]) + (logit_parts[i + 2u] + logit_parts[i + 3u]);
    }
    score = sigmoid(logit);
    logits[e] = logit;
    biased[e] = score + asked.bias;
  } else if (e < PADDED) {
    biased[e] = -3.4e38;
    taken[e] = 0.0;
  }
  workgroupBarrier();
  if (e < EXPERTS) {
    let own = vec4f(biased[e]);
    var rank = 0u;
    for (var i = 0u; i < EXPERTS; i += 4u) {
      let others = vec4f(biased[i], biased[i + 1u], biased[i + 2u], biased[i + 3u]);
      let lower = vec4u(i, i + 1u, i + 2u, i + 3u) < vec4u(e);
      rank += dot(select(vec4u(), vec4u(1u), (others > own) | ((others == own) & lower)), vec4u(1u));
    }
    ranked[rank] = e;
    taken[e] = select(0.0, score, rank < TOP);
  }
  return workgroupUniformLoad(&ranked[slot]);
}

// After choose: how much a chosen expert counts.
fn weight_of(expert: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < EXPERTS; i += 4u) {
    sum += (taken[i] + taken[i + 1u]) + (taken[i + 2u] + taken[i + 3u]);
  }
  return SCALE * taken[expert] / select(1.0, sum + 1e-20, NORM == 1u);
}

// After choose, by one workgroup.
fn tell_choice(lane: Lane) {
  for (var i = lane.index; i < EXPERTS; i += SUM_LANES) {
    chosen[128u + i] = bitcast<u32>(logits[i]);
    if (i < TOP) {
      chosen[i] = ranked[i];
      chosen[64u + i] = bitcast<u32>(weight_of(ranked[i]));
    }
  }
}

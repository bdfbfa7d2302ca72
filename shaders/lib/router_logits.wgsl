// router_logits: the router's logits are there, and every workgroup of expert_swiglu chooses among them by itself, as route does:
// that takes less than one more call before this one. Same function as router_own and router_given: link one.
//
//   score = sigmoid(logit)      best first by score + bias, of equals the lower id      weight = SCALE score / sum of the chosen scores
//
// Shapes  constants [w [COLS] | bias [EXPERTS]]
//         chosen [ids [TOP] | from 64: bits of weights [TOP] | from 128: bits of logits [EXPERTS]] u32: ids and weights by one workgroup
// Links   activation, a sum with SUM_LANES lanes, and what expert_swiglu binds
// Groups of eight experts at most have a leader each. The last of the TOP best leaders is a bar: no expert that comes after it
// can be chosen, and few come before it. Those are listed, in any order, and each counts how many come before it.
const EXPERTS = 256u;
const SCALE = 2.446;
const NORM = 1u;
const GROUPS = (max(max(32u, TOP), (EXPERTS + 7u) / 8u) + 3u) / 4u * 4u; // expert e is in group e % GROUPS
@group(5) @binding(0) var<storage, read_write> chosen: array<u32>;
var<workgroup> biased: array<f32, 8u * GROUPS>; // past the last expert what nothing comes after
var<workgroup> leaders: array<u32, GROUPS>;
var<workgroup> led: array<f32, GROUPS>; // their scores
var<workgroup> bar: u32;
var<workgroup> listed: array<u32, 8u * GROUPS>;
var<workgroup> listed_count: atomic<u32>;
var<workgroup> ranked: array<u32, TOP>; // best first
var<workgroup> taken: array<f32, TOP>; // their scores without the bias

fn router_score(e: u32) -> f32 {
  return sigmoid(bitcast<f32>(chosen[128u + e]));
}
fn biased_score(e: u32) -> f32 {
  let there = min(e, EXPERTS - 1u);
  return select(-3.4e38, router_score(there) + constants[(COLS + there) / 4u][(COLS + there) % 4u], e < EXPERTS);
}
// Of a group's first or last four experts.
fn biased_scores(first: u32) -> vec4f {
  return vec4f(biased_score(first), biased_score(first + GROUPS), biased_score(first + 2u * GROUPS), biased_score(first + 3u * GROUPS));
}
fn kept_scores(first: u32) -> vec4f {
  return vec4f(biased[first], biased[first + GROUPS], biased[first + 2u * GROUPS], biased[first + 3u * GROUPS]);
}
fn keep_scores(first: u32, scores: vec4f) {
  biased[first] = scores.x;
  biased[first + GROUPS] = scores.y;
  biased[first + 2u * GROUPS] = scores.z;
  biased[first + 3u * GROUPS] = scores.w;
}
// One bit for each of eight: bit j is the group's expert j.
fn bits(first: vec4<bool>, last: vec4<bool>) -> u32 {
  return dot(select(vec4u(), vec4u(1u, 2u, 4u, 8u), first) + select(vec4u(), vec4u(16u, 32u, 64u, 128u), last), vec4u(1u));
}
// 1 if leader i comes before one of this score and id.
fn leads(i: u32, score: f32, id: u32) -> u32 {
  return u32((led[i] > score) | ((led[i] == score) & (leaders[i] < id)));
}
// 1 if the listed one i comes before one of this score and id.
fn before(i: u32, count: u32, score: f32, id: u32) -> u32 {
  let other = listed[min(i, count - 1u)];
  return u32((i < count) & ((biased[other] > score) | ((biased[other] == score) & (other < id))));
}

fn choose(slot: u32, speaks: bool, lane: Lane) -> u32 {
  for (var g = lane.index; g < GROUPS; g += SUM_LANES) {
    let first = biased_scores(g);
    let last = biased_scores(g + 4u * GROUPS);
    keep_scores(g, first);
    keep_scores(g + 4u * GROUPS, last);
    let most = max(first, last);
    let best = max(max(most.x, most.y), max(most.z, most.w));
    led[g] = best;
    leaders[g] = g + GROUPS * firstTrailingBit(bits(first == vec4f(best), last == vec4f(best)));
  }
  if (lane.index == 0u) {
    atomicStore(&listed_count, 0u);
  }
  workgroupBarrier();
  for (var g = lane.index; g < GROUPS; g += SUM_LANES) {
    let score = led[g];
    let id = leaders[g];
    var rank = 0u;
    for (var i = 0u; i < GROUPS; i += 4u) { // four at a time: none waits for another
      rank += (leads(i, score, id) + leads(i + 1u, score, id)) + (leads(i + 2u, score, id) + leads(i + 3u, score, id));
    }
    if (rank == TOP - 1u) {
      bar = id;
    }
  }
  workgroupBarrier();
  let bar_score = vec4f(biased[bar]);
  for (var g = lane.index; g < GROUPS; g += SUM_LANES) {
    let ids = vec4u(g, g + GROUPS, g + 2u * GROUPS, g + 3u * GROUPS);
    let first = kept_scores(g);
    let last = kept_scores(g + 4u * GROUPS);
    let first_in = (first > bar_score) | ((first == bar_score) & (ids <= vec4u(bar)));
    let last_in = (last > bar_score) | ((last == bar_score) & (ids + 4u * GROUPS <= vec4u(bar)));
    var candidates = bits(first_in, last_in);
    var at = 0u;
    if (candidates != 0u) {
      at = atomicAdd(&listed_count, countOneBits(candidates));
    }
    while (candidates != 0u) {
      listed[at] = g + GROUPS * firstTrailingBit(candidates);
      candidates &= candidates - 1u;
      at++;
    }
  }
  workgroupBarrier();
  let count = atomicLoad(&listed_count);
  for (var k = lane.index; k < count; k += SUM_LANES) {
    let id = listed[k];
    let score = biased[id];
    var rank = 0u;
    for (var i = 0u; i < count; i += 4u) {
      rank += before(i, count, score, id) + before(i + 1u, count, score, id);
      rank += before(i + 2u, count, score, id) + before(i + 3u, count, score, id);
    }
    if (rank < TOP) {
      ranked[rank] = id;
    }
  }
  workgroupBarrier();
  if (speaks && FIRST == 0u) {
    for (var i = lane.index; i < TOP; i += SUM_LANES) {
      taken[i] = router_score(ranked[i]);
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < TOP; i++) {
      sum += taken[i];
    }
    for (var i = lane.index; i < TOP; i += SUM_LANES) {
      chosen[i] = ranked[i];
      chosen[64u + i] = bitcast<u32>(SCALE * taken[i] / select(1.0, sum + 1e-20, NORM == 1u));
    }
  }
  return workgroupUniformLoad(&ranked[slot]);
}

// top_logits: what the sampler needs of one row of logits: per slice of the vocabulary its best BEST and its softmax sums.
//
//   penalised = logit / factor if logit > 0, else logit * factor, where the token stood among the last `window` positions
//   kept      the BEST largest penalised logits of the slice, the lower id first among equals
//
// Shapes  logits [VOCABULARY]   seen [VOCABULARY] u32: position + 1 at which each token last stood, 0 = never
//         slices [SLICES, HEADER + 3 BEST] u32: bits of top, bits of sum_i e^(logit - top), bits of sum_i e^(penalised - best),
//         count of NaN and infinity; then (id, bits of penalised, bits of logit) per kept logit, best first, whose first is `best`.
//         Bad numbers are counted and left out; a slice with fewer logits fills up with id 2^32 - 1
// Grid    (SLICES): each reads its part of the vocabulary into workgroup memory
// Links   sum_{tree,subgroup}, step
// Oracle  the definition
// What is kept: at least BEST logits reach the BEST-th largest of the lanes' own best ones, and few others do (link more lanes
// than BEST); each of those counts how many come before it. Nothing is sorted, and no order of lanes matters.
const VOCABULARY = 163840u;
const SLICES = 64u; // VOCABULARY / SLICES is at most 3072, with at most 128 lanes: 16 KiB of workgroup memory
const BEST = 64u;
const HEADER = 4u;
const PER_SLICE = (VOCABULARY + SLICES - 1u) / SLICES;
const FOURS = (PER_SLICE + 3u) / 4u;
const LOWEST = -3.4e38;
struct Penalty {
  factor: f32, // 1 = none
  window: u32, // positions
}
@group(0) @binding(0) var<uniform> penalty: Penalty;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> seen: array<u32>;
@group(0) @binding(3) var<storage, read_write> slices: array<u32>;
var<workgroup> values: array<vec4f, FOURS>; // penalised; LOWEST where there is none
var<workgroup> lane_best: array<vec2f, SUM_LANES>; // of a lane's own: penalised, and not
var<workgroup> floor: f32;

fn penalised(id: u32, logit: f32) -> f32 {
  let since = step.position + step.tokens - seen[id]; // 0 for the last position; huge for a token of a forsaken future
  if (seen[id] == 0u || since >= penalty.window) {
    return logit;
  }
  return select(logit * penalty.factor, logit / penalty.factor, logit > 0.0);
}

@compute @workgroup_size(SUM_LANES)
fn top_logits(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let start = group.x * PER_SLICE;
  let end = min(start + PER_SLICE, VOCABULARY);
  var own = vec2f(LOWEST);
  var bad = 0u;
  for (var i = lane.index; i < FOURS; i += SUM_LANES) {
    var four = vec4f(LOWEST);
    for (var j = 0u; j < 4u; j++) {
      let id = start + 4u * i + j;
      if (id < end) {
        let logit = logits[id];
        if ((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u) { // a comparison would pass over a NaN
          bad++;
        } else {
          four[j] = penalised(id, logit);
          own = max(own, vec2f(four[j], logit));
        }
      }
    }
    values[i] = four;
  }
  lane_best[lane.index] = own;
  if (lane.index == 0u) {
    floor = LOWEST; // stays where there are fewer lanes than BEST
  }
  workgroupBarrier();

  var top = vec2f(LOWEST);
  var before = 0u;
  for (var other = 0u; other < SUM_LANES; other++) {
    let theirs = lane_best[other];
    top = max(top, theirs);
    before += u32(theirs.x > own.x || (theirs.x == own.x && other < lane.index));
  }
  if (before == BEST - 1u) {
    floor = own.x;
  }
  workgroupBarrier();

  let out = group.x * (HEADER + 3u * BEST);
  var sums = vec4f(0.0, 0.0, f32(bad), 0.0);
  for (var i = lane.index; i < FOURS; i += SUM_LANES) {
    for (var j = 0u; j < 4u; j++) {
      let value = values[i][j];
      if (value > LOWEST) {
        let local = 4u * i + j;
        let logit = logits[start + local];
        sums += vec4f(exp(logit - top.y), exp(value - top.x), 0.0, 0.0);
        if (value >= floor) {
          let rank = count_before(value, local);
          if (rank < BEST) {
            let at = out + HEADER + 3u * rank;
            slices[at] = start + local;
            slices[at + 1u] = bitcast<u32>(value);
            slices[at + 2u] = bitcast<u32>(logit);
          }
        }
      }
    }
  }
  let total = workgroup_sum(sums, lane);
  let found = max(end, start) - start - u32(total.z); // exact: far below 2^24
  for (var i = found + lane.index; i < BEST; i += SUM_LANES) {
    let at = out + HEADER + 3u * i;
    slices[at] = 0xffffffffu;
    slices[at + 1u] = bitcast<u32>(LOWEST);
    slices[at + 2u] = bitcast<u32>(LOWEST);
  }
  if (lane.index == 0u) {
    slices[out] = bitcast<u32>(top.y);
    slices[out + 1u] = bitcast<u32>(total.x);
    slices[out + 2u] = bitcast<u32>(total.y);
    slices[out + 3u] = u32(total.z);
  }
}

// How many values of the slice are larger, or as large with a lower id.
fn count_before(value: f32, local: u32) -> u32 {
  var counts = vec4u();
  for (var i = 0u; i < FOURS; i++) {
    let others = values[i];
    let lower = 4u * i + vec4u(0u, 1u, 2u, 3u) < vec4u(local);
    counts += select(vec4u(0u), vec4u(1u), (others > vec4f(value)) | ((others == vec4f(value)) & lower));
  }
  return counts.x + counts.y + counts.z + counts.w;
}

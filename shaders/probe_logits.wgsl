// probe_logits: of every row of logits its best few, and what the entropy is made of, by slices of the vocabulary.
//
//   top = max l      sum = sum_i e^(l_i - top)      weighted = sum_i e^(l_i - top) (l_i - top)
//   entropy of a row = ln Z - sum_i p_i l_i, from the slices' numbers brought to one top
//
// Shapes  logits [T, VOCABULARY]   records [RING, ROW] u32, the row of position p at p % RING; of it, from FIRST,
//         [SLICES, 4 + 2 BEST]: bits of top, sum and weighted, 0; then (id, bits of its logit), best first, the lower id
//         first among equals; a slice with fewer logits fills up with id 2^32 - 1
// Grid    (SLICES, T)
// Links   best, step
// Oracle  the definition
const VOCABULARY = 163840u;
const SLICES = 64u;
const BEST = 5u;
const RING = 256u;
const ROW = 15616u;
const FIRST = 14720u;
const PER_SLICE = (VOCABULARY + SLICES - 1u) / SLICES;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> records: array<u32>;
var<workgroup> sums: array<vec2f, BEST_LANES>;

@compute @workgroup_size(BEST_LANES)
fn probe_logits(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * VOCABULARY;
  let start = group.x * PER_SLICE;
  let end = min(start + PER_SLICE, VOCABULARY);
  let out = (step.position + group.y) % RING * ROW + FIRST + group.x * (4u + 2u * BEST);
  var last = NONE; // the best of the round before
  var top = 0.0;
  for (var n = 0u; n < BEST; n++) {
    var own = NONE;
    for (var i = start + lane; i < end; i += BEST_LANES) {
      let l = logits[row + i];
      let after = l < bitcast<f32>(last.y) || (l == bitcast<f32>(last.y) && i > last.x);
      if (n == 0u || after) {
        own = better(own, candidate(i, l));
      }
    }
    last = workgroup_best(own, lane);
    workgroupBarrier(); // all lanes know it before the next round
    if (n == 0u) {
      top = bitcast<f32>(last.y);
    }
    if (lane == 0u) {
      records[out + 4u + 2u * n] = last.x;
      records[out + 5u + 2u * n] = last.y;
    }
  }
  var own = vec2f();
  for (var i = start + lane; i < end; i += BEST_LANES) {
    let below = logits[row + i] - top;
    own += exp(below) * vec2f(1.0, below);
  }
  sums[lane] = own;
  for (var half = BEST_LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      sums[lane] += sums[lane + half];
    }
  }
  if (lane == 0u) {
    records[out] = bitcast<u32>(top);
    records[out + 1u] = bitcast<u32>(sums[0].x);
    records[out + 2u] = bitcast<u32>(sums[0].y);
    records[out + 3u] = 0u;
  }
}

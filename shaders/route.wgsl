// route: choose each token's experts. Selection looks at biased scores, the weights at unbiased ones.
//
//   s = sigmoid(logit)      rank[e] = how many experts come before e by s + bias, the lower index first among equals
//   ids[rank] = e           weights[rank] = SCALE s[e] / sum of the chosen s      where rank < TOP
//
// Shapes  logits [T, EXPERTS]   bias [EXPERTS]   ids [T, TOP] u32, best first   weights [T, TOP]
// Grid    (T): one workgroup per token; ranks are counted, so nothing is sorted and no order of lanes matters
// Links   activation
// Oracle  test/reference/moe.ts route
// NORM = 0 leaves out the division by the sum. 1e-20 keeps scores that all underflow from giving 0/0.
const EXPERTS = 256u;
const TOP = 8u;
const SCALE = 2.446;
const NORM = 1u;
const LANES = max(32u, min(256u, EXPERTS)); // at least TOP
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
const ROOM = (EXPERTS + 3u) / 4u * 4u; // filled up with scores that nothing is below
var<workgroup> biased: array<f32, ROOM>;
var<workgroup> chosen: array<f32, TOP>;
// 1 if an expert comes before e, whose score is `own`.
fn before(other: u32, e: u32, own: f32) -> u32 {
  let score = biased[other];
  return u32(score > own || (score == own && other < e));
}

@compute @workgroup_size(LANES)
fn route(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var e = lane; e < ROOM; e += LANES) {
    biased[e] = -3.4e38;
    if (e < EXPERTS) {
      biased[e] = sigmoid(logits[group.x * EXPERTS + e]) + bias[e];
    }
  }
  workgroupBarrier();
  for (var e = lane; e < EXPERTS; e += LANES) {
    let own = biased[e];
    var rank = 0u;
    for (var other = 0u; other < EXPERTS; other += 4u) { // four at a time: none waits for another
      rank += before(other, e, own) + before(other + 1u, e, own) + before(other + 2u, e, own) + before(other + 3u, e, own);
    }
    if (rank < TOP) {
      chosen[rank] = sigmoid(logits[group.x * EXPERTS + e]);
      ids[group.x * TOP + rank] = e;
    }
  }
  workgroupBarrier();
  if (lane < TOP) {
    var total = 0.0;
    for (var i = 0u; i < TOP; i++) {
      total += chosen[i];
    }
    weights[group.x * TOP + lane] = SCALE * chosen[lane] / select(1.0, total + 1e-20, NORM == 1u);
  }
}

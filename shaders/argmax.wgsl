// argmax: the best logit of each slice of the vocabulary, and how many logits are no numbers.
//
//   slices[t, s] = (id, bits of its logit, count of NaN and infinity, bits of sum_i e^(logit_i - its logit))        the lowest id among equals
//
// Shapes  logits [T, VOCABULARY]   slices [T, SLICES] vec4u; a slice without a finite logit has id 2^32 - 1
// Grid    (SLICES, T): lanes stride over the slice, then halve
// Links   best
// Oracle  test/reference/compare.ts argmax
const VOCABULARY = 163840u;
const SLICES = 64u;
const PER_SLICE = (VOCABULARY + SLICES - 1u) / SLICES;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> slices: array<vec4u>;
@compute @workgroup_size(BEST_LANES)
fn argmax(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * PER_SLICE;
  let end = min(start + PER_SLICE, VOCABULARY);
  var own = NONE;
  for (var i = start + lane; i < end; i += BEST_LANES) {
    own = better(own, candidate(i, logits[group.y * VOCABULARY + i]));
  }
  let won = workgroup_best(own, lane);
  if (lane == 0u) {
    slices[group.y * SLICES + group.x] = won;
  }
}

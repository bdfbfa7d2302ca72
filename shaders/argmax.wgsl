// argmax: the best logit of each slice of the vocabulary, and how many logits are no numbers.
//
//   slices[t, s] = (id, bits of its logit, count of NaN and infinity, bits of sum_i e^(logit_i - its logit))        the lowest id among equals
//
// Shapes  logits [T, VOCABULARY]   slices [T, SLICES] vec4u; a slice without a finite logit has id 2^32 - 1
// Grid    (SLICES, T): lanes stride over the slice, then halve
// Links   best
// Oracle  test/reference/compare.ts argmax
// A lane takes sixteen logits at a time, all on their way at once: their best first, then their sum, without a chain of candidates.
const VOCABULARY = 163840u;
const SLICES = 64u;
const PER_SLICE = (VOCABULARY + SLICES - 1u) / SLICES;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> slices: array<vec4u>;

// Four ids of a lane.
fn ids_from(i: u32) -> vec4u {
  return i + BEST_LANES * vec4u(0u, 1u, 2u, 3u);
}
fn logits_of(token: u32, ids: vec4u) -> vec4f {
  let at = token * VOCABULARY + min(ids, vec4u(VOCABULARY - 1u));
  return vec4f(logits[at.x], logits[at.y], logits[at.z], logits[at.w]);
}
fn is_bad(l: vec4f) -> vec4<bool> {
  return (bitcast<vec4u>(l) & vec4u(0x7f800000u)) == vec4u(0x7f800000u);
}
fn highest(l: vec4f) -> f32 {
  return max(max(l.x, l.y), max(l.z, l.w));
}
// Of those that equal the best, the lowest id, and a logit's bits where it has that id.
fn lowest_id(l: vec4f, ids: vec4u, counts: vec4<bool>, top: f32) -> u32 {
  let m = select(vec4u(0xffffffffu), ids, counts & (l == vec4f(top)));
  return min(min(m.x, m.y), min(m.z, m.w));
}
fn bits_at(l: vec4f, ids: vec4u, id: u32) -> u32 {
  let m = select(vec4u(), bitcast<vec4u>(l), ids == vec4u(id));
  return (m.x | m.y) | (m.z | m.w);
}
fn exponentials(l: vec4f, counts: vec4<bool>, top: f32) -> f32 {
  return dot(select(vec4f(), exp(l - top), counts), vec4f(1.0));
}

@compute @workgroup_size(BEST_LANES)
fn argmax(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * PER_SLICE;
  let end = min(start + PER_SLICE, VOCABULARY);
  var own = NONE;
  for (var i = start + lane; i < end; i += 16u * BEST_LANES) {
    let i0 = ids_from(i);
    let i1 = ids_from(i + 4u * BEST_LANES);
    let i2 = ids_from(i + 8u * BEST_LANES);
    let i3 = ids_from(i + 12u * BEST_LANES);
    let r0 = logits_of(group.y, i0);
    let r1 = logits_of(group.y, i1);
    let r2 = logits_of(group.y, i2);
    let r3 = logits_of(group.y, i3);
    let bad0 = is_bad(r0) & (i0 < vec4u(end));
    let bad1 = is_bad(r1) & (i1 < vec4u(end));
    let bad2 = is_bad(r2) & (i2 < vec4u(end));
    let bad3 = is_bad(r3) & (i3 < vec4u(end));
    let counts0 = !is_bad(r0) & (i0 < vec4u(end));
    let counts1 = !is_bad(r1) & (i1 < vec4u(end));
    let counts2 = !is_bad(r2) & (i2 < vec4u(end));
    let counts3 = !is_bad(r3) & (i3 < vec4u(end));
    let lowest = vec4f(bitcast<f32>(NONE.y));
    let l0 = select(lowest, r0, counts0);
    let l1 = select(lowest, r1, counts1);
    let l2 = select(lowest, r2, counts2);
    let l3 = select(lowest, r3, counts3);
    let top = highest(max(max(l0, l1), max(l2, l3)));
    let id = min(
      min(lowest_id(l0, i0, counts0, top), lowest_id(l1, i1, counts1, top)),
      min(lowest_id(l2, i2, counts2, top), lowest_id(l3, i3, counts3, top)),
    );
    let bits = (bits_at(l0, i0, id) | bits_at(l1, i1, id)) | (bits_at(l2, i2, id) | bits_at(l3, i3, id));
    let bad = (select(vec4u(), vec4u(1u), bad0) + select(vec4u(), vec4u(1u), bad1))
      + (select(vec4u(), vec4u(1u), bad2) + select(vec4u(), vec4u(1u), bad3));
    let sum = (exponentials(l0, counts0, top) + exponentials(l1, counts1, top))
      + (exponentials(l2, counts2, top) + exponentials(l3, counts3, top));
    let found = vec4u(id, select(bits, NONE.y, id == NONE.x), dot(bad, vec4u(1u)), bitcast<u32>(sum));
    own = better(own, found);
  }
  let won = workgroup_best(own, lane);
  if (lane == 0u) {
    slices[group.y * SLICES + group.x] = won;
  }
}

// noise: words that do not compress, within masks: one for the first `split` words of every `period`, one for the others.
//
//   words[first + i] = hash(seed, i) & keep | bits        i < count
//
// Shapes  fill (seed, first, count, period, split, keep, bits, keep and bits of the others)   words u32
// Grid    as many workgroups as one likes: each takes every n-th 256 words
struct Fill {
  seed: u32,
  first: u32,
  count: u32,
  period: u32,
  split: u32,
  keep: u32,
  bits: u32,
  other_keep: u32,
  other_bits: u32,
}
@group(0) @binding(0) var<storage, read> fill: Fill;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
fn hash(x: u32) -> u32 {
  var h = (x ^ (x >> 16u)) * 0x7feb352du;
  h = (h ^ (h >> 15u)) * 0x846ca68bu;
  return h ^ (h >> 16u);
}
@compute @workgroup_size(256)
fn noise(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < fill.count; i += 256u * groups.x) {
    let in_split = i % fill.period < fill.split;
    let keep = select(fill.other_keep, fill.keep, in_split);
    words[fill.first + i] = (hash(hash(fill.seed) + i) & keep) | select(fill.other_bits, fill.bits, in_split);
  }
}

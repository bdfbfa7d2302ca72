// noise: words that do not compress, within masks.
//
//   words[i] = hash(seed, i) & keep | set        first <= i < first + count
//
// Shapes  fill (seed, first, count, keep, set)   words u32
// Grid    as many workgroups as one likes: each takes every n-th 256 words
@group(0) @binding(0) var<storage, read> fill: array<u32, 5>;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
fn hash(x: u32) -> u32 {
  var h = (x ^ (x >> 16u)) * 0x7feb352du;
  h = (h ^ (h >> 15u)) * 0x846ca68bu;
  return h ^ (h >> 16u);
}
@compute @workgroup_size(256)
fn noise(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < fill[2]; i += 256u * groups.x) {
    words[fill[1] + i] = (hash(hash(fill[0]) + i) & fill[3]) | fill[4];
  }
}

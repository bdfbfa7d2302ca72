// slices: what the slices of the latent cache said to one head of one token, joined by log-sum-exp. Same function as attend_whole:
// link one.
//
//   m = max_s top[s]      context = sum_s e^(top[s] - m) part[s] / sum_s e^(top[s] - m) sum[s]
//
// Shapes  stats [HEADS, SLICES] of (top, sum)   parts [HEADS, SLICES, LATENT]   context [LATENT] in workgroup memory
// Links   a sum with SUM_LANES lanes; the kernel's LATENT
// A slice with sum 0 saw nothing, and its part does not count. Up to four lanes share a column four, each with a top of its
// own: so no lane waits for the top of all before it reads, and statistics and parts of eight slices are on their way at once.
const SLICES = 32u;
const LOWEST = -3.4e38;
const COLUMN_FOURS = LATENT / 4u;
const JOINERS = clamp(SUM_LANES / COLUMN_FOURS, 1u, min(4u, (SLICES + 7u) / 8u));
@group(5) @binding(0) var<storage, read> stats: array<vec2f>;
@group(5) @binding(1) var<storage, read> parts: array<vec4f>;
var<workgroup> joined: array<vec4f, JOINERS * COLUMN_FOURS>;
var<workgroup> joined_stats: array<vec2f, JOINERS>;
var<workgroup> context: array<vec4f, COLUMN_FOURS>;

// Four i of the parts of slices s, s + JOINERS ..; past the last slice it is repeated, and stats_of hides it.
fn parts_of(head: u32, s: u32, i: u32) -> mat4x4f {
  let at = (head * SLICES + min(s + JOINERS * vec4u(0u, 1u, 2u, 3u), vec4u(SLICES - 1u))) * COLUMN_FOURS + i;
  return mat4x4f(parts[at.x], parts[at.y], parts[at.z], parts[at.w]);
}
// Their tops and sums.
fn stats_of(head: u32, s: u32) -> mat2x4f {
  let own = s + JOINERS * vec4u(0u, 1u, 2u, 3u);
  let at = head * SLICES + min(own, vec4u(SLICES - 1u));
  let said = transpose(mat4x2f(stats[at.x], stats[at.y], stats[at.z], stats[at.w]));
  let there = own < vec4u(SLICES);
  return mat2x4f(select(vec4f(LOWEST), said[0], there), select(vec4f(), said[1], there));
}
fn highest(tops: vec4f) -> f32 {
  return max(max(tops.x, tops.y), max(tops.z, tops.w));
}
// Not times 0: what was never written may be anything.
fn weigh(part: mat4x4f, weights: vec4f, sums: vec4f) -> vec4f {
  return (select(vec4f(), weights.x * part[0], sums.x != 0.0) + select(vec4f(), weights.y * part[1], sums.y != 0.0))
    + (select(vec4f(), weights.z * part[2], sums.z != 0.0) + select(vec4f(), weights.w * part[3], sums.w != 0.0));
}

// What one of the JOINERS left of four i.
fn joined_part(joiner: u32, i: u32) -> vec4f {
  return joined[min(joiner, JOINERS - 1u) * COLUMN_FOURS + i];
}
fn joined_stat(joiner: u32) -> vec2f {
  return select(vec2f(LOWEST, 0.0), joined_stats[min(joiner, JOINERS - 1u)], joiner < JOINERS);
}

// By all lanes; a barrier too: context is there.
fn take_context(head: u32, lane: Lane) {
  for (var t = lane.index; t < JOINERS * COLUMN_FOURS; t += SUM_LANES) {
    let i = t % COLUMN_FOURS;
    let joiner = t / COLUMN_FOURS;
    var top = LOWEST;
    var sum = 0.0;
    var acc = vec4f();
    for (var s = joiner; s < SLICES; s += 8u * JOINERS) {
      let near = parts_of(head, s, i);
      let near_stats = stats_of(head, s);
      var far = mat4x4f();
      var far_stats = mat2x4f(vec4f(LOWEST), vec4f());
      if (SLICES > 4u * JOINERS) {
        far = parts_of(head, s + 4u * JOINERS, i);
        far_stats = stats_of(head, s + 4u * JOINERS);
      }
      let before = top;
      top = max(before, highest(max(near_stats[0], far_stats[0])));
      let near_weights = exp(near_stats[0] - top);
      let far_weights = exp(far_stats[0] - top);
      sum = sum * exp(before - top) + dot(near_weights, near_stats[1]) + dot(far_weights, far_stats[1]);
      acc = acc * exp(before - top) + weigh(near, near_weights, near_stats[1]) + weigh(far, far_weights, far_stats[1]);
    }
    joined[t] = acc;
    if (i == 0u) {
      joined_stats[joiner] = vec2f(top, sum);
    }
  }
  workgroupBarrier();
  let said = transpose(mat4x2f(joined_stat(0u), joined_stat(1u), joined_stat(2u), joined_stat(3u)));
  let weights = exp(said[0] - highest(said[0]));
  for (var i = lane.index; i < COLUMN_FOURS; i += SUM_LANES) {
    let all = mat4x4f(joined_part(0u, i), joined_part(1u, i), joined_part(2u, i), joined_part(3u, i));
    context[i] = weigh(all, weights, said[1]) / dot(weights, said[1]);
  }
  workgroupBarrier();
}

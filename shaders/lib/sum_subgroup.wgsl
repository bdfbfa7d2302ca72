// sum_subgroup: sum of four values at once over a workgroup with subgroupAdd. Same signature as sum_tree: link one.
// Any subgroup size. subgroup_id is read, never computed: a subgroup need not be a run of consecutive lanes.
// SUM_LANES is a power of two, or a multiple of the subgroup's size: so no lane asks one that is not there.
enable subgroups;
requires subgroup_id;
const SUM_LANES = 64u;
struct Lane {
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) rank: u32,
  @builtin(num_subgroups) subgroups: u32,
  @builtin(subgroup_size) size: u32,
}
var<workgroup> partial: array<vec4f, (SUM_LANES + 3u) / 4u>; // a subgroup has four lanes at least
fn workgroup_sum(x: vec4f, lane: Lane) -> vec4f {
  let s = subgroupAdd(x);
  if (lane.rank == 0u) {
    partial[lane.subgroup] = s;
  }
  workgroupBarrier();
  var total = vec4f();
  for (var i = 0u; i < lane.subgroups; i += 4u) { // four are on their way at once
    total += (partial_of(i, lane) + partial_of(i + 1u, lane)) + (partial_of(i + 2u, lane) + partial_of(i + 3u, lane));
  }
  workgroupBarrier(); // the next sum may overwrite partial
  return total;
}
fn partial_of(i: u32, lane: Lane) -> vec4f {
  return select(vec4f(), partial[min(i, lane.subgroups - 1u)], i < lane.subgroups);
}

// The same of one value.
fn workgroup_sum_one(x: f32, lane: Lane) -> f32 {
  let s = subgroupAdd(x);
  if (lane.rank == 0u) {
    partial[lane.subgroup].x = s;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < lane.subgroups; i += 4u) {
    total += (partial_of(i, lane).x + partial_of(i + 1u, lane).x) + (partial_of(i + 2u, lane).x + partial_of(i + 3u, lane).x);
  }
  workgroupBarrier();
  return total;
}

// The same of nine values, all on their way at once. Of four, lanes whose ranks differ in one bit first share out which half each goes
// on with: what is passed around is 2, then 1 value and not 4.
struct Sums {
  one: f32,
  first: vec4f,
  second: vec4f,
}
var<workgroup> partials: array<f32, 12u * ((SUM_LANES + 3u) / 4u)>; // of each subgroup 4, 4 and 1, apart as loads of four like it
// The subgroup's sum of the one of four values that summed_by says.
fn shared_sum(x: vec4f, lane: Lane) -> f32 {
  let last = (lane.rank & 1u) != 0u;
  let two = select(x.xy, x.zw, last) + subgroupShuffleXor(select(x.zw, x.xy, last), 1u);
  let odd = (lane.rank & 2u) != 0u;
  var sum = select(two.x, two.y, odd) + subgroupShuffleXor(select(two.y, two.x, odd), 2u);
  if (SUM_LANES > 4u) {
    sum += select(0.0, subgroupShuffleXor(sum, 4u), lane.size > 4u);
  }
  if (SUM_LANES > 8u) {
    sum += select(0.0, subgroupShuffleXor(sum, 8u), lane.size > 8u);
  }
  if (SUM_LANES > 16u) {
    sum += select(0.0, subgroupShuffleXor(sum, 16u), lane.size > 16u);
  }
  if (SUM_LANES > 32u) {
    sum += select(0.0, subgroupShuffleXor(sum, 32u), lane.size > 32u);
  }
  if (SUM_LANES > 64u) {
    sum += select(0.0, subgroupShuffleXor(sum, 64u), lane.size > 64u);
  }
  return sum;
}
// Which of four values that is: of lanes of rank 0 to 3, each another one.
fn summed_by(rank: u32) -> u32 {
  return 2u * (rank & 1u) + ((rank >> 1u) & 1u);
}
fn partials_of(i: u32, k: u32) -> vec4f {
  let at = 12u * i + k;
  return vec4f(partials[at], partials[at + 1u], partials[at + 2u], partials[at + 3u]);
}
fn workgroup_sums(one: f32, first: vec4f, second: vec4f, lane: Lane) -> Sums {
  let s = vec3f(shared_sum(first, lane), shared_sum(second, lane), subgroupAdd(one));
  if (lane.rank < 4u) {
    let at = 12u * lane.subgroup + summed_by(lane.rank);
    partials[at] = s.x;
    partials[at + 4u] = s.y;
    partials[12u * lane.subgroup + 8u + lane.rank] = s.z;
  }
  workgroupBarrier();
  var total = Sums();
  for (var i = 0u; i < lane.subgroups; i += 2u) {
    let other = min(i + 1u, lane.subgroups - 1u);
    let there = i + 1u < lane.subgroups;
    total.one += partials[12u * i + 8u] + select(0.0, partials[12u * other + 8u], there);
    total.first += partials_of(i, 0u) + select(vec4f(), partials_of(other, 0u), there);
    total.second += partials_of(i, 4u) + select(vec4f(), partials_of(other, 4u), there);
  }
  workgroupBarrier();
  return total;
}

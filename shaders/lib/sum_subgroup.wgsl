// sum_subgroup: sum of four values at once over a workgroup with subgroupAdd. Same signature as sum_tree: link one.
// Any subgroup size. subgroup_id is read, never computed: a subgroup need not be a run of consecutive lanes.
enable subgroups;
requires subgroup_id;
const SUM_LANES = 64u;
struct Lane {
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) rank: u32,
  @builtin(num_subgroups) subgroups: u32,
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

// The same of nine values, all on their way at once.
struct Sums {
  one: f32,
  first: vec4f,
  second: vec4f,
}
var<workgroup> partials: array<Sums, (SUM_LANES + 3u) / 4u>;
fn workgroup_sums(one: f32, first: vec4f, second: vec4f, lane: Lane) -> Sums {
  let s = Sums(subgroupAdd(one), subgroupAdd(first), subgroupAdd(second));
  if (lane.rank == 0u) {
    partials[lane.subgroup] = s;
  }
  workgroupBarrier();
  var total = Sums();
  for (var i = 0u; i < lane.subgroups; i += 2u) {
    let a = partials[i];
    let b = partials[min(i + 1u, lane.subgroups - 1u)];
    let there = i + 1u < lane.subgroups;
    total.one += a.one + select(0.0, b.one, there);
    total.first += a.first + select(vec4f(), b.first, there);
    total.second += a.second + select(vec4f(), b.second, there);
  }
  workgroupBarrier();
  return total;
}

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
var<workgroup> partial: array<vec4f, SUM_LANES>;
fn workgroup_sum(x: vec4f, lane: Lane) -> vec4f {
  let s = subgroupAdd(x);
  if (lane.rank == 0u) {
    partial[lane.subgroup] = s;
  }
  workgroupBarrier();
  var total = vec4f();
  for (var i = 0u; i < lane.subgroups; i++) {
    total += partial[i];
  }
  workgroupBarrier(); // the next sum may overwrite partial
  return total;
}

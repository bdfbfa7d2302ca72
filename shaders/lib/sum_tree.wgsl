// sum_tree: sum of four values at once over a workgroup, by halving in workgroup memory. Runs everywhere.
// Same signature as sum_subgroup: link one. Every invocation gets the total; control flow must be uniform.
// SUM_LANES is a power of two.
const SUM_LANES = 64u;
struct Lane {
  @builtin(local_invocation_index) index: u32,
}
var<workgroup> partial: array<vec4f, SUM_LANES>;
fn workgroup_sum(x: vec4f, lane: Lane) -> vec4f {
  partial[lane.index] = x;
  workgroupBarrier();
  for (var half = SUM_LANES / 2u; half > 0u; half /= 2u) {
    if (lane.index < half) {
      partial[lane.index] += partial[lane.index + half];
    }
    workgroupBarrier();
  }
  let total = partial[0];
  workgroupBarrier(); // the next sum may overwrite partial
  return total;
}

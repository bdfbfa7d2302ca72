// sum_tree: sum of four values at once over a workgroup, by halving in workgroup memory. Runs everywhere.
// Same signature as sum_subgroup: link one. Every invocation gets the total; control flow must be uniform.
// SUM_LANES is a power of two.
const SUM_LANES = 64u;
struct Lane {
  @builtin(local_invocation_index) index: u32,
}
const SUM_HALF = SUM_LANES / 2u;
var<workgroup> partial: array<vec4f, max(SUM_HALF, 1u)>;
fn workgroup_sum(x: vec4f, lane: Lane) -> vec4f {
  if (lane.index >= SUM_HALF) {
    partial[lane.index - SUM_HALF] = x;
  }
  workgroupBarrier();
  if (lane.index < SUM_HALF) {
    partial[lane.index] += x;
  }
  workgroupBarrier();
  for (var half = SUM_HALF / 2u; half > 0u; half /= 2u) {
    if (lane.index < half) {
      partial[lane.index] += partial[lane.index + half];
    }
    workgroupBarrier();
  }
  let total = partial[0];
  workgroupBarrier(); // the next sum may overwrite partial
  return total;
}

// The same of one value.
fn workgroup_sum_one(x: f32, lane: Lane) -> f32 {
  return workgroup_sum(vec4f(x), lane).x;
}

// The same of nine values.
struct Sums {
  one: f32,
  first: vec4f,
  second: vec4f,
}
fn workgroup_sums(one: f32, first: vec4f, second: vec4f, lane: Lane) -> Sums {
  return Sums(workgroup_sum_one(one, lane), workgroup_sum(first, lane), workgroup_sum(second, lane));
}

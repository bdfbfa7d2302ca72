// settle: the residual row as a whole, for a call that does not add up its parts itself.
//
//   rows[TO] = rows[FROM] + the parts
//
// Shapes  rows [.., D], see residual
// Grid    (1): where TO is FROM, a lane reads what it writes
// Links   residual, sum_{tree,subgroup}
// Oracle  sums in f64
fn norm_weight(i: u32) -> vec4f {
  return vec4f(1.0);
}
@compute @workgroup_size(SUM_LANES)
fn settle(lane: Lane) {
  _ = take_residual(true, 0u, lane);
}

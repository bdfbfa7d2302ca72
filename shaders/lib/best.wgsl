// best: the best logit over a workgroup of 64, and how sure it is. A candidate is (id, bits of its logit, count of bad numbers,
// bits of the sum of e^(l - its logit) over the finite logits l it stands for); NONE stands for nothing and loses to all.
// NaN and infinity are told by their exponent bits: compilers may drop x != x, and a comparison passes over a NaN.
const BEST_LANES = 64u;
const NONE = vec4u(0xffffffffu, 0xff7fffffu, 0u, 0u); // the last id, the lowest finite logit
var<workgroup> candidates: array<vec4u, BEST_LANES>;

fn candidate(id: u32, logit: f32) -> vec4u {
  let bits = bitcast<u32>(logit);
  return select(vec4u(id, bits, 0u, bitcast<u32>(1.0)), NONE + vec4u(0u, 0u, 1u, 0u), (bits & 0x7f800000u) == 0x7f800000u);
}

// The larger logit, the lower id among equals; bad numbers and sums add up.
fn better(a: vec4u, b: vec4u) -> vec4u {
  let x = bitcast<f32>(a.y);
  let y = bitcast<f32>(b.y);
  let top = max(x, y);
  let sum = bitcast<f32>(a.w) * exp(x - top) + bitcast<f32>(b.w) * exp(y - top);
  let won = select(a, b, y > x || (y == x && b.x < a.x));
  return vec4u(won.xy, a.z + b.z, bitcast<u32>(sum));
}

// Over all lanes; only lane 0 has the result. Control flow must be uniform.
fn workgroup_best(own: vec4u, lane: u32) -> vec4u {
  candidates[lane] = own;
  workgroupBarrier();
  for (var half = BEST_LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      candidates[lane] = better(candidates[lane], candidates[lane + half]);
    }
    workgroupBarrier();
  }
  return candidates[0];
}

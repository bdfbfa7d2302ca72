// kda_token: everything a head of a KDA layer does with one token, between the projections in and out, which have calls of their own.
//
//   y = what kda_head says of the token
//
// Shapes  inputs [q | k | v | f, o_g [RANK] | b [H]] with q, k [H, K], v [H, V]   y [H, V]; the others as kda_head has them
// Grid    (H): one workgroup per head
// Links   kda_head and what it links
// Oracle  test/reference/kda.ts shortConv, gates, writeStrengths, step, outNorm
@group(0) @binding(0) var<storage, read> inputs: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

fn given(i: u32, h: u32) -> f32 {
  return inputs[channel(i, h)];
}

@compute @workgroup_size(SUM_LANES)
fn kda_token(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.x;
  for (var i = lane.index; i < 2u * RANK / 4u; i += SUM_LANES) {
    low[i] = vec4f(inputs[C + 4u * i], inputs[C + 4u * i + 1u], inputs[C + 4u * i + 2u], inputs[C + 4u * i + 3u]);
  }
  let out = take_token(h, inputs[C + 2u * RANK + h], group.y, lane);
  if (lane.index < FOURS) {
    y[h * FOURS + lane.index] = out;
  }
}

// probe_choice: which experts the tokens of a call chose in a layer, and with what weights, into the records.
//
//   records[(position + t) % RING, FIRST ..] = [ ids[t] | bits of weights[t] ]
//
// Shapes  ids [T, TOP] u32   weights [T, TOP] f32   records [RING, ROW] u32
// Grid    (T / 64): a lane per token
// Links   step
// Oracle  the definition
const TOP = 8u;
const RING = 256u;
const ROW = 14720u;
const FIRST = 0u;
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> records: array<u32>;
@compute @workgroup_size(64)
fn probe_choice(@builtin(global_invocation_id) id: vec3u) {
  let t = id.x;
  if (t >= step.tokens) {
    return;
  }
  let out = (step.position + t) % RING * ROW + FIRST;
  for (var i = 0u; i < TOP; i++) {
    records[out + i] = ids[t * TOP + i];
    records[out + TOP + i] = bitcast<u32>(weights[t * TOP + i]);
  }
}

// probe_keep: keep what a layer read and wrote at the tokens of a call, one row each, as mla_append keeps latents.
//
//   row(position + t) = [ mixed[t] | g[t] | u[t] | beta[t] ]
//
// Shapes  mixed [T, q | k | v] with q, k [H, K], v [H, V]   g [T, H, K]   u [T, H, V]   beta [T, H]
//         history [SEGMENT, ROW], positions FIRST .. FIRST + SEGMENT - 1, ROW = 3 H K + 2 H V + H
// Grid    (ROW / 256, T): a token outside this segment is left to the other segments
// Links   step
// Oracle  the definition
const H = 32u;
const K = 128u;
const V = 128u;
const FIRST = 0u;
const SEGMENT = 2048u;
const C = H * (2u * K + V);
const G = H * K;
const U = H * V;
const ROW = C + G + U + H;
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> u: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> history: array<f32>;
@compute @workgroup_size(256)
fn probe_keep(@builtin(global_invocation_id) id: vec3u) {
  let t = id.y;
  let i = id.x;
  let row = step.position + t - FIRST; // wraps around for a token before this segment
  if (row >= SEGMENT || i >= ROW) {
    return;
  }
  var value: f32;
  if (i < C) {
    value = mixed[t * C + i];
  } else if (i < C + G) {
    value = g[t * G + i - C];
  } else if (i < C + G + U) {
    value = u[t * U + i - C - G];
  } else {
    value = beta[t * H + i - C - G - U];
  }
  history[row * ROW + i] = value;
}

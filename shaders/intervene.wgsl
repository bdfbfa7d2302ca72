// intervene: change how some heads of a layer forget and write, from a position on. Runs before the recurrence.
//
//   g <- factor[h] g        beta <- strength[h] beta        for tokens at `from` or later; of several changes the product
//
// Shapes  g [T, H, K]   beta [T, H]   changes [CHANGES, H] of (factor, strength, from, 0); from is a u32
// Grid    (H, T): 1 and 1 change no bit; 0 and 0 hold the memory as it is, exactly: S exp(0) + k 0 = S
// Links   step
// Oracle  the definition
const H = 32u;
const K = 128u;
const CHANGES = 1u;
const LANES = 64u;
struct Change {
  factor: f32,
  strength: f32,
  from_position: u32,
  unused: u32,
}
@group(0) @binding(0) var<storage, read> changes: array<Change>;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> beta: array<f32>;
@compute @workgroup_size(LANES)
fn intervene(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let t = group.y;
  var factors = vec2f(1.0);
  for (var i = 0u; i < CHANGES; i++) {
    let change = changes[i * H + h];
    if (step.position + t >= change.from_position) {
      factors *= vec2f(change.factor, change.strength);
    }
  }
  for (var d = lane; d < K; d += LANES) {
    g[(t * H + h) * K + d] *= factors.x;
  }
  if (lane == 0u) {
    beta[t * H + h] *= factors.y;
  }
}

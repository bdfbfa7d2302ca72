// short_conv: causal depthwise convolution over the last TAPS inputs, then SiLU, on q | k | v side by side.
//
//   x[t, c] = (tails ++ qkv)[t + TAPS - 1, c]           tails: the raw inputs just before this call
//   mixed[t, c] = silu( sum_j w[c, j] x[t - (TAPS-1) + j, c] )       the last tap meets the current token
//   tails <- the last TAPS - 1 rows of (tails ++ qkv)
//
// Shapes  qkv, mixed [T, C], C channels in all   w [C, TAPS] oldest tap first   tails [TAPS-1, C] oldest first
// Grid    (C / 64, T / RUN): a lane walks one channel down a run of tokens with the last inputs in registers
// Links   activation, step
// Oracle  test/reference/kda.ts shortConv
// Only the lanes of the first run read tails, and the same lanes write them: there is no race, however short the call.
const C = 12288u;
const TAPS = 4u;
const RUN = 16u; // at least TAPS - 1, so that later runs begin within qkv
@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> tails: array<f32>;
@group(0) @binding(3) var<storage, read_write> mixed: array<f32>;

// Row `row` of tails ++ qkv: token t is row t + TAPS - 1.
fn input(row: u32, c: u32) -> f32 {
  if (row < TAPS - 1u) {
    return tails[row * C + c];
  }
  return qkv[(row - (TAPS - 1u)) * C + c];
}

@compute @workgroup_size(64)
fn short_conv(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  let first = id.y * RUN;
  if (c >= C) {
    return;
  }
  var tap: array<f32, TAPS>;
  var seen: array<f32, TAPS>; // seen[j] meets tap j after the shift
  for (var j = 0u; j < TAPS; j++) {
    tap[j] = w[c * TAPS + j];
    if (j > 0u) {
      seen[j] = input(first + j - 1u, c);
    }
  }
  for (var t = first; t < min(first + RUN, step.tokens); t++) {
    var sum = 0.0;
    for (var j = 0u; j < TAPS - 1u; j++) {
      seen[j] = seen[j + 1u];
      sum = fma(tap[j], seen[j], sum);
    }
    seen[TAPS - 1u] = qkv[t * C + c];
    mixed[t * C + c] = silu(fma(tap[TAPS - 1u], seen[TAPS - 1u], sum));
  }
  if (first == 0u) {
    for (var j = 0u; j < TAPS - 1u; j++) { // oldest first: a row is read before it is overwritten
      tails[j * C + c] = input(step.tokens + j, c);
    }
  }
}

// kda_gate: what the recurrence needs beside v: unit keys and queries, log decays, write strengths; all in place.
//
//   k <- k / sqrt(|k|^2 + EPS)      q <- K^-1/2 q / sqrt(|q|^2 + EPS)        per head; EPS inside the root, on the sum
//   g <- a softplus(g + dt)         <= 0, natural logarithm, one per key channel
//   beta <- sigmoid(beta)
//
// Shapes  mixed [T, C] = q | k | v with q, k [H, K]   g [T, H, K]   beta [T, H]   dt [H, K]   a [H] = -exp(A_log)
// Grid    (H, T): one workgroup per head and token
// Links   activation, sum_{tree,subgroup}
// Oracle  test/reference/kda.ts gates
const H = 32u;
const K = 128u;
const C = 12288u;
const EPS = 0.00001;
@group(0) @binding(0) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(1) var<storage, read_write> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> beta: array<f32>;
@group(0) @binding(3) var<storage, read> dt: array<f32>;
@group(0) @binding(4) var<storage, read> a: array<f32>;
@compute @workgroup_size(SUM_LANES)
fn kda_gate(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.x;
  let t = group.y;
  let q_first = t * C + h * K;
  let k_first = q_first + H * K;
  let g_first = (t * H + h) * K;
  var squares = vec4f();
  for (var d = lane.index; d < K; d += SUM_LANES) {
    let q = mixed[q_first + d];
    let k = mixed[k_first + d];
    squares += vec4f(q * q, k * k, 0.0, 0.0);
  }
  let length = sqrt(workgroup_sum(squares, lane) + EPS);
  for (var d = lane.index; d < K; d += SUM_LANES) {
    mixed[q_first + d] /= length.x * sqrt(f32(K));
    mixed[k_first + d] /= length.y;
    g[g_first + d] = a[h] * softplus(g[g_first + d] + dt[h * K + d]);
  }
  if (lane.index == 0u) {
    beta[t * H + h] = sigmoid(beta[t * H + h]);
  }
}

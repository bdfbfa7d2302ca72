// probe_recall: how much of each token's value a memory still returns for its key.
//
//   recall[i, h] = (S^T k_i . v_i) / (v_i . v_i)        1 whole, 0 nothing, below 0 the opposite; 0 where v_i = 0
//
// Shapes  history [SEGMENT, ROW] as probe_keep leaves it, positions FIRST ..   S [H, K, V]   recall [SEGMENT, H]
// Grid    (tokens / TOKENS, H): TOKENS positions at a time, so that S is read once for all of them; a lane per value column
// Links   step (tokens: positions in all)
// Oracle  test/reference/views.ts recall
const H = 32u;
const K = 128u;
const V = 128u;
const FIRST = 0u;
const SEGMENT = 2048u;
const ROW = 3u * H * K + 2u * H * V + H;
const TOKENS = 8u;
const LANES = 64u;
@group(0) @binding(0) var<storage, read> history: array<f32>;
@group(0) @binding(1) var<storage, read> S: array<f32>;
@group(0) @binding(2) var<storage, read_write> recall: array<f32>;
var<workgroup> keys: array<array<vec4f, 2>, K>; // [channel, token]
var<workgroup> sums: array<array<vec4f, 4>, LANES>; // r . v of the eight tokens, v . v likewise

fn row_of(token: u32) -> u32 {
  return min(token, min(SEGMENT, step.tokens - FIRST) - 1u) * ROW; // past the end: the last one again
}

@compute @workgroup_size(LANES)
fn probe_recall(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let first = group.x * TOKENS;
  for (var d = lane; d < K; d += LANES) {
    var k: array<vec4f, 2>;
    for (var n = 0u; n < TOKENS; n++) {
      k[n / 4u][n % 4u] = history[row_of(first + n) + (H + h) * K + d];
    }
    keys[d] = k;
  }
  workgroupBarrier();
  var own: array<vec4f, 4>;
  for (var e = lane; e < V; e += LANES) {
    var a = vec4f();
    var b = vec4f();
    for (var d = 0u; d < K; d++) {
      let s = S[(h * K + d) * V + e];
      a += s * keys[d][0];
      b += s * keys[d][1];
    }
    var v: array<vec4f, 2>;
    for (var n = 0u; n < TOKENS; n++) {
      v[n / 4u][n % 4u] = history[row_of(first + n) + 2u * H * K + h * V + e];
    }
    own[0] += a * v[0];
    own[1] += b * v[1];
    own[2] += v[0] * v[0];
    own[3] += v[1] * v[1];
  }
  sums[lane] = own;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      for (var n = 0u; n < 4u; n++) {
        sums[lane][n] += sums[lane + half][n];
      }
    }
  }
  workgroupBarrier();
  if (lane < TOKENS && FIRST + first + lane < step.tokens && first + lane < SEGMENT) {
    let along = sums[0][lane / 4u][lane % 4u];
    let whole = sums[0][2u + lane / 4u][lane % 4u];
    recall[(first + lane) * H + h] = select(0.0, along / whole, whole > 0.0);
  }
}

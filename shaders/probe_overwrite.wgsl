// probe_overwrite: which later token took most from the recall of each one, and how much. Segment by segment of the later ones.
//
//   change(i, s) = mean over heads of (k_i . k_s) (u_s . v_i) / (v_i . v_i)        s > i
//   by[i] = the s of the smallest change, the first among equals, if it is below 0        loss[i] = - that change
//
// Shapes  kept, later [SEGMENT, ROW] as probe_keep leaves them, positions FIRST .. and LATER_FIRST ..
//         asked: end (positions in all), first head, heads, 0   found [SEGMENT] of (s + 1, bits of loss); 0, 0 to begin with
// Grid    (tokens): a workgroup per token i; a lane takes every LANES-th s
// Links   none
// Oracle  test/reference/views.ts overwrittenBy
const H = 32u;
const K = 128u;
const V = 128u;
const FIRST = 0u;
const SEGMENT = 2048u;
const LATER_FIRST = 0u;
const LATER_SEGMENT = 2048u;
const C = H * (2u * K + V);
const U = C + H * K; // where u lies in a row
const ROW = U + H * V + H;
const LANES = 64u;
@group(0) @binding(0) var<uniform> asked: vec4u;
@group(0) @binding(1) var<storage, read> kept: array<f32>;
@group(0) @binding(2) var<storage, read> later: array<f32>;
@group(0) @binding(3) var<storage, read_write> found: array<vec2u>;
var<workgroup> key: array<f32, K>;
var<workgroup> value: array<f32, V>;
var<workgroup> squares: array<f32, LANES>;
var<workgroup> best: array<vec2u, LANES>; // s + 1, bits of loss

@compute @workgroup_size(LANES)
fn probe_overwrite(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = group.x;
  let end = min(asked.x, LATER_FIRST + LATER_SEGMENT);
  var loss = 0.0;
  var by = 0u;
  // Eight times LANES tokens in one sweep over the heads, their changes in registers.
  for (var sweep = max(FIRST + i + 1u, LATER_FIRST); sweep < end; sweep += 8u * LANES) {
    var change: array<f32, 8>;
    for (var h = asked.y; h < asked.y + asked.z; h++) {
      workgroupBarrier();
      for (var d = lane; d < K; d += LANES) {
        key[d] = kept[i * ROW + (H + h) * K + d];
      }
      var own = 0.0;
      for (var e = lane; e < V; e += LANES) {
        let v = kept[i * ROW + 2u * H * K + h * V + e];
        value[e] = v;
        own += v * v;
      }
      squares[lane] = own;
      workgroupBarrier();
      var whole = 0.0;
      for (var n = 0u; n < LANES; n++) {
        whole += squares[n];
      }
      for (var n = 0u; n < 8u; n++) {
        let s = sweep + n * LANES + lane;
        if (s < end && whole > 0.0) {
          let row = (s - LATER_FIRST) * ROW;
          var same = 0.0;
          for (var d = 0u; d < K; d++) {
            same += key[d] * later[row + (H + h) * K + d];
          }
          var along = 0.0;
          for (var e = 0u; e < V; e++) {
            along += value[e] * later[row + U + h * V + e];
          }
          change[n] += same * along / whole / f32(asked.z);
        }
      }
    }
    for (var n = 0u; n < 8u; n++) {
      if (-change[n] > loss) {
        loss = -change[n];
        by = sweep + n * LANES + lane + 1u;
      }
    }
  }
  best[lane] = vec2u(by, bitcast<u32>(loss));
  workgroupBarrier();
  if (lane == 0u) {
    var winner = found[i]; // of the segments before
    for (var n = 0u; n < LANES; n++) {
      let theirs = best[n];
      let more = bitcast<f32>(theirs.y) > bitcast<f32>(winner.y);
      let sooner = theirs.y == winner.y && theirs.x < winner.x;
      if (theirs.x > 0u && (more || sooner)) {
        winner = theirs;
      }
    }
    found[i] = winner;
  }
}

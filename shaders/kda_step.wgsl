// kda_step: the Kimi Delta Attention recurrence, token by token.
//
//   S <- Diag(exp g) S           decay every key row of the memory
//   u  = beta (v - S^T k)        what v holds that the memory does not
//   S <- S + k u^T               write it
//   o  = S^T q                   read after the write (q arrives scaled by K^-1/2)
//
// Shapes  mixed [T, q | k | v] with q, k [H, K], v [H, V]   g [T, H, K]   beta [T, H]   o [T, H, V]
//         S [H, K, V] f32, V fastest
// Grid    (V / COLUMNS, H): value columns never meet, so V is cut freely. PARTS lanes share a column: each keeps every
//         PARTS-th row of it in registers, so that S is read once and written once per call
// Links   step
// Oracle  test/reference/kda.ts step      Source  FLA ops/kda/naive.py
// With p = S^T q taken before the write, o = p + (q . k) u: what is held and what is read come from one pass over S.
const H = 32u;
const K = 128u;
const V = 128u;
const PARTS = 8u; // 8 fill a GPU; on a processor, where a barrier costs more than a column, 1
const COLUMNS = 32u;
const LANES = PARTS * COLUMNS;
const ROWS = (K + PARTS - 1u) / PARTS;
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> S: array<f32>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;
var<workgroup> channel: array<vec4f, ROWS * PARTS>; // exp g, k, q of one token; zeros past K
var<workgroup> partial: array<vec4f, LANES>; // of a column, over one part of its rows: S^T k, S^T q, q . k

@compute @workgroup_size(LANES)
fn kda_step(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let column = lane % COLUMNS;
  let part = lane / COLUMNS;
  let own = group.x * COLUMNS + column < V;
  let e = min(group.x * COLUMNS + column, V - 1u); // lanes past V follow the last column and write nothing
  var memory: array<f32, ROWS>;
  for (var i = 0u; i < ROWS; i++) {
    memory[i] = S[(h * K + min(part + i * PARTS, K - 1u)) * V + e];
  }
  for (var t = 0u; t < step.tokens; t++) {
    let q_first = t * (2u * H * K + H * V) + h * K;
    let v = mixed[q_first - h * K + 2u * H * K + h * V + e];
    for (var d = lane; d < ROWS * PARTS; d += LANES) {
      let at = min(d, K - 1u);
      let row = vec4f(exp(g[(t * H + h) * K + at]), mixed[q_first + H * K + at], mixed[q_first + at], 0.0);
      channel[d] = select(vec4f(), row, d < K);
    }
    workgroupBarrier();
    var sums = vec4f();
    for (var i = 0u; i < ROWS; i++) {
      let row = channel[part + i * PARTS];
      memory[i] *= row.x;
      sums += vec4f(row.yz * memory[i], row.y * row.z, 0.0);
    }
    partial[lane] = sums;
    workgroupBarrier();
    var total = vec4f();
    for (var i = 0u; i < PARTS; i++) {
      total += partial[i * COLUMNS + column];
    }
    let u = beta[t * H + h] * (v - total.x);
    for (var i = 0u; i < ROWS; i++) {
      memory[i] += channel[part + i * PARTS].y * u;
    }
    if (part == 0u && own) {
      o[(t * H + h) * V + e] = total.y + total.z * u;
    }
    workgroupBarrier(); // the next token overwrites channel and partial
  }
  for (var i = 0u; i < ROWS; i++) {
    let d = part + i * PARTS;
    if (d < K && own) {
      S[(h * K + d) * V + e] = memory[i];
    }
  }
}

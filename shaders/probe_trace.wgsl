// probe_trace: what each token of a call does to a layer's memory, told without touching it. Runs before the recurrence.
//
//   the recurrence of kda_step on a copy of S in registers; of every token and head
//   sums = |u|^2, held . v, |held|^2, |v|^2, |S|^2 after the token, over the value columns of each workgroup
//   beta, and the two middle ones of g over the key channels, for the median half-life
//
// Shapes  mixed [T, q | k | v] with q, k [H, K], v [H, V]   g [T, H, K]   beta [T, H]   S [H, K, V]   u [T, H, V]
//         records [RING, ROW] f32, the row of position p at p % RING; of it, from FIRST: [H, 5 BLOCKS + 3]: sums by block, beta, g, g
// Grid    (BLOCKS, H): COLUMNS value columns each, PARTS lanes to a column
// Links   step
// Oracle  test/reference/kda.ts step
const H = 32u;
const K = 128u;
const V = 128u;
const PARTS = 8u; // 8 fill a GPU; on a processor, where a barrier costs more than a column, 1
const RING = 256u;
const ROW = 14720u;
const FIRST = 0u;
const COLUMNS = 32u;
const BLOCKS = (V + COLUMNS - 1u) / COLUMNS;
const LANES = PARTS * COLUMNS;
const ROWS = (K + PARTS - 1u) / PARTS;
const SUMS = 5u;
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> S: array<f32>;
@group(0) @binding(4) var<storage, read_write> u: array<f32>;
@group(0) @binding(5) var<storage, read_write> records: array<f32>;
var<workgroup> channel: array<vec4f, ROWS * PARTS>; // exp g, k, g, and whether it is one; of one token
var<workgroup> partial: array<vec4f, LANES>; // S^T k of a part in x; then |u|^2, held . v, |held|^2, |v|^2
var<workgroup> energy: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn probe_trace(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let column = lane % COLUMNS;
  let part = lane / COLUMNS;
  let own = group.x * COLUMNS + column < V;
  let e = min(group.x * COLUMNS + column, V - 1u); // lanes past V follow the last column and count nothing
  var memory: array<f32, ROWS>;
  for (var i = 0u; i < ROWS; i++) {
    memory[i] = S[(h * K + min(part + i * PARTS, K - 1u)) * V + e];
  }
  for (var t = 0u; t < step.tokens; t++) {
    let k_first = t * (2u * H * K + H * V) + (H + h) * K;
    let v = mixed[t * (2u * H * K + H * V) + 2u * H * K + h * V + e];
    for (var d = lane; d < ROWS * PARTS; d += LANES) {
      let at = min(d, K - 1u);
      let decay = g[(t * H + h) * K + at];
      channel[d] = select(vec4f(), vec4f(exp(decay), mixed[k_first + at], decay, 1.0), d < K);
    }
    workgroupBarrier();
    var held = 0.0;
    for (var i = 0u; i < ROWS; i++) {
      let row = channel[part + i * PARTS];
      memory[i] *= row.x;
      held += row.y * memory[i];
    }
    partial[lane] = vec4f(held, 0.0, 0.0, 0.0);
    workgroupBarrier();
    held = 0.0;
    for (var i = 0u; i < PARTS; i++) {
      held += partial[i * COLUMNS + column].x;
    }
    let strength = beta[t * H + h];
    let surprise = strength * (v - held);
    var squares = 0.0;
    for (var i = 0u; i < ROWS; i++) {
      let row = channel[part + i * PARTS];
      memory[i] += row.y * surprise;
      squares += row.w * memory[i] * memory[i];
    }
    workgroupBarrier(); // all parts of a column have been added up
    energy[lane] = select(0.0, squares, own);
    partial[lane] = select(vec4f(), vec4f(surprise * surprise, held * v, held * held, v * v), own && part == 0u);
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if (lane < half) {
        partial[lane] += partial[lane + half];
        energy[lane] += energy[lane + half];
      }
    }
    let out = (step.position + t) % RING * ROW + FIRST + h * (SUMS * BLOCKS + 3u);
    if (part == 0u && own) {
      u[(t * H + h) * V + e] = surprise;
    }
    if (lane == 0u) {
      for (var i = 0u; i < 4u; i++) {
        records[out + group.x * SUMS + i] = partial[0][i];
      }
      records[out + group.x * SUMS + 4u] = energy[0];
    }
    if (group.x == 0u) {
      if (lane == 0u) {
        records[out + SUMS * BLOCKS] = strength;
      }
      for (var d = lane; d < K; d += LANES) { // the middle ones by their rank: as many are smaller, equals in order
        let own_g = channel[d].z;
        var rank = 0u;
        for (var other = 0u; other < K; other++) {
          let theirs = channel[other].z;
          rank += u32(theirs < own_g || (theirs == own_g && other < d));
        }
        if (rank == (K - 1u) / 2u) {
          records[out + SUMS * BLOCKS + 1u] = own_g;
        }
        if (rank == K / 2u) {
          records[out + SUMS * BLOCKS + 2u] = own_g;
        }
      }
    }
    workgroupBarrier(); // the next token overwrites channel and partial
  }
}

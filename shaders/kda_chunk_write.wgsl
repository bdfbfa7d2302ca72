// kda_chunk_write: what each row of a chunk would write to an empty memory, and what it would take back of a full one; third of five.
//
//   U = M v        W = M (G k)        then u = U - W S        G the decay from the chunk's start
//
// Shapes  mixed [T, q | k | v]   M [N, H, C (j), C (i)]   from_start [N, H, K, k | q, C]   u [T, H, V]   W [N, H, K, C]
// Grid    (K / 64 + V / 64, H, N): a lane makes four rows of four columns, of W in the first workgroups, then of U
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
const H = 32u;
const K = 128u;
const V = 128u;
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = 16u; // of columns
const K_GROUPS = (K / 4u + FOURS - 1u) / FOURS;
@group(0) @binding(0) var<storage, read> mixed: array<vec4f>;
@group(0) @binding(1) var<storage, read> M: array<vec4f>;
@group(0) @binding(2) var<storage, read> from_start: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> u: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> W: array<vec4f>;

fn keep_row(t: u32, h: u32, e: u32, row: vec4f) {
  if (t < step.tokens) {
    u[(t * H + h) * (V / 4u) + e] = row;
  }
}

@compute @workgroup_size(256)
fn kda_chunk_write(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let matrix = group.z * H + h;
  let quad = lane % QUADS;
  if (group.x < K_GROUPS) {
    let d = 4u * (group.x * FOURS + lane / QUADS);
    if (d < K) {
      let keys = (matrix * K + d) * 2u * QUADS;
      var w = mat4x4f(); // [channel] of four rows
      for (var j = 0u; j <= quad; j++) {
        let k = mat4x4f(
          from_start[keys + j], from_start[keys + 2u * QUADS + j],
          from_start[keys + 4u * QUADS + j], from_start[keys + 6u * QUADS + j],
        );
        let at = (matrix * C + 4u * j) * QUADS + quad;
        let m = mat4x4f(M[at], M[at + QUADS], M[at + 2u * QUADS], M[at + 3u * QUADS]);
        w = mat4x4f(w[0] + m * k[0], w[1] + m * k[1], w[2] + m * k[2], w[3] + m * k[3]);
      }
      let at = (matrix * K + d) * QUADS + quad;
      W[at] = w[0];
      W[at + QUADS] = w[1];
      W[at + 2u * QUADS] = w[2];
      W[at + 3u * QUADS] = w[3];
    }
    return;
  }
  let e = (group.x - K_GROUPS) * FOURS + lane / QUADS; // vec4 of values
  let start = group.z * C;
  if (e < V / 4u) {
    var rows = mat4x4f(); // [row] of four columns
    for (var j = 0u; j < min(4u * quad + 4u, step.tokens - start); j++) {
      let v = mixed[((start + j) * (2u * H * K + H * V) + 2u * H * K + h * V) / 4u + e];
      rows = add_outer(rows, v, M[(matrix * C + j) * QUADS + quad]);
    }
    let t = start + 4u * quad;
    keep_row(t, h, e, rows[0]);
    keep_row(t + 1u, h, e, rows[1]);
    keep_row(t + 2u, h, e, rows[2]);
    keep_row(t + 3u, h, e, rows[3]);
  }
}

// kda_chunk_read: what each row of a chunk reads of what was written in it; last of five.
//
//   o[i] += sum_{j <= i} Aqk[i, j] u[j]
//
// Shapes  Aqk [N, H, C (j), C (i)]   u, o [T, H, V]
// Grid    (V / 64, H, N): a lane makes four rows of four columns
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
const H = 32u;
const V = 128u;
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = 16u; // of columns
@group(0) @binding(0) var<storage, read> Aqk: array<vec4f>;
@group(0) @binding(1) var<storage, read> u: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> o: array<vec4f>;

fn add_row(t: u32, h: u32, e: u32, row: vec4f) {
  if (t < step.tokens) {
    o[(t * H + h) * (V / 4u) + e] += row;
  }
}

@compute @workgroup_size(256)
fn kda_chunk_read(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let matrix = group.z * H + h;
  let start = group.z * C;
  let quad = lane % QUADS;
  let e = group.x * FOURS + lane / QUADS;
  if (e >= V / 4u) {
    return;
  }
  var rows = mat4x4f(); // [row] of four columns
  for (var j = 0u; j < min(4u * quad + 4u, step.tokens - start); j++) {
    rows = add_outer(rows, u[((start + j) * H + h) * (V / 4u) + e], Aqk[(matrix * C + j) * QUADS + quad]);
  }
  let t = start + 4u * quad;
  add_row(t, h, e, rows[0]);
  add_row(t + 1u, h, e, rows[1]);
  add_row(t + 2u, h, e, rows[2]);
  add_row(t + 3u, h, e, rows[3]);
}

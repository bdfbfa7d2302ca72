// kda_chunk_scan: walk a prompt's chunks: what each row writes, what it reads of the memory before its chunk; fourth of five.
//
//   u = U - W S        o = (G q) S        then S <- Diag(whole) S + to_end^T u
//
// Shapes  W [N, H, K, C]   from_start [N, H, K, k | q, C]   to_end [N, H, C, K]   whole [N, H, K]
//         u [T, H, V] holds U, then u   o [T, H, V]   S [H, K, V] f32, V fastest
// Grid    (V / COLUMNS, H): columns never meet, so V is cut freely; chunks follow one another
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
// The one part of the chain that cannot run side by side, so it does the least: two products a chunk. A lane owns four rows by
// four columns (vec4s of V) in registers; the first half of the lanes makes u, the second o, both have rows of S. The second
// factor passes through `right` in workgroup memory; the first comes from the arrays as it is, STRIDE vec4s on their way at once.
const H = 32u;
const K = 128u;
const V = 128u;
const COLUMNS = 16u; // 4, 8 or 16
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = COLUMNS / 4u; // of columns
const LANES = 2u * QUADS * FOURS;
const OWN = (K + 2u * C - 1u) / (2u * C); // quads of S's rows that a lane keeps, 2 QUADS apart
const STRIDE = 4u + 4u * u32(K % 8u == 0u);
@group(0) @binding(0) var<storage, read> W: array<vec4f>;
@group(0) @binding(1) var<storage, read> from_start: array<vec4f>;
@group(0) @binding(2) var<storage, read> to_end: array<vec4f>;
@group(0) @binding(3) var<storage, read> whole: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> u: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> S: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> o: array<vec4f>;
var<workgroup> right: array<vec4f, max(K, C) * FOURS>; // [row, four columns]: S, then u

fn keep(row: u32, four: u32, tile: mat4x4f) {
  right[row * FOURS + four] = tile[0];
  right[(row + 1u) * FOURS + four] = tile[1];
  right[(row + 2u) * FOURS + four] = tile[2];
  right[(row + 3u) * FOURS + four] = tile[3];
}

@compute @workgroup_size(LANES)
fn kda_chunk_scan(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let four = lane % FOURS;
  let quad = lane / FOURS; // of u | o, and of S's rows
  let writes = quad < QUADS;
  let inside = group.x * FOURS + four < V / 4u;
  let e = min(group.x * FOURS + four, V / 4u - 1u); // lanes past V repeat its last columns and write nothing

  var memory: array<mat4x4f, OWN>; // [row] of four columns
  for (var n = 0u; n < OWN; n++) {
    for (var r = 0u; r < 4u; r++) {
      let d = min(4u * (quad + n * 2u * QUADS) + r, K - 1u);
      memory[n][r] = S[(h * K + d) * (V / 4u) + e];
    }
  }
  for (var chunk = 0u; chunk * C < step.tokens; chunk++) {
    let matrix = chunk * H + h;
    let first = chunk * C + 4u * (quad % QUADS); // token of the lane's first row
    var rows = mat4x4f(); // U, then u; or o
    for (var r = 0u; r < 4u; r++) {
      if (writes && first + r < step.tokens) {
        rows[r] = u[((first + r) * H + h) * (V / 4u) + e];
      }
    }
    workgroupBarrier();
    for (var n = 0u; n < OWN; n++) {
      let d = 4u * (quad + n * 2u * QUADS);
      if (d < K) {
        keep(d, four, memory[n]);
      }
    }
    workgroupBarrier();
    for (var d0 = 0u; d0 < K; d0 += STRIDE) {
      var left: array<vec4f, STRIDE>;
      for (var d = 0u; d < STRIDE; d++) {
        let channel = matrix * K + d0 + d;
        if (writes) {
          left[d] = -W[channel * QUADS + quad];
        } else {
          left[d] = from_start[channel * 2u * QUADS + quad];
        }
      }
      for (var d = 0u; d < STRIDE; d++) {
        rows = add_outer(rows, right[(d0 + d) * FOURS + four], left[d]);
      }
    }
    workgroupBarrier();
    if (writes) {
      keep(4u * quad, four, rows);
    }
    for (var r = 0u; r < 4u; r++) {
      if (inside && first + r < step.tokens) {
        let at = ((first + r) * H + h) * (V / 4u) + e;
        if (writes) {
          u[at] = rows[r];
        } else {
          o[at] = rows[r];
        }
      }
    }
    workgroupBarrier();
    for (var n = 0u; n < OWN; n++) {
      let d = min(quad + n * 2u * QUADS, K / 4u - 1u); // vec4 of channels
      let decay = whole[matrix * (K / 4u) + d];
      for (var r = 0u; r < 4u; r++) {
        memory[n][r] *= decay[r];
      }
      for (var i0 = 0u; i0 < C; i0 += STRIDE) {
        var left: array<vec4f, STRIDE>;
        for (var i = 0u; i < STRIDE; i++) {
          left[i] = to_end[(matrix * C + i0 + i) * (K / 4u) + d];
        }
        for (var i = 0u; i < STRIDE; i++) {
          memory[n] = add_outer(memory[n], right[(i0 + i) * FOURS + four], left[i]);
        }
      }
    }
  }
  for (var n = 0u; n < OWN; n++) {
    for (var r = 0u; r < 4u; r++) {
      let d = 4u * (quad + n * 2u * QUADS) + r;
      if (d < K && inside) {
        S[(h * K + d) * (V / 4u) + e] = memory[n][r];
      }
    }
  }
}

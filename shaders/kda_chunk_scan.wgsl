// kda_chunk_scan: walk a prompt's chunks: outputs, and the memory after them; last of three.
//
//   X = v - (G k) S                 what v holds that the memory does not; G the decay from the chunk's start, in from_start
//   u = M X                         what each row writes
//   o = (G q) S + Aqk u             what each row reads
//   S <- Diag(whole) S + to_end^T u
//
// Shapes  mixed [T, q | k | v]   M, Aqk [N, H, C (j), C (i)]   from_start [N, H, K, k | q, C]   to_end [N, H, C, K]
//         whole [N, H, K]   S [H, K, V] f32, V fastest   o [T, H, V]
// Grid    (V / COLUMNS, H): columns never meet, so V is cut freely; chunks follow one another
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
// Every product is [rows, n] times [n, COLUMNS], a lane owning four rows by four columns (vec4s of V) in registers. Rows of k and
// of q are stacked: the first half of the lanes goes on to X and u, the second to o. S lives in registers, too; the second
// factor passes through `right` in workgroup memory, the first comes from the arrays as it is, four rows a load.
const H = 32u;
const K = 128u;
const V = 128u;
const COLUMNS = 16u; // 8, 16 or 32
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = COLUMNS / 4u; // of columns
const LANES = 2u * QUADS * FOURS;
const OWN = (K + 2u * C - 1u) / (2u * C); // quads of S's rows that a lane keeps, 2 QUADS apart
@group(0) @binding(0) var<storage, read> mixed: array<vec4f>;
@group(0) @binding(1) var<storage, read> M: array<vec4f>;
@group(0) @binding(2) var<storage, read> Aqk: array<vec4f>;
@group(0) @binding(3) var<storage, read> from_start: array<vec4f>;
@group(0) @binding(4) var<storage, read> to_end: array<vec4f>;
@group(0) @binding(5) var<storage, read> whole: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> S: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> o: array<vec4f>;
var<workgroup> right: array<vec4f, C * FOURS>; // [row, four columns]: C rows of S, then X, then u

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
  let quad = lane / FOURS; // of k | q, and of S's rows
  let half = quad / QUADS; // 0: k, 1: q
  let rows = quad % QUADS; // of the chunk
  let inside = group.x * FOURS + four < V / 4u;
  let e = min(group.x * FOURS + four, V / 4u - 1u); // lanes past V repeat its last columns and write nothing
  let token = (2u * H * K + H * V) / 4u; // vec4s of a token in mixed

  var memory: array<mat4x4f, OWN>; // [row] of four columns
  for (var n = 0u; n < OWN; n++) {
    for (var r = 0u; r < 4u; r++) {
      let d = min(4u * (quad + n * 2u * QUADS) + r, K - 1u);
      memory[n][r] = S[(h * K + d) * (V / 4u) + e];
    }
  }
  for (var chunk = 0u; chunk * C < step.tokens; chunk++) {
    let matrix = chunk * H + h;
    var said = mat4x4f(); // G k S or G q S
    for (var first = 0u; first < K; first += C) {
      workgroupBarrier();
      for (var n = 0u; n < OWN; n++) {
        let d = 4u * (quad + n * 2u * QUADS);
        if (d >= first && d < min(first + C, K)) {
          keep(d - first, four, memory[n]);
        }
      }
      workgroupBarrier();
      let channels = min(C, K - first);
      let at = (matrix * K + first) * 2u * QUADS + quad;
      for (var d = 0u; d < channels; d++) {
        said = add_outer(said, right[d * FOURS + four], from_start[at + d * 2u * QUADS]);
      }
    }
    workgroupBarrier();
    if (half == 0u) {
      var x = mat4x4f();
      for (var r = 0u; r < 4u; r++) {
        let t = chunk * C + 4u * rows + r;
        if (t < step.tokens) {
          x[r] = mixed[t * token + (2u * H * K + h * V) / 4u + e] - said[r];
        }
      }
      keep(4u * rows, four, x);
    }
    workgroupBarrier();
    var u = mat4x4f();
    if (half == 0u) {
      for (var j = 0u; j < 4u * rows + 4u; j++) {
        u = add_outer(u, right[j * FOURS + four], M[(matrix * C + j) * QUADS + rows]);
      }
    }
    workgroupBarrier();
    if (half == 0u) {
      keep(4u * rows, four, u);
    }
    workgroupBarrier();
    if (half == 1u) {
      for (var j = 0u; j < 4u * rows + 4u; j++) {
        said = add_outer(said, right[j * FOURS + four], Aqk[(matrix * C + j) * QUADS + rows]);
      }
      for (var r = 0u; r < 4u; r++) {
        let t = chunk * C + 4u * rows + r;
        if (t < step.tokens && inside) {
          o[(t * H + h) * (V / 4u) + e] = said[r];
        }
      }
    }
    for (var n = 0u; n < OWN; n++) {
      let d = min(quad + n * 2u * QUADS, K / 4u - 1u); // vec4 of channels
      let decay = whole[matrix * (K / 4u) + d];
      for (var r = 0u; r < 4u; r++) {
        memory[n][r] *= decay[r];
      }
      for (var i = 0u; i < C; i++) {
        memory[n] = add_outer(memory[n], right[i * FOURS + four], to_end[(matrix * C + i) * (K / 4u) + d]);
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

// kda_chunk_scan_matrix: what kda_chunk_scan does, by the device's matrix units: factors in f16, sums and the memory in f32.
//
//   u = M (v - (G k) S)        o = (G q) S + Aqk u        then S <- Diag(whole) S + to_end^T u
//
// Shapes  mixed [T, q | k | v]   from_start [N, H, K, G k | G q, C]   M, Aqk [N, H, C (j), C (i)]   to_end [N, H, C, K]
//         whole [N, H, K]   S [H, K, V] f32, V fastest   o [T, H, V]   G the decay from the chunk's start
//         C, V and K are multiples of 16, 16 and 64; K is 128 at most
// Grid    (V / 16, H): a workgroup of eight subgroups carries 16 columns of the memory through all chunks
// Links   factor_f16, step
// Oracle  test/reference/kda.ts chunk
// A unit takes what is in workgroup memory or in an array, and a lane cannot see its sums: they go through workgroup memory, where
// lanes add v, round to f16 and decay the memory. What a phase multiplies is on its way from its array some phases before.
enable chromium_experimental_subgroup_matrix;
enable subgroups;
// Subgroups part ways by their number alone, which the language does not see.
diagnostic(off, chromium.subgroup_matrix_uniformity);
const H = 32u;
const K = 128u;
const V = 128u;
const C = 64u;
const COLUMNS = 16u;
const LANES = 256u;
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> from_start: array<f16>;
@group(0) @binding(2) var<storage, read> M: array<f16>;
@group(0) @binding(3) var<storage, read> Aqk: array<f16>;
@group(0) @binding(4) var<storage, read> to_end: array<f16>;
@group(0) @binding(5) var<storage, read> whole: array<f32>;
@group(0) @binding(6) var<storage, read_write> S: array<f32>;
@group(0) @binding(7) var<storage, read_write> o: array<f32>;
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
var<workgroup> memory: array<f32, K * COLUMNS>;
var<workgroup> memory_half: array<f16, K * COLUMNS>;
var<workgroup> rows: array<f32, C * COLUMNS>; // of a chunk: (G k) S, then u, then o
var<workgroup> rows_half: array<f16, C * COLUMNS>; // v - (G k) S, then u

fn start_tile(at: u32) -> Left {
  return subgroupMatrixLoad<Left, col_major>(&from_start, at, 2u * C);
}
fn write_tile(at: u32) -> Left {
  return subgroupMatrixLoad<Left, col_major>(&M, at, C);
}
fn read_tile(at: u32) -> Left {
  return subgroupMatrixLoad<Left, col_major>(&Aqk, at, C);
}
fn end_tile(at: u32) -> Left {
  return subgroupMatrixLoad<Left, col_major>(&to_end, at, K);
}
fn add_memory(sum: Sum, left: Left, block: u32) -> Sum {
  let right = subgroupMatrixLoad<Right, row_major>(&memory_half, 16u * block * COLUMNS, COLUMNS);
  return subgroupMatrixMultiplyAccumulate(left, right, sum);
}
fn add_rows(sum: Sum, left: Left, block: u32) -> Sum {
  let right = subgroupMatrixLoad<Right, row_major>(&rows_half, 16u * block * COLUMNS, COLUMNS);
  return subgroupMatrixMultiplyAccumulate(left, right, sum);
}
// One element of v; none past the last token, which then writes nothing.
fn value(t: u32, at: u32) -> f32 {
  if (t < step.tokens) {
    return mixed[t * (2u * H * K + H * V) + at];
  }
  return 0.0;
}

@compute @workgroup_size(LANES)
fn kda_chunk_scan_matrix(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let h = group.y;
  let column = group.x * COLUMNS + lane % COLUMNS; // the lane's, and rows lane / COLUMNS and every 16th after
  let row = lane / COLUMNS;
  let writes = subgroup < C / 16u; // the first four make u, the others o
  let block = subgroup % (C / 16u); // its 16 rows
  for (var d = row; d < K; d += LANES / COLUMNS) {
    memory[d * COLUMNS + lane % COLUMNS] = S[(h * K + d) * V + column];
  }

  for (var chunk = 0u; chunk * C < step.tokens; chunk++) {
    let matrix = chunk * H + h;
    let t = chunk * C + row;
    let v_at = 2u * H * K + h * V + column;
    let v = vec4f(value(t, v_at), value(t + 16u, v_at), value(t + 32u, v_at), value(t + 48u, v_at));
    let start_at = matrix * K * 2u * C + 16u * subgroup;
    var a0 = start_tile(start_at);
    var a1 = start_tile(start_at + 32u * C);
    var a2 = start_tile(start_at + 64u * C);
    var a3 = start_tile(start_at + 96u * C);
    for (var d = row; d < K; d += LANES / COLUMNS) {
      let at = d * COLUMNS + lane % COLUMNS;
      memory_half[at] = f16(memory[at]);
      memory[at] *= whole[matrix * K + d];
    }
    workgroupBarrier();

    // What the memory says to keys and to queries.
    var sum = Sum();
    for (var d = 0u; d < K / 16u; d += 4u) {
      let next = start_at + min(d + 4u, K / 16u - 4u) * 32u * C;
      let b0 = start_tile(next);
      let b1 = start_tile(next + 32u * C);
      let b2 = start_tile(next + 64u * C);
      let b3 = start_tile(next + 96u * C);
      sum = add_memory(sum, a0, d);
      sum = add_memory(sum, a1, d + 1u);
      sum = add_memory(sum, a2, d + 2u);
      sum = add_memory(sum, a3, d + 3u);
      a0 = b0;
      a1 = b1;
      a2 = b2;
      a3 = b3;
    }
    if (writes) {
      subgroupMatrixStore<row_major>(&rows, 16u * block * COLUMNS, sum, COLUMNS);
    }
    // The row of blocks of M or of Aqk, up to the diagonal.
    let row_at = matrix * C * C + 16u * block;
    let last = 16u * C * block;
    if (writes) {
      a0 = write_tile(row_at);
      a1 = write_tile(row_at + min(16u * C, last));
      a2 = write_tile(row_at + min(32u * C, last));
      a3 = write_tile(row_at + min(48u * C, last));
    } else {
      a0 = read_tile(row_at);
      a1 = read_tile(row_at + min(16u * C, last));
      a2 = read_tile(row_at + min(32u * C, last));
      a3 = read_tile(row_at + min(48u * C, last));
    }
    workgroupBarrier();
    rows_half[lane] = f16(v.x - rows[lane]);
    rows_half[lane + LANES] = f16(v.y - rows[lane + LANES]);
    rows_half[lane + 2u * LANES] = f16(v.z - rows[lane + 2u * LANES]);
    rows_half[lane + 3u * LANES] = f16(v.w - rows[lane + 3u * LANES]);
    workgroupBarrier();

    // What rows write, each knowing those before.
    if (writes) {
      sum = add_rows(Sum(), a0, 0u);
      if (block > 0u) {
        sum = add_rows(sum, a1, 1u);
      }
      if (block > 1u) {
        sum = add_rows(sum, a2, 2u);
      }
      if (block > 2u) {
        sum = add_rows(sum, a3, 3u);
      }
      subgroupMatrixStore<row_major>(&rows, 16u * block * COLUMNS, sum, COLUMNS);
    }
    let end_at = matrix * C * K + 16u * min(subgroup, K / 16u - 1u);
    let e0 = end_tile(end_at);
    let e1 = end_tile(end_at + 16u * K);
    let e2 = end_tile(end_at + 32u * K);
    let e3 = end_tile(end_at + 48u * K);
    workgroupBarrier();
    rows_half[lane] = f16(rows[lane]);
    rows_half[lane + LANES] = f16(rows[lane + LANES]);
    rows_half[lane + 2u * LANES] = f16(rows[lane + 2u * LANES]);
    rows_half[lane + 3u * LANES] = f16(rows[lane + 3u * LANES]);
    workgroupBarrier();

    // What they read, and the memory after them.
    if (!writes) {
      sum = add_rows(sum, a0, 0u);
      if (block > 0u) {
        sum = add_rows(sum, a1, 1u);
      }
      if (block > 1u) {
        sum = add_rows(sum, a2, 2u);
      }
      if (block > 2u) {
        sum = add_rows(sum, a3, 3u);
      }
      subgroupMatrixStore<row_major>(&rows, 16u * block * COLUMNS, sum, COLUMNS);
    }
    if (subgroup < K / 16u) {
      let own = 16u * subgroup * COLUMNS;
      var news = subgroupMatrixLoad<Sum, row_major>(&memory, own, COLUMNS);
      news = add_rows(news, e0, 0u);
      news = add_rows(news, e1, 1u);
      news = add_rows(news, e2, 2u);
      news = add_rows(news, e3, 3u);
      subgroupMatrixStore<row_major>(&memory, own, news, COLUMNS);
    }
    workgroupBarrier();
    for (var n = 0u; n < 4u; n++) {
      if (t + 16u * n < step.tokens) {
        o[((t + 16u * n) * H + h) * V + column] = rows[lane + n * LANES];
      }
    }
  }

  for (var d = row; d < K; d += LANES / COLUMNS) {
    S[(h * K + d) * V + column] = memory[d * COLUMNS + lane % COLUMNS];
  }
}

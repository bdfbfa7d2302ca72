// kda_chunk_scan: walk a prompt's chunks: what each row writes, what it reads of the memory before its chunk; fourth of five.
//
//   u = U - W S        o = (G q) S        then S <- Diag(whole) S + to_end^T u
//
// Shapes  W [N, H, K, C]   from_start [N, H, K, k | q, C]   to_end [N, H, C, K]   whole [N, H, K]
//         u [T, H, V] holds U, then u   o [T, H, V]   S [H, K, V] f32, V fastest
// Grid    (V / COLUMNS, H): columns never meet, so V is cut freely; chunks follow one another
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
// The one part of the chain that cannot run side by side, so it is arranged for latency. A product [rows, n] times [n, COLUMNS] is
// made in tiles of four rows by four columns (vec4s of V), and the n terms of a tile are shared out among several lanes, whose
// sums meet in workgroup memory. First and second factor: from the arrays as it is, and through `right` in workgroup memory.
const H = 32u;
const K = 128u;
const V = 128u;
const COLUMNS = 8u; // 4 or 8; 16 where K is 128 at most
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = COLUMNS / 4u; // of columns
const LANES = 256u;
const TILES = 2u * QUADS * FOURS; // those of u, then those of o
const PARTS = LANES / TILES; // lanes that share a tile
const S_TILES = K / 4u * FOURS; // of the memory, at most LANES
const S_PARTS = select(select(select(1u, 2u, S_TILES <= 128u), 4u, S_TILES <= 64u), 8u, S_TILES <= 32u);
@group(0) @binding(0) var<storage, read> W: array<vec4f>;
@group(0) @binding(1) var<storage, read> from_start: array<vec4f>;
@group(0) @binding(2) var<storage, read> to_end: array<vec4f>;
@group(0) @binding(3) var<storage, read> whole: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> u: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> S: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> o: array<vec4f>;
var<workgroup> right: array<vec4f, max(K, C) * FOURS>; // [row, four columns]: S, then u
var<workgroup> sums: array<mat4x4f, LANES / 2u>;

fn keep(row: u32, four: u32, tile: mat4x4f) {
  right[row * FOURS + four] = tile[0];
  right[(row + 1u) * FOURS + four] = tile[1];
  right[(row + 2u) * FOURS + four] = tile[2];
  right[(row + 3u) * FOURS + four] = tile[3];
}
// Terms 4 i .. 4 i + 3 of a tile: columns of the first factor, each four rows.
fn add_four(sum: mat4x4f, i: u32, four: u32, l0: vec4f, l1: vec4f, l2: vec4f, l3: vec4f) -> mat4x4f {
  let at = 4u * i * FOURS + four;
  let two = add_outer(add_outer(sum, right[at], l0), right[at + FOURS], l1);
  return add_outer(add_outer(two, right[at + 2u * FOURS], l2), right[at + 3u * FOURS], l3);
}
// The sum over all parts of a tile, in its part 0.
fn gather(own: mat4x4f, tile: u32, part: u32, tiles: u32, parts: u32) -> mat4x4f {
  var sum = own;
  for (var half = parts / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (part >= half && part < 2u * half) {
      sums[(part - half) * tiles + tile] = sum;
    }
    workgroupBarrier();
    if (part < half) {
      sum = sum + sums[part * tiles + tile];
    }
  }
  return sum;
}
// Row t of W S or of (G q) S has arrived: what the row writes. Rows past the last token write nothing.
fn pass_row(t: u32, h: u32, e: u32, writes: bool, row: vec4f) -> vec4f {
  if (t >= step.tokens || e >= V / 4u) {
    return vec4f();
  }
  let at = (t * H + h) * (V / 4u) + e;
  if (!writes) {
    o[at] = row;
    return vec4f();
  }
  u[at] -= row;
  return u[at];
}

@compute @workgroup_size(LANES)
fn kda_chunk_scan(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let tile = lane % TILES;
  let part = lane / TILES;
  let four = tile % FOURS;
  let quad = tile / FOURS; // of u's rows, then of o's
  let writes = quad < QUADS;
  let e = group.x * FOURS + four;
  let s_tile = lane % S_TILES;
  let s_part = lane / S_TILES;
  let s_four = s_tile % FOURS;
  let s_quad = s_tile / FOURS;
  let s_first = (h * K + 4u * s_quad) * (V / 4u) + group.x * FOURS + s_four;
  let owns = s_part == 0u && group.x * FOURS + s_four < V / 4u; // lanes past V carry zeros

  var memory = mat4x4f(); // [row] of four columns
  if (owns) {
    memory = mat4x4f(S[s_first], S[s_first + V / 4u], S[s_first + 2u * (V / 4u)], S[s_first + 3u * (V / 4u)]);
  }
  for (var chunk = 0u; chunk * C < step.tokens; chunk++) {
    let matrix = chunk * H + h;
    workgroupBarrier();
    if (s_part == 0u) {
      keep(4u * s_quad, s_four, memory);
    }
    workgroupBarrier();
    var rows = mat4x4f(); // of W S or (G q) S
    for (var i = part; i < K / 4u; i += PARTS) {
      let channel = matrix * K + 4u * i;
      if (writes) {
        let at = channel * QUADS + quad;
        rows = add_four(rows, i, four, W[at], W[at + QUADS], W[at + 2u * QUADS], W[at + 3u * QUADS]);
      } else {
        let at = channel * 2u * QUADS + quad;
        rows = add_four(
          rows, i, four,
          from_start[at], from_start[at + 2u * QUADS], from_start[at + 4u * QUADS], from_start[at + 6u * QUADS],
        );
      }
    }
    rows = gather(rows, tile, part, TILES, PARTS);
    if (part == 0u) {
      let t = chunk * C + 4u * (quad % QUADS); // token of the first row
      let written = mat4x4f(
        pass_row(t, h, e, writes, rows[0]), pass_row(t + 1u, h, e, writes, rows[1]),
        pass_row(t + 2u, h, e, writes, rows[2]), pass_row(t + 3u, h, e, writes, rows[3]),
      );
      if (writes) {
        keep(4u * quad, four, written);
      }
    }
    workgroupBarrier();
    var news = mat4x4f();
    if (s_part < S_PARTS) {
      for (var i = s_part; i < QUADS; i += S_PARTS) {
        let at = (matrix * C + 4u * i) * (K / 4u) + s_quad;
        news = add_four(news, i, s_four, to_end[at], to_end[at + K / 4u], to_end[at + 2u * (K / 4u)], to_end[at + 3u * (K / 4u)]);
      }
    }
    news = gather(news, s_tile, s_part, S_TILES, S_PARTS);
    if (s_part == 0u) {
      let decay = whole[matrix * (K / 4u) + s_quad];
      memory = news + mat4x4f(memory[0] * decay.x, memory[1] * decay.y, memory[2] * decay.z, memory[3] * decay.w);
    }
  }
  if (owns) {
    S[s_first] = memory[0];
    S[s_first + V / 4u] = memory[1];
    S[s_first + 2u * (V / 4u)] = memory[2];
    S[s_first + 3u * (V / 4u)] = memory[3];
  }
}

// kda_chunk_scan: walk a prompt's chunks: what each row writes and reads, and the memory from chunk to chunk; last of three.
//
//   u = M (v - (G k) S)        o = (G q) S + Aqk u        then S <- Diag(whole) S + to_end^T u
//
// Shapes  mixed [T, q | k | v]   from_start [N, H, K, G k | G q, C]   M, Aqk [N, H, C (j), C (i)]   to_end [N, H, C, K]
//         whole [N, H, K]   S [H, K, V] f32, V fastest   o [T, H, V]   G the decay from the chunk's start
// Grid    (V / COLUMNS, H): columns never meet, so V is cut freely; chunks follow one another
// Links   outer, step
// Oracle  test/reference/kda.ts chunk
// The one part of the chain that cannot run side by side, so it is arranged for latency. A product [rows, n] times [n, COLUMNS] is
// made in tiles of four rows by four columns (vec4s of V), and the n terms of a tile are shared out, four by four, among several
// lanes, whose sums meet in workgroup memory. The first factor is on its way from its array two rounds ahead.
const H = 32u;
const K = 128u;
const V = 128u;
const COLUMNS = 16u; // 4 or 8; 16 where K is 192 at most
const C = 64u;
const QUADS = C / 4u; // of rows
const FOURS = COLUMNS / 4u; // of columns
const LANES = 256u;
const TILES = QUADS * FOURS; // of u, and of o
const PARTS = LANES / TILES;
const S_TILES = K / 4u * FOURS; // of the memory, at most LANES
const S_PARTS = select(select(select(1u, 2u, S_TILES <= 128u), 4u, S_TILES <= 64u), 8u, S_TILES <= 32u);
@group(0) @binding(0) var<storage, read> mixed: array<vec4f>;
@group(0) @binding(1) var<storage, read> from_start: array<vec4f>;
@group(0) @binding(2) var<storage, read> M: array<vec4f>;
@group(0) @binding(3) var<storage, read> Aqk: array<vec4f>;
@group(0) @binding(4) var<storage, read> to_end: array<vec4f>;
@group(0) @binding(5) var<storage, read> whole: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> S: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> o: array<vec4f>;
const SUMS = LANES / 2u; // tiles that are on their way between lanes
const ROWS_AT = max(K * FOURS, 4u * SUMS);
var<workgroup> right: array<vec4f, ROWS_AT + C * FOURS>; // [row, four columns]: S, or such tiles; and v - (G k) S, then u

fn keep(at: u32, row: u32, four: u32, tile: mat4x4f) {
  right[at + row * FOURS + four] = tile[0];
  right[at + (row + 1u) * FOURS + four] = tile[1];
  right[at + (row + 2u) * FOURS + four] = tile[2];
  right[at + (row + 3u) * FOURS + four] = tile[3];
}
// Four terms of a tile: a column of the first factor each, of four rows, with the rows of the second from `at`.
fn add_four(sum: mat4x4f, at: u32, left: mat4x4f) -> mat4x4f {
  let two = add_outer(add_outer(sum, right[at], left[0]), right[at + FOURS], left[1]);
  return add_outer(add_outer(two, right[at + 2u * FOURS], left[2]), right[at + 3u * FOURS], left[3]);
}
fn starts(at: u32) -> mat4x4f {
  return mat4x4f(from_start[at], from_start[at + 2u * QUADS], from_start[at + 4u * QUADS], from_start[at + 6u * QUADS]);
}
fn writes(at: u32) -> mat4x4f {
  return mat4x4f(M[at], M[at + QUADS], M[at + 2u * QUADS], M[at + 3u * QUADS]);
}
fn reads(at: u32) -> mat4x4f {
  return mat4x4f(Aqk[at], Aqk[at + QUADS], Aqk[at + 2u * QUADS], Aqk[at + 3u * QUADS]);
}
fn ends(at: u32) -> mat4x4f {
  return mat4x4f(to_end[at], to_end[at + K / 4u], to_end[at + 2u * (K / 4u)], to_end[at + 3u * (K / 4u)]);
}
// The sum over all parts of a tile, in its part 0.
fn gather(own: mat4x4f, tile: u32, part: u32, tiles: u32, parts: u32) -> mat4x4f {
  var sum = own;
  for (var half = parts / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    let at = (part % half) * tiles + tile;
    if (part >= half && part < 2u * half) {
      right[at] = sum[0];
      right[at + SUMS] = sum[1];
      right[at + 2u * SUMS] = sum[2];
      right[at + 3u * SUMS] = sum[3];
    }
    workgroupBarrier();
    if (part < half) {
      sum = sum + mat4x4f(right[at], right[at + SUMS], right[at + 2u * SUMS], right[at + 3u * SUMS]);
    }
  }
  return sum;
}
// Values of a token; none past the last one, which then writes nothing.
fn values(t: u32, h: u32, e: u32) -> vec4f {
  if (t >= step.tokens || e >= V / 4u) {
    return vec4f();
  }
  return mixed[(t * (2u * H * K + H * V) + 2u * H * K + h * V) / 4u + e];
}
fn put(t: u32, h: u32, e: u32, row: vec4f) {
  if (t < step.tokens && e < V / 4u) {
    o[(t * H + h) * (V / 4u) + e] = row;
  }
}

@compute @workgroup_size(LANES)
fn kda_chunk_scan(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.y;
  let tile = lane % TILES;
  let part = lane / TILES;
  let four = tile % FOURS;
  let quad = tile / FOURS;
  let e = group.x * FOURS + four;
  // Of (G k) S even parts have shares, of (G q) S odd ones.
  let half = part / 2u;
  let own_rows = quad + (part % 2u) * QUADS;
  let o_part = (part + PARTS - 1u) % PARTS; // part 1, which has (G q) S, has all of o in the end
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
    let t = chunk * C + 4u * quad; // token of the first row
    let start_at = matrix * K * 2u * QUADS + own_rows;
    let row_at = matrix * C * QUADS + quad;
    let end_at = matrix * C * (K / 4u) + s_quad;

    // What the memory says to keys and to queries.
    var near = starts(start_at + half * 8u * QUADS);
    var far = starts(start_at + min(half + PARTS / 2u, K / 4u - 1u) * 8u * QUADS);
    var v = mat4x4f();
    if (part == 0u) {
      v = mat4x4f(values(t, h, e), values(t + 1u, h, e), values(t + 2u, h, e), values(t + 3u, h, e));
    }
    workgroupBarrier();
    if (s_part == 0u) {
      keep(0u, 4u * s_quad, s_four, memory);
    }
    workgroupBarrier();
    var said = mat4x4f();
    for (var i = half; i < K / 4u; i += PARTS) {
      let next = starts(start_at + min(i + PARTS, K / 4u - 1u) * 8u * QUADS);
      let next_far = starts(start_at + min(i + PARTS + PARTS / 2u, K / 4u - 1u) * 8u * QUADS);
      said = add_four(said, 4u * i * FOURS + four, near);
      if (i + PARTS / 2u < K / 4u) {
        said = add_four(said, 4u * (i + PARTS / 2u) * FOURS + four, far);
      }
      near = next;
      far = next_far;
    }
    near = writes(row_at + min(part, quad) * 4u * QUADS);
    far = writes(row_at + min(part + PARTS, quad) * 4u * QUADS);
    said = gather(said, tile + (part % 2u) * TILES, half, 2u * TILES, PARTS / 2u);
    if (part == 0u) {
      keep(ROWS_AT, 4u * quad, four, v - said);
    }
    workgroupBarrier();

    // What rows write, each knowing those before.
    var u = mat4x4f();
    for (var i = part; i <= quad; i += PARTS) {
      let next = writes(row_at + min(i + 2u * PARTS, quad) * 4u * QUADS);
      u = add_four(u, ROWS_AT + 4u * i * FOURS + four, near);
      near = far;
      far = next;
    }
    near = reads(row_at + min(o_part, quad) * 4u * QUADS);
    far = reads(row_at + min(o_part + PARTS, quad) * 4u * QUADS);
    u = gather(u, tile, part, TILES, PARTS);
    if (part == 0u) {
      keep(ROWS_AT, 4u * quad, four, u);
    }
    workgroupBarrier();

    // What they read, and the memory after them.
    if (part != 1u) {
      said = mat4x4f();
    }
    for (var i = o_part; i <= quad; i += PARTS) {
      let next = reads(row_at + min(i + 2u * PARTS, quad) * 4u * QUADS);
      said = add_four(said, ROWS_AT + 4u * i * FOURS + four, near);
      near = far;
      far = next;
    }
    let decay = whole[matrix * (K / 4u) + s_quad];
    var news = mat4x4f();
    if (s_part < S_PARTS) {
      near = ends(end_at + s_part * K);
      far = ends(end_at + min(s_part + S_PARTS, QUADS - 1u) * K);
      for (var i = s_part; i < QUADS; i += 2u * S_PARTS) {
        let next = ends(end_at + min(i + 2u * S_PARTS, QUADS - 1u) * K);
        let next_far = ends(end_at + min(i + 3u * S_PARTS, QUADS - 1u) * K);
        news = add_four(news, ROWS_AT + 4u * i * FOURS + s_four, near);
        news = add_four(news, ROWS_AT + 4u * (i + S_PARTS) * FOURS + s_four, far);
        near = next;
        far = next_far;
      }
    }
    said = gather(said, tile, o_part, TILES, PARTS);
    if (o_part == 0u) {
      put(t, h, e, said[0]);
      put(t + 1u, h, e, said[1]);
      put(t + 2u, h, e, said[2]);
      put(t + 3u, h, e, said[3]);
    }
    news = gather(news, s_tile, s_part, S_TILES, S_PARTS);
    if (s_part == 0u) {
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

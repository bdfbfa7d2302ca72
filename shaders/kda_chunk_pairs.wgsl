// kda_chunk_pairs: how the rows of a chunk see each other, and how they meet the memory; first of three for a prompt.
//
//   L[i, j]   = sum_d k[i, d] k[j, d] D(j, i)       j <  i       D(j, i) = exp(g[j+1, d] + .. + g[i, d])
//   Aqk[i, j] = sum_d q[i, d] k[j, d] D(j, i)       j <= i
//   from_start = k, then q, times the decay from the chunk's start to (and with) their row
//   to_end     = k times the decay after its row to the chunk's end
//   whole      = the decay over all rows
//
// Shapes  mixed [T, q | k | v] with q, k [H, K], v [H, V]   g [T, H, K]   N = T / C chunks, the last one filled with still rows
//         L, Aqk [N, H, C (j), C (i)]: a vec4 is four rows of one column. Above the diagonal of blocks nothing is said
//         from_start [N, H, K, k | q, C]: a vec4 is four rows of one channel   to_end [N, H, C, K]   whole [N, H, K]
// Grid    (H, N): a lane owns four rows by four columns, and every such tile on or below the diagonal has its lane
// Links   factor_*, outer, step
// Oracle  test/reference/kda.ts chunkPairs
// A decay is only ever made as a product of exp(g) <= 1 over the rows it spans: nothing overflows, however hard the gates close,
// and nothing cancels, as differences of running sums would after one violent token. Rows go in fours ("quads") and blocks of
// four quads. From row j to row i of another block it is j's decay to the end of its block, that of the blocks between, and i's
// from the start of its own: a product of plain matrices. Inside a block it is the same with quads; inside a quad, row by row.
const H = 32u;
const K = 128u;
const V = 128u;
const C = 64u;
const QUADS = C / 4u;
const LANES = 160u;
const LOADERS = SLICE * QUADS; // lanes that bring a quad of one channel each
const SLICE = 8u; // key channels in workgroup memory at a time
const STRIDE = QUADS + 1u; // odd, so that lanes meet different banks
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> L: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> Aqk: array<factor4>;
@group(0) @binding(4) var<storage, read_write> from_start: array<factor4>;
@group(0) @binding(5) var<storage, read_write> to_end: array<factor>;
@group(0) @binding(6) var<storage, read_write> whole: array<f32>;
var<workgroup> queries: array<vec4f, SLICE * STRIDE>; // [channel, quad]
var<workgroup> keys: array<vec4f, SLICE * STRIDE>;
var<workgroup> decays: array<vec4f, SLICE * STRIDE>; // exp(g)
var<workgroup> seen_queries: array<vec4f, SLICE * STRIDE>; // times the decay from their block's start
var<workgroup> seen_keys: array<vec4f, SLICE * STRIDE>;
var<workgroup> given_keys: array<vec4f, SLICE * STRIDE>; // times the decay to their block's end
var<workgroup> quad_decays: array<f32, SLICE * STRIDE>;
var<workgroup> spans: array<f32, SLICE * STRIDE>; // [channel, ..]: over the second, third, both quads of each block; the same of blocks; 1

// Decay from a quad's start to, and with, each of its rows.
fn head(e: vec4f) -> vec4f {
  let xy = e.x * e.y;
  return vec4f(e.x, xy, xy * e.z, xy * e.z * e.w);
}
// Decay after each row to the quad's end.
fn tail(e: vec4f) -> vec4f {
  let zw = e.z * e.w;
  return vec4f(e.y * zw, zw, e.w, 1.0);
}
fn product(e: vec4f) -> f32 {
  return e.x * e.y * e.z * e.w;
}
// m + rows * w, rows along each column.
fn add_columns(m: mat4x4f, rows: vec4f, w: mat4x4f) -> mat4x4f {
  return mat4x4f(fma(rows, w[0], m[0]), fma(rows, w[1], m[1]), fma(rows, w[2], m[2]), fma(rows, w[3], m[3]));
}
// Where in `spans` the decay between two of four begins: of those of a block, or of the blocks of the chunk.
fn span_between(first: u32, last: u32, which: u32) -> u32 {
  if (last - first < 2u) {
    return 15u;
  }
  return 3u * which + select(first, 2u, last - first == 3u);
}
fn value(t: u32, at: u32) -> f32 {
  if (t < step.tokens) {
    return mixed[t * (2u * H * K + H * V) + at];
  }
  return 0.0;
}
fn decay(t: u32, at: u32) -> f32 {
  if (t < step.tokens) {
    return exp(g[t * H * K + at]);
  }
  return 1.0;
}

@compute @workgroup_size(LANES)
fn kda_chunk_pairs(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let start = group.y * C;
  let matrix = group.y * H + h; // this chunk and head in all outputs
  // The lane's tile: lanes 0 .. 95 between blocks, 96 .. 119 between quads of a block, 128 .. 143 in a quad.
  let between = lane < 96u;
  let pair = select(lane % 6u, lane / 16u, between); // of 1 0, 2 0, 2 1, 3 0, 3 1, 3 2
  let later = select(select(3u, 2u, pair < 3u), 1u, pair == 0u);
  let earlier = pair - later * (later - 1u) / 2u;
  let block = (lane - 96u) / 6u; // of quads
  var row = select(4u * block + later, 4u * later + lane % 16u / 4u, between);
  var column = select(4u * block + earlier, 4u * earlier + lane % 4u, between);
  let span = span_between(earlier, later, select(block, 4u, between));
  if (lane >= 128u) {
    row = lane - 128u;
    column = row;
  }
  let own = lane % SLICE; // the channel and the quad that it loads
  let quad = lane / SLICE;
  let quad_block = quad / 4u;
  let t = start + 4u * quad;

  var kk = mat4x4f(); // [column, row]
  var qk = mat4x4f();
  for (var first = 0u; first < K; first += SLICE) {
    let d = first + own;
    let loads = lane < LOADERS && d < K;
    var q = vec4f();
    var k = vec4f();
    var e = vec4f(1.0);
    if (loads) {
      let at = h * K + d;
      q = vec4f(value(t, at), value(t + 1u, at), value(t + 2u, at), value(t + 3u, at));
      k = vec4f(value(t, at + H * K), value(t + 1u, at + H * K), value(t + 2u, at + H * K), value(t + 3u, at + H * K));
      e = vec4f(decay(t, at), decay(t + 1u, at), decay(t + 2u, at), decay(t + 3u, at));
    }
    workgroupBarrier();
    if (lane < LOADERS) {
      queries[own * STRIDE + quad] = q;
      keys[own * STRIDE + quad] = k;
      decays[own * STRIDE + quad] = e;
      quad_decays[own * STRIDE + quad] = product(e);
    }
    workgroupBarrier();
    if (lane < LOADERS) {
      let at = own * STRIDE;
      let p = vec4f(quad_decays[at], quad_decays[at + 1u], quad_decays[at + 2u], quad_decays[at + 3u]);
      let p1 = vec4f(quad_decays[at + 4u], quad_decays[at + 5u], quad_decays[at + 6u], quad_decays[at + 7u]);
      let p2 = vec4f(quad_decays[at + 8u], quad_decays[at + 9u], quad_decays[at + 10u], quad_decays[at + 11u]);
      let p3 = vec4f(quad_decays[at + 12u], quad_decays[at + 13u], quad_decays[at + 14u], quad_decays[at + 15u]);
      let blocks = vec4f(product(p), product(p1), product(p2), product(p3));
      let mine = select(select(p, p1, quad_block == 1u), select(p2, p3, quad_block == 3u), quad_block > 1u);
      // Decays over the quads of its block before this one and after it, and over the blocks.
      let quads_before = select(vec3f(1.0), mine.xyz, vec3u(quad % 4u) > vec3u(0u, 1u, 2u));
      let quads_after = select(vec3f(1.0), mine.yzw, vec3u(quad % 4u) < vec3u(1u, 2u, 3u));
      let blocks_before = select(vec3f(1.0), blocks.xyz, vec3u(quad_block) > vec3u(0u, 1u, 2u));
      let blocks_after = select(vec3f(1.0), blocks.yzw, vec3u(quad_block) < vec3u(1u, 2u, 3u));
      let to_row = head(e) * (quads_before.x * quads_before.y * quads_before.z);
      let from_row = tail(e) * (quads_after.x * quads_after.y * quads_after.z);
      seen_queries[at + quad] = q * to_row;
      seen_keys[at + quad] = k * to_row;
      given_keys[at + quad] = k * from_row;
      if (quad % 4u == 0u) {
        spans[at + 3u * quad_block] = mine.y;
        spans[at + 3u * quad_block + 1u] = mine.z;
        spans[at + 3u * quad_block + 2u] = mine.y * mine.z;
      }
      if (quad == 1u) {
        spans[at + 12u] = blocks.y;
        spans[at + 13u] = blocks.z;
        spans[at + 14u] = blocks.y * blocks.z;
        spans[at + 15u] = 1.0;
      }
      if (loads) {
        let before = blocks_before.x * blocks_before.y * blocks_before.z;
        let out = (matrix * K + d) * (2u * QUADS) + quad;
        from_start[out] = factor4(k * to_row * before);
        from_start[out + QUADS] = factor4(q * to_row * before);
        let last = factor4(k * from_row * (blocks_after.x * blocks_after.y * blocks_after.z));
        let end_at = (matrix * C + 4u * quad) * K + d;
        to_end[end_at] = last.x;
        to_end[end_at + K] = last.y;
        to_end[end_at + 2u * K] = last.z;
        to_end[end_at + 3u * K] = last.w;
        if (quad == 0u) {
          whole[matrix * K + d] = product(blocks);
        }
      }
    }
    workgroupBarrier();
    if (between) {
      for (var c = 0u; c < SLICE * STRIDE; c += STRIDE) {
        let given = given_keys[c + column] * spans[c + span];
        kk = add_outer(kk, seen_keys[c + row], given);
        qk = add_outer(qk, seen_queries[c + row], given);
      }
    } else if (lane < 120u) {
      for (var c = 0u; c < SLICE * STRIDE; c += STRIDE) {
        let given = keys[c + column] * tail(decays[c + column]) * spans[c + span];
        let to = head(decays[c + row]);
        kk = add_outer(kk, keys[c + row] * to, given);
        qk = add_outer(qk, queries[c + row] * to, given);
      }
    } else if (lane >= 128u && lane < 144u) {
      for (var c = 0u; c < SLICE * STRIDE; c += STRIDE) {
        let k = keys[c + column];
        let e = decays[c + row];
        let zw = e.z * e.w;
        let w = mat4x4f( // keys of the columns as each row sees them
          k.x * vec4f(1.0, e.y, e.y * e.z, e.y * zw),
          k.y * vec4f(0.0, 1.0, e.z, zw),
          k.z * vec4f(0.0, 0.0, 1.0, e.w),
          k.w * vec4f(0.0, 0.0, 0.0, 1.0),
        );
        kk = add_columns(kk, k, w);
        qk = add_columns(qk, queries[c + row], w);
      }
    }
  }
  if (lane < 120u || (lane >= 128u && lane < 144u)) {
    let at = (matrix * C + 4u * column) * QUADS + row;
    L[at] = kk[0];
    L[at + QUADS] = kk[1];
    L[at + 2u * QUADS] = kk[2];
    L[at + 3u * QUADS] = kk[3];
    Aqk[at] = factor4(qk[0]);
    Aqk[at + QUADS] = factor4(qk[1]);
    Aqk[at + 2u * QUADS] = factor4(qk[2]);
    Aqk[at + 3u * QUADS] = factor4(qk[3]);
  }
  if (!between && lane < 120u) {
    let above = (matrix * C + 4u * row) * QUADS + column;
    Aqk[above] = factor4();
    Aqk[above + QUADS] = factor4();
    Aqk[above + 2u * QUADS] = factor4();
    Aqk[above + 3u * QUADS] = factor4();
  }
}

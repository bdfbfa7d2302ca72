// kda_chunk_pairs: how the rows of a chunk see each other, and how they meet the memory; first of five for a prompt.
//
//   L[i, j]   = sum_d k[i, d] k[j, d] D(j, i)       j <  i       D(j, i) = exp(g[j+1, d] + .. + g[i, d])
//   Aqk[i, j] = sum_d q[i, d] k[j, d] D(j, i)       j <= i
//   from_start = k, then q, times the decay from the chunk's start to (and with) their row
//   to_end     = k times the decay after its row to the chunk's end
//   whole      = the decay over all rows
//
// Shapes  mixed [T, q | k | v] with q, k [H, K], v [H, V]   g [T, H, K]   N = T / C chunks, the last one filled with still rows
//         L, Aqk [N, H, C (j), C (i)]: a vec4 is four rows of one column; above the diagonal nothing is said
//         from_start [N, H, K, k | q, C]: a vec4 is four rows of one channel   to_end [N, H, C, K]   whole [N, H, K]
// Grid    (H, N): a lane owns four rows by four columns, and every such tile on or below the diagonal has its lane
// Links   step
// Oracle  test/reference/kda.ts chunkPairs
// A decay is only ever made as a product of exp(g) <= 1 over the rows it spans: nothing overflows, however hard the gates close,
// and nothing cancels, as differences of running sums would after one violent token. Rows go in fours ("quads"): from row j
// to row i it is j's decay to the end of its quad, that of the quads between, and i's from the start of its own.
const H = 32u;
const K = 128u;
const V = 128u;
const C = 64u;
const QUADS = C / 4u;
const BELOW = QUADS * (QUADS - 1u) / 2u; // tiles below the diagonal; theirs are the first lanes
const SLICE = 8u; // key channels in workgroup memory at a time
const STRIDE = QUADS + 1u; // odd, so that lanes meet different banks
@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> L: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> Aqk: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> from_start: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> to_end: array<f32>;
@group(0) @binding(6) var<storage, read_write> whole: array<f32>;
var<workgroup> queries: array<vec4f, SLICE * STRIDE>; // [channel, quad]
var<workgroup> keys: array<vec4f, SLICE * STRIDE>;
var<workgroup> decays: array<vec4f, SLICE * STRIDE>; // exp(g)
var<workgroup> between: array<f32, SLICE * STRIDE * STRIDE>; // [channel, begin, end]: decay over quads begin .. end - 1

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
// m + rows * w, rows along each column.
fn add_columns(m: mat4x4f, rows: vec4f, w: mat4x4f) -> mat4x4f {
  return mat4x4f(fma(rows, w[0], m[0]), fma(rows, w[1], m[1]), fma(rows, w[2], m[2]), fma(rows, w[3], m[3]));
}
fn span(d: u32, first: u32, end: u32) -> f32 {
  return between[(d * STRIDE + first) * STRIDE + end];
}

@compute @workgroup_size(256)
fn kda_chunk_pairs(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let start = group.y * C;
  let matrix = group.y * H + h; // this chunk and head in all outputs
  var row = 1u; // the lane's quad of rows and of columns
  var column = lane;
  while (column >= row && row < QUADS) {
    column -= row;
    row++;
  }
  if (lane >= BELOW) {
    row = lane - BELOW;
    column = row;
  }
  let own = (lane % (SLICE * QUADS)) % SLICE; // the lane's channel and quad when rows are loaded and decayed
  let quad = (lane % (SLICE * QUADS)) / SLICE;

  var kk = mat4x4f(); // [column, row]
  var qk = mat4x4f();
  for (var first = 0u; first < K; first += SLICE) {
    workgroupBarrier();
    let d = first + own;
    if (lane < SLICE * QUADS) {
      var q = vec4f();
      var k = vec4f();
      var e = vec4f(1.0);
      for (var r = 0u; r < 4u; r++) {
        let t = start + 4u * quad + r;
        if (t < step.tokens && d < K) {
          let at = t * (2u * H * K + H * V) + h * K + d;
          q[r] = mixed[at];
          k[r] = mixed[at + H * K];
          e[r] = exp(g[(t * H + h) * K + d]);
        }
      }
      queries[own * STRIDE + quad] = q;
      keys[own * STRIDE + quad] = k;
      decays[own * STRIDE + quad] = e;
    }
    workgroupBarrier();
    if (lane < SLICE * STRIDE) {
      let channel = lane % SLICE;
      let begin = lane / SLICE;
      var product = 1.0;
      for (var end = begin; end < QUADS; end++) {
        between[(channel * STRIDE + begin) * STRIDE + end] = product;
        let e = decays[channel * STRIDE + end];
        product *= e.x * e.y * e.z * e.w;
      }
      between[(channel * STRIDE + begin) * STRIDE + QUADS] = product;
    }
    workgroupBarrier();
    if (lane < BELOW + QUADS) {
      for (var c = 0u; c < SLICE; c++) {
        let e = decays[c * STRIDE + row];
        let k = keys[c * STRIDE + column];
        var w: mat4x4f; // keys of the columns as each row sees them
        if (row == column) {
          let zw = e.z * e.w;
          w[0] = k.x * vec4f(1.0, e.y, e.y * e.z, e.y * zw);
          w[1] = k.y * vec4f(0.0, 1.0, e.z, zw);
          w[2] = k.z * vec4f(0.0, 0.0, 1.0, e.w);
          w[3] = vec4f(0.0, 0.0, 0.0, k.w);
        } else {
          let seen = k * tail(decays[c * STRIDE + column]) * span(c, column + 1u, row);
          let to = head(e);
          w = mat4x4f(to * seen.x, to * seen.y, to * seen.z, to * seen.w);
        }
        kk = add_columns(kk, keys[c * STRIDE + row], w);
        qk = add_columns(qk, queries[c * STRIDE + row], w);
      }
    }
    if (lane >= SLICE * QUADS && d < K) {
      let k = keys[own * STRIDE + quad];
      let e = decays[own * STRIDE + quad];
      let at = (matrix * K + d) * (2u * QUADS) + quad;
      from_start[at] = k * head(e) * span(own, 0u, quad);
      from_start[at + QUADS] = queries[own * STRIDE + quad] * head(e) * span(own, 0u, quad);
      let last = k * tail(e) * span(own, quad + 1u, QUADS);
      for (var r = 0u; r < 4u; r++) {
        to_end[(matrix * C + 4u * quad + r) * K + d] = last[r];
      }
      if (quad == 0u) {
        whole[matrix * K + d] = span(own, 0u, QUADS);
      }
    }
  }
  if (lane < BELOW + QUADS) {
    let at = (matrix * C + 4u * column) * QUADS + row;
    for (var c = 0u; c < 4u; c++) {
      L[at + c * QUADS] = kk[c];
      Aqk[at + c * QUADS] = qk[c];
    }
  }
}

// mla_value: join what the slices of the cache said to one token's heads (log-sum-exp), and unfold the values from it.
//
//   m = max_s top[s]      context = sum_s e^(top[s] - m) part[s] / sum_s e^(top[s] - m) sum[s]      o[h, r] = sum_c W[h, r, c] context[h, c]
//
// Shapes  stats [HEADS, SLICES] of (top, sum)   parts [HEADS, SLICES, LATENT]   o [HEADS, VALUES]   LATENT = COLS
//         W [HEADS VALUES, LATENT] in any matrix_* format
// Grid    (VALUES / GROUP, HEADS): one workgroup joins its head and makes GROUP rows; a slice with sum 0 saw nothing, and its part does not count
// Links   matrix_*, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts mergeSlices, unfoldValues
const HEADS = 32u;
const VALUES = 128u;
const SLICES = 64u;
const GROUP = 16u;
@group(0) @binding(0) var<storage, read> stats: array<vec2f>;
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> o: array<f32>;
var<workgroup> context: array<vec4f, COLS / 4u>;
var<workgroup> said: array<vec2f, SLICES>;

// What slice s adds to vec4 i of its head's context. Loads of several slices are on their way at once: none waits for a branch.
fn part(head: u32, s: u32, i: u32, top: f32) -> vec4f {
  let slice = said[min(s, SLICES - 1u)];
  let own = exp(slice.x - top) * parts[(head * SLICES + min(s, SLICES - 1u)) * (COLS / 4u) + i];
  return select(vec4f(), own, s < SLICES && slice.y != 0.0);
}

@compute @workgroup_size(SUM_LANES)
fn mla_value(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.y;
  for (var s = lane.index; s < SLICES; s += SUM_LANES) {
    said[s] = stats[head * SLICES + s];
  }
  workgroupBarrier();
  var top = -3.4e38;
  for (var s = 0u; s < SLICES; s++) {
    top = max(top, said[s].x);
  }
  var sum = 0.0;
  for (var s = 0u; s < SLICES; s++) {
    let slice = said[s];
    sum += exp(slice.x - top) * slice.y;
  }
  for (var i = lane.index; i < COLS / 4u; i += SUM_LANES) {
    var acc = vec4f();
    for (var s = 0u; s < SLICES; s += 4u) {
      acc += part(head, s, i, top) + part(head, s + 1u, i, top) + part(head, s + 2u, i, top) + part(head, s + 3u, i, top);
    }
    context[i] = acc / sum;
  }
  workgroupBarrier();
  let last = VALUES - 1u; // a group may pass the end; it repeats the last row
  for (var row = group.x * GROUP; row < min((group.x + 1u) * GROUP, VALUES); row += 4u) {
    var acc = vec4f();
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      let c0 = context[quad(b, 0u)];
      let c1 = context[quad(b, 1u)];
      for (var r = 0u; r < 4u; r++) {
        let v = block(head * VALUES + min(row + r, last), b);
        acc[r] += dot(v[0], c0) + dot(v[1], c1);
      }
    }
    let total = workgroup_sum(acc, lane);
    if (lane.index < 4u && row + lane.index < VALUES) {
      o[head * VALUES + row + lane.index] = total[lane.index];
    }
  }
}

// mla_append: put the tokens of a call into the latent cache, one row each.
//
//   row(position + t) = [ c[t, ..LATENT] (mean c[t, ..LATENT]^2 + EPS)^-1/2 w | c[t, LATENT..] ]
//
// Shapes  c [T, LATENT + SHARED]   w [LATENT]   cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Grid    (T): one workgroup per token; a token outside this segment is left to the other segments
// Links   sum_{tree,subgroup}, step, cache_{f32,f16}
// Oracle  test/reference/mla.ts latentRows
const LATENT = 512u;
const SHARED = 64u;
const EPS = 0.00001;
const FIRST = 0u;
const SEGMENT = 4096u;
const WIDTH = (LATENT + SHARED) / 4u;
@group(0) @binding(0) var<storage, read> c: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> cache: array<CacheWord>;
@compute @workgroup_size(SUM_LANES)
fn mla_append(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let row = step.position + group.x - FIRST; // wraps around for a token before this segment
  if (row >= SEGMENT) {
    return;
  }
  let first = group.x * WIDTH;
  var squares = vec4f();
  for (var i = lane.index; i < LATENT / 4u; i += SUM_LANES) {
    let v = c[first + i];
    squares += v * v;
  }
  let total = dot(workgroup_sum(squares, lane), vec4f(1.0));
  let scale = inverseSqrt(total / f32(LATENT) + EPS);
  for (var i = lane.index; i < WIDTH; i += SUM_LANES) {
    var v = c[first + i];
    if (i < LATENT / 4u) {
      v *= scale * w[i];
    }
    cache[row * WIDTH + i] = cache_store(v);
  }
}

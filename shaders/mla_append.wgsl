// mla_append: put the tokens of a call into the latent cache, one row each.
//
//   row(position + t) = [ c[t, ..LATENT] (mean c[t, ..LATENT]^2 + EPS)^-1/2 w | c[t, LATENT..] ]
//
// Shapes  c [T, LATENT + SHARED]   w [LATENT]   cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Grid    (T): one workgroup per token; a token outside this segment is left to the other segments
// Links   latent_row, cache_{f32,f16}, step, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts latentRows
const LATENT = 512u;
const SHARED = 64u;
const EPS = 0.00001;
const FIRST = 0u;
const SEGMENT = 4096u;
@group(0) @binding(0) var<storage, read> c: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> cache: array<CacheWord>;

fn latent_value(i: u32) -> vec4f {
  return c[i];
}
fn latent_weight(i: u32) -> vec4f {
  return w[i];
}

@compute @workgroup_size(SUM_LANES)
fn mla_append(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  append_latent(step.position + group.x, group.x * ((LATENT + SHARED) / 4u), lane);
}

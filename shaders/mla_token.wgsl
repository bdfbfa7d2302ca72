// mla_token: what one token asks of the latent cache, and its own row there.
//
//   qa[h, r] = sum_c W[h, r, c] q[h, c]        c < NOPE = COLS: queries in the latent's terms
//   row(position) = [ c[..LATENT] (mean c[..LATENT]^2 + EPS)^-1/2 w | c[LATENT..] ]
//
// Shapes  inputs [q [HEADS, NOPE + SHARED] | from LATENT_AT: c [LATENT + SHARED]]   w [LATENT]   qa [HEADS, LATENT]
//         W [HEADS LATENT, NOPE] in any matrix_* format
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Grid    (LATENT / 4 HEADS + 1): four rows of a head each; the last workgroup appends, if the segment has the position
// Links   matrix_*, latent_row, cache_{f32,f16}, step, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts absorbQueries, latentRows
const HEADS = 32u;
const LATENT = 512u;
const SHARED = 64u;
const LATENT_AT = 6144u;
const EPS = 0.00001;
const FIRST = 0u;
const SEGMENT = 4096u;
const GROUPS = LATENT / 4u; // of a head
@group(0) @binding(0) var<storage, read> inputs: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> qa: array<f32>;
@group(0) @binding(3) var<storage, read_write> cache: array<CacheWord>;

fn latent_value(i: u32) -> vec4f {
  return inputs[i];
}
fn latent_weight(i: u32) -> vec4f {
  return w[i];
}

@compute @workgroup_size(SUM_LANES)
fn mla_token(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x / GROUPS;
  if (head < HEADS) {
    let row = 4u * (group.x % GROUPS);
    let first = head * ((COLS + SHARED) / 4u);
    var acc = vec4f();
    for (var b = lane.index; b < COLS / BLOCK; b += SUM_LANES) {
      acc += four(head * LATENT + row, b, inputs[first + quad(b, 0u)], inputs[first + quad(b, 1u)]);
    }
    let total = workgroup_sum(acc, lane);
    if (lane.index < 4u) {
      qa[head * LATENT + row + lane.index] = total[lane.index];
    }
    return;
  }
  append_latent(step.position, LATENT_AT / 4u, lane);
}

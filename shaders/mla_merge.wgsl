// mla_merge: join what the slices of the cache said into each head's context (log-sum-exp).
//
//   m = max_s top[s]      context = sum_s e^(top[s] - m) part[s] / sum_s e^(top[s] - m) sum[s]
//
// Shapes  stats [T, HEADS, SLICES] of (top, sum)   parts [T, HEADS, SLICES, LATENT]   context [T, HEADS, LATENT]
// Grid    (HEADS, T, LATENT / 4 / COLUMNS): 256 / COLUMNS lanes share out the slices of one vec4; a slice with sum 0 saw
//         nothing, and its part is not read
// Links   none
// Oracle  test/reference/mla.ts mergeSlices
const HEADS = 32u;
const LATENT = 512u;
const SLICES = 64u;
const COLUMNS = 4u; // a power of two, 128 at most
const SHARES = 256u / COLUMNS;
struct Said {
  top: f32,
  sum: f32,
  part: vec4f,
}
@group(0) @binding(0) var<storage, read> stats: array<vec2f>;
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> context: array<vec4f>;
var<workgroup> said: array<Said, 256>;

fn join(a: Said, b: Said) -> Said {
  let top = max(a.top, b.top);
  let fa = exp(a.top - top);
  let fb = exp(b.top - top);
  return Said(top, fa * a.sum + fb * b.sum, fa * a.part + fb * b.part);
}

@compute @workgroup_size(256)
fn mla_merge(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = group.y * HEADS + group.x;
  let column = group.z * COLUMNS + lane % COLUMNS;
  var own = Said(-3.4e38, 0.0, vec4f());
  for (var s = lane / COLUMNS; s < SLICES; s += SHARES) {
    let slice = stats[n * SLICES + s];
    if (slice.y != 0.0 && column < LATENT / 4u) {
      own = join(own, Said(slice.x, slice.y, parts[(n * SLICES + s) * (LATENT / 4u) + column]));
    }
  }
  said[lane] = own;
  workgroupBarrier();
  for (var half = SHARES / 2u; half > 0u; half /= 2u) {
    if (lane < half * COLUMNS) {
      said[lane] = join(said[lane], said[lane + half * COLUMNS]);
    }
    workgroupBarrier();
  }
  if (lane < COLUMNS && column < LATENT / 4u) {
    context[n * (LATENT / 4u) + column] = said[lane].part / said[lane].sum;
  }
}

// latent_row: one token's row of the latent cache, its latent normalised; the key part that all heads share goes in as it is.
//
//   row(position) = [ c[..LATENT] (mean c[..LATENT]^2 + EPS)^-1/2 w | c[LATENT..] ]
//
// Shapes  c [LATENT + SHARED], w [LATENT]   cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Links   cache_*, a sum; the kernel's LATENT, SHARED, EPS, FIRST, SEGMENT and cache, and its fours of c and w: latent_value(i), latent_weight(i)
const LATENT_WIDTH = (LATENT + SHARED) / 4u;

// c begins at four `start`. By all lanes; a position outside this segment is left to the other segments.
fn append_latent(position: u32, start: u32, lane: Lane) {
  let row = position - FIRST; // wraps around for a token before this segment
  if (row >= SEGMENT) {
    return;
  }
  var squares = vec4f();
  for (var i = lane.index; i < LATENT / 4u; i += SUM_LANES) {
    let v = latent_value(start + i);
    squares += v * v;
  }
  let total = dot(workgroup_sum(squares, lane), vec4f(1.0));
  let scale = inverseSqrt(total / f32(LATENT) + EPS);
  for (var i = lane.index; i < LATENT_WIDTH; i += SUM_LANES) {
    var v = latent_value(start + i);
    if (i < LATENT / 4u) {
      v *= scale * latent_weight(i);
    }
    cache[row * LATENT_WIDTH + i] = cache_store(v);
  }
}

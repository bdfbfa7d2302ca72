// residual: the residual row as earlier calls left it, a row and parts still to be added, taken into workgroup memory.
//
//   x = rows[FROM] + sum_{p < PARTS} rows[PART_FROM + p]        normed = w x        returns (mean x^2 + NORM_EPS)^-1/2
//
// Shapes  rows [.., D]: of one token a row for x, a second one that the next call reads, and the parts
// Links   a sum with SUM_LANES lanes; the kernel's own norm_weight(i), the four i of w
// Every workgroup of a call adds up the whole row, in one order; the one that `speaks` leaves it in row TO, which none of them reads.
const D = 576u;
const FROM = 0u;
const TO = 1u;
const PARTS = 9u;
const PART_FROM = 2u;
const NORM_EPS = 0.00001;
@group(0) @binding(0) var<storage, read_write> rows: array<vec4f>;
var<workgroup> normed: array<vec4f, D / 4u>;

// Four i of part p; parts past the last are nothing.
fn residual_part(p: u32, i: u32) -> vec4f {
  return select(0.0, 1.0, p < PARTS) * rows[(PART_FROM + min(p, max(PARTS, 1u) - 1u)) * (D / 4u) + i];
}

// By all lanes; a barrier too: normed is there.
fn take_residual(speaks: bool, lane: Lane) -> f32 {
  var squares = 0.0;
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    let w = norm_weight(i); // on its way with the rest
    var x = rows[FROM * (D / 4u) + i];
    for (var p = 0u; p < PARTS; p += 8u) { // eight are on their way at once
      let near = (residual_part(p, i) + residual_part(p + 1u, i)) + (residual_part(p + 2u, i) + residual_part(p + 3u, i));
      let far = (residual_part(p + 4u, i) + residual_part(p + 5u, i)) + (residual_part(p + 6u, i) + residual_part(p + 7u, i));
      x += near + far;
    }
    if (speaks) {
      rows[TO * (D / 4u) + i] = x;
    }
    squares += dot(x, x);
    normed[i] = w * x;
  }
  return inverseSqrt(workgroup_sum(vec4f(squares), lane).x / f32(D) + NORM_EPS);
}

// residual: the residual row as earlier calls left it, a row and parts still to be added, taken into workgroup memory.
//
//   x = rows[FROM] + sum_{p < PARTS} rows[PART_FROM + p]        normed = w x        returns (mean x^2 + NORM_EPS)^-1/2
//
// Shapes  rows [.., D]: of one token a row for x, a second one that the next call reads, and the parts
// Links   a sum with SUM_LANES lanes; the kernel's own norm_weight(i), the four i of w
// Every workgroup of a call adds up the whole row, in one order; the one that `speaks` leaves it in row TO, which none of them reads.
// Of the row and its parts, ADDERS lanes each take every ADDERS-th, so that all are on their way at once.
const D = 576u;
const FROM = 0u;
const TO = 1u;
const PARTS = 9u;
const PART_FROM = 2u;
const NORM_EPS = 0.00001;
const ADDERS = clamp(SUM_LANES / (D / 4u), 1u, min(PARTS + 1u, 8u));
const TERMS = (PARTS + ADDERS) / ADDERS; // rows that each adds up at most
@group(0) @binding(0) var<storage, read_write> rows: array<vec4f>;
var<workgroup> normed: array<vec4f, D / 4u>;
var<workgroup> added: array<vec4f, (ADDERS - 1u) * (D / 4u) + 1u>; // by all adders but the first

// Four i of the row, where n is 0, or of part n - 1; parts past the last are nothing.
fn residual_term(n: u32, i: u32) -> vec4f {
  let row = select(PART_FROM + min(n, PARTS) - 1u, FROM, min(n, PARTS) == 0u);
  return select(0.0, 1.0, n <= PARTS) * rows[row * (D / 4u) + i];
}
// Four of those that an adder has, from its `first` on; and all of them.
fn residual_terms(first: u32, i: u32) -> vec4f {
  return (residual_term(first, i) + residual_term(first + ADDERS, i))
    + (residual_term(first + 2u * ADDERS, i) + residual_term(first + 3u * ADDERS, i));
}
fn add_terms(adder: u32, i: u32) -> vec4f {
  var sum = residual_terms(adder, i);
  if (TERMS > 4u) {
    sum += residual_terms(adder + 4u * ADDERS, i);
  }
  if (TERMS > 8u) {
    sum += residual_terms(adder + 8u * ADDERS, i);
  }
  if (12u * ADDERS <= PARTS) {
    for (var n = adder + 12u * ADDERS; n <= PARTS; n += 12u * ADDERS) { // twelve are on their way at once
      let near = residual_terms(n, i) + residual_terms(n + 4u * ADDERS, i);
      sum += near + residual_terms(n + 8u * ADDERS, i);
    }
  }
  return sum;
}
fn added_by(adder: u32, i: u32) -> vec4f {
  return select(0.0, 1.0, adder < ADDERS) * added[(min(adder, ADDERS - 1u) - min(1u, ADDERS - 1u)) * (D / 4u) + i];
}
fn added_by_others(i: u32) -> vec4f {
  let near = added_by(1u, i) + added_by(2u, i) + added_by(3u, i);
  return near + (added_by(4u, i) + added_by(5u, i)) + (added_by(6u, i) + added_by(7u, i));
}

// A compiler puts off each load until its turn, past barriers too, unless what comes before needs bits of it. `bits` are 0, but no
// compiler knows: bits of what a lane asked for, anded with a zero that is read while the GPU computes.
fn kept_waiting(x: vec4f, bits: u32) -> vec4f {
  return bitcast<vec4f>(bitcast<vec4u>(x) | vec4u(bits));
}

// By all lanes; a barrier too: normed is there. `bits` are of what is to travel with the row; 0 of what may be put off.
fn take_residual(speaks: bool, bits: u32, lane: Lane) -> f32 {
  var own = vec4f();
  var weight = vec4f();
  if (ADDERS > 1u && lane.index < ADDERS * (D / 4u)) {
    let i = lane.index % (D / 4u);
    weight = norm_weight(i); // on its way with the rest
    own = add_terms(lane.index / (D / 4u), i);
    if (lane.index >= D / 4u) {
      added[lane.index - D / 4u] = own;
    }
  }
  if (ADDERS > 1u) {
    workgroupBarrier();
  }
  var squares = kept_waiting(vec4f(), bits).x;
  for (var i = lane.index; i < D / 4u; i += SUM_LANES) {
    var x = own;
    if (ADDERS > 1u) {
      x += added_by_others(i);
    } else {
      weight = norm_weight(i);
      x = add_terms(0u, i);
    }
    if (speaks) {
      rows[TO * (D / 4u) + i] = x;
    }
    squares += dot(x, x);
    normed[i] = weight * x;
  }
  return inverseSqrt(workgroup_sum_one(squares, lane) / f32(D) + NORM_EPS);
}

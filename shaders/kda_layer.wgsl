// kda_layer: a KDA layer's part of one token from residual row to residual row, for models of few small heads.
//
//   h = s normed      q, k, v = A h      f, o_g, b = B h      y = what kda_head says      part of the head = O y
//
// Shapes  A [C, D] from row Q_FIRST: q | k | v of all heads   B from row LOW_FIRST: f [RANK] | o_g [RANK] | b [H]   O [D, H V]
//         constants [w of the norm [D] | as kda_head has them, BEFORE = D]   rows as residual has them; the parts from PART_TO on [H, D]
// Grid    (H): one workgroup per head; the low ranks, which all heads need, each makes for itself
// Links   kda_head and what it links, residual, matrix_* for A as c, for B as d, for O as e
// Oracle  test/reference/kda.ts shortConv, gates, writeStrengths, step, outNorm; layers.ts rmsNorm, linear
// Q_FIRST and LOW_FIRST are multiples of 4, V of 32; SUM_LANES is (2 K + V) / 4 and RANK / 2 + 1 or more.
const Q_FIRST = 0u;
const LOW_FIRST = 0u;
const PART_TO = 2u;
const IN_FOURS = (2u * K + V) / 4u;
const IN_SHARERS = SUM_LANES / IN_FOURS; // lanes that share four rows of A
const LOW_FOURS = RANK / 2u + 1u; // the last has the head's b
const LOW_SHARERS = SUM_LANES / LOW_FOURS;

fn norm_weight(i: u32) -> vec4f {
  return vec4f(constants[4u * i], constants[4u * i + 1u], constants[4u * i + 2u], constants[4u * i + 3u]);
}

// The projections lie where kda_head makes the convolutions of them, number by number.
fn given(i: u32, h: u32) -> f32 {
  return mixed[i];
}

// Block b of four rows of A, of B, of O; blocks past the last are nothing.
fn in_block(row: u32, b: u32) -> vec4f {
  let at = min(b, D / BLOCK_c - 1u);
  return select(0.0, 1.0, b == at) * four_c(row, at, normed[quad_c(at, 0u)], normed[quad_c(at, 1u)]);
}
fn low_block(row: u32, b: u32) -> vec4f {
  let at = min(b, D / BLOCK_d - 1u);
  return select(0.0, 1.0, b == at) * four_d(row, at, normed[quad_d(at, 0u)], normed[quad_d(at, 1u)]);
}
fn out_block(row: u32, h: u32, b: u32) -> vec4f {
  let at = h * (V / BLOCK_e) + b;
  return four_e(row, at, sums[quad_e(at, 0u) - h * FOURS], sums[quad_e(at, 1u) - h * FOURS]);
}

@compute @workgroup_size(SUM_LANES)
fn kda_layer(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.x;
  let scale = take_residual(h == 0u, lane);
  var wide = vec4f();
  let wide_four = lane.index / IN_SHARERS;
  if (wide_four < IN_FOURS) {
    let row = Q_FIRST + channel(4u * wide_four, h);
    for (var b = lane.index % IN_SHARERS; b < D / BLOCK_c; b += 4u * IN_SHARERS) { // four blocks are on their way at once
      wide += (in_block(row, b) + in_block(row, b + IN_SHARERS))
        + (in_block(row, b + 2u * IN_SHARERS) + in_block(row, b + 3u * IN_SHARERS));
    }
  }
  var narrow = vec4f();
  let low_four = lane.index / LOW_SHARERS;
  if (low_four < LOW_FOURS) {
    let row = LOW_FIRST + select(4u * low_four, 2u * RANK + (h & ~3u), low_four + 1u == LOW_FOURS);
    for (var b = lane.index % LOW_SHARERS; b < D / BLOCK_d; b += 4u * LOW_SHARERS) {
      narrow += (low_block(row, b) + low_block(row, b + LOW_SHARERS))
        + (low_block(row, b + 2u * LOW_SHARERS) + low_block(row, b + 3u * LOW_SHARERS));
    }
  }
  sums[lane.index] = wide;
  sums[SUM_LANES + lane.index] = narrow;
  workgroupBarrier();
  for (var i = lane.index; i < IN_FOURS + LOW_FOURS; i += SUM_LANES) {
    var sum = vec4f();
    if (i < IN_FOURS) {
      for (var s = 0u; s < IN_SHARERS; s++) {
        sum += scale * sums[i * IN_SHARERS + s];
      }
      mixed[4u * i] = sum.x;
      mixed[4u * i + 1u] = sum.y;
      mixed[4u * i + 2u] = sum.z;
      mixed[4u * i + 3u] = sum.w;
    } else {
      for (var s = 0u; s < LOW_SHARERS; s++) {
        sum += scale * sums[SUM_LANES + (i - IN_FOURS) * LOW_SHARERS + s];
      }
      if (i + 1u < IN_FOURS + LOW_FOURS) {
        low[i - IN_FOURS] = sum;
      } else {
        decay[0] = sum[h & 3u]; // until the decays are made
      }
    }
  }
  workgroupBarrier();
  let out = take_token(h, decay[0], lane);
  if (lane.index < FOURS) {
    sums[lane.index] = out;
  }
  workgroupBarrier();
  for (var row = lane.index; row < D / 4u; row += SUM_LANES) {
    var part = vec4f();
    for (var b = 0u; b < V / BLOCK_e; b += 4u) {
      part += (out_block(4u * row, h, b) + out_block(4u * row, h, b + 1u))
        + (out_block(4u * row, h, b + 2u) + out_block(4u * row, h, b + 3u));
    }
    rows[(PART_TO + h) * (D / 4u) + row] = part;
  }
}

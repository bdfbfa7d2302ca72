// kda_layer: a KDA layer's part of one token from residual row to residual row, for models of few small heads.
//
//   h = s normed      q, k, v = A h      f, o_g, b = B h      y = what kda_head_early says      part of the head = O y
//
// Shapes  A [C, D] from row Q_FIRST: q | k | v of all heads   B from row LOW_FIRST: f [RANK] | o_g [RANK] | b [H]   O [D, H V]
//         constants [w of the norm [D] | as kda_head_early has them, BEFORE = D]   rows as residual has them; the parts from PART_TO on [H, D]
// Grid    (H): one workgroup per head; the low ranks, which all heads need, each makes for itself
// Links   kda_head_early and what it links, residual, matrix_* for A as c, for B as d, for O as e
// Oracle  test/reference/kda.ts shortConv, gates, writeStrengths, step, outNorm; layers.ts rmsNorm, linear
// Q_FIRST and LOW_FIRST are multiples of 4, V of 32; SUM_LANES is (2 K + V) / 4 and RANK / 2 + 1 or more.
// The call is one chain of waits for memory on a multiprocessor of its own: blocks are written out, since no loop of loads
// overlaps with itself, and asked for as early as registers allow.
const Q_FIRST = 0u;
const LOW_FIRST = 0u;
const PART_TO = 2u;
const IN_FOURS = MIXED / 4u;
const IN_BLOCKS = D / BLOCK_c;
const IN_SHARERS = min(SUM_LANES / IN_FOURS, IN_BLOCKS); // lanes that share four rows of A
const IN_ROUNDS = (IN_BLOCKS + IN_SHARERS - 1u) / IN_SHARERS;
const LOW_FOURS = RANK / 2u + 1u; // the last has the head's b
const LOW_BLOCKS = D / BLOCK_d;
const LOW_SHARERS = min(SUM_LANES / LOW_FOURS, LOW_BLOCKS);
const LOW_ROUNDS = (LOW_BLOCKS + LOW_SHARERS - 1u) / LOW_SHARERS;
const OUT_BLOCKS = V / BLOCK_e;
const OUT_SHARERS = clamp(SUM_LANES / (D / 4u), 1u, min(OUT_BLOCKS, 4u));
const OUT_ROUNDS = (OUT_BLOCKS + OUT_SHARERS - 1u) / OUT_SHARERS;

fn norm_weight(i: u32) -> vec4f {
  return vec4f(constants[4u * i], constants[4u * i + 1u], constants[4u * i + 2u], constants[4u * i + 3u]);
}

// The projections lie, in shares and without the norm's scale, where kda_head_early makes the convolutions of them.
var<private> norm_scale: f32;
fn given(i: u32, h: u32) -> f32 {
  return norm_scale * row_together((i / 4u) * IN_SHARERS, IN_SHARERS, i % 4u);
}

// Round j of a lane's share of four rows of A: asked for, and multiplied; blocks past the last are nothing.
fn in_at(share: u32, j: u32) -> u32 {
  return min(share + j * IN_SHARERS, IN_BLOCKS - 1u);
}
fn ask_in(row: u32, share: u32, j: u32) -> Four_c {
  return ask_four_c(row, in_at(share, j));
}
fn in_block(asked: Four_c, share: u32, j: u32) -> vec4f {
  let b = in_at(share, j);
  let there = ((j + 1u) * IN_SHARERS <= IN_BLOCKS) | (share + j * IN_SHARERS < IN_BLOCKS);
  return select(0.0, 1.0, there) * asked_four_c(asked, b, normed[quad_c(b, 0u)], normed[quad_c(b, 1u)]);
}
// The same of B, and of O, whose columns are those of the head.
fn low_block(row: u32, share: u32, j: u32) -> vec4f {
  let b = min(share + j * LOW_SHARERS, LOW_BLOCKS - 1u);
  let there = ((j + 1u) * LOW_SHARERS <= LOW_BLOCKS) | (share + j * LOW_SHARERS < LOW_BLOCKS);
  return select(0.0, 1.0, there) * four_d(row, b, normed[quad_d(b, 0u)], normed[quad_d(b, 1u)]);
}
fn out_at(h: u32, share: u32, j: u32) -> u32 {
  return h * OUT_BLOCKS + min(share + j * OUT_SHARERS, OUT_BLOCKS - 1u);
}
fn ask_out(row: u32, h: u32, share: u32, j: u32) -> Four_e {
  return ask_four_e(row, out_at(h, share, j));
}
fn out_block(asked: Four_e, h: u32, share: u32, j: u32) -> vec4f {
  let b = out_at(h, share, j);
  let there = ((j + 1u) * OUT_SHARERS <= OUT_BLOCKS) | (share + j * OUT_SHARERS < OUT_BLOCKS);
  return select(0.0, 1.0, there) * asked_four_e(asked, b, opened(quad_e(b, 0u) - h * FOURS), opened(quad_e(b, 1u) - h * FOURS));
}

// All rounds of a lane: what is constant decides how many are written one after another.
fn low_rows(row: u32, share: u32) -> vec4f {
  var sum = low_block(row, share, 0u);
  if (LOW_ROUNDS > 1u) {
    sum += low_block(row, share, 1u);
  }
  if (LOW_ROUNDS > 2u) {
    sum += low_block(row, share, 2u);
  }
  if (LOW_ROUNDS > 3u) {
    sum += low_block(row, share, 3u);
  }
  if (LOW_ROUNDS > 4u) {
    sum += low_block(row, share, 4u);
  }
  if (LOW_ROUNDS > 5u) {
    for (var j = 5u; j < LOW_ROUNDS; j += 3u) {
      sum += low_block(row, share, j) + low_block(row, share, j + 1u) + low_block(row, share, j + 2u);
    }
  }
  return sum;
}
fn in_rows(row: u32, share: u32, j: u32) -> vec4f {
  let b0 = ask_in(row, share, j);
  let b1 = ask_in(row, share, j + 1u);
  let b2 = ask_in(row, share, j + 2u);
  let b3 = ask_in(row, share, j + 3u);
  return (in_block(b0, share, j) + in_block(b1, share, j + 1u)) + (in_block(b2, share, j + 2u) + in_block(b3, share, j + 3u));
}
fn out_rows(row: u32, h: u32, share: u32, first: u32) -> vec4f {
  var sum = vec4f();
  for (var j = first; j < OUT_ROUNDS; j += 4u) {
    let b0 = ask_out(row, h, share, j);
    let b1 = ask_out(row, h, share, j + 1u);
    let b2 = ask_out(row, h, share, j + 2u);
    let b3 = ask_out(row, h, share, j + 3u);
    let near = out_block(b0, h, share, j) + out_block(b1, h, share, j + 1u);
    sum += near + (out_block(b2, h, share, j + 2u) + out_block(b3, h, share, j + 3u));
  }
  return sum;
}
fn share_of(n: u32, i: u32) -> vec4f {
  return select(0.0, 1.0, i < OUT_SHARERS) * sums[n * OUT_SHARERS + min(i, OUT_SHARERS - 1u)];
}
fn out_together(n: u32) -> vec4f {
  return (share_of(n, 0u) + share_of(n, 1u)) + (share_of(n, 2u) + share_of(n, 3u));
}

@compute @workgroup_size(SUM_LANES)
fn kda_layer(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let h = group.x;
  let in_row = Q_FIRST + channel(4u * min(lane.index / IN_SHARERS, IN_FOURS - 1u), h);
  let in_share = lane.index % IN_SHARERS;
  let a0 = ask_in(in_row, in_share, 0u);
  let a1 = ask_in(in_row, in_share, 1u);
  let a2 = ask_in(in_row, in_share, 2u);
  let a3 = ask_in(in_row, in_share, 3u);
  norm_scale = take_residual(h == 0u, 0u, lane);
  var wide = (in_block(a0, in_share, 0u) + in_block(a1, in_share, 1u)) + (in_block(a2, in_share, 2u) + in_block(a3, in_share, 3u));
  if (IN_ROUNDS > 4u) {
    wide += in_rows(in_row, in_share, 4u);
  }
  if (IN_ROUNDS > 8u) {
    for (var j = 8u; j < IN_ROUNDS; j += 4u) {
      wide += in_rows(in_row, in_share, j);
    }
  }
  let asked = ask_head(h, lane);
  let low_four = min(lane.index / LOW_SHARERS, LOW_FOURS - 1u);
  let narrow = low_rows(LOW_FIRST + select(4u * low_four, 2u * RANK + (h & ~3u), low_four + 1u == LOW_FOURS), lane.index % LOW_SHARERS);
  let out_row = 4u * (lane.index / OUT_SHARERS % (D / 4u));
  let out_share = lane.index % OUT_SHARERS;
  let o0 = ask_out(out_row, h, out_share, 0u);
  var o1 = Four_e();
  var o2 = Four_e();
  var o3 = Four_e();
  if (OUT_ROUNDS > 1u) {
    o1 = ask_out(out_row, h, out_share, 1u);
  }
  if (OUT_ROUNDS > 2u) {
    o2 = ask_out(out_row, h, out_share, 2u);
  }
  if (OUT_ROUNDS > 3u) {
    o3 = ask_out(out_row, h, out_share, 3u);
  }
  sums[lane.index] = wide; // lanes past the last row have shares that nobody takes
  sums[SUM_LANES + lane.index] = narrow;
  workgroupBarrier();
  for (var r = (lane.index + SUM_LANES - MIXED % SUM_LANES) % SUM_LANES; r < 2u * RANK; r += SUM_LANES) { // first by lanes without a convolution
    low[r] = norm_scale * row_together(SUM_LANES + (r / 4u) * LOW_SHARERS, LOW_SHARERS, r % 4u);
  }
  if (lane.index + 1u == SUM_LANES) {
    decay[0] = norm_scale * row_together(SUM_LANES + (LOW_FOURS - 1u) * LOW_SHARERS, LOW_SHARERS, h & 3u);
  }
  let scale = take_token(h, asked, lane);
  var part = out_block(o0, h, out_share, 0u);
  if (OUT_ROUNDS > 1u) {
    part += out_block(o1, h, out_share, 1u);
  }
  if (OUT_ROUNDS > 2u) {
    part += out_block(o2, h, out_share, 2u);
  }
  if (OUT_ROUNDS > 3u) {
    part += out_block(o3, h, out_share, 3u);
  }
  if (OUT_ROUNDS > 4u) {
    part += out_rows(out_row, h, out_share, 4u);
  }
  if (OUT_SHARERS > 1u) {
    sums[lane.index] = part;
    workgroupBarrier();
    part = out_together(min(lane.index, D / 4u - 1u));
  }
  if (lane.index < D / 4u) {
    rows[(PART_TO + h) * (D / 4u) + lane.index] = scale * part;
  }
  if (SUM_LANES < D / 4u) {
    for (var n = lane.index + SUM_LANES; n < D / 4u; n += SUM_LANES) { // only where no lanes share rows
      rows[(PART_TO + h) * (D / 4u) + n] = scale * out_rows(4u * n, h, 0u, 0u);
    }
  }
}

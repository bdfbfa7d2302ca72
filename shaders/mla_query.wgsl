// mla_query: what one token asks of the latent cache, and its own row there, from the residual row on.
//
//   h = x (mean x^2 + NORM_EPS)^-1/2 w        q = Q h        c = C h
//   qa[h, r] = sum_c W[h, r, c] q[h, c]        c < NOPE = COLS_c: queries in the latent's terms
//   row(position) = [ c[..LATENT] (mean c[..LATENT]^2 + EPS)^-1/2 w_c | c[LATENT..] ]
//
// Shapes  rows as residual has them   constants [w [D] | w_c [LATENT]]   qa [HEADS, LATENT]
//         inputs [q [HEADS, NOPE + SHARED] | from LATENT_AT: c [LATENT + SHARED]]
//         Q [HEADS (NOPE + SHARED), D], C [LATENT + SHARED, D], W [HEADS LATENT, NOPE], each in any matrix_* format
//         cache [SEGMENT, LATENT + SHARED] words of cache_*, positions FIRST .. FIRST + SEGMENT - 1
// Grid    (HEADS + 1): one workgroup per head; the last has the latent row, appends it if the segment has the position, and
//         leaves the residual row
// Links   matrix_* for Q, others as b for C and as c for W, residual, shares, latent_row, cache_{f32,f16}, step, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts absorbQueries, latentRows
// The norm's scale is one number, so it comes after the products. D, LATENT_AT, LATENT, SHARED are multiples of 4, COLS and COLS_c of 8.
const HEADS = 9u;
const LATENT = 192u;
const SHARED = 32u;
const LATENT_AT = 896u;
const EPS = 0.00001;
const FIRST = 0u;
const SEGMENT = 4096u;
const BLOCKS = COLS / BLOCK;
const BLOCKS_b = COLS_b / BLOCK_b;
const BLOCKS_c = COLS_c / BLOCK_c;
const QUERY_FOURS = (COLS_c + SHARED) / 4u; // rows of a head in Q, by fours
const ROW_FOURS = (LATENT + SHARED) / 4u; // of C
const KEY_FOURS = LATENT / 4u; // of a head in W
// Lanes that share four rows: the fewest of whom none has more blocks than where all lanes are busy.
const QUERY_BLOCKS = (BLOCKS - 1u) / clamp(SUM_LANES / QUERY_FOURS, 1u, BLOCKS) + 1u;
const QUERY_SHARERS = (BLOCKS - 1u) / QUERY_BLOCKS + 1u;
const ROW_BLOCKS = (BLOCKS_b - 1u) / clamp(SUM_LANES / ROW_FOURS, 1u, BLOCKS_b) + 1u;
const ROW_SHARERS = (BLOCKS_b - 1u) / ROW_BLOCKS + 1u;
const KEY_BLOCKS = (BLOCKS_c - 1u) / clamp(SUM_LANES / KEY_FOURS, 1u, BLOCKS_c) + 1u;
const KEY_SHARERS = (BLOCKS_c - 1u) / KEY_BLOCKS + 1u;
const SHARES = max(QUERY_FOURS * QUERY_SHARERS, max(ROW_FOURS * ROW_SHARERS, KEY_FOURS * KEY_SHARERS));
@group(0) @binding(1) var<storage, read> constants: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> inputs: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> qa: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> cache: array<CacheWord>;
var<workgroup> made: array<vec4f, max(QUERY_FOURS, ROW_FOURS)>; // q of the head, or c

fn norm_weight(i: u32) -> vec4f {
  return constants[i];
}
fn latent_weight(i: u32) -> vec4f {
  return constants[D / 4u + i];
}
fn latent_value(i: u32) -> vec4f {
  return made[i];
}

// Four rows times block b; blocks past the end are nothing.
fn query_block(row: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS - 1u);
  let there = b < BLOCKS;
  return four(row, at, select(vec4f(), normed[quad(at, 0u)], there), select(vec4f(), normed[quad(at, 1u)], there));
}
fn row_block(row: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS_b - 1u);
  let there = b < BLOCKS_b;
  return four_b(row, at, select(vec4f(), normed[quad_b(at, 0u)], there), select(vec4f(), normed[quad_b(at, 1u)], there));
}
fn key_block(row: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS_c - 1u);
  let there = b < BLOCKS_c;
  return four_c(row, at, select(vec4f(), made[quad_c(at, 0u)], there), select(vec4f(), made[quad_c(at, 1u)], there));
}

@compute @workgroup_size(SUM_LANES)
fn mla_query(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x;
  let scale = take_residual(head == HEADS, lane);
  if (head < HEADS) {
    for (var t = lane.index; t < QUERY_FOURS * QUERY_SHARERS; t += SUM_LANES) {
      let row = 4u * (head * QUERY_FOURS + t / QUERY_SHARERS);
      var acc = vec4f();
      for (var b = t % QUERY_SHARERS; b < BLOCKS; b += 4u * QUERY_SHARERS) { // four are on their way at once
        acc += (query_block(row, b) + query_block(row, b + QUERY_SHARERS))
          + (query_block(row, b + 2u * QUERY_SHARERS) + query_block(row, b + 3u * QUERY_SHARERS));
      }
      sums[t] = acc;
    }
    workgroupBarrier();
    for (var f = lane.index; f < QUERY_FOURS; f += SUM_LANES) {
      let q = scale * together(f, QUERY_SHARERS);
      made[f] = q;
      inputs[head * QUERY_FOURS + f] = q;
    }
    workgroupBarrier();
    for (var t = lane.index; t < KEY_FOURS * KEY_SHARERS; t += SUM_LANES) {
      let row = 4u * (head * KEY_FOURS + t / KEY_SHARERS);
      var acc = vec4f();
      for (var b = t % KEY_SHARERS; b < BLOCKS_c; b += 2u * KEY_SHARERS) {
        acc += key_block(row, b) + key_block(row, b + KEY_SHARERS);
      }
      sums[t] = acc;
    }
    workgroupBarrier();
    for (var f = lane.index; f < KEY_FOURS; f += SUM_LANES) {
      qa[head * KEY_FOURS + f] = together(f, KEY_SHARERS);
    }
    return;
  }
  for (var t = lane.index; t < ROW_FOURS * ROW_SHARERS; t += SUM_LANES) {
    let row = 4u * (t / ROW_SHARERS);
    var acc = vec4f();
    for (var b = t % ROW_SHARERS; b < BLOCKS_b; b += 4u * ROW_SHARERS) {
      acc += (row_block(row, b) + row_block(row, b + ROW_SHARERS))
        + (row_block(row, b + 2u * ROW_SHARERS) + row_block(row, b + 3u * ROW_SHARERS));
    }
    sums[t] = acc;
  }
  workgroupBarrier();
  for (var f = lane.index; f < ROW_FOURS; f += SUM_LANES) {
    let c = scale * together(f, ROW_SHARERS);
    made[f] = c;
    inputs[LATENT_AT / 4u + f] = c;
  }
  workgroupBarrier();
  append_latent(step.position, 0u, lane);
}

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
// What depends on no other lane is asked for before the residual row is there. The norm's scale is one number, so it comes after the products. D, LATENT_AT, LATENT, SHARED are multiples of 4, COLS and COLS_c of 8.
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

// Round j of share t of a head's rows of Q, and of W: asked for, and multiplied; blocks past the end are nothing.
fn ask_query(head: u32, t: u32, j: u32) -> Four {
  return ask_four(4u * (head * QUERY_FOURS + t / QUERY_SHARERS), min(t % QUERY_SHARERS + j * QUERY_SHARERS, BLOCKS - 1u));
}
fn query_block(asked: Four, t: u32, j: u32) -> vec4f {
  let b = t % QUERY_SHARERS + j * QUERY_SHARERS;
  let at = min(b, BLOCKS - 1u);
  let there = b < BLOCKS;
  return asked_four(asked, at, select(vec4f(), normed[quad(at, 0u)], there), select(vec4f(), normed[quad(at, 1u)], there));
}
fn query_rounds(head: u32, t: u32, first: u32) -> vec4f {
  var acc = vec4f();
  for (var j = first; j < QUERY_BLOCKS; j += 4u) { // four are on their way at once
    let a0 = ask_query(head, t, j);
    let a1 = ask_query(head, t, j + 1u);
    let a2 = ask_query(head, t, j + 2u);
    let a3 = ask_query(head, t, j + 3u);
    acc += (query_block(a0, t, j) + query_block(a1, t, j + 1u)) + (query_block(a2, t, j + 2u) + query_block(a3, t, j + 3u));
  }
  return acc;
}
fn ask_key(head: u32, t: u32, j: u32) -> Four_c {
  return ask_four_c(4u * (head * KEY_FOURS + t / KEY_SHARERS), min(t % KEY_SHARERS + j * KEY_SHARERS, BLOCKS_c - 1u));
}
fn key_block(asked: Four_c, t: u32, j: u32) -> vec4f {
  let b = t % KEY_SHARERS + j * KEY_SHARERS;
  let at = min(b, BLOCKS_c - 1u);
  let there = b < BLOCKS_c;
  return asked_four_c(asked, at, select(vec4f(), made[quad_c(at, 0u)], there), select(vec4f(), made[quad_c(at, 1u)], there));
}
fn key_rounds(head: u32, t: u32, first: u32) -> vec4f {
  var acc = vec4f();
  for (var j = first; j < KEY_BLOCKS; j += 2u) {
    let a0 = ask_key(head, t, j);
    let a1 = ask_key(head, t, j + 1u);
    acc += key_block(a0, t, j) + key_block(a1, t, j + 1u);
  }
  return acc;
}
// Four rows of C times block b.
fn row_block(row: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS_b - 1u);
  let there = b < BLOCKS_b;
  return four_b(row, at, select(vec4f(), normed[quad_b(at, 0u)], there), select(vec4f(), normed[quad_b(at, 1u)], there));
}

@compute @workgroup_size(SUM_LANES)
fn mla_query(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x;
  let own = min(head, HEADS - 1u);
  let own_query = min(lane.index, QUERY_FOURS * QUERY_SHARERS - 1u);
  let own_key = min(lane.index, KEY_FOURS * KEY_SHARERS - 1u);
  let q0 = ask_query(own, own_query, 0u); // these travel with the residual row
  let q1 = ask_query(own, own_query, 1u);
  let q2 = ask_query(own, own_query, 2u);
  let q3 = ask_query(own, own_query, 3u);
  let k0 = ask_key(own, own_key, 0u);
  let scale = take_residual(head == HEADS, 0u, lane);
  if (head < HEADS) {
    if (lane.index < QUERY_FOURS * QUERY_SHARERS) {
      let t = lane.index;
      var acc = (query_block(q0, t, 0u) + query_block(q1, t, 1u)) + (query_block(q2, t, 2u) + query_block(q3, t, 3u));
      if (QUERY_BLOCKS > 4u) {
        acc += query_rounds(head, t, 4u);
      }
      sums[t] = acc;
    }
    if (SUM_LANES < QUERY_FOURS * QUERY_SHARERS) {
      for (var t = lane.index + SUM_LANES; t < QUERY_FOURS * QUERY_SHARERS; t += SUM_LANES) {
        sums[t] = query_rounds(head, t, 0u);
      }
    }
    workgroupBarrier();
    for (var f = lane.index; f < QUERY_FOURS; f += SUM_LANES) {
      let q = scale * together(f, QUERY_SHARERS);
      made[f] = q;
      inputs[head * QUERY_FOURS + f] = q;
    }
    workgroupBarrier();
    if (lane.index < KEY_FOURS * KEY_SHARERS) {
      let t = lane.index;
      var acc = key_block(k0, t, 0u);
      if (KEY_BLOCKS > 1u) {
        acc += key_rounds(head, t, 1u);
      }
      sums[t] = acc;
    }
    if (SUM_LANES < KEY_FOURS * KEY_SHARERS) {
      for (var t = lane.index + SUM_LANES; t < KEY_FOURS * KEY_SHARERS; t += SUM_LANES) {
        sums[t] = key_rounds(head, t, 0u);
      }
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

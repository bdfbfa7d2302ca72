// mla_out: from what the slices of the cache said to one token's heads to what each head adds to the residual row.
//
//   context[h] = slices joined        o[h, r] = sum_c W[h, r, c] context[h, c]        part[h, d] = sum_r O[d, h VALUES + r] o[h, r]
//
// Shapes  stats, parts as slices has them, LATENT = COLS   o [HEADS, VALUES]   rows [.., D]: head h leaves row PART_TO + h
//         W [HEADS VALUES, LATENT], O [D, HEADS VALUES], each in any matrix_* format
// Grid    (HEADS): one workgroup per head
// Links   matrix_* for W, another as b for O, slices, shares, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts mergeSlices, unfoldValues
// D is a multiple of 4, VALUES of 32 and of the columns among which O's format lays out a block.
const HEADS = 9u;
const VALUES = 64u;
const SLICES = 32u;
const D = 576u;
const PART_TO = 2u;
const LATENT = COLS;
const BLOCKS = COLS / BLOCK;
const OWN_BLOCKS = VALUES / BLOCK_b; // of O
const VALUE_FOURS = VALUES / 4u; // rows of a head in W, by fours
// Lanes that share four rows of W: the fewest of whom none has more blocks than where all lanes are busy.
const VALUE_BLOCKS = (BLOCKS - 1u) / clamp(SUM_LANES / VALUE_FOURS, 1u, BLOCKS) + 1u;
const VALUE_SHARERS = (BLOCKS - 1u) / VALUE_BLOCKS + 1u;
const SHARES = VALUE_FOURS * VALUE_SHARERS;
@group(0) @binding(0) var<storage, read> stats: array<vec2f>;
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> rows: array<vec4f>;
var<workgroup> values: array<vec4f, VALUE_FOURS>; // o of this head

// Four rows of W times block b of the context; blocks past the end are nothing.
fn value_block(row: u32, b: u32) -> vec4f {
  let at = min(b, BLOCKS - 1u);
  let there = b < BLOCKS;
  return four(row, at, select(vec4f(), context[quad(at, 0u)], there), select(vec4f(), context[quad(at, 1u)], there));
}
// Four rows of O times block b of this head's columns.
fn out_block(row: u32, head: u32, b: u32) -> vec4f {
  let at = head * OWN_BLOCKS + b;
  return four_b(row, at, values[quad_b(at, 0u) - head * VALUE_FOURS], values[quad_b(at, 1u) - head * VALUE_FOURS]);
}

@compute @workgroup_size(SUM_LANES)
fn mla_out(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x;
  join_slices(head, lane);
  for (var t = lane.index; t < VALUE_FOURS * VALUE_SHARERS; t += SUM_LANES) {
    let row = 4u * (head * VALUE_FOURS + t / VALUE_SHARERS);
    var acc = vec4f();
    for (var b = t % VALUE_SHARERS; b < BLOCKS; b += 2u * VALUE_SHARERS) { // two are on their way at once
      acc += value_block(row, b) + value_block(row, b + VALUE_SHARERS);
    }
    sums[t] = acc;
  }
  workgroupBarrier();
  for (var f = lane.index; f < VALUE_FOURS; f += SUM_LANES) {
    let v = together(f, VALUE_SHARERS);
    values[f] = v;
    o[head * VALUE_FOURS + f] = v;
  }
  workgroupBarrier();
  for (var f = lane.index; f < D / 4u; f += SUM_LANES) { // a lane has four whole rows of the head's columns: nothing to add up
    var acc = vec4f();
    for (var b = 0u; b < OWN_BLOCKS; b += 4u) {
      acc += (out_block(4u * f, head, b) + out_block(4u * f, head, b + 1u))
        + (out_block(4u * f, head, b + 2u) + out_block(4u * f, head, b + 3u));
    }
    rows[(PART_TO + head) * (D / 4u) + f] = acc;
  }
}

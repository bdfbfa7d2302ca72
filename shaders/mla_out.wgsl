// mla_out: from what one token's heads read of the latent cache to what each head adds to the residual row.
//
//   context[h] as slices or attend_whole has it        o[h, r] = sum_c W[h, r, c] context[h, c]        part[h, d] = sum_r O[d, h VALUES + r] o[h, r]
//
// Shapes  as slices or attend_whole has them, LATENT = COLS   o [HEADS, VALUES]   rows [.., D]: head h leaves row PART_TO + h
//         W [HEADS VALUES, LATENT], O [D, HEADS VALUES], each in any matrix_* format
// Grid    (HEADS): one workgroup per head
// Links   matrix_* for W, another as b for O, slices or attend_whole, shares, sum_{tree,subgroup}
// Oracle  test/reference/mla.ts mergeSlices, unfoldValues
// D is a multiple of 4, VALUES of 32 and of the columns among which O's format lays out a block.
const HEADS = 9u;
const VALUES = 64u;
const D = 576u;
const PART_TO = 2u;
const LATENT = COLS;
const BLOCKS = COLS / BLOCK;
const OWN_BLOCKS = VALUES / BLOCK_b; // of O
const VALUE_FOURS = VALUES / 4u; // rows of a head in W, by fours
// Lanes that share four rows of W: the fewest of whom none has more blocks than where all lanes are busy.
const VALUE_BLOCKS = (BLOCKS - 1u) / clamp(SUM_LANES / VALUE_FOURS, 1u, BLOCKS) + 1u;
const VALUE_SHARERS = (BLOCKS - 1u) / VALUE_BLOCKS + 1u;
const OUT_SHARERS = clamp(SUM_LANES / (D / 4u), 1u, min(OWN_BLOCKS, 4u)); // lanes that share four rows of O
const OUT_ROUNDS = (OWN_BLOCKS + OUT_SHARERS - 1u) / OUT_SHARERS;
const SHARES = max(VALUE_FOURS * VALUE_SHARERS, min(SUM_LANES, D / 4u * OUT_SHARERS));
@group(0) @binding(0) var<storage, read_write> o: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> rows: array<vec4f>;
var<workgroup> values: array<vec4f, VALUE_FOURS>; // o of this head

// Round j of share t of a head's rows of W, asked for, and multiplied by the context; blocks past the end are nothing.
fn ask_value(head: u32, t: u32, j: u32) -> Four {
  return ask_four(4u * (head * VALUE_FOURS + t / VALUE_SHARERS), min(t % VALUE_SHARERS + j * VALUE_SHARERS, BLOCKS - 1u));
}
fn value_block(asked: Four, t: u32, j: u32) -> vec4f {
  let b = t % VALUE_SHARERS + j * VALUE_SHARERS;
  let at = min(b, BLOCKS - 1u);
  let there = b < BLOCKS;
  return asked_four(asked, at, select(vec4f(), context[quad(at, 0u)], there), select(vec4f(), context[quad(at, 1u)], there));
}
fn value_rounds(head: u32, t: u32, first: u32) -> vec4f {
  var acc = vec4f();
  for (var j = first; j < VALUE_BLOCKS; j += 2u) { // two are on their way at once
    let a0 = ask_value(head, t, j);
    let a1 = ask_value(head, t, j + 1u);
    acc += value_block(a0, t, j) + value_block(a1, t, j + 1u);
  }
  return acc;
}
// The same of four rows of O, whose columns are this head's.
fn out_at(head: u32, t: u32, j: u32) -> u32 {
  return head * OWN_BLOCKS + min(t % OUT_SHARERS + j * OUT_SHARERS, OWN_BLOCKS - 1u);
}
fn ask_out(head: u32, t: u32, j: u32) -> Four_b {
  return ask_four_b(4u * (t / OUT_SHARERS), out_at(head, t, j));
}
fn out_block(asked: Four_b, head: u32, t: u32, j: u32) -> vec4f {
  let at = out_at(head, t, j);
  let there = t % OUT_SHARERS + j * OUT_SHARERS < OWN_BLOCKS;
  let x0 = values[quad_b(at, 0u) - head * VALUE_FOURS];
  return select(0.0, 1.0, there) * asked_four_b(asked, at, x0, values[quad_b(at, 1u) - head * VALUE_FOURS]);
}
fn out_rounds(head: u32, t: u32, first: u32) -> vec4f {
  var acc = vec4f();
  for (var j = first; j < OUT_ROUNDS; j += 4u) {
    let a0 = ask_out(head, t, j);
    let a1 = ask_out(head, t, j + 1u);
    let a2 = ask_out(head, t, j + 2u);
    let a3 = ask_out(head, t, j + 3u);
    acc += (out_block(a0, head, t, j) + out_block(a1, head, t, j + 1u)) + (out_block(a2, head, t, j + 2u) + out_block(a3, head, t, j + 3u));
  }
  return acc;
}

@compute @workgroup_size(SUM_LANES)
fn mla_out(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let head = group.x;
  let own_value = min(lane.index, VALUE_FOURS * VALUE_SHARERS - 1u);
  let own_out = min(lane.index, D / 4u * OUT_SHARERS - 1u);
  let v0 = ask_value(head, own_value, 0u); // these travel with the context
  let o0 = ask_out(head, own_out, 0u);
  var o1 = Four_b();
  var o2 = Four_b();
  if (OUT_ROUNDS > 1u) {
    o1 = ask_out(head, own_out, 1u);
  }
  if (OUT_ROUNDS > 2u) {
    o2 = ask_out(head, own_out, 2u);
  }
  take_context(head, lane);
  if (lane.index < VALUE_FOURS * VALUE_SHARERS) {
    let t = lane.index;
    var acc = value_block(v0, t, 0u);
    if (VALUE_BLOCKS > 1u) {
      acc += value_rounds(head, t, 1u);
    }
    sums[t] = acc;
  }
  if (SUM_LANES < VALUE_FOURS * VALUE_SHARERS) {
    for (var t = lane.index + SUM_LANES; t < VALUE_FOURS * VALUE_SHARERS; t += SUM_LANES) {
      sums[t] = value_rounds(head, t, 0u);
    }
  }
  workgroupBarrier();
  for (var f = lane.index; f < VALUE_FOURS; f += SUM_LANES) {
    let v = together(f, VALUE_SHARERS);
    values[f] = v;
    o[head * VALUE_FOURS + f] = v;
  }
  workgroupBarrier();
  var part = out_block(o0, head, own_out, 0u);
  if (OUT_ROUNDS > 1u) {
    part += out_block(o1, head, own_out, 1u);
  }
  if (OUT_ROUNDS > 2u) {
    part += out_block(o2, head, own_out, 2u);
  }
  if (OUT_ROUNDS > 3u) {
    part += out_rounds(head, own_out, 3u);
  }
  if (OUT_SHARERS > 1u) {
    if (lane.index < D / 4u * OUT_SHARERS) {
      sums[lane.index] = part;
    }
    workgroupBarrier();
    part = together(own_out % (D / 4u), OUT_SHARERS);
  }
  if (lane.index < D / 4u) {
    rows[(PART_TO + head) * (D / 4u) + lane.index] = part;
  }
  if (SUM_LANES < D / 4u) {
    for (var f = lane.index + SUM_LANES; f < D / 4u; f += SUM_LANES) { // only where no lanes share rows: their shares are f itself
      rows[(PART_TO + head) * (D / 4u) + f] = out_rounds(head, f, 0u);
    }
  }
}

// moe_layer: the experts of one token and the shared one, from the residual row to what they add to it, in one call.
//
//   h = (mean x^2 + NORM_EPS)^-1/2 w x
//   act = weight silu(G[e] h) (U[e] h)      of each chosen expert e      act = silu(C h) (C h, from row SHARED on)      of the shared one
//   rows[PART_TO + g][r] = sum of E[e, r, u] act[u] over the units u of workgroup g
//
// Shapes  rows [.., D]: see residual   constants, chosen: see router_early   G, U [EXPERTS WIDTH, D]   C [2 SHARED, D]
//         E [EXPERTS D, WIDTH], for the shared expert [D, SHARED]; all in any format each
// Grid    (SLICES + WARMERS): units are slot 0's WIDTH, slot 1's, .., then SHARED; each workgroup takes the next UNITS, all of one
//         expert; those after them are ahead's
// Links   matrix_* for G, others as b for U, c for C, d and e for E, activation, residual, router_early, ahead, sum_{tree,subgroup}
// Oracle  test/reference/moe.ts moe
// UNITS divides WIDTH and SHARED; it is a multiple of 32, of 256 where d or e come in blocks of 256, and SUM_LANES at most.
// Rows PART_TO .. PART_TO + SLICES - 1 are none of those that residual reads or writes.
// The call is one chain of waits for memory: what can travel together is written out, since no loop of loads overlaps with itself.
const SLICES = 32u;
const PART_TO = 11u;
const WIDTH = COLS_d;
const SHARED = COLS_e;
const UNITS = (TOP * WIDTH + SHARED) / SLICES;
const FOURS = UNITS / 4u;
const HALF = SUM_LANES / 2u; // lanes for gate, and as many for up
const SHARERS = HALF / FOURS; // lanes that share four rows
const ROUNDS = (COLS / BLOCK + SHARERS - 1u) / SHARERS; // blocks of a lane at most
const ROUNDS_b = (COLS_b / BLOCK_b + SHARERS - 1u) / SHARERS;
const ROUNDS_c = (COLS_c / BLOCK_c + SHARERS - 1u) / SHARERS;
const APART = SHARERS + 1u; // in sums, so that lanes which read at once meet in no bank
var<workgroup> sums: array<vec4f, 2u * FOURS * APART>; // of gate, then of up
var<workgroup> act: array<vec4f, FOURS>;

fn norm_weight(i: u32) -> vec4f {
  return constants[i];
}

var<private> zero: u32; // but no compiler knows: what is anded with it keeps loads from being put off

// Round j of a lane's share of four rows of gate, up or the shared expert: asked for, and multiplied by the normed row; blocks past the
// end are nothing. Five are on their way at once.
fn ask_gate(row: u32, share: u32, j: u32) -> Four {
  return ask_four(row, min(share + j * SHARERS, COLS / BLOCK - 1u));
}
fn gate_block(asked: Four, share: u32, j: u32) -> vec4f {
  let b = share + j * SHARERS;
  let at = min(b, COLS / BLOCK - 1u);
  return select(0.0, 1.0, b < COLS / BLOCK) * asked_four(asked, at, normed[quad(at, 0u)], normed[quad(at, 1u)]);
}
fn gate_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var j = 0u; j < ROUNDS; j += 5u) {
    var b0 = ask_gate(row, share, j);
    let b1 = ask_gate(row, share, j + 1u);
    let b2 = ask_gate(row, share, j + 2u);
    let b3 = ask_gate(row, share, j + 3u);
    let b4 = ask_gate(row, share, j + 4u);
    b0 = kept_back(b0, zero & (bits_of(b1) | bits_of(b2) | bits_of(b3) | bits_of(b4)));
    let near = gate_block(b0, share, j) + gate_block(b1, share, j + 1u);
    sum += near + (gate_block(b2, share, j + 2u) + gate_block(b3, share, j + 3u)) + gate_block(b4, share, j + 4u);
  }
  return sum;
}
fn ask_up(row: u32, share: u32, j: u32) -> Four_b {
  return ask_four_b(row, min(share + j * SHARERS, COLS_b / BLOCK_b - 1u));
}
fn up_block(asked: Four_b, share: u32, j: u32) -> vec4f {
  let b = share + j * SHARERS;
  let at = min(b, COLS_b / BLOCK_b - 1u);
  return select(0.0, 1.0, b < COLS_b / BLOCK_b) * asked_four_b(asked, at, normed[quad_b(at, 0u)], normed[quad_b(at, 1u)]);
}
fn up_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var j = 0u; j < ROUNDS_b; j += 5u) {
    var b0 = ask_up(row, share, j);
    let b1 = ask_up(row, share, j + 1u);
    let b2 = ask_up(row, share, j + 2u);
    let b3 = ask_up(row, share, j + 3u);
    let b4 = ask_up(row, share, j + 4u);
    b0 = kept_back_b(b0, zero & (bits_of_b(b1) | bits_of_b(b2) | bits_of_b(b3) | bits_of_b(b4)));
    let near = up_block(b0, share, j) + up_block(b1, share, j + 1u);
    sum += near + (up_block(b2, share, j + 2u) + up_block(b3, share, j + 3u)) + up_block(b4, share, j + 4u);
  }
  return sum;
}
fn ask_shared(row: u32, share: u32, j: u32) -> Four_c {
  return ask_four_c(row, min(share + j * SHARERS, COLS_c / BLOCK_c - 1u));
}
fn shared_block(asked: Four_c, share: u32, j: u32) -> vec4f {
  let b = share + j * SHARERS;
  let at = min(b, COLS_c / BLOCK_c - 1u);
  return select(0.0, 1.0, b < COLS_c / BLOCK_c) * asked_four_c(asked, at, normed[quad_c(at, 0u)], normed[quad_c(at, 1u)]);
}
fn shared_rows(row: u32, share: u32) -> vec4f {
  var sum = vec4f();
  for (var j = 0u; j < ROUNDS_c; j += 5u) {
    var b0 = ask_shared(row, share, j);
    let b1 = ask_shared(row, share, j + 1u);
    let b2 = ask_shared(row, share, j + 2u);
    let b3 = ask_shared(row, share, j + 3u);
    let b4 = ask_shared(row, share, j + 4u);
    b0 = kept_back_c(b0, zero & (bits_of_c(b1) | bits_of_c(b2) | bits_of_c(b3) | bits_of_c(b4)));
    let near = shared_block(b0, share, j) + shared_block(b1, share, j + 1u);
    sum += near + (shared_block(b2, share, j + 2u) + shared_block(b3, share, j + 3u)) + shared_block(b4, share, j + 4u);
  }
  return sum;
}

// Of the SHARERS sums from `begin` on, i .. i + 3; those past the last are nothing.
fn four_sums(begin: u32, i: u32) -> vec4f {
  let live = select(vec4f(), vec4f(1.0), vec4u(i, i + 1u, i + 2u, i + 3u) < vec4u(SHARERS));
  let last = begin + SHARERS - 1u;
  let near = live.x * sums[begin + i] + live.y * sums[min(begin + i + 1u, last)];
  return near + live.z * sums[min(begin + i + 2u, last)] + live.w * sums[min(begin + i + 3u, last)];
}

// Four rows of the second layer times act, which begins at column `first`: four blocks asked for before act is there, and multiplied.
struct Down {
  b0: Four_d,
  b1: Four_d,
  b2: Four_d,
  b3: Four_d,
}
fn down_at(first: u32, j: u32) -> u32 {
  return first / BLOCK_d + j;
}
fn ask_down(row: u32, first: u32, j: u32) -> Down {
  return Down(
    ask_four_d(row, down_at(first, j)), ask_four_d(row, down_at(first, j + 1u)),
    ask_four_d(row, down_at(first, j + 2u)), ask_four_d(row, down_at(first, j + 3u)),
  );
}
fn bits_of_down(asked: Down) -> u32 {
  return bits_of_d(asked.b0) | bits_of_d(asked.b1) | bits_of_d(asked.b2) | bits_of_d(asked.b3);
}
fn down_block(asked: Four_d, first: u32, j: u32) -> vec4f {
  let b = down_at(first, j);
  return asked_four_d(asked, b, act[quad_d(b, 0u) - first / 4u], act[quad_d(b, 1u) - first / 4u]);
}
fn down_blocks(asked: Down, first: u32, j: u32) -> vec4f {
  let near = down_block(asked.b0, first, j) + down_block(asked.b1, first, j + 1u);
  return near + (down_block(asked.b2, first, j + 2u) + down_block(asked.b3, first, j + 3u));
}
fn down_rows(asked: Down, row: u32, first: u32) -> vec4f {
  var sum = down_blocks(asked, first, 0u);
  if (UNITS / BLOCK_d > 4u) {
    for (var j = 4u; j < UNITS / BLOCK_d; j += 4u) {
      sum += down_blocks(ask_down(row, first, j), first, j);
    }
  }
  return sum;
}
struct SharedDown {
  b0: Four_e,
  b1: Four_e,
  b2: Four_e,
  b3: Four_e,
}
fn shared_down_at(first: u32, j: u32) -> u32 {
  return first / BLOCK_e + j;
}
fn ask_shared_down(row: u32, first: u32, j: u32) -> SharedDown {
  return SharedDown(
    ask_four_e(row, shared_down_at(first, j)), ask_four_e(row, shared_down_at(first, j + 1u)),
    ask_four_e(row, shared_down_at(first, j + 2u)), ask_four_e(row, shared_down_at(first, j + 3u)),
  );
}
fn bits_of_shared_down(asked: SharedDown) -> u32 {
  return bits_of_e(asked.b0) | bits_of_e(asked.b1) | bits_of_e(asked.b2) | bits_of_e(asked.b3);
}
fn shared_down_block(asked: Four_e, first: u32, j: u32) -> vec4f {
  let b = shared_down_at(first, j);
  return asked_four_e(asked, b, act[quad_e(b, 0u) - first / 4u], act[quad_e(b, 1u) - first / 4u]);
}
fn shared_down_blocks(asked: SharedDown, first: u32, j: u32) -> vec4f {
  let near = shared_down_block(asked.b0, first, j) + shared_down_block(asked.b1, first, j + 1u);
  return near + (shared_down_block(asked.b2, first, j + 2u) + shared_down_block(asked.b3, first, j + 3u));
}
fn shared_down_rows(asked: SharedDown, row: u32, first: u32) -> vec4f {
  var sum = shared_down_blocks(asked, first, 0u);
  if (UNITS / BLOCK_e > 4u) {
    for (var j = 4u; j < UNITS / BLOCK_e; j += 4u) {
      sum += shared_down_blocks(ask_shared_down(row, first, j), first, j);
    }
  }
  return sum;
}

// From each lane's sum to act, weighted; barriers too.
fn open_units(sum: vec4f, weight: f32, lane: Lane) {
  let place = lane.index % HALF;
  if (place < FOURS * SHARERS) {
    sums[select(FOURS * APART, 0u, lane.index < HALF) + place / SHARERS * APART + place % SHARERS] = sum;
  }
  workgroupBarrier();
  if (lane.index < FOURS) {
    var gate = vec4f();
    var up = vec4f();
    for (var s = 0u; s < SHARERS; s += 8u) { // eight of each are on their way at once
      gate += four_sums(lane.index * APART, s) + four_sums(lane.index * APART, s + 4u);
      up += four_sums((FOURS + lane.index) * APART, s) + four_sums((FOURS + lane.index) * APART, s + 4u);
    }
    act[lane.index] = weight * vec4f(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w)) * up;
  }
  workgroupBarrier();
}
fn leave(g: u32, n: u32, part: vec4f) {
  if (n < D / 4u) {
    rows[(PART_TO + g) * (D / 4u) + n] = part;
  }
}

@compute @workgroup_size(SUM_LANES)
fn moe_layer(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  if (group.x >= SLICES) {
    if (warm(group.x - SLICES, group.y, lane)) { // never
      chosen[0] = 0u;
    }
    return;
  }
  zero = group.y;
  let unit = group.x * UNITS;
  let slot = min(unit / WIDTH, TOP); // TOP: the shared expert
  let first = unit - slot * WIDTH;
  let asked = ask_router(lane); // travels with the residual row
  let scale = take_residual(group.x == 0u, zero & bits_of_router(asked), lane);
  let gates = lane.index < HALF;
  let place = lane.index % HALF;
  let share = place % SHARERS;
  let row = first + 4u * min(place / SHARERS, FOURS - 1u);
  var n = min(lane.index, D / 4u - 1u);
  if (slot == TOP) {
    let down = ask_shared_down(4u * n, first, 0u);
    let sum = scale * shared_rows(select(SHARED + row, row, gates), share);
    open_units(kept_waiting(sum, zero & bits_of_shared_down(down)), 1.0, lane);
    leave(group.x, lane.index, shared_down_rows(down, 4u * n, first));
    if (SUM_LANES < D / 4u) {
      for (n = lane.index + SUM_LANES; n < D / 4u; n += SUM_LANES) {
        leave(group.x, n, shared_down_rows(ask_shared_down(4u * n, first, 0u), 4u * n, first));
      }
    }
  } else {
    let expert = choose(slot, asked, scale, lane);
    let down = ask_down(expert * D + 4u * n, first, 0u);
    var sum = vec4f();
    if (gates) {
      sum = gate_rows(expert * WIDTH + row, share);
    } else {
      sum = up_rows(expert * WIDTH + row, share);
    }
    open_units(kept_waiting(scale * sum, zero & bits_of_down(down)), weight_of(expert), lane);
    leave(group.x, lane.index, down_rows(down, expert * D + 4u * n, first));
    if (SUM_LANES < D / 4u) {
      for (n = lane.index + SUM_LANES; n < D / 4u; n += SUM_LANES) {
        leave(group.x, n, down_rows(ask_down(expert * D + 4u * n, first, 0u), expert * D + 4u * n, first));
      }
    }
  }
  if (group.x == 0u) {
    tell_choice(lane);
  }
}
